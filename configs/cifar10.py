"""CIFAR-10 from scratch with a plain ViT-Ti/4, for one GPU or many.

python train.py --config configs/cifar10.py

Measured: not yet on a GPU. On two CPU cores only its first steps were run (--config.steps=30).
"""

from vit_jax import vit
from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig

config = Config(
    model=vit("Ti/4", num_classes=None, pool="gap", positions="sincos2d", drop_path=0.1),
    data=DataConfig(
        name="cifar10",
        train_split="train[:98%]",
        eval_split="train[98%:]",
        test_split="test",
    ),
    augment=AugmentConfig(crop_padding=4, flip="random"),
    optim=OptimConfig(
        name="adamw",
        learning_rate=1e-3,
        b2=0.99,
        weight_decay=0.05,
        warmup_epochs=10,
        clip_norm=1.0,
        ema_decay=0.999,
    ),
    label_smoothing=0.1,
    batch_size=256,
    epochs=200,
    eval_every_epochs=2,
    checkpoint_every_epochs=5,
    log_every_steps=50,
)
