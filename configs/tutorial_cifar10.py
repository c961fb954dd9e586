"""Model and training of tutorial 1, a PyTorch notebook that shows attention on CIFAR-10.

python train.py --config configs/tutorial_cifar10.py

The same in all that changes numbers: PyTorch's initial values, N(0, 1) for class token and
positions, a LayerNorm on each block's output and none before the head, GELU after both MLP layers,
q/k/v without bias, all weights decayed, every image of an epoch trained on, its last batch smaller.
Its dropout on the embeddings, twice at 0.5, is once at 0.75: the same distribution. Its standard
deviations are too small for CIFAR-10 (the true ones are 0.247, 0.243, 0.262); they are kept. It
trains for up to 1000 epochs.
"""

from vit_jax import ViT
from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig

config = Config(
    model=ViT(
        patch_size=4,
        width=384,
        depth=2,
        num_heads=6,
        head_dim=64,
        mlp_dim=384,
        qkv_bias=False,
        dropout=0.5,
        attention_dropout=0.5,
        embed_dropout=0.75,
        block_output_norm=True,
        mlp_output_activation=True,
        final_norm="none",
        norm_eps=1e-5,
        init_scheme="torch",
        head_zero_init=False,
        cls_init_stddev=1.0,
        position_init_stddev=1.0,
    ),
    data=DataConfig(
        name="cifar10",
        train_split="train",
        eval_split="test",
        test_split=None,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    augment=AugmentConfig(crop_padding=4, flip="random"),
    optim=OptimConfig(
        learning_rate=1e-4, schedule="constant", weight_decay=1e-5, decay="all", clip_norm=0.1
    ),
    batch_size=128,
    epochs=1000,
    dtype="float32",
)
