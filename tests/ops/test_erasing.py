import functools
import math

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.ops.augment import example_keys
from vit_jax.ops.erasing import random_erasing


@functools.partial(jax.jit, static_argnames=("probability", "area", "ratio", "fill"))
def compiled(keys, images, probability, **options):
    return random_erasing(keys, images, probability, **options)


def run(keys, images, probability=1.0, **options):
    return np.asarray(compiled(keys, images, probability, **options))


def make_images(shape, seed=0):
    """No pixel is 0: an erased one cannot be taken for one of the image."""
    return np.random.default_rng(seed).uniform(1, 2, shape).astype(np.float32)


def make_keys(number, seed=0):
    return jax.jit(example_keys)(jax.random.key(seed), np.arange(number))


def boxes(erased):
    """int [b, 4], top, left, height and width of the one rectangle of each of the masks [b h w]."""
    found = []
    for mask in erased:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == box[2] * box[3], "not a rectangle"
        found.append(box)
    return np.array(found)


def draw_box(rng, height, width, area, ratio):
    """The paper's loop, with timm's log-uniform ratio; None where ten attempts fail."""
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if h < height and w < width:
            return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
    return None


def distance(a, b):
    """Kolmogorov's and Smirnov's: the largest difference of two empirical distributions."""
    both = np.sort(np.concatenate([a, b]))
    return max(
        abs(
            np.searchsorted(np.sort(a), both, "right") / len(a)
            - np.searchsorted(np.sort(b), both, "right") / len(b)
        )
    )


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 48, 1), (12, 7, 5)])
def test_one_rectangle_is_zero_and_the_rest_is_as_it_was(shape):
    images = make_images((300, *shape))
    out = run(make_keys(300), images)
    assert out.dtype == np.float32
    erased = (out == 0).all(axis=-1)
    np.testing.assert_array_equal(out, np.where(erased[..., None], 0, images))
    assert len(np.unique(boxes(erased), axis=0)) > 200


@pytest.mark.parametrize(
    ("shape", "area", "ratio"),
    [
        ((32, 32), (0.02, 1 / 3), (0.3, 3.3)),
        ((20, 48), (0.1, 0.6), (0.5, 4.0)),  # many of these do not fit
        ((40, 16), (0.02, 0.2), (0.2, 0.5)),
    ],
)
def test_rectangles_have_the_distribution_of_a_loop_over_attempts(shape, area, ratio):
    number = 20_000
    out = run(make_keys(number), np.ones((number, *shape, 1), np.float32), area=area, ratio=ratio)
    erased = (out == 0)[..., 0]
    found = boxes(erased[erased.any(axis=(1, 2))])
    rng = np.random.default_rng(0)
    drawn = [draw_box(rng, *shape, area, ratio) for _ in range(number)]
    expected = np.array([box for box in drawn if box])
    assert len(found) == pytest.approx(len(expected), abs=4 * math.sqrt(number) * 0.5)
    # Two samples of 20,000 of one distribution are this far apart once in a million times.
    bound = 0.027
    top, left, height, width = found.T
    tops, lefts, heights, widths = expected.T
    for mine, theirs in (
        (top, tops),
        (left, lefts),
        (height, heights),
        (width, widths),
        (height * width, heights * widths),
        (height / width, heights / widths),
        # Where in the room that is left: corners depend on sides in no other way.
        (top / (shape[0] - height), tops / (shape[0] - heights)),
        (left / (shape[1] - width), lefts / (shape[1] - widths)),
        (top - left, tops - lefts),
    ):
        assert distance(mine, theirs) < bound


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_it_happens_with_the_probability(probability):
    number = 4000
    out = run(make_keys(number), make_images((number, 8, 8, 1)), probability)
    share = (out == 0).any(axis=(1, 2, 3)).mean()
    assert share == pytest.approx(probability, abs=4 * math.sqrt(0.25 * 0.75 / number))
    assert probability == 0.25 or share == probability


def test_what_does_not_fit_is_not_erased():
    images = make_images((50, 4, 40, 3))
    out = run(make_keys(50), images, area=(0.9, 0.9), ratio=(1.0, 1.0))
    np.testing.assert_array_equal(out, images)


def test_a_small_image_loses_a_pixel_at_least():
    out = run(make_keys(50), make_images((50, 3, 3, 1)), area=(0.01, 0.02))
    assert ((out == 0).sum(axis=(1, 2, 3)) == 1).all()


def test_noise_is_normal_and_in_the_same_places():
    images = make_images((400, 16, 20, 3))
    keys = make_keys(400)
    zero, noise = run(keys, images), run(keys, images, fill="noise")
    erased = zero == 0
    np.testing.assert_array_equal(noise[~erased], images[~erased])
    values = noise[erased].reshape(-1, 3)  # by pixel and channel
    assert len(values) > 10_000
    assert len(np.unique(values)) > 0.99 * values.size
    sample = np.random.default_rng(0).normal(size=values.size)
    assert distance(values.reshape(-1), sample) < 3.8 / math.sqrt(values.size)
    # Each channel has its own, and so has the next pixel.
    limit = 5 / math.sqrt(len(values))
    assert abs(np.corrcoef(values.T) - np.eye(3)).max() < limit
    assert abs(np.corrcoef(values[1:, 0], values[:-1, 0])[0, 1]) < limit


@pytest.mark.parametrize("fill", ["zero", "noise"])
def test_an_example_does_not_depend_on_the_others_in_its_batch(fill):
    images, keys = make_images((12, 10, 9, 3)), make_keys(12)
    whole = run(keys, images, 0.8, fill=fill)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(run(keys[order], images[order], 0.8, fill=fill), whole[order])
    np.testing.assert_array_equal(run(keys[:5], images[:5], 0.8, fill=fill), whole[:5])
    assert (run(make_keys(12, seed=1), images, 0.8, fill=fill) != whole).any()


@pytest.mark.parametrize("devices", [2, 8])
def test_an_example_does_not_depend_on_the_number_of_devices(devices):
    images, keys = make_images((16, 10, 9, 3)), make_keys(16)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    on_all = compiled(*jax.device_put((keys, images), spread), 0.8, fill="noise")
    assert len(on_all.devices()) == devices
    np.testing.assert_array_equal(on_all, run(keys, images, 0.8, fill="noise"))
