"""Vision Transformers in JAX: functional Flax modules and a trainer.

The modules are imported here; everything that reads files, trains or draws lives in its own
subpackage and is imported from there.
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
    "parameter_count",
    "vit",
]
