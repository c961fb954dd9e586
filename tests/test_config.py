"""Configs: files, JSON, lengths, differences; every error names the field and what is right."""

import dataclasses
import json
from pathlib import Path

import jaxtyping
import pytest

from vit_jax import ViT, config
from vit_jax.config import (
    Config,
    ConfigError,
    check_ranges,
    differences,
    field_names,
    from_json,
    load_config,
    resolve_length,
    to_json,
)
from vit_jax.data.source import DataConfig
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))

# No field at its default where a tuple, a None or a Literal could get lost on the way.
UNUSUAL = Config(
    model=ViT(
        patch_size=(2, 4),
        image_size=(8, 16),
        depth=3,
        head_dim=8,
        class_token=False,
        pool="map",
        qk_scale=0.25,
        qk_norm=True,
        class_position=False,
        dtype="bfloat16",
    ),
    pretrained="hf-hub:some/model",
    data=DataConfig(
        image_size=(32, 48),
        resize="squash",
        name="tfds:mnist",
        root="/data",
        test_split=None,
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 2.0, 3.0),
    ),
    augment=AugmentConfig(crop_area=(0.1, 0.9), flip="alternating", policy="randaugment"),
    optim=OptimConfig(name="sgd", nesterov=True, clip_norm=0.5, ema_decay=0.999),
    steps=7,
    device="gpu",
    parallel="pmap",
)


@pytest.mark.parametrize("config", [Config(), UNUSUAL], ids=["defaults", "unusual"])
def test_json_round_trip(config):
    text = to_json(config)
    again = from_json(text)
    assert again == config
    assert to_json(again) == text
    assert hash(again) == hash(config)  # tuples came back as tuples: a list has no hash


def test_json_holds_every_field_and_nothing_of_flax():
    plain = json.loads(to_json(UNUSUAL))
    assert list(plain) == [field.name for field in dataclasses.fields(Config)]
    assert plain["model"]["patch_size"] == [2, 4]
    assert plain["data"]["mean"] == [0.1, 0.2, 0.3]
    assert plain["data"]["test_split"] is None
    assert set(plain["model"]).isdisjoint({"parent", "name"})


def test_fields_left_out_of_json_take_their_defaults():
    assert from_json('{"optim": {"learning_rate": 0.5}}') == Config(
        optim=OptimConfig(learning_rate=0.5)
    )


