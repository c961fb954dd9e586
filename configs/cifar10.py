"""CIFAR-10 from scratch with a plain ViT on patches of 2 pixels, for one GPU: 25 minutes.

python train.py --config configs/cifar10.py

No convolution, no pre-training, 32 pixels. 300 epochs are 2.5e17 operations in products (16.9 GFLOP
for an image and step): 21 minutes at 200 TFLOP/s.

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
        patch_size=2,
        width=256,
        depth=12,
        num_heads=4,
        pool="gap",
        positions="sincos2d",
        qk_norm=True,
        drop_path=0.1,
        activation="gelu_tanh",
    ),
    data=DataConfig("cifar10", train_split="train[:98%]", eval_split="train[98%:]"),
    augment=AugmentConfig(
        crop_padding=4,
        crop_fill="reflect",
        flip="alternating",
        policy="randaugment",
        erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
        mix_off_epochs=40,
    ),
    optim=OptimConfig(
        name="muon",
        learning_rate=1.5e-3,
        momentum=0.95,
        b2=0.95,
        weight_decay=0.05,
        warmup_epochs=10,
        clip_norm=1.0,
        ema_epochs=20,
    ),
    label_smoothing=0.1,
    test_time="mirror",
    batch_size=1024,
    epochs=300,
    eval_every_epochs=20,
    checkpoint_every_epochs=20,
    log_every_steps=50,
)
