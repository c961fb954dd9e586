import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.ops.augment import example_keys
from vit_jax.ops.mixing import Mixed, cut_box, mix, symmetric_beta

OPTIONS = ("mixup", "cutmix", "probability", "switch")


@functools.partial(jax.jit, static_argnames=OPTIONS)
def compiled(keys, images, labels, mask, active=True, **options):
    return mix(keys, images, labels, mask, active=active, **options)


def run(images, labels=None, mask=None, seed=0, **options):
    number = len(images)
    labels = np.arange(number, dtype=np.int32) if labels is None else labels
    mask = np.ones(number, np.float32) if mask is None else mask
    given = jax.tree.map(jnp.asarray, (images, labels, mask))
    out = compiled(make_keys(number, seed), *given, **options)
    assert isinstance(out, Mixed)
    return jax.tree.map(np.asarray, out)


def make_images(shape, seed=0):
    """Normalised pixels; no two are equal."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make_keys(number, seed=0):
    return jax.jit(example_keys)(jax.random.key(seed), jnp.arange(number))


def zeros_and_ones(number, height=8, width=8):
    """Images of zeros at even places, of ones at odd ones: a pixel tells where it comes from."""
    images = np.zeros((number, height, width, 1), np.float32)
    images[1::2] = 1
    return images


def distance(a, b):
    """Kolmogorov's and Smirnov's: the largest difference of two empirical distributions."""
    both = np.sort(np.concatenate([a, b]))
    return max(
        abs(
            np.searchsorted(np.sort(a), both, "right") / len(a)
            - np.searchsorted(np.sort(b), both, "right") / len(b)
        )
    )


@pytest.mark.parametrize("shape", [(8, 8, 3), (5, 9, 1), (6, 4, 5)])
def test_mixup_blends_every_pixel_with_its_neighbours(shape):
    images = make_images((12, *shape))
    out = run(images, cutmix=0.0)
    assert out.images.dtype == out.weight.dtype == np.float32
    expected = np.empty_like(images)
    for place in range(12):
        partner = place + 1 if place % 2 == 0 else place - 1
        own = out.weight[place]
        expected[place] = own * images[place] + (1 - own) * images[partner]
    np.testing.assert_allclose(out.images, expected, rtol=1e-6, atol=1e-6)
    assert ((out.weight >= 0) & (out.weight <= 1)).all()
    assert len(np.unique(out.weight)) == 12


@pytest.mark.parametrize("shape", [(16, 16, 3), (9, 20, 1), (14, 14, 5)])
def test_cutmix_takes_one_rectangle_and_weighs_what_is_left(shape):
    images = make_images((200, *shape))
    out = run(images, mixup=0.0)
    pixels = math.prod(shape[:2])
    boxes = 0
    for place in range(200):
        partner = images[place ^ 1]
        taken = (out.images[place] == partner).all(axis=-1)
        np.testing.assert_array_equal(
            out.images[place], np.where(taken[..., None], partner, images[place])
        )
        rows, columns = np.flatnonzero(taken.any(axis=1)), np.flatnonzero(taken.any(axis=0))
        if len(rows):
            assert taken.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1), "not a rectangle"
            boxes += 1
        # The exact share of the own pixels, but for the division in float32.
        assert out.weight[place] == pytest.approx(1 - taken.mean(), abs=1e-7)
        assert round(float(out.weight[place]) * pixels) == pixels - taken.sum()
    assert boxes > 150


def test_where_a_division_is_exact_so_is_the_weight():
    out = run(zeros_and_ones(300, 16, 32), mixup=0.0)
    odd = (np.arange(300) % 2)[:, None, None, None]
    np.testing.assert_array_equal(out.weight, (out.images == odd).mean(axis=(1, 2, 3)))


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (20, 48)])
def test_a_box_equals_its_definition(size):
    rng = np.random.default_rng(0)
    own, centre = rng.random(500), rng.random((500, 2))
    own[:4], centre[4:6] = (0, 1, 0.999999, 1e-7), [(0, 0.99999), (0.99999, 0)]
    own, centre = own.astype(np.float32), centre.astype(np.float32)
    low, high = jax.tree.map(np.asarray, jax.jit(cut_box, static_argnums=2)(own, centre, size))
    for axis, length in enumerate(size):
        for place in range(500):
            side = int(length * np.sqrt(1 - own[place]))
            middle = int(length * centre[place, axis])
            assert low[place, axis] == max(middle - side // 2, 0)
            assert high[place, axis] == min(middle + (side + 1) // 2, length)


def test_boxes_lie_where_those_of_a_loop_lie():
    number, height, width = 20_000, 8, 12
    out = run(zeros_and_ones(number, height, width), mixup=0.0, cutmix=0.7)
    odd = (np.arange(number) % 2)[:, None, None]
    found = (out.images[..., 0] != odd).mean(axis=0)
    rng, expected = np.random.default_rng(0), np.zeros((height, width))
    for _ in range(number):
        root = math.sqrt(1 - rng.beta(0.7, 0.7))
        row, column = rng.integers(height), rng.integers(width)
        h, w = int(height * root), int(width * root)
        top, left = row - h // 2, column - w // 2
        expected[max(top, 0) : top + h, max(left, 0) : left + w] += 1 / number
    assert np.ptp(expected) > 0.1  # the middle is covered more often
    np.testing.assert_allclose(found, expected, atol=5 * math.sqrt(0.5 / number))


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 0.8, 1.0, 2.0, 30.0])
def test_beta_has_its_distribution(alpha):
    number = 200_000
    uniform = jax.random.uniform(jax.random.key(1), (2, number))
    found = np.asarray(jax.jit(symmetric_beta, static_argnums=2)(*uniform, alpha), np.float64)
    assert ((found >= 0) & (found <= 1)).all()
    expected = np.random.default_rng(1).beta(alpha, alpha, number)
    # What float32 tells apart close to 1.
    found, expected = (np.round(x, 6) for x in (found, expected))
    # Two samples of 200,000 of one distribution are this far apart once in a million times.
    assert distance(found, expected) < 0.0085
    # Kolmogorov's bound for one sample, where the distribution is known in closed form.
    places = np.linspace(0, 1, 999)
    closed = {
        0.5: 2 / np.pi * np.arcsin(np.sqrt(places)),
        1.0: places,
        2.0: 3 * places**2 - 2 * places**3,
    }
    if alpha in closed:
        shares = np.searchsorted(np.sort(found), places, "right") / number
        assert abs(shares - closed[alpha]).max() < 2.7 / math.sqrt(number)


def test_no_draw_makes_the_beta_a_nan():
    u, v = np.meshgrid([0, 1e-30, 0.5, 1 - 2**-24, 1], [0, 0.25, 0.5, 0.75, 1 - 2**-24])
    for alpha in (0.05, 0.8, 1.0, 50.0):
        found = symmetric_beta(jnp.asarray(u.ravel()), jnp.asarray(v.ravel()), alpha)
        assert ((found >= 0) & (found <= 1)).all()


def test_weights_of_mixup_have_the_distribution_of_their_alpha():
    number = 20_000
    weight = run(zeros_and_ones(number, 1, 1), mixup=0.4, cutmix=0.0).weight
    expected = np.random.default_rng(0).beta(0.4, 0.4, number)
    assert distance(np.round(weight, 6), np.round(expected, 6)) < 0.027
    # The two of a pair have weights of their own.
    assert abs(np.corrcoef(weight[::2], weight[1::2])[0, 1]) < 5 / math.sqrt(number / 2)


@pytest.mark.parametrize(
    ("probability", "switch", "mixup", "cutmix", "shares"),
    [
        (1.0, 0.5, 1.0, 1.0, (0.0, 0.5, 0.5)),
        (0.6, 0.3, 1.0, 1.0, (0.4, 0.42, 0.18)),
        (0.6, 0.3, 1.0, 0.0, (0.4, 0.6, 0.0)),
        (0.6, 0.3, 0.0, 1.0, (0.4, 0.0, 0.6)),
        (0.0, 0.5, 1.0, 1.0, (1.0, 0.0, 0.0)),
        (1.0, 0.5, 0.0, 0.0, (1.0, 0.0, 0.0)),
    ],
)
def test_each_example_is_mixed_in_one_way_with_its_probability(
    probability, switch, mixup, cutmix, shares
):
    number, side = 4000, 100
    images = np.repeat(zeros_and_ones(number, 1, side), 2, axis=1)
    out = run(images, probability=probability, switch=switch, mixup=mixup, cutmix=cutmix)
    whole = np.isin(out.images, (0, 1)).all(axis=(1, 2, 3))
    kept = (out.images == images).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(out.weight[kept], 1)
    # A box of less than a row of two is no box: three quarters of the areas are.
    mixed_up, cut = ~whole, whole & ~kept
    cut_share = shares[2] * 3 / 4
    bound = 4 * math.sqrt(0.25 / number)
    assert mixed_up.mean() == pytest.approx(shares[1], abs=bound)
    assert cut.mean() == pytest.approx(cut_share, abs=bound)
    if 0 in shares[1:]:
        assert (mixed_up.sum() == 0) == (shares[1] == 0)
        assert (cut.sum() == 0) == (shares[2] == 0)


def test_labels_keep_their_order_and_partners_are_exchanged():
    labels = np.array([5, 3, 0, 9, 7, 7], np.int32)
    out = run(make_images((6, 4, 4, 3)), labels)
    assert out.labels.tolist() == [5, 3, 0, 9, 7, 7]
    assert out.partner_labels.tolist() == [3, 5, 9, 0, 7, 7]
    assert out.partner_labels.dtype == np.int32
    unmixed = run(make_images((6, 4, 4, 3)), labels, mixup=0.0, cutmix=0.0)
    np.testing.assert_array_equal(unmixed.partner_labels, out.partner_labels)


def test_images_that_are_not_mixed_are_unchanged_to_the_bit():
    images = make_images((40, 6, 6, 3))
    for out in (
        run(images, active=np.array(False)),
        run(images, probability=0.0),
        run(images, mixup=0.0, cutmix=0.0),
    ):
        np.testing.assert_array_equal(out.images, images)
        np.testing.assert_array_equal(out.weight, np.ones(40, np.float32))
        assert out.weight.dtype == np.float32


def test_active_may_be_traced_and_true_changes_nothing():
    images = make_images((10, 6, 6, 3))
    assert (run(images).images != images).any()
    # Operation by operation: in two compiled programs a product and a sum may be rounded once in
    # the one and twice in the other, depending on the processor.
    with jax.disable_jit():
        traced, plain = run(images, active=jnp.array(True)), run(images)
    np.testing.assert_array_equal(traced.images, plain.images)
    compiled_too = run(images, active=np.array(True))
    np.testing.assert_allclose(compiled_too.images, plain.images, atol=5e-7)


def test_a_neighbour_that_is_padding_is_never_mixed_in():
    images = make_images((8, 6, 6, 3))
    mask = np.array([1, 1, 1, 0, 0, 1, 0, 0], np.float32)
    out, plain = run(images, mask=mask, mixup=0.4, cutmix=0.0), run(images, mixup=0.4, cutmix=0.0)
    for place in (2, 5):
        assert out.weight[place] == 1
        np.testing.assert_array_equal(out.images[place], images[place])
    for place in (0, 1):  # two real ones are mixed as ever
        assert out.weight[place] == plain.weight[place] != 1
        np.testing.assert_array_equal(out.images[place], plain.images[place])


def test_an_odd_batch_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"must be even: it holds 7"):
        run(make_images((7, 4, 4, 3)))


def test_a_pair_does_not_depend_on_the_others_in_its_batch():
    images, keys = make_images((12, 6, 7, 3)), make_keys(12)
    labels, mask = np.arange(12), np.ones(12, np.float32)
    whole = compiled(keys, images, labels, mask)
    some = slice(4, 8)
    part = compiled(keys[some], images[some], labels[some], mask[some])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[some], b), whole, part)
    assert (run(images, seed=1).weight != whole.weight).any()


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
@pytest.mark.parametrize("devices", [2, 8])
def test_an_example_does_not_depend_on_the_number_of_devices(devices, parallel):
    images, keys = make_images((32, 6, 7, 3)), make_keys(32)
    batch = keys, images, np.arange(32), (np.arange(32) != 30).astype(np.float32)
    alone = compiled(*batch)
    if parallel == "pmap":
        shares = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        on_all = jax.pmap(mix)(*shares)
        on_all = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), on_all)
    else:
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
        spread = NamedSharding(mesh, PartitionSpec("data"))
        batch = jax.device_put(batch, spread)
        on_all = compiled(*batch)
        assert len(on_all.images.devices()) == devices
        program = compiled.lower(*batch).compile().as_text()
        assert "fusion" in program
        for exchange in ("all-", "collective-", "send"):
            assert exchange not in program, "a pair lies on one device"
    jax.tree.map(np.testing.assert_array_equal, on_all, alone)
