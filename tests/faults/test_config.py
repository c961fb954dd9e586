"""What is wrong in a config or a command is said before anything is made."""

from pathlib import Path

import jax
import pytest

from vit_jax.cli import train_command

DIGITS = str(Path(__file__).parents[2] / "configs" / "digits.py")


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """The lines that a refused command prints, in a folder where it leaves nothing."""
    monkeypatch.chdir(tmp_path)

    def no_compiling(*args, **kwargs):
        raise AssertionError("compiled")

    monkeypatch.setattr("vit_jax.train.programs.data_parallel", no_compiling)

    def lines(*arguments):
        before = sorted(tmp_path.iterdir())
        assert train_command(list(arguments)) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        assert sorted(tmp_path.iterdir()) == before, "a run folder"
        return captured.err.splitlines()

    return lines


@pytest.mark.fault(
    "A field, a flag and a group of the command are misspelt",
    "One message names each with the nearest there is; exit code 2",
)
def test_c1_misspelt_arguments_come_with_near_names(refused):
    arguments = ("--config.model.depht=3", "--config.learning_rat", "0.1", "--wrkdir=x")
    assert refused("--config", DIGITS, *arguments, "--config.modle.depth=3") == [
        "Error: 4 problems:",
        "  --config.model.depht=3: there is no such field; perhaps --config.model.depth",
        "  --config.learning_rat 0.1: there is no such field; perhaps --config.optim.learning_rate",
        "  --wrkdir=x: there is no such field; perhaps --workdir",
        "  --config.modle.depth=3: there is no such field; perhaps --config.model.depth",
    ]


@pytest.mark.fault(
    "Fields of a config.json are misspelt, and fields of the command with them",
    "One message names those of the file and those of the command",
)
def test_c1_misspelt_fields_of_a_file(refused, tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"batch_sise": 8, "optim": {"lerning_rate": 1}, "epochs": 1}')
    assert refused(f"--config={path}", "--config.sed=1") == [
        "Error: 3 problems:",
        f"  --config {path}: config.batch_sise=8: there is no such field; perhaps batch_size",
        f"  --config {path}: config.optim.lerning_rate=1: there is no such field; perhaps "
        "learning_rate",
        "  --config.sed=1: there is no such field; perhaps --config.seed",
    ]


@pytest.mark.fault(
    "Values on the command line are of another type",
    "One message names each field with its value, its type and its meaning",
)
def test_c2_values_of_another_type(refused):
    arguments = ("--config.optim.learning_rate=abc", "--config.batch_size=12.5", "--resume=maybe")
    lines = refused("--config", DIGITS, *arguments, "--config.device", "cuda")
    assert lines[:3] == [
        "Error: 4 problems:",
        "  --config.optim.learning_rate=abc: expected float (Peak learning rate.)",
        "  --config.batch_size=12.5: expected int (Images per step, over all devices.)",
    ]
    assert lines[3].startswith(
        "  --resume=maybe: expected one of 'auto', 'must', 'never' (auto: go"
    )
    assert lines[4].startswith(
        "  --config.device cuda: expected one of 'auto', 'cpu', 'gpu', 'tpu'"
    )
    assert len(lines) == 5


@pytest.mark.fault(
    "A config.json is no JSON, nested 100,000 deep, or holds numbers that are none",
    "A message names the file and what is wrong in it",
)
def test_c2_json_that_is_made_up(refused, tmp_path):
    path = tmp_path / "config.json"
    for text, problem in (
        ("{", "the config is not JSON: Expecting property name"),
        ("[" * 100_000, "the config is not JSON that can be read: nested too deeply"),
        ('{"epochs": NaN}', "config.epochs=nan: should be a finite number"),
        ('{"epochs": -Infinity}', "config.epochs=-inf: should be a finite number"),
        ('{"seed": ' + "9" * 5000 + "}", "the config is not JSON: Exceeds the limit"),
        ('{"seed": 1, "seed": 2}', "seed: given 2 times in one object, keep one"),
    ):
        path.write_text(text)
        [line] = refused(f"--config={path}")
        assert line.startswith(f"Error: --config {path}: {problem}")


@pytest.mark.fault(
    "Batch by devices, patch by image, heads by width, warm-up, a split and a range are all wrong",
    "One message names all six and what would be right, before anything is compiled",
)
def test_c3_all_that_does_not_go_together(refused):
    wrong = "batch_size=100 model.patch_size=3 model.num_heads=5 data.train_split=trian"
    wrong += " optim.warmup_epochs=500 label_smoothing=2"
    arguments = [f"--config.{field}" for field in wrong.split()]
    first, *lines = refused("--config", DIGITS, *arguments, "--config.device=cpu")
    assert first == "Error: 6 problems:"
    assert sorted(lines) == [
        f"  batch_size=100 cannot be shared evenly by {jax.device_count()} devices: use 96 or 104",
        "  data.train_split='trian': split 'trian' of digits: there are 'train' and 'test'",
        "  label_smoothing=2.0: should be at least 0 and below 1",
        "  model.num_heads=5 does not divide width=64: use one of [1, 2, 4, 8, 16, 32, 64] heads, "
        "or set head_dim (num_heads * head_dim need not equal the width)",
        "  model.patch_size=(3, 3) does not divide the image of 8x8 pixels: use a patch height out "
        "of [1, 2, 4, 8] and a patch width out of [1, 2, 4, 8], or resize the image",
        "  optim.warmup_epochs=500: longer than the training, epochs=80; choose at most 80, or "
        "train longer",
    ]


@pytest.mark.fault(
    "A config has mistakes of its own, and its data would have to be downloaded",
    "The mistakes are named, and nothing is downloaded",
)
def test_c3_nothing_is_downloaded_for_a_wrong_config(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("a connection"))
    arguments = ["--config.data.name=cifar10", f"--config.data.root={tmp_path / 'none'}"]
    weights = ["--config.pretrained=hf-hub:some/model", "--config.label_smoothing=2"]
    assert refused("--config", DIGITS, *arguments, *weights, "--config.device=cpu") == [
        "Error: label_smoothing=2.0: should be at least 0 and below 1"
    ]


@pytest.mark.fault(
    "A GPU is asked for where there is none, in a config that is wrong besides",
    "One message has the line that installs the support, the other way out, and the rest",
)
def test_r26_a_gpu_that_is_not_there(refused):
    [line] = refused("--config", DIGITS, "--config.device=gpu")
    assert line.startswith("Error: device='gpu' was asked for")
    assert f"pip install 'jax[cuda12]=={jax.__version__}'" in line
    assert line.endswith("or choose --config.device=cpu")
    lines = refused("--config", DIGITS, "--config.device=gpu", "--config.data.test_split=tset")
    assert lines[0] == "Error: 2 problems:"
    assert lines[1] == f"  {line.removeprefix('Error: ')}"
    assert lines[2].startswith("  data.test_split='tset': split 'tset' of digits: there are")
