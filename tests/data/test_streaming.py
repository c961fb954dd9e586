"""The streaming feed: the same batches for any number of workers, from any step on."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from data.folders import make_folder, plain, save
from PIL import Image

from vit_jax.data.catalog import open_source
from vit_jax.data.decode import BadImageError
from vit_jax.data.encoded import decode_all
from vit_jax.data.order import Order
from vit_jax.data.source import DataConfig, DataError
from vit_jax.data.streaming import RandomCrop, StreamingFeed, WorkerError

CROP = RandomCrop(area=(0.2, 1.0), ratio=(3 / 4, 4 / 3), seed=7)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Nineteen pictures of noise, of different sizes."""
    folder = tmp_path_factory.mktemp("streaming")
    rng = np.random.default_rng(0)
    for number in range(19):
        size = rng.integers(8, 30, 2)
        pixels = rng.integers(0, 256, (*size, 3))
        save(folder / "train" / "ab"[number % 2] / f"{number:02}.png", pixels)
    return folder


def opened(root, **fields):
    fields = {"name": "folder", "train_split": "train", "image_size": 8} | fields
    return open_source(DataConfig(root=str(root), **fields), "train")


def batches(source, steps, seed=0, **options):
    feed = StreamingFeed(source, Order(len(source), 6, seed), **options)
    try:
        return [feed.plan(step) for step in steps]
    finally:
        feed.close()


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
            assert a[name].dtype == b[name].dtype


@pytest.fixture(scope="module")
def expected(root):
    """Steps 0 to 9 in one thread, which last over two epochs."""
    return batches(opened(root), range(10), crop=CROP)


@pytest.mark.parametrize(
    "options", [{"threads": 4}, {"workers": 2}, {"workers": 8}], ids=["threads", "2", "8"]
)
def test_any_number_of_workers_gives_the_same_batches(root, expected, options):
    assert_equal(batches(opened(root), range(10), crop=CROP, **options), expected)


@pytest.mark.parametrize(("workers", "steps"), [(0, (7, 8, 2, 3, 9)), (2, (7, 8))])
def test_any_step_can_be_the_first(root, expected, workers, steps):
    found = batches(opened(root), steps, crop=CROP, workers=workers)
    assert_equal(found, [expected[step] for step in steps])


@pytest.mark.parametrize("threads", [1, 3])
def test_each_process_reads_its_share_of_a_batch_alone(root, threads):
    source, steps = opened(root), range(5)
    expected = batches(source, steps, crop=CROP)
    shares = []
    for which in range(2):
        order = Order(len(source), 6, 0, share=(which, 2))
        feed = StreamingFeed(source, order, threads=threads, crop=CROP)
        shares.append([feed.plan(step) for step in steps])
        feed.close()
    assert len(shares[0][0]["image"]) == 3, "and no more than these were decoded"
    together = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_equal(together, expected)


def test_a_batch_holds_what_the_source_gives(root):
    source = opened(root)
    seen = []
    for batch in batches(source, range(4)):
        assert batch["image"].shape == (6, 8, 8, 3)
        assert batch["place"].tolist() == list(range(6))
        for row in range(6):
            if not batch["mask"][row]:
                assert (batch["image"][row] == 0).all()  # padding is not read
                continue
            example = source[int(batch["index"][row])]
            np.testing.assert_array_equal(batch["image"][row], example["image"])
            assert batch["label"][row] == example["label"]
            seen.append(int(batch["index"][row]))
    assert sorted(seen) == list(range(19))


def test_crops_differ_between_steps_and_places_and_follow_from_the_seed(root, expected):
    other = batches(opened(root), range(2), crop=RandomCrop((0.2, 1.0), (3 / 4, 4 / 3), seed=8))
    np.testing.assert_array_equal(other[0]["index"], expected[0]["index"])
    assert (other[0]["image"] != expected[0]["image"]).any()
    boxes = [CROP.box(step, place, 40, 30) for step in range(20) for place in range(20)]
    assert len(set(boxes)) > 390
    assert boxes[21] == CROP.box(1, 1, 40, 30)


