"""Ants or bees: fine-tune a published ViT on 244 photographs.

python train.py --config configs/finetune_hymenoptera.py --config.data.root=FOLDER

FOLDER holds train/ants, train/bees, val/ants and val/bees.
"""

from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig

config = Config(
    pretrained="hf-hub:WinKawaks/vit-tiny-patch16-224",
    data=DataConfig(name="folder", train_split="train", eval_split="val", test_split=None),
    augment=AugmentConfig(crop_padding=16, flip=True),
    optim=OptimConfig(
        name="adamw",
        learning_rate=3e-4,
        weight_decay=0.05,
        warmup_epochs=1,
        layer_decay=0.75,
        clip_norm=1.0,
    ),
    label_smoothing=0.1,
    batch_size=32,
    epochs=10,
    checkpoint_every_epochs=10,
)
