"""Names become files, and files become a model's outputs, in order, whatever the batches."""

import io
import os
import threading

import jax
import numpy as np
import pytest
from inference.small_models import outputs_of, small_model, write_pictures
from PIL import Image

from vit_jax.data.source import ArraySource, DataError
from vit_jax.inference import images as module
from vit_jax.inference.images import Bad, find_images, forward


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Names of files, which are empty, in a folder that is the working one."""
    names = ["b/2.jpg", "b/1.jpg", "b/.hidden.jpg", "b/deep/0.png", "a[1].jpg", "a1.jpg"]
    for name in [*names, "b/Thumbs.db", ".git/x"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def one_device(monkeypatch):
    """One compiles fastest; what many devices give is tested below."""
    monkeypatch.setattr(module, "select_devices", lambda device: jax.local_devices()[:1])


def names_of(files):
    return [files.name(index) for index in range(len(files))]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b/2.jpg", "b/1.jpg", "b/2.jpg"], ["b/2.jpg", "b/1.jpg", "b/2.jpg"]),
        (["a1.jpg", "b"], ["a1.jpg", "b/1.jpg", "b/2.jpg", "b/deep/0.png"]),
        (["b/*.jpg"], ["b/1.jpg", "b/2.jpg"]),
        (["b/*"], ["b/1.jpg", "b/2.jpg", "b/deep/0.png"]),
        (["**/*.jpg"], ["a1.jpg", "a[1].jpg", "b/1.jpg", "b/2.jpg"]),
        (["b/**"], ["b/1.jpg", "b/2.jpg", "b/deep/0.png"]),
        (["a[1].jpg"], ["a[1].jpg"]),
        (["a[0-9].jpg"], ["a1.jpg"]),
        (["b/.hidden.jpg"], ["b/.hidden.jpg"]),
    ],
)
def test_names_stand_for_files_in_the_order_given(here, names, expected):
    assert names_of(find_images(names)) == expected


def test_an_absolute_path_stays_one_and_a_tilde_is_the_home(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    expected = [str(here / "a1.jpg"), *(str(here / f"b/{name}.jpg") for name in (1, 2))]
    assert names_of(find_images([str(here / "a1.jpg"), "~/b/*.jpg"])) == expected


def test_a_dash_is_the_names_on_stdin_one_a_line(here, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(b"a1.jpg\r\n\nb/1.jpg\n")

    monkeypatch.setattr("sys.stdin", Stdin)
    assert names_of(find_images(["b/2.jpg", "-", "-"])) == ["b/2.jpg", "a1.jpg", "b/1.jpg"]


def test_a_name_that_is_no_utf8_opens(here):
    name = b"\xff name.jpg"
    (here / os.fsdecode(name)).write_bytes(b"content")
    files = find_images(["-"], lines=[name])
    with files.open(0) as file:
        assert file.read() == b"content"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a2.jpg"], r"^a2.jpg: there is no such file or folder, perhaps a1.jpg"),
        (["bb/1.jpg"], r"^bb/1.jpg: there is no such file or folder, perhaps b$"),
        (["b/*.gif"], r"^b/\*.gif matches no file"),
        (["bb/*.gif"], r"^bb/\*.gif matches no file, perhaps b$"),
        (["empty"], "^empty is a folder without files in it"),
        ([], "no image is named"),
        (["-"], "no image is named"),
        (["a" * 300], "a: there is no such file"),
    ],
)
def test_a_name_that_stands_for_nothing_is_an_error_with_near_names(here, names, message):
    with pytest.raises(DataError, match=message):
        find_images(names, lines=[b"\n"])


def logits_and_pooled(out):
    return out["logits"], {"pooled": out["pooled"]}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_each_image_gives_what_the_model_computes_of_it(tmp_path, one_device, batch_size):
    saved, pixels = small_model(), write_pictures(tmp_path, 11)
    results = list(forward(saved, find_images([str(tmp_path)]), logits_and_pooled, batch_size))
    expected = outputs_of(saved, pixels)
    logits = np.stack([logits for logits, _ in results])
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=2e-6)
    assert np.ptp(logits, axis=0).min() > 0.05  # the images do differ
    pooled = np.stack([rest["pooled"] for _, rest in results])
    np.testing.assert_allclose(pooled, expected["pooled"], rtol=0, atol=5e-6)


def test_bad_files_keep_their_places(tmp_path, one_device):
    saved, pixels = small_model(), write_pictures(tmp_path, 11)
    for place in (0, 4, 5, 6, 7, 10):  # 4 to 7 are a batch
        (tmp_path / f"{place:02}.png").write_bytes(b"" if place else b"<html>")
    deep = Image.fromarray(np.ones((8, 12), np.float32))
    deep.save(tmp_path / "10.png", format="TIFF")
    results = list(forward(saved, find_images([str(tmp_path)]), logits_and_pooled, 4))
    bad = {place: result for place, result in enumerate(results) if isinstance(result, Bad)}
    assert list(bad) == [0, 4, 5, 6, 7, 10]
    assert bad[0].reason.startswith("is not an image (an HTML page")
    assert bad[4] == Bad("is not an image (it is empty)")
    assert bad[10].reason.startswith("holds floating-point pixels")
    expected = outputs_of(saved, pixels)["logits"]
    for place in {*range(11)} - {*bad}:
        np.testing.assert_allclose(results[place][0], expected[place], rtol=0, atol=2e-6)


def test_all_bad_needs_no_device(tmp_path, monkeypatch):
    write_pictures(tmp_path, 0)
    (tmp_path / "a.jpg").touch()
    monkeypatch.setattr(module, "_compiled", lambda *arguments: pytest.fail)
    results = list(forward(small_model(), find_images([str(tmp_path)]), logits_and_pooled))
    assert results == [Bad("is not an image (it is empty)")]


def test_batches_are_read_ahead_but_not_all_of_them():
    started, first_is_out = [], threading.Event()

    def read(index):
        started.append(index)
        if index >= 4:
            first_is_out.wait(10)  # or the first batch would have to wait for those behind it
        return np.zeros(())

    batches = module._batches(read, number=40, batch_size=4)
    assert len(next(batches)) == 4
    first_is_out.set()
    next(batches)
    assert max(started) <= 4 * (2 + module.AHEAD)
    assert sum(len(batch) for batch in batches) == 32


def test_a_batch_is_started_before_the_last_one_is_fetched(monkeypatch):
    events = []
    fetch = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: (events.append("fetch"), fetch(x))[1])

    def step(batch):
        events.append("start")
        return batch

    batches = iter([[np.ones(1)], [np.ones(1)], [np.ones(1)]])
    assert len(list(module._computed(step, batches))) == 3
    assert events == ["start", "start", "fetch", "start", "fetch", "fetch"]


@pytest.mark.parametrize(
    ("images", "batch_size", "expected"), [(1, 64, 1), (3, 64, 6), (20, 9, 16)]
)
def test_a_batch_is_shared_by_no_more_devices_than_images(
    tmp_path, monkeypatch, images, batch_size, expected
):
    seen = {}
    make = module._compiled

    def compiled(model, mean, std, outputs, devices):
        step = make(model, mean, std, outputs, devices)

        def wrapped(params, resident, batch):
            seen["devices"], seen["batch"] = len(devices), len(batch)
            return step(params, resident, batch)

        return wrapped

    pixels = write_pictures(tmp_path, images)
    monkeypatch.setattr(module, "_compiled", compiled)
    found = list(
        forward(small_model(), find_images([str(tmp_path)]), logits_and_pooled, batch_size)
    )
    expected_logits = outputs_of(small_model(), pixels)["logits"]
    logits = np.stack([logits for logits, _ in found])
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=2e-6)
    assert seen == {"devices": min(images, 8), "batch": expected}


def test_a_second_call_compiles_nothing(tmp_path, one_device):
    saved = small_model()
    write_pictures(tmp_path, 3)
    files = find_images([str(tmp_path)])
    list(forward(saved, files, logits_and_pooled))
    before = module._compiled.cache_info().misses
    list(forward(saved, files.take(np.array([1, 2, 0])), logits_and_pooled))
    assert module._compiled.cache_info().misses == before


def in_memory(images, bad=()):
    labels = np.zeros(len(images), np.int32)
    return ArraySource(images, labels, ("a", "b"), "", bad=dict.fromkeys(bad, "why"))


def test_images_in_memory_are_taken_as_they_are(one_device):
    saved = small_model()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), dtype=np.uint8)
    results = list(forward(saved, in_memory(pixels, bad=[1]), logits_and_pooled))
    assert results[1] == Bad("why")
    expected = outputs_of(saved, pixels)["logits"]
    np.testing.assert_allclose(results[4][0], expected[4], rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(4, 6), (20, 30)])
def test_images_in_memory_of_another_size_are_resized_as_files_are(size):
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    resized = np.asarray(module._fitted(jax.numpy.asarray(pixels), (8, 12, 3)))
    for image, ours in zip(pixels, resized, strict=True):
        pillow = np.asarray(Image.fromarray(image).resize((12, 8), Image.Resampling.BICUBIC))
        assert abs(ours * 255 - pillow).max() < 1.01  # Pillow's weights are whole numbers as well


def test_greyscale_in_memory_becomes_three_equal_channels():
    grey = jax.numpy.arange(96, dtype="uint8").reshape(1, 8, 12, 1)
    assert (module._fitted(grey, (8, 12, 3)) == grey).all()
    assert module._fitted(grey, (8, 12, 3)).shape == (1, 8, 12, 3)


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 12, 2)])
def test_images_in_memory_of_other_proportions_or_channels_are_refused(shape):
    with pytest.raises(
        DataError, match=rf"takes images of .*\(8, 12, 3\), and these are \({shape[0]}"
    ):
        list(forward(small_model(), in_memory(np.zeros((1, *shape), np.uint8)), logits_and_pooled))


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_size_below_1_is_an_error_at_once(batch_size):
    with pytest.raises(DataError, match=f"batch_size={batch_size}: should be at least 1"):
        next(forward(small_model(), in_memory(np.zeros((1, 8, 12, 3), np.uint8)), len, batch_size))


def test_no_images_are_an_error():
    with pytest.raises(DataError, match="no images"):
        next(forward(small_model(), in_memory(np.zeros((0, 8, 12, 3), np.uint8)), len))