def changed(**fields):
    """JSON of the defaults with some fields, by dotted name with __ for the dot, replaced."""
    plain = json.loads(to_json(Config()))
    for dotted, value in fields.items():
        *parents, name = dotted.split("__")
        inner = plain
        for parent in parents:
            inner = inner[parent]
        inner[name] = value
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("batch_sise", r"config\.batch_sise=1: .*perhaps batch_size"),
        ("optim__learning_rat", r"config\.optim\.learning_rat=1: .*perhaps learning_rate"),
        ("model__num_head", r"config\.model\.num_head=1: .*perhaps num_heads"),
        ("augment__qqq", r"config\.augment\.qqq=1: .*there are crop_padding, .*flip"),
        ("model__parent", r"config\.model\.parent=1: there is no such field"),
    ],
)
def test_unknown_field_is_named_with_the_nearest_one(field, message):
    with pytest.raises(ConfigError, match=message):
        from_json(changed(**{field: 1}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", "64", r"config\.batch_size='64': expected int \(Images per step, over"),
        ("batch_size", 64.0, r"config\.batch_size=64\.0: expected int"),
        ("batch_size", True, r"config\.batch_size=True: expected int"),
        ("label_smoothing", False, r"config\.label_smoothing=False: expected float"),
        ("label_smoothing", None, r"config\.label_smoothing=None: expected float"),
        ("epochs", "3", r"config\.epochs='3': expected float \| None"),
        ("device", "cuda", r"config\.device='cuda': expected one of 'auto', 'cpu', 'gpu', 'tpu'"),
        ("optim__name", "adam", r"config\.optim\.name='adam': expected one of 'adamw', 'sgd'"),
        ("optim__nesterov", 1, r"config\.optim\.nesterov=1: expected bool"),
        ("model__patch_size", [4], r"config\.model\.patch_size=\[4\]: expected int \| tuple"),
        ("model__patch_size", [4, 4, 4], r"config\.model\.patch_size=\[4, 4, 4\]: expected"),
        ("model__patch_size", [4, 2.5], r"config\.model\.patch_size=\[4, 2\.5\]: expected"),
        ("data__mean", [0.5, "x"], r"config\.data\.mean=\[0\.5, 'x'\]: expected tuple"),
        ("model__remat", True, r"\.remat=True: expected one of 'none', 'full', 'dots' \(What the"),
        ("model__dtype", "float64", r"='float64': expected one of 'float32', 'bfloat16', None"),
        ("optim__freeze", "head", r"config\.optim\.freeze='head': expected tuple\[str, \.\.\.\]"),
        ("seed", 2**63, r"config\.seed=9223372036854775808: should be below 2\*\*63"),
        ("optim__eps", float("nan"), r"config\.optim\.eps=nan: should be a finite number"),
        ("data__mean", [0.5, -float("inf")], r"config\.data\.mean=.*: should be a finite number"),
        ("name", "x" * 500, r"config\.name='x{59}…x{14}': there is no such field"),
        ("model", [], r"config\.model=\[\]: expected an object with the fields of ViT"),
        ("optim", None, r"config\.optim=None: expected an object with the fields of OptimConfig"),
    ],
)
def test_wrong_type_is_named(field, value, message):
    with pytest.raises(ConfigError, match=message):
        from_json(changed(**{field: value}))


@pytest.mark.parametrize("text", ["", "{", '{"seed": 1,}', "config = 1"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ConfigError, match="not JSON"):
        from_json(text)


def test_all_that_is_wrong_in_json_is_said_at_once():
    with pytest.raises(ConfigError) as error:
        from_json('{"batch_sise": 1, "optim": {"momentum": "a", "b3": 2}, "model": {"depth": 2.5}}')
    problems = error.value.args
    assert [problem.partition(":")[0] for problem in problems] == [
        "config.batch_sise=1",
        "config.optim.momentum='a'",
        "config.optim.b3=2",
        "config.model.depth=2.5",
    ]
    assert str(error.value).splitlines() == ["4 problems:", *(f"  {each}" for each in problems)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"seed": ' + "9" * 5000 + "}", "not JSON: Exceeds the limit"),
        ('{"seed": 1, "seed": 2}', "^seed: given 2 times in one object, keep one$"),
        ('{"optim": {"b1": 0.1, "b2": 0.1, "b1": 0.2}}', "^b1: given 2 times"),
        ('{"seed": ' + "[" * 500 + "]" * 500 + "}", r"config\.seed=\[\[.*: expected int"),
    ],
    ids=["deep", "long", "twice", "twice within", "lists"],
)
def test_json_that_is_made_up_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        from_json(text)


def test_json_that_is_no_object_is_refused():
    with pytest.raises(ConfigError, match=r"config=\[1\]: expected an object with the fields of"):
        from_json("[1]")


@pytest.mark.parametrize(
    ("epochs", "steps", "overridden", "expected"),
    [
        (3.0, None, (), (3.0, None)),
        (None, 30, (), (None, 30)),
        (3.0, 30, ("steps",), (None, 30)),  # the file says epochs, the command line steps
        (3.0, 30, ("epochs",), (3.0, None)),
        (3.0, None, ("epochs",), (3.0, None)),
    ],
)
def test_one_length_stays_in_force(epochs, steps, overridden, expected):
    config = resolve_length(Config(epochs=epochs, steps=steps), overridden)
    assert (config.epochs, config.steps) == expected


def test_a_missing_file_suggests_near_names(tmp_path):
    (tmp_path / "digits.py").write_text("")
    (tmp_path / "other.py").write_text("")
    with pytest.raises(ConfigError, match="no such file") as error:
        load_config(tmp_path / "digit.py")
    assert f"perhaps {tmp_path / 'digits.py'}" in str(error.value)
    assert "other" not in str(error.value)


def test_a_missing_file_with_no_near_name_suggests_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere/a\.py: there is no such file$"):
        load_config(tmp_path / "nowhere" / "a.py")


def test_other_kinds_of_file_are_refused(tmp_path):
    path = tmp_path / "config.txt"
    path.write_text(to_json(Config()))
    with pytest.raises(ConfigError, match=r"config\.txt: expected a \.py file, or a run's config"):
        load_config(path)


@pytest.mark.parametrize("source", ["", "config = 3", "from vit_jax.config import Config"])
def test_a_file_without_config_is_refused(tmp_path, source):
    path = tmp_path / "a.py"
    path.write_text(source)
    with pytest.raises(ConfigError, match=r"a\.py: the file should define `config = Config"):
        load_config(path)


def test_a_python_file_and_a_json_file_hold_the_same(tmp_path):
    python, as_json = tmp_path / "a.py", tmp_path / "config.json"
    python.write_text("from vit_jax.config import Config\nconfig = Config(seed=5, epochs=2.0)\n")
    as_json.write_text(to_json(load_config(python)))
    assert load_config(str(as_json)) == Config(seed=5, epochs=2.0)


def test_there_are_configs():
    assert {"digits", "cifar10"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_short_complete_and_survives_json(path):
    assert len(path.read_text().splitlines()) < 60
    config = load_config(path)
    assert from_json(to_json(config)) == config
    assert resolve_length(config) == config  # exactly one of epochs and steps is set


def test_differences_are_named_with_both_values():
    new = dataclasses.replace(
        UNUSUAL,
        seed=9,
        model=dataclasses.replace(UNUSUAL.model, patch_size=2),
        data=dataclasses.replace(UNUSUAL.data, mean=None),
        optim=dataclasses.replace(UNUSUAL.optim, clip_norm=None),
    )
    assert differences(UNUSUAL, new) == {
        "model.patch_size": ((2, 4), 2),
        "data.mean": ((0.1, 0.2, 0.3), None),
        "optim.clip_norm": (0.5, None),
        "seed": (0, 9),
    }


@pytest.mark.parametrize("config", [Config(), UNUSUAL], ids=["defaults", "unusual"])
def test_a_config_does_not_differ_from_itself_read_back(config):
    assert differences(config, from_json(to_json(config))) == {}


def test_an_error_in_a_json_config_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"batch_sise": 3}')
    with pytest.raises(ConfigError, match=r"a.json: config.batch_sise.*perhaps batch_size"):
        load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"a.json"):
        load_config(path)


