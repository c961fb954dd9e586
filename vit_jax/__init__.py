"""Vision Transformers in JAX: functional Flax modules and a trainer.

The modules and the doors for published weights are imported here; everything that reads images,
trains or draws lives in its own subpackage and is imported from there.
"""

from vit_jax.models import (
    SIZES,
    Block,
    DropPath,
    Encoder,
    LayerScale,
    MapPool,
    Mlp,
    PatchEmbed,
    SelfAttention,
    ViT,
    forward_flops,
    parameter_count,
    vit,
)
from vit_jax.weights import load_pretrained, save_pretrained

__version__ = "0.1.0.dev0"

__all__ = [
    "SIZES",
    "Block",
    "DropPath",
    "Encoder",
    "LayerScale",
    "MapPool",
    "Mlp",
    "PatchEmbed",
    "SelfAttention",
    "ViT",
    "__version__",
    "forward_flops",
    "load_pretrained",
    "parameter_count",
    "save_pretrained",
    "vit",
]
