"""The same ViT as an NNX module: one line, the same numbers."""

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax import ViT


def main() -> tuple[jax.Array, jax.Array]:
    """Logits of the NNX module, and of the Linen module with the NNX module's parameters."""
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    model = ViT(patch_size=8, width=32, depth=2, num_heads=4, num_classes=5, head_zero_init=False)
    wrapped = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(images)
    params = nnx.to_pure_dict(nnx.state(wrapped, nnx.Param))
    params = jax.tree.map(jnp.asarray, params)
    return wrapped(images), model.apply({"params": params}, images)


if __name__ == "__main__":
    nnx_logits, linen_logits = main()
    print("largest difference", float(jnp.abs(nnx_logits - linen_logits).max()))
