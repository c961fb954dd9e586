"""Parameters of blocks in one stack, and back."""

import functools

import jax
import numpy as np
import pytest

from vit_jax import Block, Encoder
from vit_jax.models import stack_layers, unstack_layers


@pytest.fixture
def params(random_variables, normal):
    """Of twelve blocks: by the alphabet, block_10 would come before block_2."""
    encoder = Encoder(12, functools.partial(Block, num_heads=2, mlp_dim=6, layer_scale=0.1))
    return random_variables(encoder, normal((1, 3, 4)))["params"]


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_layer_i_is_row_i_of_the_stack(params):
    stacked = stack_layers(params)
    kernel = stacked["mlp"]["fc1"]["kernel"]
    assert kernel.shape == (12, 4, 6)
    for i in range(12):
        np.testing.assert_array_equal(kernel[i], params[f"block_{i}"]["mlp"]["fc1"]["kernel"])
    assert jax.tree.structure(stacked) == jax.tree.structure(params["block_0"])


def test_both_ways_are_exact_inverses(params):
    stacked = stack_layers(params)
    assert_equal(unstack_layers(stacked), params)
    assert_equal(stack_layers(unstack_layers(stacked)), stacked)


def test_types_are_kept():
    layers = {f"block_{i}": {"a": np.full((2,), i, np.int8), "b": np.float16(i)} for i in range(3)}
    stacked = stack_layers(layers)
    assert (stacked["a"].dtype, stacked["b"].dtype) == (np.int8, np.float16)
    assert_equal(unstack_layers(stacked), layers)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({}, "layers named nothing: expected block_0, block_1 and so on, without a gap"),
        ({"block_0": {}, "block_2": {}}, "layers named block_0, block_2: expected"),
        ({"block_0": {}, "block_01": {}}, "layers named block_0, block_01: expected"),
    ],
)
def test_a_gap_in_the_names_is_an_error(layers, message):
    with pytest.raises(ValueError, match=message):
        stack_layers(layers)


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), np.zeros(2, np.int32), None])
def test_layers_that_differ_are_named(wrong):
    right = np.zeros(2, np.float32)
    layers = {"block_0": {"norm": {"bias": right}}, "block_1": {"norm": {"bias": wrong}}}
    with pytest.raises(ValueError, match="block_1/norm/bias is not as in block_0: only layers"):
        stack_layers(layers)


def test_a_stack_has_one_length():
    with pytest.raises(ValueError, match=r"are \[\(2,\), \(3,\)\]: expected one length"):
        unstack_layers({"a": np.zeros((2, 4)), "b": np.zeros((3, 4))})
    with pytest.raises(ValueError, match=r"are \[\(\)\]: expected one length"):
        unstack_layers({"a": np.float32(1)})
