"""Checkpoints: which are kept, what comes back, and what is said of damaged ones."""

import gc
import re
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.runs import proof
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.failures import CheckpointError, DamagedError
from vit_jax.sharding import make_mesh, replicated

# When one array cannot be read, Orbax drops the coroutines that read the others, and they complain
# of a closed event loop whenever they are collected.
restoring_fails = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def on_one():
    return replicated(make_mesh(jax.devices()[:1]))


@pytest.fixture(scope="module")
def on_eight():
    return replicated(make_mesh(jax.devices()[:8]))


@pytest.fixture
def open_checkpoints(tmp_path):
    """Opens the checkpoints of the test's folder; closes them at its end."""
    opened = []

    def open_one(folder=tmp_path / "checkpoints", **options):
        opened.append(Checkpoints(folder, **options))
        return opened[-1]

    yield open_one
    for checkpoints in opened:
        checkpoints.close()
    gc.collect()  # so that what a failed restore left behind goes now, not in another test


def make_state(seed, sharding, rows=8):
    """A tree like a training state: nested, of several types, with a value that is None."""
    rng = np.random.default_rng(seed)
    state = {
        "step": np.int32(seed),
        "params": {"kernel": rng.standard_normal((rows, 16), np.float32)},
        "opt_state": (rng.standard_normal(16, np.float32), {"count": np.int32(3 * seed)}),
        "half": rng.standard_normal(5, np.float32).astype(jnp.bfloat16),
        "ema": None,
    }
    return jax.device_put(state, sharding)


def assert_bit_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def kept(checkpoints):
    return sorted(int(path.name) for path in checkpoints.folder.iterdir() if path.name.isdigit())


def save_scores(checkpoints, scores, sharding):
    for step, score in scores.items():
        checkpoints.save(step, make_state(step, sharding), {"step": step}, score)
    checkpoints.wait()


@pytest.mark.parametrize(
    ("keep", "scores", "steps", "best"),
    [
        (2, {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.4}, [2, 4, 5], 2),
        (2, {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}, [3, 4], 4),  # the best is one of the newest
        (1, {10: 0.5, 20: 0.4, 30: 0.3}, [10, 30], 10),
        (1, {1: None, 2: None, 3: None}, [3], None),
        (1, {1: None, 2: 0.0, 3: None}, [2, 3], 2),  # a score of 0 is a known one
        (5, {1: 0.3, 2: 0.1}, [1, 2], 1),
    ],
)
def test_the_newest_and_the_best_are_kept(open_checkpoints, on_one, keep, scores, steps, best):
    checkpoints = open_checkpoints(keep=keep)
    save_scores(checkpoints, scores, on_one)
    assert kept(checkpoints) == steps
    assert checkpoints.latest_step() == max(scores)
    assert checkpoints.best_step() == best
    checkpoints.close()
    again = open_checkpoints(read_only=True)
    assert (again.latest_step(), again.best_step()) == (max(scores), best)


def test_equally_good_ones_agree_on_which_is_kept_and_called_best(open_checkpoints, on_one):
    checkpoints = open_checkpoints(keep=1)
    save_scores(checkpoints, {1: 0.5, 2: 0.9, 3: 0.9, 4: 0.1}, on_one)
    best = checkpoints.best_step()
    assert best in (2, 3)
    assert kept(checkpoints) == [best, 4]


def test_an_empty_folder_has_no_steps_and_reading_makes_no_folder(open_checkpoints, tmp_path):
    checkpoints = open_checkpoints()
    assert checkpoints.latest_step() is None
    assert checkpoints.best_step() is None
    missing = tmp_path / "missing"
    assert open_checkpoints(missing, read_only=True).latest_step() is None
    assert not missing.exists()


def test_state_and_notes_come_back_bit_equal(open_checkpoints, on_one):
    checkpoints = open_checkpoints()
    notes = {"sums": {"loss": 1.5, "examples": 96.0}, "class_names": ["a", "b"], "none": None}
    state = make_state(7, on_one)
    checkpoints.save(7, state, notes, 0.5)
    checkpoints.close()
    like = jax.eval_shape(lambda: make_state(0, None))
    restored, restored_notes = open_checkpoints(read_only=True).restore(7, like, on_one)
    assert_bit_equal(restored, state)
    assert restored["half"].dtype == jnp.bfloat16
    assert restored_notes == notes


