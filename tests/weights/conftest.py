"""Random models, and the images they are compared on."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import ViT, save_pretrained
from vit_jax.models.patches import pair
from vit_jax.weights.layout import Preprocessing

SMALL = {
    "patch_size": 8,
    "width": 64,
    "depth": 2,
    "num_heads": 1,  # the heads of this width that a file without config.json is read with
    "mlp_dim": 96,
    "num_classes": 5,
    "image_size": (24, 24),
    "channels": 3,
}
NAMES = ("ant", "bee", "cat", "dog", "emu")


def suffix(layout):
    """What the name of a file or folder in a layout ends in."""
    return {"torchvision": ".safetensors", "google": ".npz"}.get(layout, "")


@pytest.fixture(scope="session")
def test_data():
    """The folder of real data."""
    if "VIT_JAX_TEST_DATA" not in os.environ:
        pytest.skip("VIT_JAX_TEST_DATA, the folder of real data, is not set")
    return Path(os.environ["VIT_JAX_TEST_DATA"])


@pytest.fixture
def preprocessing():
    return Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), NAMES)


@pytest.fixture
def random_model():
    """`random_model(**fields)`: a small model and variables in which nothing is zero or one."""

    def random_model(**fields):
        model = ViT(**(SMALL | fields))
        rng = np.random.default_rng(0)
        images = np.zeros((1, *model.image_size, model.channels), np.float32)

        def draw(leaf):
            return jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)

        return model, jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0), images))

    return random_model


@pytest.fixture
def images_of():
    """`images_of(model)`: two random images of its size."""

    def images_of(model):
        shape = (2, *pair(model.image_size), model.channels)
        return np.random.default_rng(1).normal(size=shape).astype(np.float32)

    return images_of


@pytest.fixture
def saved(tmp_path, random_model, preprocessing):
    """`saved(layout, **fields)`: the path of a random model written in a layout."""

    def saved(layout, **fields):
        path = tmp_path / f"{layout}{suffix(layout)}"
        model, variables = random_model(**fields)
        return save_pretrained(path, layout, model, variables, preprocessing, say=None)

    return saved
