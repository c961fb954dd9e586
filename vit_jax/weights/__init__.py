"""Weights, in and out: Hugging Face, timm, torchvision and Google; in, our run folders too."""

from vit_jax.weights.files import WeightsError
from vit_jax.weights.layout import Preprocessing
from vit_jax.weights.load import Spec, load_pretrained
from vit_jax.weights.pretrained import LAYOUTS, open_pretrained
from vit_jax.weights.save import save_pretrained

__all__ = [
    "LAYOUTS",
    "Preprocessing",
    "Spec",
    "WeightsError",
    "load_pretrained",
    "open_pretrained",
    "save_pretrained",
]
