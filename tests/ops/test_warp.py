"""Geometry against Pillow's, on photographs; random boxes against torchvision's definition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax.ops import warp

LEVEL = 1 / 255
SHAPES = [((32, 32), 3), ((48, 64), 3), ((48, 64), 1), ((224, 224), 3)]
RESAMPLE = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
RESIZE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
affine_warp = jax.jit(warp.affine_warp, static_argnums=(2, 3))
crop_and_resize = jax.jit(warp.crop_and_resize, static_argnums=(2, 3, 4))
sample_boxes = jax.jit(warp.sample_boxes, static_argnums=(1, 2, 3, 4))


def to_float(images):
    return jnp.float32(images) / 255


def some_matrices(height, width):
    """Each kind of transform, some of them composed: [8, 2, 3]."""
    a = jnp.array
    single = [
        warp.shear_x(a([0.3, -0.2])),
        warp.shear_y(a([-0.25])),
        warp.translate_x(a([0.3 * width])),
        warp.translate_y(a([-3.0])),
        warp.rotate(a([30.0, -117.0]), height, width),
    ]
    both = warp.compose(warp.rotate(a([12.0]), height, width), warp.shear_x(a([0.2])))
    return jnp.concatenate([*single, both])


@pytest.mark.parametrize("interpolation", RESAMPLE)
@pytest.mark.parametrize(("size", "channels"), SHAPES, ids=str)
def test_a_warp_is_pillows_transform(size, channels, interpolation, photographs, by_pillow):
    images, fill = photographs(*size, channels, 8), (124, 116, 104)[:channels]
    matrices = jnp.tile(some_matrices(*size), (2, 1, 1))

    def transform(picture, matrix):
        colour = fill if channels == 3 else fill[0]
        data, resample = tuple(matrix.ravel().tolist()), RESAMPLE[interpolation]
        method = Image.Transform.AFFINE
        return picture.transform(picture.size, method, data, resample, fillcolor=colour)

    found = affine_warp(to_float(images), matrices, tuple(v / 255 for v in fill), interpolation)
    expected = by_pillow(transform, images, np.asarray(matrices, np.float64))
    error = abs(np.asarray(found) - expected)
    assert error.mean(axis=(1, 2, 3)).max() <= LEVEL
    # Pillow cuts to a level. A pixel may differ by more where rounding decides what it looks at:
    # Pillow reckons in float64, or for the nearest pixel in 1/65536 pixels.
    allowed = 1.001 * LEVEL if interpolation == "bilinear" else 1e-6
    assert (error > allowed).mean() < 0.002


def test_a_rotation_is_pillows(photographs, by_pillow):
    images = photographs(48, 64, 3, 4)
    degrees = np.tile([30.0, -45.0, 90.0, 171.0], 2)
    matrices = warp.rotate(jnp.float32(degrees), 48, 64)
    found = affine_warp(to_float(images), matrices, (0.0, 0.0, 0.0), "bilinear")
    expected = by_pillow(lambda p, d: p.rotate(d, Image.Resampling.BILINEAR), images, degrees)
    assert abs(np.asarray(found) - expected).mean(axis=(1, 2, 3)).max() <= LEVEL


@pytest.mark.parametrize("interpolation", RESAMPLE)
def test_whole_pixels_are_moved_exactly(interpolation):
    images = jnp.float32(np.random.default_rng(0).random((3, 5, 7, 2)))
    move = warp.compose(
        warp.translate_x(jnp.array([0.0, 2.0, 0.0])), warp.translate_y(jnp.array([0.0, 0.0, -1.0]))
    )
    found = np.asarray(affine_warp(images, move, (0.25, 0.75), interpolation))
    expected = np.tile(np.float32([0.25, 0.75]), (3, 5, 7, 1))
    expected[0] = images[0]
    expected[1, :, :5] = images[1, :, 2:]
    expected[2, 1:] = images[2, :4]
    np.testing.assert_array_equal(found, expected)


def test_a_composition_is_one_after_the_other():
    first, second = some_matrices(20, 30), some_matrices(20, 30)[::-1]

    def square(matrices):
        last = np.broadcast_to([0, 0, 1], (8, 1, 3))
        return np.concatenate([np.asarray(matrices, np.float64), last], axis=1)

    expected = square(first) @ square(second)
    np.testing.assert_allclose(square(warp.compose(first, second)), expected, rtol=1e-5, atol=1e-5)


def test_a_fill_of_another_number_of_channels_is_an_error():
    with pytest.raises(ValueError, match="3 values for 1 channels"):
        warp.affine_warp(jnp.zeros((2, 4, 4, 1)), warp.shear_x(jnp.zeros(2)), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("interpolation", RESIZE)
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (224, 160)], ids=str)
def test_crops_are_resized_as_pillow_does(size, channels, interpolation, photographs, by_pillow):
    images = photographs(96, 120, channels, 4)
    # Shrunk, enlarged, one axis each, at fractions of a pixel, all of it.
    boxes = [(3, 7, 80, 110), (40, 50, 12, 9), (10.3, 0, 20.6, 120), (0, 0, 96, 120)]
    boxes = np.tile(np.array(boxes, np.float32), (2, 1))

    def resize(picture, box):
        top, left, height, width = box.tolist()
        corners = (left, top, left + width, top + height)
        return picture.resize(size[::-1], RESIZE[interpolation], box=corners)

    found = np.asarray(crop_and_resize(to_float(images), boxes, size, interpolation))
    expected = by_pillow(resize, images, boxes)
    assert found.shape == expected.shape
    assert 0 <= found.min() <= found.max() <= 1
    error = abs(found - expected)
    assert error.mean(axis=(1, 2, 3)).max() <= LEVEL / 2
    # Pillow rounds and cuts to 0..255 between the axes as well, which shows where a cubic
    # overshoots at a corner.
    assert (error > 1.5 * LEVEL).mean() < 0.002


def test_without_antialias_a_shrunk_crop_takes_the_nearest_pixels_only():
    torch = pytest.importorskip("torch", reason="the reference; installed for Python 3.11 only")
    images = np.random.default_rng(0).random((2, 40, 30, 3), np.float32)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(tensor, (9, 11), mode="bilinear")
    boxes = jnp.tile(jnp.float32([0, 0, 40, 30]), (2, 1))
    found = crop_and_resize(images, boxes, (9, 11), "bilinear", False)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-5)
    smoother = crop_and_resize(images, boxes, (9, 11), "bilinear", True)
    assert np.std(smoother) < 0.8 * np.std(found)


def make_keys(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


def assert_even(values, low, high, bins=10):
    """Uniform in low..high: as many values in each bin, within 4.5 deviations."""
    counts, _ = np.histogram(values, bins, (low, high))
    assert counts.sum() == len(values)
    share = 1 / bins
    tolerance = 4.5 * np.sqrt(len(values) * share * (1 - share))
    np.testing.assert_allclose(counts, len(values) * share, rtol=0, atol=tolerance)


def test_boxes_are_drawn_evenly():
    # All of these fit a square picture, so the first attempt counts.
    boxes = sample_boxes(make_keys(20000), 2000, 2000, (0.08, 0.5), (3 / 4, 4 / 3))
    top, left, height, width = np.asarray(boxes, np.float64).T
    np.testing.assert_array_equal(boxes, np.round(boxes))
    # Height and width are whole pixels, so these are known to about one in 500 only.
    area, ratio = height * width / 2000**2, np.log(width / height) / np.log(4 / 3)
    assert 0.0799 < area.min() < area.max() < 0.501
    assert_even(np.clip(area, 0.08, 0.5), 0.08, 0.5)
    assert_even(np.clip(ratio, -1, 1), -1, 1)
    assert_even(top / (2000 - height), 0, 1)
    assert_even(left / (2000 - width), 0, 1)
    assert abs(
        np.corrcoef([area, ratio, top / (2000 - height), left / (2000 - width)]) - np.eye(4)
    ).max() < 4.5 / np.sqrt(20000)


def test_every_corner_is_as_likely():
    boxes = sample_boxes(make_keys(9000), 4, 4, (0.25, 0.25), (1.0, 1.0))
    places, counts = np.unique(boxes, axis=0, return_counts=True)
    assert places.tolist() == [[top, left, 2, 2] for top in range(3) for left in range(3)]
    np.testing.assert_allclose(counts, 1000, atol=4.5 * np.sqrt(9000 * 8 / 81))


def reference_box_size(rng, height, width, area, ratio):
    """Height and width by torchvision's algorithm, None where no attempt fits."""
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        size = round(math.sqrt(target / aspect)), round(math.sqrt(target * aspect))
        if 0 < size[0] <= height and 0 < size[1] <= width:
            return size
    return None