@pytest.mark.parametrize("devices", [1, 8])
def test_what_is_saved_does_not_change_when_the_arrays_are_donated(open_checkpoints, devices):
    """The loop donates the state right after `save`, while it is still being written."""
    sharding = replicated(make_mesh(jax.devices()[:devices]))
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints = open_checkpoints(keep=100)
    expected = {}
    state = make_state(0, sharding, rows=4096)
    for number in range(1, 13):
        expected[number] = jax.tree.map(np.array, state)
        checkpoints.save(number, state, {}, None)
        saved = state
        for _ in range(3):  # whatever memory the saved arrays had is written over
            state = step(state)
        for leaf in jax.tree.leaves(saved):
            if not leaf.is_deleted():  # a CPU may copy instead, while someone reads
                leaf.delete()
    checkpoints.wait()
    for number, values in expected.items():
        restored, _ = checkpoints.restore(number, state, sharding)
        assert_bit_equal(restored, values)


def test_saved_on_one_device_restored_on_eight_and_back(open_checkpoints, on_one, on_eight):
    checkpoints = open_checkpoints()
    state = make_state(3, on_one)
    checkpoints.save(3, state, {}, None)
    checkpoints.wait()
    everywhere, _ = checkpoints.restore(3, state, on_eight)
    assert_bit_equal(everywhere, state)
    for leaf in jax.tree.leaves(everywhere):
        assert leaf.sharding.is_equivalent_to(on_eight, leaf.ndim)
        assert len(leaf.addressable_shards) == 8
        assert all(
            np.asarray(shard.data).tobytes() == np.asarray(leaf).tobytes()
            for shard in leaf.addressable_shards
        )
    checkpoints.save(4, everywhere, {}, None)
    checkpoints.wait()
    back, _ = checkpoints.restore(4, state, on_one)
    assert_bit_equal(back, state)
    assert all(leaf.devices() == on_one.device_set for leaf in jax.tree.leaves(back))


@restoring_fails
def test_a_missing_step_is_refused_with_those_there_are(open_checkpoints, on_one):
    checkpoints = open_checkpoints()
    save_scores(checkpoints, {5: 0.5, 6: 0.6}, on_one)
    with pytest.raises(CheckpointError, match=r"checkpoint 9 in .* there are: 5, 6") as error:
        checkpoints.restore(9, make_state(0, on_one), on_one)
    assert str(checkpoints.folder) in str(error.value)


MISFITS = {
    "shape": "  half is bfloat16[5] there and bfloat16[6] here",
    "extra": "  extra is not there",
    "missing": "  params/kernel is there and not here",
}


@pytest.mark.parametrize("change", MISFITS)
def test_a_state_of_another_structure_is_refused(open_checkpoints, on_one, change):
    checkpoints = open_checkpoints()
    state = make_state(1, on_one)
    save_scores(checkpoints, {1: None}, on_one)
    other = dict(state)
    if change == "shape":
        other["half"] = jnp.zeros(6, jnp.bfloat16)
    elif change == "extra":
        other["extra"] = jnp.zeros(3)
    else:
        del other["params"]
    with pytest.raises(CheckpointError, match=r"checkpoint 1 in .* of another model") as error:
        checkpoints.restore(1, other, on_one)
    assert not isinstance(error.value, DamagedError)
    assert MISFITS[change] in str(error.value)


