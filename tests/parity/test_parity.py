"""Our numbers are PyTorch's: forward, attention, gradients and three updates, model by model."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference; installed for Python 3.11 only")

from parity import measure  # noqa: E402 - it imports PyTorch
from parity.references import REFERENCES, make_reference  # noqa: E402

comparison_of = functools.cache(measure.Comparison)


@pytest.fixture(params=REFERENCES)
def comparison(request):
    if request.param.startswith("transformers"):
        pytest.importorskip("transformers", reason="the reference is one of its models")
    return comparison_of(request.param)


def above(differences, bound):
    """Those that are not within the bound; NaN is not."""
    assert differences
    return {name: value for name, value in differences.items() if not value <= bound}


def test_every_parameter_has_its_counterpart(comparison):
    images, _ = comparison.batches[0]
    init = functools.partial(comparison.model.init, jax.random.key(0))
    expected = jax.tree.map(lambda x: x.shape, jax.eval_shape(init, images)["params"])
    assert jax.tree.map(lambda x: x.shape, comparison.params) == expected
    count = sum(x.numel() for x in make_reference(comparison.name).parameters())
    assert count == sum(np.size(x) for x in jax.tree.leaves(comparison.params))


def test_embeddings_blocks_attention_and_logits(comparison):
    found = comparison.forward()
    assert tuple(found) == measure.FORWARD
    assert len(found["block outputs"]) == len(found["attention weights"]) == comparison.model.depth
    for quantity, differences in found.items():
        assert not above(differences, measure.BOUNDS[quantity])


def test_gradient_of_every_parameter(comparison):
    assert not above(comparison.gradients(), measure.BOUNDS["gradients"])


def test_key_biases_have_no_gradient_but_rounding(comparison):
    found = comparison.key_bias_gradients()
    assert len(found) == (comparison.model.depth if comparison.model.qkv_bias else 0)
    for ours, theirs in found.values():
        assert ours <= 1e-5
        assert theirs <= 1e-5


@pytest.mark.parametrize("optimiser", measure.OPTIMISERS)
def test_parameters_after_three_updates(optimiser, comparison):
    differences, moved = comparison.steps(optimiser)
    bound = measure.BOUNDS[optimiser]
    assert not above(differences, bound)
    # Each has moved so far that a small mistake in its update would show.
    assert min(moved.values()) > 50 * bound


@pytest.mark.parametrize(
    "mistake", [{"activation": "gelu_tanh"}, {"norm_eps": 1e-12}, {"qk_scale": 0.3}], ids=str
)
def test_the_bounds_are_narrow_enough_to_see(mistake):
    comparison = measure.Comparison("torch.nn layers")
    comparison.model = dataclasses.replace(comparison.model, **mistake)
    found = comparison.forward()
    assert not above(found.pop("embeddings"), 1e-5)
    for quantity, differences in found.items():
        assert above(differences, measure.BOUNDS[quantity]), quantity
