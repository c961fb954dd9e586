"""Small trainings for the tests of this folder."""

import dataclasses

import pytest

from vit_jax import ViT
from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig


@pytest.fixture
def tiny_config():
    """Digits, a tiny ViT with everything random switched on; a second or two a run."""
    return Config(
        model=ViT(
            patch_size=4,
            width=16,
            depth=2,
            num_heads=2,
            mlp_dim=32,
            dropout=0.1,
            attention_dropout=0.1,
            embed_dropout=0.1,
            drop_path=0.2,
        ),
        data=DataConfig(name="digits", train_split="train[:10%]", eval_split="train[90%:]"),
        augment=AugmentConfig(crop_padding=1, flip="random"),
        optim=OptimConfig(learning_rate=3e-3, weight_decay=0.1, clip_norm=1.0, ema_decay=0.9),
        label_smoothing=0.1,
        batch_size=64,
        steps=7,
        log_every_steps=1,
        pictures=False,  # most of these tests are about numbers
        device="cpu",
    )


@pytest.fixture
def plain_config(tiny_config):
    """The same without dropout and drop-path, whose masks depend on the devices under pmap."""
    model = dataclasses.replace(
        tiny_config.model, dropout=0.0, attention_dropout=0.0, embed_dropout=0.0, drop_path=0.0
    )
    return dataclasses.replace(tiny_config, model=model)
