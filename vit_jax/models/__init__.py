"""Functional Flax (Linen) modules of the Vision Transformer. The only room that imports flax."""

from vit_jax.models.attention import SelfAttention
from vit_jax.models.cost import abstract_params, forward_flops, parameter_count
from vit_jax.models.encoder import Block, Encoder
from vit_jax.models.layers import DropPath, LayerScale, Mlp, RMSNorm
from vit_jax.models.patches import PatchDropout, PatchEmbed, grid_size
from vit_jax.models.pooling import MapPool, SeqPool
from vit_jax.models.seen import Seen, look_inside, patch_maps, usual_query
from vit_jax.models.sizes import SIZES, vit
from vit_jax.models.stacking import stack_layers, unstack_layers
from vit_jax.models.vit import ViT

__all__ = [
    "SIZES",
    "Block",
    "DropPath",
    "Encoder",
    "LayerScale",
    "MapPool",
    "Mlp",
    "PatchDropout",
    "PatchEmbed",
    "RMSNorm",
    "Seen",
    "SelfAttention",
    "SeqPool",
    "ViT",
    "abstract_params",
    "forward_flops",
    "grid_size",
    "look_inside",
    "parameter_count",
    "patch_maps",
    "stack_layers",
    "unstack_layers",
    "usual_query",
    "vit",
]