def test_boxes_keep_to_area_and_ratio():
    crop = RandomCrop(area=(0.25, 0.5), ratio=(0.5, 2.0), seed=0)
    boxes = np.array([crop.box(0, place, 200, 200) for place in range(3000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 200
    assert bottom.max() <= 200
    area = (right - left) * (bottom - top) / 40_000
    ratio = (right - left) / (bottom - top)
    # Sides are whole pixels: a hundredth or two beyond the limits.
    assert (area > 0.24).all() and (area < 0.51).all()  # noqa: PT018
    assert (ratio > 0.48).all() and (ratio < 2.06).all()  # noqa: PT018
    assert area.mean() == pytest.approx(0.375, abs=0.01)
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.05)
    assert (boxes == boxes.round()).all()


def test_a_picture_in_which_no_box_fits_is_cut_in_the_middle():
    crop = RandomCrop(area=(0.9, 1.0), ratio=(3 / 4, 4 / 3), seed=0)
    left, top, right, bottom = crop.box(0, 0, 1000, 10)
    assert (top, bottom) == (0, 10)
    assert right - left == pytest.approx(10 * 4 / 3)
    assert left == pytest.approx(1000 - right)


def test_the_box_is_cut_out_of_the_file_before_it_is_resized(tmp_path):
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 50, axis=0).repeat(3, axis=2)
    for name in "ab":
        save(tmp_path / "train" / name / "1.png", ramp)
    source = opened(tmp_path, image_size=10)
    crop = RandomCrop(area=(0.1, 0.1), ratio=(1.0, 1.0), seed=3)
    (batch,) = batches(source, [0], crop=crop)
    for place in range(2):
        box = crop.box(0, place, 200, 50)
        expected = Image.fromarray(ramp).crop([int(x) for x in box])
        expected = expected.resize((10, 10), Image.Resampling.BICUBIC)
        found = batch["image"][place].astype(int)
        # Inside; at the edges `crop` first repeats pixels that the box in one go can see.
        np.testing.assert_allclose(found[2:-2, 2:-2], np.asarray(expected)[2:-2, 2:-2], atol=1)


def test_an_evaluation_goes_round(root):
    source = opened(root)
    once = batches(source, range(4), seed=None)
    assert [int(b["mask"].sum()) for b in once] == [6, 6, 6, 1]
    feed = StreamingFeed(source, Order(len(source), 6), threads=2)
    rounds = [[feed.plan(step) for step in range(4)] for _ in range(3)]
    part = [feed.plan(step) for step in (0, 1)]
    again = [feed.plan(step) for step in range(4)]
    feed.close()
    for found in (*rounds, again):
        assert_equal(found, once)
    assert_equal(part, once[:2])


def test_images_in_memory_stream_as_well(root):
    source = opened(root)
    arrays = decode_all(source)
    found = batches(arrays, range(5))
    theirs = batches(source, range(5))
    for batch in theirs:  # padding of files is not read, that of arrays is any image
        batch["image"][batch["mask"] == 0] = arrays.images[batch["index"][batch["mask"] == 0]]
    assert_equal(found, theirs)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_an_error_that_names_it(root, tmp_path, workers):
    make_folder(tmp_path)
    save(tmp_path / "train" / "b" / "torn.jpg", b"torn")
    with pytest.raises(BadImageError, match=r"b/torn\.jpg is not an .*data\.on_bad_image=skip"):
        batches(opened(tmp_path), range(2), workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_leave_the_others_in_their_places(tmp_path, workers):
    make_folder(tmp_path)
    torn = tmp_path / "train" / "b" / "torn.jpg"
    save(torn, plain((99, 0, 0)))
    whole = batches(opened(tmp_path), range(4))
    save(torn, b"torn")
    source = opened(tmp_path)
    feed = StreamingFeed(source, Order(len(source), 6, 0), workers=workers, skip_bad=True)
    found = [feed.plan(step) for step in range(4)]
    feed.close()
    (name,), (why,) = feed.bad_images.keys(), feed.bad_images.values()
    assert name == str(torn)
    assert "4 bytes that Pillow does not know" in why
    skipped = 0
    for ours, theirs in zip(found, whole, strict=True):
        np.testing.assert_array_equal(ours["index"], theirs["index"])
        bad = theirs["image"][:, 0, 0, 0] == 99
        np.testing.assert_array_equal(ours["mask"], theirs["mask"] * ~bad)
        np.testing.assert_array_equal(ours["image"][~bad], theirs["image"][~bad])
        skipped += bad.sum()
    assert skipped == 2


def processes(field, number):
    """Processes whose parent (field 1) or group (field 2) is that number, by Linux's /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name in brackets: state, parent, group.
            if int(path.read_text().rpartition(") ")[2].split()[field]) == number:
                found.append(int(path.parent.name))
    return found


def test_r23_a_killed_worker_is_a_clear_error(root):
    feed = StreamingFeed(opened(root), Order(19, 6, 0), workers=2)
    feed.plan(0)
    for worker in processes(1, os.getpid()):
        if b"spawn_main" in Path(f"/proc/{worker}/cmdline").read_bytes():
            os.kill(worker, signal.SIGKILL)
    message = r"process that reads images has died \(SIGKILL\); .* memory: lower data\.workers=2"
    with contextlib.closing(feed), pytest.raises(WorkerError, match=message):
        list(map(feed.plan, range(1, 50)))


SCRIPT = textwrap.dedent("""
    import signal, sys, time
    from vit_jax.data.catalog import open_source
    from vit_jax.data.order import Order
    from vit_jax.data.source import DataConfig, DataError
    from vit_jax.data.streaming import StreamingFeed

    if __name__ == "__main__":
        config = DataConfig(name="folder", root=sys.argv[1], train_split="train", image_size=8)
        source = open_source(config, "train")
        feed = StreamingFeed(source, Order(len(source), 6, 0), workers=2)
        # As a training does it: a signal is noted, and nothing is interrupted.
        asked = []
        signal.signal(signal.SIGINT, lambda *_: asked.append(True))
        feed.plan(0)
        print("ready", flush=True)
        while not asked:
            time.sleep(0.05)
        for step in range(1, 40):
            feed.plan(step)
        print("went on", flush=True)
        feed.close()
""")


@pytest.fixture
def process(root, tmp_path):
    """A process that streams, in a group of its own, ready to be interrupted."""
    script = tmp_path / "stream.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    running = subprocess.Popen(
        [sys.executable, str(script), str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    yield running
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)
    running.communicate()


def test_r3_workers_outlive_a_ctrl_c_that_goes_to_the_whole_group(process):
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert output == "went on\n"
    assert process.returncode == 0
    assert errors == ""


def test_workers_end_with_a_parent_that_is_killed(process):
    assert len(processes(2, process.pid)) >= 3
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while processes(2, process.pid):
        assert time.monotonic() < deadline, "workers are left behind"
        time.sleep(0.2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_is_gone_is_no_matter_of_single_files(root, tmp_path, workers):
    away = tmp_path / "mounted"
    shutil.copytree(root, away)
    source = opened(away)
    away.rename(tmp_path / "unmounted")
    feed = StreamingFeed(source, Order(len(source), 16, 0), workers=workers, skip_bad=True)
    number = 16 // max(1, workers)
    with pytest.raises(DataError, match=rf"none of {number} files could be read, .* is the disk"):
        feed.plan(0)
    feed.close()
