"""Mean and standard deviation of pixels."""

import numpy as np
import pytest
from data.folders import make_folder, save

from vit_jax.data import statistics
from vit_jax.data.catalog import open_source
from vit_jax.data.source import ArraySource, DataConfig
from vit_jax.data.statistics import channel_statistics, source_statistics


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channel_statistics_equal_numpys(channels):
    rng = np.random.default_rng(0)
    # Channels of different mean and spread, so that mixing them up shows.
    high = 40 * np.arange(2, channels + 2)
    images = rng.integers(0, high, (50, 6, 5, channels)).astype(np.uint8)
    mean, std = channel_statistics(images)
    pixels = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)
    assert len(mean) == len(std) == channels


def test_statistics_of_one_value():
    mean, std = channel_statistics(np.full((3, 2, 2, 1), 255, np.uint8))
    assert mean == (1.0,)
    assert std == (0.0,)


@pytest.mark.parametrize(("dtype", "scale"), [("uint16", 65535), ("float32", 1)])
def test_statistics_of_deeper_pixels(dtype, scale):
    pixels = np.random.default_rng(0).integers(0, 60_000, (50, 6, 5, 2)).astype(dtype)
    mean, std = channel_statistics(pixels)
    pixels = pixels.astype(np.float64) / scale
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)


def test_images_that_could_not_be_read_do_not_count():
    images = np.array([[[[10]]], [[[255]]], [[[30]]]], np.uint8)
    source = ArraySource(images, np.zeros(3, np.int32), ("a",), "", bad={1: "torn"})
    assert source_statistics(source) == ((pytest.approx(20 / 255),), (pytest.approx(10 / 255),))


def test_files_are_counted_by_a_sample_spread_over_the_set(tmp_path, monkeypatch):
    root = make_folder(tmp_path)
    save(root / "train" / "a" / "15.png", b"no picture")
    config = DataConfig(name="folder", root=str(root), train_split="train", image_size=2)
    source = open_source(config, "train")
    (mean, *_), _ = source_statistics(source)
    assert mean == pytest.approx(np.mean([1, 2, 3, 4, 5, 6]) / 255)
    monkeypatch.setattr(statistics, "SAMPLE", 2)
    first, last = source.image(0)[0, 0, 0], source.image(len(source) - 1)[0, 0, 0]
    assert source_statistics(source)[0][0] == pytest.approx((int(first) + int(last)) / 2 / 255)


def test_large_channels_are_counted_in_parts():
    pixels = np.zeros((33, 1024, 1024, 1), np.uint8)
    pixels[-1] = 33
    (mean,), _ = channel_statistics(pixels)
    assert mean == pytest.approx(1 / 255, rel=1e-12)
