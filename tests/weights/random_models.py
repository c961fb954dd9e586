"""Small models of random weights, and files of them."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ViT, save_pretrained
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
PREPROCESSING = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), NAMES)


def suffix(layout):
    """What the name of a file or folder in a layout ends in."""
    return {"torchvision": ".safetensors", "google": ".npz"}.get(layout, "")


def random_model(**fields):
    """A small model and variables in which nothing is zero or one."""
    model = ViT(**(SMALL | fields))
    rng = np.random.default_rng(0)
    images = np.zeros((1, *model.image_size, model.channels), np.float32)

    def draw(leaf):
        return jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)

    return model, jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0), images))


def save_random(folder, layout, **fields):
    """The path of a random model written in a layout."""
    model, variables = random_model(**fields)
    path = folder / f"{layout}{suffix(layout)}"
    return save_pretrained(path, layout, model, variables, PREPROCESSING, say=None)
