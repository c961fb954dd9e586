"""Runs, weights and arguments that hold Python: none of it runs. Secrets are not written."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from faults.sound_files import weights_folder

from vit_jax import cli, load_pretrained
from vit_jax.config import Config, load_config, to_json
from vit_jax.weights.run_folder import load_run

ROOT = Path(__file__).parents[2]
SECRETS = {
    name: f"secret-{number}-of-{name.lower()}"
    for number, name in enumerate(
        (
            *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"),
            *("GITHUB_TOKEN", "KAGGLE_KEY", "MY_PASSWORD", "DATABASE_URL"),
        )
    )
}
TINY = (
    *("--config.model.depth=1", "--config.model.width=16", "--config.model.num_heads=2"),
    *("--config.steps=2", "--config.device=cpu", "--config.data.eval_split=None"),
    "--config.optim.warmup_epochs=0",
    *("--config.data.test_split=None", "--config.data.train_split=train[:10%]"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder, of a training with secrets in its environment; pictures and report drawn."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    config = ["--config", str(ROOT / "configs" / "digits.py"), f"--workdir={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        for name, secret in SECRETS.items():
            patch.setenv(name, secret)
        token = folder.parent / "token"  # where the Hub's own login leaves it
        token.write_text("secret-of-the-file")
        patch.setenv("HF_TOKEN_PATH", str(token))
        assert cli.train_command([*config, *TINY]) == 0
    return folder


def plant(folder):
    """Python files that betray themselves when they are run, and the file that tells it."""
    marker = folder / "executed"
    code = f"open({str(marker)!r}, 'w').close()\nconfig = None\n"
    names = ("config.py", "__init__.py", "sitecustomize.py", "conftest.py", "modeling_vit.py")
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        for name in (*names, "model.py", "setup.py", "tokenizer.py", "x.pth"):
            (place / name).write_text(code)
    return marker


@pytest.mark.fault(
    "a Python config with a side effect is named with `--config`",
    "it runs, once: a config is code, and `load_config` says so",
)
def test_c4_a_config_is_code(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from vit_jax.config import Config\n"
        f"open({str(tmp_path / 'executed')!r}, 'x').close()\nconfig = Config(steps=3)\n"
    )
    assert load_config(path).steps == 3
    assert (tmp_path / "executed").exists()
    assert "A .py file is run as the code it is" in load_config.__doc__


@pytest.mark.fault(
    "`.py` files are planted in a run folder, which is loaded, and named with "
    "`--config RUN/config.json`",
    "weights and config are read, and no planted file runs",
)
def test_c4_a_run_folder_runs_nothing(run, monkeypatch, tmp_path):
    marker = plant(run)
    monkeypatch.chdir(run)
    assert load_run(run).step == 2
    assert load_pretrained(run, say=None)[0].depth == 1
    assert load_config(run / "config.json").steps == 2
    command = ["--config", str(run / "config.json"), f"--workdir={tmp_path / 'again'}"]
    command += ["--config.pictures=False"]
    assert cli.train_command(command) == 0
    first, again = (load_config(folder / "config.json") for folder in (run, tmp_path / "again"))
    assert again == dataclasses.replace(first, pictures=False)
    assert not marker.exists()


@pytest.mark.fault(
    "`.py` files are planted in folders of published weights, and config.json points to them as "
    "`auto_map`, as remote code of transformers does",
    "the weights are read, and no planted file runs",
)
@pytest.mark.parametrize("layout", ["huggingface", "timm"])
def test_c4_a_folder_of_weights_runs_nothing(layout, tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    shutil.copytree(weights_folder()[layout, "config.json"], folder)
    content = json.loads((folder / "config.json").read_text())
    content["auto_map"] = {"AutoModelForImageClassification": "modeling_vit.Model"}
    (folder / "config.json").write_text(json.dumps(content))
    marker = plant(folder)
    monkeypatch.chdir(folder)
    assert load_pretrained(folder, say=None)[0].width == 64
    assert not marker.exists()


FIELDS = ("data.root", "data.name", "data.image_path", "data.mean", "pretrained", "seed")
MORE_FIELDS = ("model.depth", "model.patch_size", "optim.learning_rate", "optim.schedule")


@pytest.mark.fault(
    "fields are set to Python, as `--config.data.root=\"__import__('os').system(…)\"`",
    "it is taken as the text it is or refused, with exit code 2, and nothing runs",
)
@pytest.mark.parametrize("field", [*FIELDS, *MORE_FIELDS])
def test_c5_a_field_is_no_code(field, tmp_path, capfd):
    marker = tmp_path / "executed"
    (tmp_path / "table.csv").write_text("path,label\na.png,0\n")
    table = {"data.name": "csv", "data.root": str(tmp_path / "table.csv"), "data.image_size": 4}
    for code in (f"__import__('os').system('touch {marker}')", f"$(touch {marker})"):
        given = {f"--config.{name}": value for name, value in table.items()} | {
            f"--config.{field}": code
        }
        arguments = [f"{name}={value}" for name, value in given.items()]
        config = ["--config", str(ROOT / "configs" / "digits.py")]
        command = [*config, *TINY, f"--workdir={tmp_path / 'run'}", *arguments]
        assert _exit_code(command) == 2
        assert not marker.exists()
        assert not (tmp_path / "run").exists()
    assert "touch" in "".join(capfd.readouterr())


def _exit_code(command):
    try:
        return cli.train_command(command)
    except SystemExit as error:  # of tyro, which refuses values of other types
        return error.code


@pytest.mark.fault(
    "text fields of a config.json hold Python",
    "each is the text it was",
)
def test_c5_text_in_a_config_json_stays_text(tmp_path):
    marker = tmp_path / "executed"
    code = f"__import__('os').system('touch {marker}')"
    content = json.loads(to_json(Config(steps=1)))
    content["pretrained"] = content["data"]["root"] = content["data"]["image_path"] = code
    (tmp_path / "config.json").write_text(json.dumps(content))
    config = load_config(tmp_path / "config.json")
    assert (config.pretrained, config.data.root, config.data.image_path) == (code,) * 3
    assert not marker.exists()


@pytest.mark.fault(
    "a training has tokens and passwords in its environment, and a token file of the Hub",
    "no file of the run folder holds any of them",
)
def test_c7_secrets_are_not_written_into_the_run_folder(run):
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {"config.json", "summary.json", "log.txt", "report.html"} <= {p.name for p in files}
    secrets = [secret.encode() for secret in (*SECRETS.values(), "secret-of-the-file")]
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret in content], path
