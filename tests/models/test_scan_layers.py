"""`ViT.scan_layers`: one compiled block, the same model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from models.programs import assert_equal, count

from vit_jax import Encoder, ViT
from vit_jax.config import RESUMABLE, Config, from_json, to_json
from vit_jax.models import DropPath, look_inside
from vit_jax.models.layers import Dropout

RNGS = {"dropout": jax.random.key(1)}
RATES = {"dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.3}


@pytest.fixture
def plain():
    return ViT(patch_size=4, width=32, depth=3, num_heads=2, num_classes=10, head_zero_init=False)


@pytest.fixture
def images():
    return jax.random.normal(jax.random.key(2), (4, 16, 16, 3))


def assert_close(found, expected, share):
    """But for so much of the largest number."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.float32(one), np.float32(other), rtol=0, atol=share * largest)


def test_parameters_are_the_same_under_the_same_names(plain, images):
    initial = jax.jit(plain.init)(jax.random.key(0), images)
    assert_equal(jax.jit(plain.clone(scan_layers=True).init)(jax.random.key(0), images), initial)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"remat": "full"},
        {"remat": "dots"},
        {"dtype": "bfloat16"},
        {"layer_scale": 0.1, "qk_norm": True, "block_output_norm": True, "pool": "map"},
        {"attention_method": "einsum", "depth": 1},
        {"rope": True, "norm": "rms", "init_scheme": "mimetic"},
    ],
    ids=str,
)
def test_outputs_and_gradients_are_equal_but_for_rounding(plain, images, random_variables, fields):
    plain = plain.clone(**fields)
    scanned = plain.clone(scan_layers=True)
    variables = random_variables(plain, images)

    @functools.partial(jax.jit, static_argnums=0)
    def both(model, variables):
        def loss(variables):
            # Of a training, which draws nothing at these rates, whether there is a key or not.
            out = model.apply(variables, images, train=True, rngs=RNGS, method="features")
            return jnp.square(out["logits"].astype(jnp.float32)).sum(), out

        gradient, out = jax.grad(loss, has_aux=True)(variables)
        return out, gradient

    (out, gradient), (expected, expected_gradient) = (
        both(model, variables) for model in (scanned, plain)
    )
    rounding = 1e-6 if plain.dtype is None else 0.02
    assert_close(out, expected, rounding)
    assert_close(gradient, expected_gradient, rounding)
    logits = (jax.jit(model.apply)(variables, images) for model in (scanned, plain))
    assert_close(*logits, rounding)


def test_nothing_random_is_drawn_where_nothing_is_dropped(plain, images):
    model = plain.clone(scan_layers=True)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    apply = functools.partial(model.apply, train=True)  # and needs no key
    assert count(jax.make_jaxpr(apply)(variables, images), "random_bits") == 0
    apply = functools.partial(model.apply, train=True, rngs=RNGS)
    assert count(jax.make_jaxpr(apply)(variables, images), "random_bits") == 0
    apply = functools.partial(plain.clone(scan_layers=True, **RATES).apply, rngs=RNGS)
    assert count(jax.make_jaxpr(apply)(variables, images), "random_bits") == 0
    noisy = functools.partial(apply, train=True)
    assert count(jax.make_jaxpr(noisy)(variables, images), "random_bits") == 5 + 1


@pytest.mark.parametrize("rate", RATES)
def test_what_drops_needs_a_key(plain, images, rate):
    model = plain.clone(scan_layers=True, **{rate: 0.5})
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    with pytest.raises(Exception, match='needs PRNG for "dropout"'):
        jax.eval_shape(functools.partial(model.apply, train=True), variables, images)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_randomness_follows_the_key_and_remat_draws_the_same(
    plain, images, random_variables, remat
):
    plain = plain.clone(scan_layers=True, **RATES)
    variables = random_variables(plain, images)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(model, key):
        def loss(variables):
            out = model.apply(variables, images, train=True, rngs={"dropout": key})
            return jnp.square(out).sum()

        return jax.value_and_grad(loss)(variables)

    expected = gradient(plain, jax.random.key(0))
    assert_close(gradient(plain.clone(remat=remat), jax.random.key(0)), expected, 1e-6)
    other = gradient(plain.clone(remat=remat), jax.random.key(1))
    assert abs(other[0] - expected[0]) > 0.01 * abs(expected[0])


class Adder(nn.Module):
    """A block that adds its number, where nothing drops it."""

    drop_path: Any
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        number = self.param("number", nn.initializers.ones, ())
        branch = jnp.broadcast_to(number, x.shape)
        branch = Dropout(self.dropout)(branch, train=train)
        return x + DropPath(self.drop_path)(branch, train=train)


