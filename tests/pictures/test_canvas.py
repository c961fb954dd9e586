"""The sheet: pixels where they were put, text where it was written, and images at other sizes."""

import numpy as np
import PIL.Image
import pytest
from matplotlib import colormaps

from vit_jax.pictures import canvas as c


def opened(path):
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("size", [(60, 211), (617, 83), (1159, 1003)])
def test_a_sheet_is_saved_at_its_size_with_its_pixels(tmp_path, size):
    sheet = c.Canvas(*size)
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    sheet.put(noise, 30, 45, edge="#102030")
    sheet.fill(5, 1, 3, 4, "#0072B2")
    sheet.write("text", 2, 60)
    sheet.save(tmp_path / "a.png")
    pixels = opened(tmp_path / "a.png")
    assert pixels.shape == (*size, 3)
    np.testing.assert_array_equal(pixels[30:50, 45:75], noise)
    assert tuple(pixels[29, 44]) == tuple(pixels[50, 75]) == (0x10, 0x20, 0x30)
    assert (pixels[5:8, 1:5] == [0, 0x72, 0xB2]).all()
    assert (pixels[9:28, 1:44] == 255).all()
    dark = np.argwhere(pixels[:20].min(axis=-1) < 100)
    dark = dark[dark[:, 1] > 10]
    assert 4 <= dark[:, 0].min() < dark[:, 0].max() <= 15  # 8 points below a top of 2
    assert dark[:, 1].min() >= 59


@pytest.mark.parametrize("align", ["left", "center", "right"])
def test_text_is_aligned(tmp_path, align):
    sheet = c.Canvas(30, 201)
    sheet.write("mmm", 5, 100, align=align)
    sheet.save(tmp_path / "a.png")
    columns = np.flatnonzero((opened(tmp_path / "a.png").min(axis=-1) < 128).any(axis=0))
    if align == "left":
        assert 99 <= columns.min() <= 103
    elif align == "right":
        assert 97 <= columns.max() <= 101
    else:
        assert abs(columns.mean() - 100) < 3


def test_nothing_is_put_beyond_the_sheet():
    with pytest.raises(AssertionError, match="beyond"):
        c.Canvas(10, 10).put(np.zeros((5, 5, 3), np.uint8), 6, 0)


def test_images_become_colours_in_0_to_1():
    image = np.array([[[0.5], [2.0], [-1.0], [np.nan]]])
    np.testing.assert_array_equal(c.as_rgb(image)[0], np.repeat([[0.5], [1], [0], [0]], 3, axis=1))
    np.testing.assert_array_equal(
        c.as_rgb(np.full((1, 1, 3), 51, np.uint8)), np.full((1, 1, 3), 0.2)
    )
    four = np.stack([np.full((2, 2), 0.1 * k) for k in range(1, 5)], axis=-1)
    np.testing.assert_array_equal(c.as_rgb(four), np.full((2, 2, 3), 0.1))
    assert c.channel_note(4) == " (channel 1 of 4)"
    assert c.channel_note(3) == c.channel_note(1) == ""


@pytest.mark.parametrize(
    ("shape", "side", "cells", "expected"),
    [
        ((32, 32), 124, (1, 1), (128, 128)),  # four times
        ((8, 8), 124, (1, 1), (128, 128)),
        ((32, 32), 128, (8, 8), (128, 128)),
        ((224, 224), 128, (14, 14), (126, 126)),  # patches of nine pixels
        ((300, 80), 120, (1, 1), (120, 32)),
        ((32, 96), 264, (4, 6), (88, 264)),
        ((64, 48), 128, (4, 3), (128, 96)),
        ((64, 50), 128, (4, 3), (128, 99)),  # no whole patches: pixels of patches are equal
        ((224, 224), 3, (14, 14), (14, 14)),  # a pixel a patch at least
    ],
)
def test_sizes_are_whole_multiples(shape, side, cells, expected):
    assert c.fitted(shape, side, cells) == expected


def test_small_images_keep_sharp_pixels_and_large_ones_their_mean():
    small = np.random.default_rng(0).random((5, 4, 3))
    np.testing.assert_array_equal(
        c.resized(small, 20, 12), small.repeat(4, axis=0).repeat(3, axis=1)
    )
    assert c.resized(small, 5, 4) is small
    rows, columns = np.mgrid[:100, :80] / 200
    large = np.stack([rows, columns, rows + columns], axis=-1)
    shrunk = c.resized(large, 25, 20)
    assert shrunk.shape == (25, 20, 3)
    blocks = large.reshape(25, 4, 20, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(shrunk[2:-2, 2:-2], blocks[2:-2, 2:-2], atol=1e-6)
    bright = c.resized(np.ones((100, 80, 3)), 130, 110)
    np.testing.assert_allclose(bright, 1, atol=1e-6)


def test_each_map_goes_from_0_to_1():
    maps = np.stack([np.arange(4.0).reshape(2, 2), 100 + 10 * np.arange(4.0).reshape(2, 2)])
    expected = np.arange(4).reshape(2, 2) / 3
    np.testing.assert_allclose(c.stretched(maps), [expected, expected])
    one = np.array([[1.0, 2, 3], [4, 5, 1000]])
    # Four of six are below the brightest: 5 is the least that is brightest.
    np.testing.assert_allclose(c.stretched(one, 0.7), [[0, 0.25, 0.5], [0.75, 1, 1]])


def test_even_maps_are_0_and_what_is_missing_stays_missing():
    np.testing.assert_array_equal(c.stretched(np.full((2, 2), 0.25)), np.zeros((2, 2)))
    np.testing.assert_array_equal(c.stretched(np.zeros((2, 2))), np.zeros((2, 2)))
    almost = 1 / 196 + 1e-9 * np.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(c.stretched(almost), np.zeros((2, 2)))
    np.testing.assert_array_equal(
        c.stretched(np.array([[np.nan, 1.0], [3.0, np.inf]])), [[np.nan, 0], [1, np.nan]]
    )
    assert np.isnan(c.stretched(np.full((2, 2), np.nan))).all()


def test_colours_are_matplotlibs_and_grey_where_there_is_no_value():
    picture = c.coloured(np.array([0.0, 1.0, np.nan]), "viridis")
    for pixel, share in zip(picture[:2], (0.0, 1.0), strict=True):
        np.testing.assert_allclose(pixel, 255 * np.array(colormaps["viridis"](share)[:3]), atol=1)
    assert tuple(picture[2]) == c.rgb(c.NOTHING)
    bar = c.colour_bar(3, 50, "viridis")
    np.testing.assert_array_equal(bar[:, [0, -1]], np.broadcast_to(picture[:2], (3, 2, 3)))
