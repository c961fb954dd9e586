"""The benchmark of recipes: its pilots are sound configs, and its table says what they did."""

import dataclasses
import sys
from pathlib import Path

import pytest

from vit_jax.config import differences, load_config
from vit_jax.config_checks import problems

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import cifar10_recipe
    finally:
        sys.path.pop(0)
    return cifar10_recipe


@pytest.mark.parametrize("name", ["cifar10", "cifar10_cpu"])
def test_every_pilot_is_a_sound_config_that_differs_by_its_lever(recipe, name):
    base = load_config(ROOT / "configs" / f"{name}.py")
    without = recipe.pilot(base, {}, 2.0, seed=3, rehearse=False)
    assert (without.epochs, without.seed, without.data.test_split) == (2.0, 3, None)
    assert without.optim.warmup_epochs == pytest.approx(base.optim.warmup_epochs * 2 / base.epochs)
    for lever, fields in recipe.LEVERS.items():
        config = recipe.pilot(base, fields, 2.0, seed=3, rehearse=False)
        assert problems(config, image_shape=(32, 32, 3), steps_per_epoch=50) == [], lever
        changed = differences(without, config)
        assert set(changed) <= set(fields), lever
        for field, (_, now) in changed.items():
            assert now == fields[field] * (2 if field == "early.epochs" else 1), lever


def test_the_table_compares_seed_by_seed(recipe):
    def runs(*accuracies, seconds):
        return [{"accuracy": each, "seconds": seconds} for each in accuracies]

    pilots = {
        "none": runs(50.0, 60.0, seconds=100.0),
        "harmful": runs(48.0, seconds=150.0),
        "helpful": runs(51.0, 63.0, seconds=50.0),
    }
    assert recipe.table(pilots).splitlines()[2:] == [
        "| helpful | 57.00 ± 8.49 | +2.00 ± 1.41 | 0.50 | 2 |",
        "| none | 55.00 ± 7.07 | +0.00 ± 0.00 | 1.00 | 2 |",
        "| harmful | 48.00 | -2.00 | 1.50 | 1 |",
    ]


def test_pilots_of_another_length_are_not_mixed(recipe, tmp_path):
    file = tmp_path / "pilots.json"
    file.write_text('{"config": "configs/a.py", "epochs": 1.0, "pilots": {"none": []}}')
    assert recipe.opened(file, "configs/a.py", 1.0)["pilots"] == {"none": []}
    with pytest.raises(SystemExit, match="name another file"):
        recipe.opened(file, "configs/a.py", 2.0)
    assert recipe.opened(tmp_path / "new.json", "configs/a.py", 2.0)["pilots"] == {}


def test_fields_are_replaced_by_dotted_names(recipe):
    base = load_config(ROOT / "configs" / "digits.py")
    config = recipe.replaced(base, {"model.depth": 2, "optim.b2": 0.5, "seed": 7})
    assert (config.model.depth, config.optim.b2, config.seed) == (2, 0.5, 7)
    assert dataclasses.replace(config, seed=0).data == base.data