def added(encoder, shape, shares):
    """Which blocks have added: [depth, *shape] of bool; each adds a power of two over its share."""
    params = {f"block_{i}": {"number": jnp.float32(2**i * share)} for i, share in enumerate(shares)}
    apply = jax.jit(functools.partial(encoder.apply, train=True, rngs=RNGS))
    out = np.asarray(apply({"params": params}, jnp.zeros(shape)))
    np.testing.assert_allclose(out, out.round(), atol=1e-4)
    return np.stack([out.round().astype(int) >> i & 1 for i in range(len(shares))]) == 1


def test_each_layer_drops_its_own_examples_at_its_own_rate():
    rates, examples = np.array([0.0, 0.2, 0.4, 0.6]), 4000
    encoder = Encoder(4, Adder, drop_path=0.6, scan_layers=True)
    kept = added(encoder, (examples, 2, 1), 1 - rates)
    np.testing.assert_array_equal(kept[:, :, 0], kept[:, :, 1])  # whole examples
    dropped = ~kept[:, :, 0, 0]
    assert not dropped[0].any()
    bounds = 4 * np.sqrt(rates * (1 - rates) / examples)
    assert (abs(dropped.mean(axis=1) - rates) <= bounds).all()
    # Independent draws drop an example in two layers as often as the product says.
    for i, j in ((1, 2), (1, 3), (2, 3)):
        both = rates[i] * rates[j]
        bound = 4 * np.sqrt(both * (1 - both) / examples)
        assert (dropped[i] & dropped[j]).mean() == pytest.approx(both, abs=bound)


def test_each_layer_has_its_own_dropout_mask():
    encoder = Encoder(3, functools.partial(Adder, dropout=0.25), scan_layers=True)
    kept = added(encoder, (500, 4, 5), [0.75] * 3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        bound = 4 * np.sqrt(0.0625 * 0.9375 / kept[0].size)
        assert (~kept[i] & ~kept[j]).mean() == pytest.approx(0.0625, abs=bound)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_program_does_not_grow_with_the_depth(plain, images, remat):
    found = []
    for depth in (2, 8):
        model = plain.clone(depth=depth, scan_layers=True, remat=remat, **RATES)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)

        def loss(variables, model=model):
            return jnp.square(model.apply(variables, images, train=True, rngs=RNGS)).sum()

        program = jax.make_jaxpr(jax.grad(loss))(variables)
        names = ("dot_general", "erf", "exp", "rsqrt", "random_bits", "scan")
        found.append({name: count(program, name) for name in names})
    assert found[0] == found[1]
    # Of one block six products forward and twelve back, and of patches and head.
    assert 18 <= found[0]["dot_general"] <= 30
    assert found[0]["scan"] == 2


def test_remat_saves_memory_on_a_cpu_too(images):
    # Loops keep the compiler from recomputing early, which it does otherwise: see test_remat.py.
    model = ViT(patch_size=2, width=32, depth=6, num_heads=2, num_classes=10, scan_layers=True)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def temporary(remat):
        loss = lambda v: jnp.square(model.clone(remat=remat).apply(v, images)).sum()  # noqa: E731
        program = jax.jit(jax.grad(loss)).lower(variables).compile()
        return program.memory_analysis().temp_size_in_bytes

    none, dots, full = (temporary(word) for word in ("none", "dots", "full"))
    assert full < 0.5 * none
    assert full < dots < 0.8 * none


def test_attention_can_be_looked_at(plain, images, random_variables):
    variables = random_variables(plain, images)
    found = look_inside(plain.clone(scan_layers=True), variables, images)
    assert found.attention.shape == (3, 4, 2, 17, 17)
    assert_equal(found, look_inside(plain, variables, images))


def test_vmap_over_models(plain, images, random_variables):
    model = plain.clone(scan_layers=True)
    members = [random_variables(plain, images, seed=seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    logits = jax.jit(jax.vmap(model.apply, in_axes=(0, None)))(stacked, images)
    expected = jnp.stack([plain.apply(member, images) for member in members])
    assert_close(logits, expected, 1e-5)


def test_parameters_of_fewer_blocks_are_an_error(plain, images, random_variables):
    variables = random_variables(plain, images)
    deeper = plain.clone(depth=5, scan_layers=True)
    message = "depth=5 needs the parameters of block_0 to block_4, but there is no block_3"
    with pytest.raises(ValueError, match=message):
        deeper.apply(variables, images)


def test_parameters_of_more_blocks_are_left_alone(plain, images, random_variables):
    variables = random_variables(plain, images)
    two = plain.clone(depth=2)
    found = jax.jit(two.clone(scan_layers=True).apply)(variables, images)
    assert_close(found, jax.jit(two.apply)(variables, images), 1e-6)


def test_a_config_keeps_it_and_a_resumption_may_change_it(plain):
    config = Config(model=plain.clone(scan_layers=True))
    assert '"scan_layers": true' in to_json(config)
    assert from_json(to_json(config)) == config
    assert "model.scan_layers" in RESUMABLE