def largest_file(folder):
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "data cut short": lambda step: cut(largest_file(step / "state")),
    "data missing": lambda step: largest_file(step / "state").unlink(),
    "manifest missing": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "metadata cut short": lambda step: cut(step / "state" / "_METADATA"),
    "notes cut short": lambda step: cut(step / "proof" / "notes.json"),
    "notes missing": lambda step: (step / "proof" / "notes.json").unlink(),
    "proof missing": lambda step: shutil.rmtree(step / "proof"),
    "state missing": lambda step: shutil.rmtree(step / "state"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, on_one):
    """A folder with checkpoints 4 and 5, big enough to have data files."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder)
    for step in (4, 5):
        checkpoints.save(step, make_state(step, on_one, rows=4096), {"step": step}, None)
    checkpoints.close()
    return folder


@restoring_fails
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_an_error_that_names_step_and_folder(
    saved, tmp_path, open_checkpoints, on_one, damage
):
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    damage(folder / "5")
    checkpoints = open_checkpoints(folder, read_only=True)
    like = make_state(0, on_one, rows=4096)
    with pytest.raises(DamagedError, match=r"checkpoint 5 in .*there are: 4, 5$") as error:
        checkpoints.restore(5, like, on_one)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)  # not the page of text that Orbax gives
    # The one before it is still good.
    restored, notes = checkpoints.restore(4, like, on_one)
    assert_bit_equal(restored, make_state(4, on_one, rows=4096))
    assert notes == {"step": 4}


@pytest.mark.parametrize("step", [5, 6])
def test_a_step_is_not_silently_saved_twice_nor_an_older_one(open_checkpoints, on_one, step):
    checkpoints = open_checkpoints()
    checkpoints.save(6, make_state(1, on_one), {}, None)
    with pytest.raises(CheckpointError, match=f"step {step} was not saved: .* holds step 6"):
        checkpoints.save(step, make_state(2, on_one), {}, None)


def test_notes_are_those_of_the_moment_of_the_save(open_checkpoints, on_one, monkeypatch):
    """The background is held up until the caller has gone on counting."""
    counted, checksum = threading.Event(), proof.checksum

    def late(array):
        assert counted.wait(timeout=60)
        return checksum(array)

    monkeypatch.setattr(proof, "checksum", late)
    checkpoints, sums = open_checkpoints(), {"loss": 1.0}
    checkpoints.save(1, make_state(1, on_one), {"sums": sums}, None)
    sums["loss"] = 2.0
    counted.set()
    checkpoints.wait()
    _, notes = checkpoints.restore(1, make_state(0, on_one), on_one)
    assert notes == {"sums": {"loss": 1.0}}


def test_what_was_moved_aside_before_stays(saved, tmp_path, open_checkpoints, on_one):
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    (folder / "5.damaged").mkdir()
    (folder / "5" / "proof" / "notes.json").unlink()
    open_checkpoints(folder).restore_newest(make_state(0, on_one, rows=4096), on_one, print)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["4", "5.damaged", "5.damaged-2"]


def test_a_damaged_score_is_no_score(open_checkpoints, on_one, tmp_path):
    checkpoints = open_checkpoints()
    save_scores(checkpoints, {1: 0.9, 2: 0.5}, on_one)
    checkpoints.close()
    notes = tmp_path / "checkpoints" / "1" / "proof" / "notes.json"
    notes.write_text(notes.read_text().replace("0.9", "0.8"))
    assert open_checkpoints(read_only=True).best_step() == 2


def test_the_newest_whole_one_is_restored_and_damaged_ones_moved_aside(
    saved, tmp_path, open_checkpoints, on_one
):
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    (folder / "5" / "proof" / "notes.json").write_text("{}")
    said = []
    checkpoints = open_checkpoints(folder)
    like = make_state(0, on_one, rows=4096)
    state, notes = checkpoints.restore_newest(like, on_one, said.append)
    assert_bit_equal(state, make_state(4, on_one, rows=4096))
    assert notes == {"step": 4}
    assert kept(checkpoints) == [4]
    assert (folder / "5.damaged" / "state").is_dir()
    assert re.search(r"^WARNING: checkpoint 5 in .*notes\.json is damaged", said[0])
    assert f"what is left of step 5 is in {folder / '5.damaged'}" in said[1]
    # The step can be saved again, and damaged ones do not count among those to keep.
    for step in (5, 6):
        checkpoints.save(step, make_state(step, on_one, rows=4096), {}, None)
    checkpoints.wait()
    assert kept(checkpoints) == [5, 6]


def test_where_all_are_damaged_nothing_is_begun_anew(saved, tmp_path, open_checkpoints, on_one):
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    for step in ("4", "5"):
        (folder / step / "proof" / "notes.json").unlink()
    checkpoints = open_checkpoints(folder)
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged, and nothing"):
        checkpoints.restore_newest(make_state(0, on_one, rows=4096), on_one, print)
    assert kept(checkpoints) == [4, 5]
    assert open_checkpoints(tmp_path / "none").restore_newest({}, on_one, print) is None