def test_boxes_that_do_not_fit_are_drawn_again_up_to_ten_times():
    # Of a picture twice as wide as high, few boxes of so large an area fit.
    height, width, area, ratio = 60, 120, (0.6, 1.0), (3 / 4, 4 / 3)
    rng, number = np.random.default_rng(0), 6000
    sizes = [reference_box_size(rng, height, width, area, ratio) for _ in range(number)]
    fallback = [0, 20, 60, 80]
    boxes = np.asarray(sample_boxes(make_keys(number), height, width, area, ratio))
    fell_back = (boxes == fallback).all(axis=1)
    expected = np.mean([size is None for size in sizes])
    assert 0.1 < expected < 0.9
    deviation = np.sqrt(2 * expected * (1 - expected) / number)
    assert fell_back.mean() == pytest.approx(expected, abs=4.5 * deviation)
    areas = np.array([size[0] * size[1] for size in sizes if size is not None])
    found = boxes[~fell_back, 2:].prod(axis=1)
    tolerance = 4.5 * np.sqrt(2) * areas.std() / np.sqrt(len(areas))
    assert found.mean() == pytest.approx(areas.mean(), abs=tolerance)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [height, width]).all()


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10)), (10, 11, (0, 0, 10, 11))],
)
def test_where_nothing_fits_the_box_is_centred(height, width, box):
    # More than the whole picture never fits.
    boxes = sample_boxes(make_keys(5), height, width, (1.5, 2.0), (3 / 4, 4 / 3))
    np.testing.assert_array_equal(boxes, np.tile(box, (5, 1)))


def test_a_random_resized_crop_is_a_sampled_box_resized(photographs):
    images, keys = to_float(photographs(48, 64, 3, 3)), make_keys(6)
    found = jax.jit(warp.random_resized_crop, static_argnums=(2, 3, 4, 5))(
        keys, images, (20, 24), (0.2, 0.6), (0.8, 1.5), "bilinear"
    )
    boxes = sample_boxes(keys, 48, 64, (0.2, 0.6), (0.8, 1.5))
    assert len(np.unique(boxes, axis=0)) == 6
    expected = crop_and_resize(images, boxes, (20, 24), "bilinear")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
