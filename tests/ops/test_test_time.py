"""Test-time augmentation: the views and their weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.ops.test_time import average_over_views, shift


def linear_model(weights):
    """Logits [b, 1]: a weighted sum of the pixels, so that an average tells its views."""
    return lambda images: (images * weights).sum(axis=(1, 2, 3))[:, None]


@pytest.mark.parametrize(("kind", "views"), [("none", 1), ("mirror", 2), ("shifts", 6)])
def test_logits_are_averaged_over_the_views(kind, views):
    rng = np.random.default_rng(0)
    images, weights = rng.normal(size=(2, 3, 5, 7, 2)).astype(np.float32)[:, :3]
    model = linear_model(weights[:1])
    calls = []

    def counted(view):
        calls.append(view)
        return model(view)

    found = average_over_views(counted, jnp.asarray(images), kind)
    assert len(calls) == views
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    moved = [padded[:, 2:, 2:], padded[:, :-2, :-2]]
    still = [images, images[:, :, ::-1]]
    if kind == "shifts":
        mirrored = np.pad(images[:, :, ::-1], ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
        moved += [mirrored[:, 2:, 2:], mirrored[:, :-2, :-2]]
        means = [np.mean([model(view) for view in group], axis=0) for group in (still, moved)]
        expected = np.mean(means, axis=0)
    else:
        expected = np.mean([model(view) for view in still[:views]], axis=0)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_a_shift_moves_down_and_right_and_repeats_the_edge():
    image = jnp.arange(6.0).reshape(1, 2, 3, 1)
    assert shift(image, 1)[0, ..., 0].tolist() == [[0, 0, 1], [0, 0, 1]]
    assert shift(image, -1)[0, ..., 0].tolist() == [[4, 5, 5], [4, 5, 5]]