@pytest.fixture
def unchecked():
    """Types unchecked, as they are for users: what a mistake does then is the question."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_all_numbers_out_of_range_are_named_at_once():
    config = Config(
        model=ViT(depth=-1, dropout=1.5, patch_size=(4, 0)),
        optim=OptimConfig(ema_decay=2.0, eps=float("inf")),
        seed=2**63,
        log_every_steps=0,
        eval_every_epochs=float("nan"),
        data=DataConfig(crop_fraction=0.0),
        augment=AugmentConfig(mixup=-1.0),
        epochs=1,
    )
    assert sorted(check_ranges(config)) == [
        "augment.mixup=-1.0: should be at least 0",
        "data.crop_fraction=0.0: should be above 0 and at most 1",
        "eval_every_epochs=nan: should be above 0",
        "log_every_steps=0: should be at least 1",
        "model.depth=-1: should be at least 1",
        "model.dropout=1.5: should be at least 0 and below 1",
        "model.patch_size=(4, 0): should be at least 1",
        "optim.ema_decay=2.0: should be at least 0 and below 1",
        "optim.eps=inf: should be a finite number",
        "seed=9223372036854775808: should be below 2**63",
    ]
    assert check_ranges(Config(epochs=1)) == []
    assert check_ranges(UNUSUAL) == []


def test_every_range_is_of_a_field():
    names = [name for _, _, names in config._RANGES for name in names.split()]
    assert len(names) > 30
    assert len(set(names)) == len(names)
    assert set(names) <= set(field_names(Config()))


IMPORTS = """\
from pathlib import Path; from vit_jax import ViT; from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.optim import OptimConfig
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config = Config(optim=OptimConfig(name='adam'))", "config.optim.name='adam': expected"),
        ("config = Config(steps='2')", "config.steps='2'"),
        (
            "config = Config(model=ViT(depht=3))",
            "line 4: ViT(depht=3): there is no such",
        ),
        (
            "config = Config(model=ViT)",
            "config.model=<class 'vit_jax.models.vit.ViT'>: exp",
        ),
        (
            "config = Config(data=DataConfig(root=Path('a')))",
            "data.root=PosixPath('a'): exp",
        ),
        ("config = Config(1, 2, data=3, model=4)", "TypeError: "),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("config = Config(", "SyntaxError"),
    ],
)
def test_a_mistake_in_a_config_file_is_named(tmp_path, line, message, unchecked):
    path = tmp_path / "mine.py"
    path.write_text(f"{IMPORTS}{line}\n")
    with pytest.raises(ConfigError, match=r"mine\.py") as error:
        load_config(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        (
            "ViT(depht=3)|OptimConfig(learning_rat=1)|batch_sise=8",
            [
                "line 6: ViT(depht=3): there is no such field; perhaps depth",
                "line 7: OptimConfig(learning_rat=1): there is no such field; perhaps "
                "learning_rate",
                "line 8: Config(batch_sise=8): there is no such field; perhaps batch_size",
            ],
        ),
        (
            "ViT(num_heads='4')|OptimConfig(momentum='much')|batch_size=8",
            [
                "config.model.num_heads='4': expected int (Attention heads of a block.)",
                "config.optim.momentum='much': expected float (Momentum of sgd and muon.)",
            ],
        ),
    ],
    ids=["fields", "types"],
)
def test_all_mistakes_of_a_kind_in_a_config_file_are_said_at_once(
    tmp_path, unchecked, fields, problems
):
    path = tmp_path / "mine.py"
    model, optim, batch = fields.split("|")
    path.write_text(
        f"{IMPORTS}\nconfig = Config(\n    model={model},\n    optim={optim},\n    {batch},\n)\n"
    )
    with pytest.raises(ConfigError) as error:
        load_config(path)
    said = sorted(problem.removeprefix(f"--config {path}: ") for problem in error.value.args)
    assert said == problems


def test_a_json_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=rf"^--config {path}: 'utf-8' codec can't decode"):
        load_config(path)
