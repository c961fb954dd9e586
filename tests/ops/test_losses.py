import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.ops.losses import binary_cross_entropy, cross_entropy, mixed_cross_entropy


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(11, 7))
    labels = rng.integers(0, 7, 11)
    return jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.6, 1.0])
def test_equals_torch_and_so_do_the_gradients(label_smoothing, batch):
    torch = pytest.importorskip("torch", reason="the reference; installed for Python 3.11 only")
    logits, labels = batch
    weights = np.random.default_rng(1).normal(size=11).astype(np.float32)
    their_logits = torch.tensor(np.asarray(logits), requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        their_logits,
        torch.tensor(np.asarray(labels)).long(),
        label_smoothing=label_smoothing,
        reduction="none",
    )
    (expected * torch.tensor(weights)).sum().backward()

    def weighted(logits):
        losses = cross_entropy(logits, labels, label_smoothing)
        return (losses * weights).sum(), losses

    gradient, losses = jax.grad(weighted, has_aux=True)(logits)
    assert losses.shape == (11,)
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, their_logits.grad.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_equals_its_definition(label_smoothing, batch):
    logits, labels = (np.asarray(x, np.float64) for x in batch)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = (1 - label_smoothing) * np.eye(7)[labels.astype(int)] + label_smoothing / 7
    expected = -(target * np.log(probabilities)).sum(axis=1)
    np.testing.assert_allclose(cross_entropy(*batch, label_smoothing), expected, rtol=1e-6)


def test_equal_logits_cost_the_logarithm_of_the_classes():
    losses = cross_entropy(jnp.zeros((2, 10)), jnp.array([0, 9]))
    np.testing.assert_allclose(losses, np.log(10), rtol=1e-6)


def test_large_logits_do_not_overflow():
    logits = jnp.array([[1e4, 0.0, -1e4], [1e4, 0.0, -1e4]])
    labels = jnp.array([0, 2])
    np.testing.assert_allclose(cross_entropy(logits, labels), [0, 2e4], rtol=1e-6)
    gradient = jax.grad(lambda x: cross_entropy(x, labels).sum())(logits)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [1, 0, -1]], atol=1e-6)


def test_bfloat16_logits_have_a_float32_loss(batch):
    logits, labels = batch
    rounded = logits.astype(jnp.bfloat16)
    losses = cross_entropy(rounded, labels)
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(losses, cross_entropy(rounded.astype(jnp.float32), labels))


@pytest.fixture
def mixed():
    """Partner labels and weights for `batch`: two of one label, no partner, nothing of the own."""
    rng = np.random.default_rng(2)
    weight = rng.random(11).astype(np.float32)
    weight[:2] = 1, 0
    partners = rng.integers(0, 7, 11)
    return jnp.asarray(partners, jnp.int32), jnp.asarray(weight)


def soft_target(labels, partners, weight, label_smoothing):
    """float64 [b, classes], as timm mixes it: smoothed first, then mixed."""
    labels, partners, weight = (np.asarray(x) for x in (labels, partners, weight))
    one_hot = np.full((2, 11, 7), label_smoothing / 7)
    for target, label in zip(one_hot, (labels, partners), strict=True):
        target[np.arange(11), label] += 1 - label_smoothing
    share = weight[:, None].astype(np.float64)
    return share * one_hot[0] + (1 - share) * one_hot[1]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", [mixed_cross_entropy, binary_cross_entropy])
def test_losses_of_mixed_labels_equal_torch_with_soft_targets(loss, label_smoothing, batch, mixed):
    torch = pytest.importorskip("torch", reason="the reference; installed for Python 3.11 only")
    logits, labels = batch
    target = torch.tensor(soft_target(labels, *mixed, label_smoothing)).float()
    their_logits = torch.tensor(np.asarray(logits), requires_grad=True)
    if loss is mixed_cross_entropy:
        expected = torch.nn.functional.cross_entropy(their_logits, target, reduction="none")
    else:
        criterion = torch.nn.BCEWithLogitsLoss(reduction="none")
        expected = criterion(their_logits, target).mean(dim=1)
    weights = np.random.default_rng(1).normal(size=11).astype(np.float32)
    (expected * torch.tensor(weights)).sum().backward()

    def weighted(logits):
        losses = loss(logits, labels, *mixed, label_smoothing)
        return (losses * weights).sum(), losses

    gradient, losses = jax.grad(weighted, has_aux=True)(logits)
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, their_logits.grad.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_losses_of_mixed_labels_equal_their_definitions(label_smoothing, batch, mixed):
    logits, labels = batch
    x = np.asarray(logits, np.float64)
    target = soft_target(labels, *mixed, label_smoothing)
    softmax = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    expected = -(target * np.log(softmax)).sum(axis=1)
    losses = mixed_cross_entropy(*batch, *mixed, label_smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    yes = 1 / (1 + np.exp(-x))
    expected = -(target * np.log(yes) + (1 - target) * np.log(1 - yes)).mean(axis=1)
    losses = binary_cross_entropy(*batch, *mixed, label_smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_without_mixing_it_is_the_plain_cross_entropy(label_smoothing, batch, mixed):
    expected = cross_entropy(*batch, label_smoothing)
    partners, _ = mixed
    losses = mixed_cross_entropy(*batch, partners, jnp.ones(11), label_smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-7)
    logits, labels = batch
    losses = mixed_cross_entropy(logits, partners, labels, jnp.zeros(11), label_smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-7)


def test_large_logits_do_not_overflow_binary_either():
    logits = jnp.array([[1e4, -1e4], [1e4, -1e4]])
    labels, partners, weight = jnp.array([0, 1]), jnp.array([0, 1]), jnp.ones(2)
    losses = binary_cross_entropy(logits, labels, partners, weight)
    np.testing.assert_allclose(losses, [0, 1e4], rtol=1e-6)
    gradient = jax.grad(lambda x: binary_cross_entropy(x, labels, partners, weight).sum())(logits)
    np.testing.assert_allclose(gradient, [[0, 0], [0.5, -0.5]], atol=1e-6)


def test_a_binary_loss_close_to_zero_is_not_rounded_away():
    losses = binary_cross_entropy(
        jnp.array([[20.0, -20.0]]), jnp.array([0]), jnp.array([0]), jnp.ones(1)
    )
    np.testing.assert_allclose(losses, np.log1p(np.exp(-20.0)), rtol=1e-5)


def test_the_gradient_of_a_logit_of_zero_is_a_half_less_the_target():
    # As in the first step of a head that starts at zero.
    args = jnp.array([0]), jnp.array([2]), jnp.array([0.75], jnp.float32)
    gradient = jax.grad(lambda x: binary_cross_entropy(x, *args).sum())(jnp.zeros((1, 3)))
    np.testing.assert_allclose(gradient, [[-0.25 / 3, 0.5 / 3, 0.25 / 3]], rtol=1e-6)


@pytest.mark.parametrize("loss", [mixed_cross_entropy, binary_cross_entropy])
def test_losses_of_mixed_labels_are_float32_for_bfloat16_logits(loss, batch, mixed):
    logits, labels = batch
    rounded = logits.astype(jnp.bfloat16)
    losses = loss(rounded, labels, *mixed)
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(losses, loss(rounded.astype(jnp.float32), labels, *mixed))
