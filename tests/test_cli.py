import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vit_jax import cli
from vit_jax.commands.arguments import read_arguments
from vit_jax.config import Config, load_config
from vit_jax.models import ViT

ROOT = Path(__file__).parents[1]
DIGITS = str(ROOT / "configs" / "digits.py")


def train_py(*arguments):
    return subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_misspelt_field_is_refused_in_one_short_message():
    result = train_py("--config", "configs/cifar10.py", "--config.model.depht=3")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "Error: --config.model.depht=3: there is no such field; perhaps --config.model.depth\n"
    )


def test_a_value_of_another_type_is_refused_with_the_meaning_of_the_field():
    result = train_py("--config", "configs/cifar10.py", "--config.model.depth=three")
    assert result.returncode == 2
    assert "--config.model.depth" in result.stderr
    assert "Number of blocks" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_names_every_field_with_its_default_and_meaning():
    result = train_py("--config", DIGITS, "--help")
    assert result.returncode == 0
    text = " ".join(result.stdout.replace("│", " ").split())
    config = load_config(DIGITS)
    for part in ("data", "augment", "optim", "early"):
        for field in dataclasses.fields(getattr(config, part)):
            assert f"--config.{part}.{field.name}" in text
    for field in dataclasses.fields(ViT):
        if field.name not in ("parent", "name"):
            assert f"--config.model.{field.name} " in text
    for field in dataclasses.fields(Config):
        if field.name not in ("model", "data", "augment", "optim", "early"):
            assert f"--config.{field.name} " in text
    assert f"Peak learning rate. (default: {config.optim.learning_rate})" in text
    assert text.count("(default:") >= 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "configs/digit.py"], "there is no such file; perhaps"),
        (["--config.steps=0"], "should be above 0"),
        (["--config.epochs=1", "--config.steps=3"], "exactly one of them"),
        (["--config.batch_size=7", "--config.device=cpu"], "shared evenly by 8 devices: use 8"),
        (["--config.device=gpu"], r"pip install 'jax[cuda12]"),
        (["--resume=must"], "--workdir"),
        (["configs/digits.py"], "a config file is named as --config configs/digits.py"),
        (["--config=a.py", "--config", "b.py"], "--config: given twice, a.py b.py: keep one"),
        (["--config", "--config.seed=1"], "--config: name a config file"),
        (["--config="], "--config: name a config file"),
        (["--config.model=3"], "name a field of it, such as --config.model.patch_size"),
        (["--config.batch_size"], "--config.batch_size: expected int (Images per step"),
        (
            ["--config.model.patch_size", "2", "x"],
            "--config.model.patch_size 2 x: expected int | tu",
        ),
        (["--debug=3"], "--debug=3: takes no value"),
        (["--config.seed=1", "2"], "2: arguments begin with --; --help lists them all"),
    ],
)
def test_wrong_commands_exit_with_2_and_say_why(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").write_text(Path(DIGITS).read_text())
    assert cli.train_command(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_ranges_are_checked_beside_what_cannot_be_read(capsys):
    # The width is not known, so nothing is said of what divides it.
    arguments = ["--config.model.width=x", "--config.model.num_heads=7", "--config.seed=-1"]
    assert cli.train_command(["--config", DIGITS, *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "Error",
        "  --config.model.width=x",
        "  seed=-1",
    ][: len(lines)]
    assert len(lines) == 3


def test_arguments_are_read_as_they_are_written():
    argv = ["--config.model.patch_size", "2", "4", f"--config={DIGITS}", "--config.seed", "5"]
    path, rest, arguments, overridden = read_arguments([*argv, "--config.steps=3", "--no-debug"])
    assert path == DIGITS
    assert rest == [*argv[:3], *argv[4:], "--config.steps=3", "--no-debug"]
    config = arguments.config
    assert (config.model.patch_size, config.seed) == ((2, 4), 5)
    assert (config.steps, config.epochs) == (3, None)
    assert overridden == ["model.patch_size", "seed", "steps"]


def test_a_trial_of_a_longer_recipe_runs_with_a_note(tmp_path, capsys):
    arguments = f"--config {DIGITS} --config.steps=1 --config.model.depth=1 --config.device=cpu"
    arguments += " --config.pictures=False --config.optim.freeze backbone"
    assert cli.train_command([*arguments.split(), f"--workdir={tmp_path / 'run'}"]) == 0
    out = capsys.readouterr().out
    assert "NOTE: optim.warmup_epochs=3 is longer than this training" in out
    assert "optim.head_only_epochs" not in out


def test_overrides_reach_the_run_and_steps_replace_epochs(tmp_path, capsys):
    arguments = f"--config {DIGITS} --config.steps=2 --config.model.depth=1 --config.device=cpu"
    code = cli.train_command([*arguments.split(), f"--workdir={tmp_path / 'run'}"])
    assert code == 0
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (content["steps"], content["epochs"], content["model"]["depth"]) == (2, None, 1)

    # The resolved config is a config: same run, nothing left to do.
    resolved = tmp_path / "run" / "config.json"
    assert cli.train_command([f"--config={resolved}", f"--workdir={tmp_path / 'run'}"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    assert "355 images" in capsys.readouterr().out
    assert cli.main(["summary", str(tmp_path / "run")]) == 0
    assert "encoder/block_0/attn/qkv/kernel" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_without_workdir_gets_a_fresh_numbered_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        arguments = ["--config", DIGITS, "--config.steps=1", "--config.data.train_split=train[:64]"]
        assert cli.train_command([*arguments, "--config.device=cpu"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits-1", "digits-2"]


def test_summary_of_a_published_size(capsys):
    assert cli.main(["summary", "B/16"]) == 0
    output = capsys.readouterr().out
    assert "86,567,656" in output
    assert "35.128 G forward" in output
    assert cli.main(["summary", "X/16"]) == 2
    assert "expected SIZE/PATCH" in capsys.readouterr().err


def test_doctor_names_versions_and_devices(capsys):
    assert cli.main(["doctor"]) == 0
    output = capsys.readouterr().out
    for word in ("jax", "flax", "orbax-checkpoint", "cpu:0", "TFDS data"):
        assert word in output


def test_a_config_that_leaves_its_image_size_to_the_data_needs_one(capsys):
    assert cli.main(["summary", DIGITS]) == 2
    assert "add --image_size=PIXELS" in capsys.readouterr().err
    assert cli.main(["summary", DIGITS, "--image_size=8", "--channels=1"]) == 0
    # All but the head, whose classes are the data's too.
    assert "134,336" in capsys.readouterr().out


def test_the_command_to_go_on_keeps_all_but_workdir_and_resume():
    arguments = ["--config.epochs", "3", "--workdir", "here", "--resume=auto", "--config.seed=1"]
    kept = cli._without(arguments, "--workdir", "--resume")
    assert kept == ["--config.epochs", "3", "--config.seed=1"]


def test_a_config_that_cannot_work_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", DIGITS, "--config.model.patch_size=3", "--config.device=cpu"]
    assert cli.train_command(arguments) == 2
    assert "patch_size=(3, 3) does not divide" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_reader_that_has_enough_is_no_error():
    """As in `vit-jax … | head -n 1`: the pipe is closed before the second line is written."""
    program = "import sys, vit_jax.cli as cli; sys.exit(cli._exit_code(write, False))"
    write = "def write():\n    for i in range(200_000):\n        print(i, flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", write + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
