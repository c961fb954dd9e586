"""`ViT.remat`: the same numbers, with less kept for the backward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.programs import assert_equal, count

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


@pytest.mark.parametrize("word", ["full", "dots"])
def test_parameters_are_the_same_under_the_same_names(plain, images, word):
    initial = jax.jit(plain.init)(jax.random.key(0), images)
    assert_equal(jax.jit(plain.clone(remat=word).init)(jax.random.key(0), images), initial)


@pytest.mark.parametrize("word", ["full", "dots"])
@pytest.mark.parametrize("train", [False, True])
def test_outputs_are_equal_and_gradients_but_for_rounding(plain, images, train, word):
    remat = plain.clone(remat=word)
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


@pytest.mark.parametrize("word", ["full", "dots"])
def test_attention_can_be_looked_at(plain, images, word):
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    expected = look_inside(plain, variables, images)
    found = look_inside(plain.clone(remat=word), variables, images)
    assert found.attention.shape == (3, 4, 2, 17, 17)
    assert_equal(found, expected)


def kept_for_the_backward_pass(model, variables, images):
    """Bytes of what the forward pass hands over, arguments left out."""

    def forward(variables):
        return jax.vjp(functools.partial(model.apply, images=images), variables)[1]

    leaves = jax.tree.leaves(jax.eval_shape(forward, variables))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


# Numbers per token and block. full: the input, of the width d = 32. dots: the results of q/k/v, the
# projection and the MLP's first layer as well, 3 d + d + 4 d. What the second gives nobody needs.
@pytest.mark.parametrize(("word", "numbers"), [("full", 32), ("dots", 9 * 32)])
def test_the_blocks_keep_for_the_backward_pass_what_the_word_says(plain, images, word, numbers):
    rates = dict.fromkeys(("dropout", "attention_dropout", "drop_path"), 0.0)
    model = plain.clone(remat=word, layer_scale=None, **rates)
    kept = []
    for depth in (2, 5):
        model = model.clone(depth=depth)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        arguments = sum(leaf.size * 4 for leaf in jax.tree.leaves(variables))
        kept.append(kept_for_the_backward_pass(model, variables, images) - arguments)
    # The blocks' biases that no derivative needs are counted as arguments, and not kept.
    biases = 32 + 4 * 32
    assert kept[1] - kept[0] == pytest.approx(3 * 4 * 17 * numbers * 4, abs=3 * biases * 4)


@pytest.mark.parametrize("method", ["auto", "einsum"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_the_products_that_are_computed_again(plain, images, method, activation):
    plain = plain.clone(attention_method=method, activation=activation, layer_scale=None)
    found = {}
    for word in ("none", "dots", "full"):
        model = plain.clone(remat=word)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        loss = lambda variables: jnp.square(  # noqa: E731
            model.apply(variables, images, train=True, rngs=RNGS)  # noqa: B023
        ).sum()
        program = jax.make_jaxpr(jax.grad(loss))(variables)
        found[word] = {name: count(program, name) for name in ("dot_general", "rsqrt", "exp")}
    products = {word: counts["dot_general"] for word, counts in found.items()}
    # Attention's two; and all six of a block but the MLP's second, which no derivative needs.
    assert products["dots"] - products["none"] == 2 * plain.depth
    assert products["full"] - products["none"] == 5 * plain.depth
    # Both norms and the softmax again, under either word.
    for word in ("dots", "full"):
        assert found[word]["rsqrt"] - found["none"]["rsqrt"] == 2 * plain.depth
        assert found[word]["exp"] > found["none"]["exp"]


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

    assert temporary(model.clone(remat="full")) < 0.5 * temporary(model)


@pytest.mark.parametrize("word", ["full", "dots"])
def test_a_config_keeps_it(plain, word):
    config = Config(model=plain.clone(remat=word))
    assert f'"remat": "{word}"' in to_json(config)
    assert from_json(to_json(config)) == config
