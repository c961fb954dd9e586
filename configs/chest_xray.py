"""Grey X-rays of 256 x 256 pixels in three classes, as in tutorial 4: a ViT with LayerScale.

python train.py --config configs/chest_xray.py --config.data.root=FOLDER

FOLDER holds train, val and test, each with a folder per class. The test images are looked at once,
at the end. The tutorial's other optimiser, SGD with momentum and a rate that falls, is

--config.optim.name=sgd --config.optim.learning_rate=0.03

The tutorial's batches of 64 and its rate of 1e-4 are --config.batch_size=64 and
--config.optim.learning_rate=1e-4; with 252 images that is 40 steps in ten epochs, and little is
learnt.

metrics.csv has the losses by step and the accuracies by epoch; summary.json the seconds that were
spent waiting for data and on the device.

Measured on two cores of an AMD EPYC, 2026-11-21, on the 60 test images, in 3 to 4 minutes:

AdamW   68.3, 46.7 % (seeds 0, 1)
SGD     71.7, 50.0 % (seeds 0, 1)

A third would be chance; with so few images every seed gives another result. One class of the freely
available set comes from another hospital than the others, so its accuracy says nothing about
medicine.
"""

from vit_jax import ViT
from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig

config = Config(
    model=ViT(patch_size=16, width=192, depth=6, num_heads=3, layer_scale=0.1),
    data=DataConfig(
        name="folder",
        train_split="train",
        eval_split="val",
        test_split="test",
        image_size=256,
    ),
    augment=AugmentConfig(flip="random"),
    optim=OptimConfig(
        name="adamw",
        learning_rate=3e-4,
        weight_decay=1e-6,
        warmup_epochs=1,
        clip_norm=1.0,
    ),
    batch_size=16,
    epochs=10,
    checkpoint_every_epochs=5,
    log_every_steps=1,
)
