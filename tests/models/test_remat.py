"""`ViT.remat`: the same numbers, with less kept for the backward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import ViT
from vit_jax.config import Config, from_json, to_json
from vit_jax.models import look_inside

RNGS = {"dropout": jax.random.key(1)}


@pytest.fixture
def plain():
    return ViT(
        patch_size=4,
        width=32,
        depth=3,
        num_heads=2,
        num_classes=10,
        head_zero_init=False,
        layer_scale=0.1,
        dropout=0.1,
        attention_dropout=0.1,
        drop_path=0.3,
    )


@pytest.fixture
def images():
    return jax.random.normal(jax.random.key(2), (4, 16, 16, 3))


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_parameters_are_the_same_under_the_same_names(plain, images):
    initial = jax.jit(plain.init)(jax.random.key(0), images)
    assert_equal(jax.jit(plain.clone(remat=True).init)(jax.random.key(0), images), initial)


@pytest.mark.parametrize("train", [False, True])
def test_outputs_are_equal_and_gradients_but_for_rounding(plain, images, train):
    remat = plain.clone(remat=True)
    variables = jax.jit(plain.init)(jax.random.key(0), images)

    @functools.partial(jax.jit, static_argnums=0)
    def outputs(model, variables):
        return model.apply(variables, images, train=train, rngs=RNGS, method="features")

    assert_equal(outputs(remat, variables), outputs(plain, variables))
    # XLA fuses the two backward passes differently.
    gradient = jax.jit(
        jax.grad(lambda variables, model: jnp.square(outputs(model, variables)["logits"]).sum()),
        static_argnums=1,
    )
    found, expected = gradient(variables, remat), gradient(variables, plain)
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * largest)


def test_attention_can_be_looked_at(plain, images):
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    expected = look_inside(plain, variables, images)
    found = look_inside(plain.clone(remat=True), variables, images)
    assert found.attention.shape == (3, 4, 2, 17, 17)
    assert_equal(found, expected)


def kept_for_the_backward_pass(model, variables, images):
    """Bytes of what the forward pass hands over, arguments left out."""

    def forward(variables):
        return jax.vjp(functools.partial(model.apply, images=images), variables)[1]

    leaves = jax.tree.leaves(jax.eval_shape(forward, variables))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def test_little_is_kept_for_the_backward_pass(plain, images):
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    arguments = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    usual = kept_for_the_backward_pass(plain, variables, images)
    with_remat = kept_for_the_backward_pass(plain.clone(remat=True), variables, images)
    assert with_remat - arguments < 0.3 * (usual - arguments)


def test_the_compiled_program_needs_less_memory_where_the_compiler_keeps_the_order(images):
    # XLA of jax 0.10 and 0.11 drops on the CPU what keeps recomputing from being done early.
    if jax.__version_info__ < (0, 12):
        pytest.skip("needs the CPU compiler of jax 0.12")
    model = ViT(patch_size=2, width=32, depth=6, num_heads=2, num_classes=10)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def temporary(model):
        loss = lambda variables: jnp.square(model.apply(variables, images)).sum()  # noqa: E731
        program = jax.jit(jax.grad(loss)).lower(variables).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary(model.clone(remat=True)) < 0.5 * temporary(model)


def test_a_config_keeps_it(plain):
    config = Config(model=plain.clone(remat=True))
    assert '"remat": true' in to_json(config)
    assert from_json(to_json(config)) == config
