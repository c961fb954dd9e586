"""`vit-jax doctor`: the machine, and with --config what a training would need of it."""

import collections
import re

import pytest

from vit_jax import cli
from vit_jax.commands import doctor
from vit_jax.config import Config, to_json
from vit_jax.data.source import DataConfig
from vit_jax.models import ViT
from vit_jax.optim import OptimConfig
from vit_jax.train import memory

Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Of a config of a tiny ViT; runs go to the folder it is in."""
    monkeypatch.chdir(tmp_path)
    config = Config(
        model=ViT(patch_size=4, width=16, depth=1, num_heads=2),
        data=DataConfig(name="digits", train_split="train[:10%]", eval_split=None),
        optim=OptimConfig(ema_decay=0.9),
        batch_size=32,
        steps=1,
        device="cpu",
    )
    (tmp_path / "tiny.json").write_text(to_json(config))
    return str(tmp_path / "tiny.json")


def rows(text):
    """The printed lines by their first words; of lines that begin alike, the first."""
    cells = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in text.splitlines()]
    return {cell[0]: cell[1] for cell in reversed(cells) if len(cell) == 2}


def test_the_machine_is_described(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor"]) == 0
    found = rows(capsys.readouterr().out)
    for name in ("vit_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "python"):
        assert re.match(r"\d+\.\d+", found[name]), name
    assert found["device"].startswith("cpu:")
    assert found["run folders"] == str(tmp_path / "runs")
    assert found["writing"] == f"{tmp_path} can be written"
    assert re.fullmatch(r"[\d.,]+ [GM]B free", found["disk"])
    assert list(tmp_path.iterdir()) == [], "looking leaves nothing behind"


def test_a_gpu_that_jax_does_not_see_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vit_jax.sharding.overlooked_gpu", lambda devices: "there is a GPU")
    assert cli.main(["doctor"]) == 0
    assert rows(capsys.readouterr().out)["NOTE"] == "there is a GPU"


def test_a_place_that_cannot_be_written_is_an_error(capsys, path, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(doctor, "_print_memory", lambda job: True)
    workdir = f"--workdir={tmp_path / 'file' / 'run'}"
    assert cli.main(["doctor", "--config", path, workdir]) == 1
    found = rows(capsys.readouterr().out)["writing"]
    assert found.startswith(f"NO: {tmp_path / 'file'} cannot be written (Not a directory)")


@pytest.mark.parametrize(("free", "code"), [(10**9, 0), (50_000, 1)])
def test_checkpoints_are_held_against_the_disk(capsys, path, monkeypatch, free, code):
    monkeypatch.setattr(doctor, "_print_memory", lambda job: True)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: Usage(0, 0, free))
    assert cli.main(["doctor", "--config", path, "--config.keep_checkpoints=3"]) == code
    found = rows(capsys.readouterr().out)["checkpoints"]
    count, one, every = re.search(r"(\d) of ([\d.]+) kB, ([\d.]+) kB in all", found).groups()
    assert int(count) == 4  # three, and one that is being written; no evaluation tells the best
    assert float(every) == pytest.approx(4 * float(one), rel=0.01)
    assert ("there is room" in found) == (code == 0)
    assert ("NO ROOM" in found) == (code == 1)


@pytest.mark.parametrize(("limit", "code"), [(10**9, 0), (9 * 10**7, 1)])
def test_the_tables_say_what_was_measured(capsys, path, monkeypatch, limit, code):
    asked = []

    def measure(job, setting=None):
        setting = setting or memory.setting_of(job)
        asked.append((setting.accumulate_steps, setting.remat))
        less = {"none": 1, "dots": 2, "full": 4}[setting.remat]
        total = 10**8 // setting.accumulate_steps // less
        return memory.Need(setting, total, total // 2, total / 64)

    monkeypatch.setattr(memory, "measure", measure)
    monkeypatch.setattr(memory, "device_limit", lambda devices: limit)
    arguments = ["doctor", "--config", path, "--config.batch_size=64"]
    assert cli.main(arguments) == code
    assert asked == [(1, "none"), (1, "dots"), (1, "full"), (2, "none"), (4, "none")]
    found = rows(capsys.readouterr().out)
    assert found["activations"].split("  ") == ["50 MB", "with batch_size=64, 1.56 MB an image"]
    verdict = "80% of 1 GB: fits" if code == 0 else "80% of 90 MB: DOES NOT FIT"
    assert found["total"].split("  ") == ["100 MB", verdict]
    largest = {name: found[name].split() for name in found if name.startswith("--config")}
    if code == 0:
        assert found["as it is"].split() == ["50", "MB", "100", "MB", "512"]
        assert largest["--config.model.remat=dots"] == ["25", "MB", "50", "MB", "1,024"]
        assert largest["--config.model.remat=full"] == ["12.5", "MB", "25", "MB", "2,048"]
        assert largest["--config.accumulate_steps=4"] == ["12.5", "MB", "25", "MB", "2,048"]
    else:
        # 46 images, of which eight devices can share 40; in four parts each, 160 of 184.
        assert found["as it is"].split()[-1] == "40"
        assert largest["--config.accumulate_steps=4"][-1] == "160"


def test_a_real_training_is_measured(capsys, path, monkeypatch):
    # Two compiled programs are enough to see that the numbers are those of the config.
    monkeypatch.setattr(memory, "batch_unit", lambda job, parts: 8)
    real, known = memory.measure, []

    def measure(job, setting=None):
        if not known:
            known.append(real(job, setting))
        return known[0]

    monkeypatch.setattr(memory, "measure", measure)
    assert cli.main(["doctor", "--config", path]) == 0
    found = rows(capsys.readouterr().out)
    model = ViT(patch_size=4, width=16, depth=1, num_heads=2, num_classes=10)
    from vit_jax.models import parameter_count

    parameters = 4 * parameter_count(model, 8, 1)
    assert found["parameters"] == found["moving average"] == memory.in_words(parameters)
    assert found["optimiser"].startswith(memory.in_words(2 * parameters)[:3])
    assert known[0].total > known[0].activations + 4 * parameters
    assert found["total"].startswith(memory.in_words(known[0].total))


def test_a_backend_that_tells_nothing_is_said_to(capsys, path, monkeypatch):
    monkeypatch.setattr(memory, "measure", lambda job, setting=None: None)
    assert cli.main(["doctor", "--config", path]) == 0
    assert "does not tell what its programs need" in capsys.readouterr().out


def test_a_wrong_config_is_an_error_after_the_machine(capsys, path):
    assert cli.main(["doctor", "--config", path, "--config.model.patch_size=3"]) == 2
    captured = capsys.readouterr()
    assert "jaxlib" in captured.out
    assert "patch_size" in captured.err
