"""What does not go together in a config, all of it in one list."""

import dataclasses

import pytest

from vit_jax import ViT
from vit_jax.config import Config
from vit_jax.config_checks import nearest_multiples, problems
from vit_jax.data.source import DataConfig
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig

SMALL = ViT(patch_size=4, width=24, depth=2, num_heads=3)
SOUND = Config(model=SMALL, epochs=3)


def with_(**fields):
    """SOUND with fields replaced; those of a part as model__depth."""
    config = SOUND
    for name, value in fields.items():
        part, _, inner = name.partition("__")
        if inner:
            value = dataclasses.replace(getattr(config, part), **{inner: value})
        config = dataclasses.replace(config, **{part: value})
    return config


def test_a_sound_config_has_no_problems():
    assert problems(SOUND) == []
    assert problems(SOUND, image_shape=(8, 12, 1), steps_per_epoch=3, devices=8) == []
    assert len(problems(with_(optim__freeze=("head", "backbone")))) == 1  # nothing is left
    assert problems(with_(optim__freeze=("encoder/block_1", "pos_embed"))) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"epochs": None},
            "epochs=None and steps=None: exactly one of them says how long to train",
        ),
        ({"steps": 30}, "epochs=3 and steps=30: exactly one of them says how long to train"),
        ({"epochs": float("nan")}, "epochs=nan: should be above 0"),
        ({"epochs": None, "steps": 0}, "steps=0: should be above 0"),
        ({"epochs": None, "steps": -1}, "steps=-1: should be above 0"),
        ({"epochs": float("inf")}, "epochs=inf: should be above 0"),
        (
            {"optim__warmup_epochs": 3.5},
            "optim.warmup_epochs=3.5: longer than the training, epochs=3; choose at most 3, "
            "or train longer",
        ),
        (
            {"optim__head_only_epochs": 4.0},
            "optim.head_only_epochs=4: longer than the training, epochs=3; choose at most 3, "
            "or train longer",
        ),
        (
            {"batch_size": 100, "augment__repeats": 3},
            "batch_size=100: should be a multiple of augment.repeats=3: use 99 or 102",
        ),
        (
            {"batch_size": 100, "accumulate_steps": 8},
            "batch_size=100: should be a multiple of accumulate_steps=8: use 96 or 104",
        ),
        (
            {"batch_size": 2, "augment": AugmentConfig(mixup=1.0, repeats=2)},
            "augment.repeats=2: a batch of batch_size=2 would hold one image alone, and have "
            "nothing to mix it with",
        ),
        (
            {"model__pool": "none"},
            "model.pool='none' gives a row per token: choose cls, gap, map or seq to train",
        ),
        (
            {"dtype": "float32", "model__dtype": "bfloat16"},
            "dtype=float32 and model.dtype=bfloat16: set dtype alone, the model's follows from it",
        ),
        (
            {"optim": OptimConfig(freeze=("head",), head_only_epochs=1)},
            "optim.head_only_epochs=1 trains the head alone, but optim.freeze=('head',) keeps it "
            "as it is: drop one of the two",
        ),
        (
            {"model__num_heads": 5},
            "model.num_heads=5 does not divide width=24: use one of [1, 2, 3, 4, 6, 8, 12, 24] "
            "heads, or set head_dim (num_heads * head_dim need not equal the width)",
        ),
        (
            {"model": SMALL.clone(num_heads=5, head_dim=4, pool="map")},
            "model.num_heads=5 does not divide width=24, and attention pooling has no head_dim of "
            "its own: use one of [1, 2, 3, 4, 6, 8, 12, 24] heads",
        ),
        (
            {"model": SMALL.clone(width=27, positions="sincos2d")},
            "model.width=27 with positions='sincos2d': use a multiple of 4, at least 8",
        ),
        (
            {"model__class_token": False},
            "model.class_token=False with pool='cls': use pool='gap', 'map', 'seq' or 'none'",
        ),
        (
            {"data": DataConfig(image_size=(6, 8))},
            "model.patch_size=(4, 4) does not divide the image of 6x8 pixels: use a patch height "
            "out of [1, 2, 3, 6] and a patch width out of [1, 2, 4, 8], or resize the image",
        ),
        ({"model__width": 2**62}, f"model.width={2**62}: should be below 1,000,000"),
    ],
)
def test_one_problem_is_one_line(fields, message):
    assert problems(with_(**fields)) == [message]


def test_all_that_the_model_refuses_is_said():
    model = ViT(3, 27, 2, 5, image_size=16, channels=3, positions="sincos2d", class_token=False)
    config = Config(model=model, epochs=1, optim=OptimConfig(freeze=("hed",)))
    found = problems(config, image_shape=(8, 8, 1))
    assert [line.partition("=")[0] for line in found] == [
        "model.image_size",
        "model.channels",
        "model.class_token",
        "model.patch_size",
        "model.width",
        "model.num_heads",
        "optim.freeze: no parameter's path begins with 'hed': perhaps head; there are backbone, "
        "encoder, encoder/block_0, encoder/block_1, head, norm, patch_embed",
    ]


def test_a_model_that_stands_on_weights_is_looked_at_when_it_is_whole():
    config = with_(pretrained="weights", model__num_heads=5)
    assert problems(config) == []
    assert len(problems(config, model_known=True)) == 1


def test_numbers_out_of_range_end_no_other_check():
    found = sorted(
        problems(with_(model__num_heads=0, batch_size=100, accumulate_steps=8, epochs=-1))
    )
    assert found == [
        "batch_size=100: should be a multiple of accumulate_steps=8: use 96 or 104",
        "epochs=-1: should be above 0",
        "model.num_heads=0: should be at least 1",
    ]


@pytest.mark.parametrize(
    ("overridden", "refused"),
    [
        ((), True),
        (("steps",), False),  # a trial of a longer recipe
        (("epochs",), False),
        (("optim.warmup_epochs",), True),
        (("steps", "optim.warmup_epochs"), True),
        (("seed",), True),
    ],
)
def test_a_length_from_the_command_line_may_be_shorter_than_the_warm_up(overridden, refused):
    config = with_(optim__warmup_epochs=2.0, epochs=None, steps=10)
    found = problems(config, overridden, steps_per_epoch=10)
    expected = (
        "optim.warmup_epochs=2: longer than the training, steps=10, which is 1 epochs; choose at "
        "most 1, or train longer"
    )
    assert found == [expected] * refused
    assert problems(config, overridden) == []  # how many steps an epoch has is not known
    assert problems(config, overridden, steps_per_epoch=5) == []  # as long as the warm-up


def test_proposed_batches_suit_the_devices_too():
    [line] = problems(with_(batch_size=100, accumulate_steps=3), devices=8)
    assert line.endswith("use 96 or 120")
    [line] = problems(with_(batch_size=100, accumulate_steps=2, augment__repeats=3), devices=8)
    assert line.endswith("use 96 or 144")


def test_nearest_multiples():
    assert nearest_multiples(7, 8) == "8"
    assert nearest_multiples(0, 8) == "8"
    assert nearest_multiples(17, 8) == "16 or 24"
