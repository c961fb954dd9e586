"""The benchmark of recipes: its pilots are sound configs, and its table says what they did."""

import dataclasses
import json
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
    there = {lever for lever in recipe.LEVERS if recipe.changes(base, lever)}
    assert len(there) >= 20
    assert "none" not in there
    for lever in there:
        fields = recipe.LEVERS[lever]
        config = recipe.pilot(base, fields, 2.0, seed=3, rehearse=False)
        assert problems(config, image_shape=(32, 32, 3), steps_per_epoch=50) == [], lever
        changed = differences(without, config)
        assert changed, lever
        assert {part(field) for field in changed} <= {part(field) for field in fields}, lever
        for field, (_, now) in changed.items():
            if field in fields:
                assert now == fields[field] * (2 if field == "early.epochs" else 1), lever


def part(field):
    """Of a dotted name: "augment" of "augment.flip"; other fields are parts of their own."""
    return "augment" if field.startswith("augment") else field


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


def test_pilots_of_another_kind_are_not_mixed(recipe, tmp_path):
    base = load_config(ROOT / "configs" / "digits.py")
    file = tmp_path / "pilots.json"
    results = recipe.opened(file, base, "configs/a.py", 1.0)
    assert results["pilots"] == {}
    file.write_text(json.dumps(results | {"pilots": {"none": []}}))
    assert recipe.opened(file, base, "configs/a.py", 1.0)["pilots"] == {"none": []}
    other = dataclasses.replace(base, label_smoothing=0.5)
    for different in ((base, "configs/a.py", 2.0), (other, "configs/a.py", 1.0)):
        with pytest.raises(SystemExit, match="name another file"):
            recipe.opened(file, *different)


def test_fields_are_replaced_by_dotted_names(recipe):
    base = load_config(ROOT / "configs" / "digits.py")
    config = recipe.replaced(base, {"model.depth": 2, "optim.b2": 0.5, "seed": 7})
    assert (config.model.depth, config.optim.b2, config.seed) == (2, 0.5, 7)
    assert dataclasses.replace(config, seed=0).data == base.data
