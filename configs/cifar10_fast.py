"""CIFAR-10 from scratch in a minute of training on one GPU: the most a plain ViT can do by then.

python train.py --config configs/cifar10_fast.py

100 epochs are 5.5e15 operations in products (1.1 GFLOP for an image and step): 55 seconds at 100
TFLOP/s. Compiling and evaluating come on top.

Accuracy, with and without mirror images, and time: not measured yet. Nothing of this has been run
on a GPU.
"""

from vit_jax import ViT
from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig

config = Config(
    model=ViT(
        patch_size=4,
        width=192,
        depth=9,
        num_heads=3,
        mlp_dim=384,
        pool="gap",
        positions="sincos2d",
        qk_norm=True,
        activation="gelu_tanh",
    ),
    data=DataConfig("cifar10", train_split="train[:98%]", eval_split="train[98%:]"),
    augment=AugmentConfig(
        crop_padding=4,
        crop_fill="reflect",
        flip="alternating",
        policy="trivialaugment",
        cutmix=1.0,
        mix_probability=0.5,
        mix_off_epochs=15,
    ),
    optim=OptimConfig(
        name="muon",
        learning_rate=3e-3,
        momentum=0.95,
        b2=0.95,
        weight_decay=0.05,
        warmup_epochs=5,
        clip_norm=1.0,
        ema_epochs=5,
    ),
    label_smoothing=0.1,
    test_time="mirror",
    batch_size=512,
    steps_per_call=12,
    epochs=100,
    eval_every_epochs=25,
    checkpoint_every_epochs=50,
    log_every_steps=96,
)
