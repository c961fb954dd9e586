"""Random models, and the images they are compared on."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
from weights import random_models

from vit_jax.models.patches import pair


@pytest.fixture(scope="session")
def test_data():
    """The folder of real data."""
    if "VIT_JAX_TEST_DATA" not in os.environ:
        pytest.skip("VIT_JAX_TEST_DATA, the folder of real data, is not set")
    return Path(os.environ["VIT_JAX_TEST_DATA"])


@pytest.fixture
def preprocessing():
    return random_models.PREPROCESSING


@pytest.fixture
def random_model():
    """See `random_models.random_model`."""
    return random_models.random_model


@pytest.fixture
def images_of():
    """`images_of(model)`: two random images of its size."""

    def images_of(model):
        shape = (2, *pair(model.image_size), model.channels)
        return np.random.default_rng(1).normal(size=shape).astype(np.float32)

    return images_of


@pytest.fixture
def saved(tmp_path):
    """`saved(layout, **fields)`: the path of a random model written in a layout."""
    return functools.partial(random_models.save_random, tmp_path)
