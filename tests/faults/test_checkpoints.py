"""Checkpoints that are damaged, missing or of another run; no process has to die for that."""

import dataclasses
import json
import random
import re
import shutil

import jax
import numpy as np
import pytest
from faults import processes

from vit_jax.cli import train_command
from vit_jax.config import to_json
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.failures import CheckpointError, DamagedError
from vit_jax.sharding import make_mesh, replicated
from vit_jax.train import setup

# When one array cannot be read, Orbax drops the coroutines that read the others, and they complain
# of a closed event loop whenever they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OFFSETS = 40


@pytest.fixture(scope="module")
def on_one():
    return replicated(make_mesh(jax.devices()[:1]))


@pytest.fixture(scope="module")
def state(on_one):
    """As of a training: weights that do not compress, and moments that do."""
    rng = np.random.default_rng(0)
    params = {
        "kernel": rng.standard_normal((64, 256), np.float32),
        "bias": np.zeros(256, np.float32),
    }
    tree = {"step": np.int32(4), "params": params, "opt_state": {"mu": params["kernel"] * 0}}
    return jax.device_put(tree, on_one)


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    """Checkpoints 3 and 4."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder)
    for step in (3, 4):
        checkpoints.save(step, state, {"class_names": ["a", "b"]}, 0.5)
    checkpoints.close()
    return folder


def restored(folder, state, on_one):
    """The outcome of restoring step 4: the values that came back, or the error."""
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        return checkpoints.restore(4, state, on_one)
    except DamagedError as error:
        return error
    finally:
        checkpoints.close()


def equal(found, state):
    values, notes = found
    return notes == {"class_names": ["a", "b"]} and all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(values), jax.tree.leaves(state), strict=True)
    )


def files_of(folder):
    return sorted(path.relative_to(folder) for path in (folder / "4").rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.fault(
    "one bit flipped at 40 random offsets of every file of a checkpoint, one at a time",
    "each is noticed before a step is taken, or what is restored is what was saved, to the bit",
)
def test_r8_every_flipped_bit_is_noticed(saved, state, on_one, tmp_path):
    draw = random.Random(0)  # noqa: S311
    folder = tmp_path / "flipped"
    shutil.copytree(saved, folder)
    noticed, without_effect = {}, {}
    for name in files_of(folder):
        content = (folder / name).read_bytes()
        for offset in sorted(draw.sample(range(len(content)), min(OFFSETS, len(content)))):
            flipped = bytearray(content)
            flipped[offset] ^= 1 << draw.randrange(8)
            (folder / name).write_bytes(flipped)
            found = restored(folder, state, on_one)
            if isinstance(found, DamagedError):
                assert "checkpoint 4 in" in str(found)
                noticed[name] = noticed.get(name, 0) + 1
            else:
                assert equal(found, state), f"{name}, byte {offset}: other values, and no word"
                without_effect[name] = without_effect.get(name, 0) + 1
        (folder / name).write_bytes(content)
    for name in files_of(folder):
        print(f"{name}: {noticed.get(name, 0)} noticed, {without_effect.get(name, 0)} no effect")
    # The arrays' own bytes, and the proof: there nothing is without effect but the odd space.
    data = max(files_of(folder), key=lambda name: (folder / name).stat().st_size)
    assert noticed[data] >= OFFSETS - 1
    [notes] = [name for name in files_of(folder) if name.name == "notes.json"]
    assert noticed[notes] >= OFFSETS - 4


@pytest.mark.fault(
    "the values of one array changed behind the back of the files' own checks",
    "the array is named",
)
def test_r8_the_array_is_named(saved, state, on_one, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(saved, folder)
    other = jax.tree.map(lambda x: x, state)
    other["params"]["bias"] = other["params"]["bias"].at[17].set(1e-30)
    elsewhere = Checkpoints(tmp_path / "elsewhere")
    elsewhere.save(4, other, {}, None)
    elsewhere.close()
    shutil.rmtree(folder / "4" / "state")
    shutil.copytree(tmp_path / "elsewhere" / "4" / "state", folder / "4" / "state")
    error = restored(folder, state, on_one)
    assert "the values of params/bias are not those that were saved; there are: 3, 4" in str(error)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.fault(
    "each file of a checkpoint in turn cut to half its length, or deleted",
    "an error in one line names the step, or what is restored is what was saved",
)
@pytest.mark.parametrize("damage", [cut, lambda path: path.unlink()], ids=["cut", "deleted"])
def test_r9_r10_files_that_are_cut_or_gone(saved, state, on_one, tmp_path, damage):
    folder = tmp_path / "torn"
    noticed = 0
    for name in files_of(saved):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved, folder)
        damage(folder / name)
        found = restored(folder, state, on_one)
        if isinstance(found, DamagedError):
            noticed += 1
            assert "checkpoint 4 in" in str(found)
            assert "there are: 3, 4" in str(found)
            assert str(folder / "4") in str(found)  # the file, or the folder it is in
            assert not re.search(r"\n|[Tt]ensor[Ss]tore|<bound method", str(found))
        else:
            assert equal(found, state), name
    assert noticed >= 4


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(setup, "select_devices", lambda device: jax.local_devices()[:1])
    return processes.small_config(
        model=processes.small_config().model.clone(dropout=0.0), steps=8, eval_every_epochs=9.0
    )


def trained(config, folder, *arguments):
    """The exit code of train.py with a config."""
    path = folder.with_name(f"{folder.name}.json")
    path.write_text(to_json(config))
    return train_command(["--config", str(path), f"--workdir={folder}", *arguments])


def steps_of(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.fault(
    "a bit flipped in the newest checkpoint of a run, which is then started again",
    "it says so aloud, goes on from the checkpoint before, and ends as if nothing had been",
)
def test_r8_r11_a_run_goes_back_to_the_checkpoint_before(config, tmp_path, capsys):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    longer = dataclasses.replace(config, steps=12)
    longer = dataclasses.replace(
        longer, optim=dataclasses.replace(longer.optim, schedule="constant")
    )
    assert trained(longer, whole) == 0
    assert trained(dataclasses.replace(longer, steps=8), folder) == 0
    assert steps_of(folder) == ["4", "8"]
    data = max(
        (path for path in (folder / "checkpoints" / "8").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 4
    data.write_bytes(content)
    capsys.readouterr()
    assert trained(longer, folder) == 0
    output = capsys.readouterr().out
    assert "WARNING: checkpoint 8 in" in output
    assert "WARNING: going back to step 4; what is left of step 8 is in" in output
    assert "Going on from the checkpoint at step 4" in output
    assert "8.damaged" in steps_of(folder)
    assert processes.losses(folder) == processes.losses(whole)
    assert processes.fingerprint(folder) == processes.fingerprint(whole)


@pytest.mark.fault(
    "every checkpoint of a run damaged",
    "exit code 1: nothing is begun anew unasked, and nothing is deleted",
)
def test_r11_where_none_is_whole_nothing_begins_anew(config, tmp_path, capsys):
    folder = tmp_path / "run"
    assert trained(config, folder) == 0
    for notes in folder.rglob("notes.json"):
        notes.write_text("{}")
    for _ in range(2):
        assert trained(dataclasses.replace(config, steps=12), folder) == 1
        error = capsys.readouterr().err
        assert re.search(r"every checkpoint in .* is damaged, and nothing was changed", error)
        assert "begin anew with another --workdir" in error
        assert steps_of(folder) == ["4", "8"]


@pytest.mark.fault(
    "reading a checkpoint meets an error of the disk (in place of the system: EIO)",
    "exit code 1 with that error, and how to go on from the one before; none is taken for damaged",
)
def test_r11_a_disk_that_cannot_be_read_is_no_damage(saved, state, on_one, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "copy")
    checkpoints = Checkpoints(tmp_path / "copy")
    for error in (OSError(5, "Input/output error"), ValueError(TENSORSTORE)):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(checkpoints._manager, "restore", fail)
        with pytest.raises(
            CheckpointError, match=r"4 in .*: Input/output error; .*from step 3 instead"
        ):
            checkpoints.restore_newest(state, on_one, print)
        assert checkpoints.steps() == [3, 4]
    checkpoints.close()


TENSORSTORE = """INTERNAL: Error reading "params.bias/0" in OCDBT database at local file "/x/d": \
Failed to read: Input/output error [os_error_code='5'] [source locations='…']"""


@pytest.mark.fault(
    "a step saved that is there already, or an older one",
    "an error: no save is silently left out",
)
def test_r13_a_step_is_saved_once(saved, state, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    checkpoints = Checkpoints(tmp_path / "copy")
    for step in (3, 4):
        with pytest.raises(CheckpointError, match=f"step {step} was not saved: .* holds step 4"):
            checkpoints.save(step, state, {}, None)
    checkpoints.close()


@pytest.mark.fault(
    "a run started again with another width, rate, batch and length",
    "exit code 2: each field that differs is listed with both values; only the length may",
)
def test_r14_another_config_is_refused_with_its_differences(config, tmp_path, capsys):
    folder = tmp_path / "run"
    assert trained(config, folder) == 0
    other = dataclasses.replace(
        config,
        model=config.model.clone(width=32),
        optim=dataclasses.replace(config.optim, learning_rate=1e-2),
        batch_size=64,
        steps=12,
    )
    assert trained(other, folder) == 2
    error = capsys.readouterr().err
    for line in (
        "model.width: 16 there, 32 now",
        "optim.learning_rate: 0.003 there, 0.01 now",
        "batch_size: 32 there, 64 now",
    ):
        assert f"  {line}\n" in error + "\n"
    assert "  steps:" not in error
    assert trained(dataclasses.replace(config, steps=12, log_every_steps=5), folder) == 0
    output = capsys.readouterr().out
    assert "Going on with another config than before:" in output
    assert "  steps: 8 there, 12 now" in output
    assert "  log_every_steps: 1 there, 5 now" in output


@pytest.mark.fault(
    "a checkpoint whose arrays have another shape, or other names, than the model",
    "each parameter is named, with both shapes or the nearest name, and the fields that may differ",
)
def test_r15_r16_arrays_of_another_model_are_named(saved, state, on_one):
    checkpoints = Checkpoints(saved, read_only=True)
    params = {"kernel": np.zeros((64, 128), np.float32), "biases": np.zeros(256, np.float32)}
    like = {"step": np.int32(0), "params": {"head": params}, "opt_state": state["opt_state"]}
    stored = {"step": np.int32(0), "params": {"head": state["params"]}, "opt_state": {}}
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(4, like, on_one)
    assert "params/head/kernel is not there; perhaps it is params/kernel there" in str(error.value)
    checkpoints.close()
    from vit_jax.runs.fit import describe_misfit, named_leaves

    text = describe_misfit(named_leaves(stored), like)
    assert "params/head/kernel is float32[64, 256] there and float32[64, 128] here" in text
    assert "params/head/biases is not there; perhaps it is params/head/bias there" in text
    assert "opt_state/mu is not there" in text
    assert "the classes of the data; the fields of optim" in text


@pytest.mark.fault(
    "--resume must on a folder that is missing, empty, or holds something else",
    "exit code 2; what is there instead is listed, and nothing begins from the start",
)
def test_r17_resume_must_lists_what_is_there(config, tmp_path, capsys):
    folder = tmp_path / "run"
    assert trained(config, folder, "--resume=must") == 2
    assert "there is no folder" in capsys.readouterr().err
    folder.mkdir()
    assert trained(config, folder, "--resume=must") == 2
    assert "holds no checkpoint, but is empty" in capsys.readouterr().err
    (folder / "notes.txt").write_text("mine")
    assert trained(config, folder, "--resume=must") == 2
    error = capsys.readouterr().err
    assert "holds no checkpoint, but notes.txt" in error
    assert "name the run folder" in error


@pytest.mark.fault(
    "a run started again after its images have changed",
    "exit code 2: the splits whose images or labels differ are named",
)
def test_r21_other_data_is_refused(config, tmp_path, capsys):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (64, 8, 8, 1), np.uint8), np.arange(64) % 4
    data = dataclasses.replace(
        config.data,
        name="arrays",
        root=str(tmp_path / "data.npz"),
        train_split="train",
        eval_split=None,
        test_split=None,
        mean=(0.5,),
        std=(0.5,),
    )
    config = dataclasses.replace(config, data=data)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    assert trained(config, tmp_path / "run") == 0
    images[3, 0, 0, 0] += 1
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    assert trained(dataclasses.replace(config, steps=12), tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "was trained on other data: the images or labels of train have changed" in error
    assert "choose another --workdir" in error


@pytest.mark.fault(
    "a checkpoint is opened and read",
    "beside the arrays it tells config, class names, data, versions and each array's checksum",
)
def test_r18_a_checkpoint_holds_all_that_a_run_is(config, tmp_path):
    folder = tmp_path / "run"
    assert trained(config, folder) == 0
    proof = json.loads((folder / "checkpoints" / "8" / "proof" / "notes.json").read_text())
    assert proof["notes"]["config"] == json.loads((folder / "config.json").read_text())
    assert proof["notes"]["class_names"] == list("0123456789")
    assert set(proof["notes"]["data"]) == {"train", "eval", "test"}
    assert {"jax", "flax", "optax", "vit_jax"} <= set(proof["notes"]["versions"])
    parts = {name.split("/")[0] for name in proof["arrays"]}
    assert parts == {"step", "params", "opt_state", "ema"}
    assert all(len(array["checksum"]) == 16 for array in proof["arrays"].values())
