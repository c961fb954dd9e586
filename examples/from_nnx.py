"""The ViT inside Flax NNX: wrapped in one line, trained by nnx.Optimizer, the same numbers.

python examples/from_nnx.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from vit_jax import ViT
from vit_jax.data.digits import digits


class Classifier(nnx.Module):
    """A module of NNX with a ViT in it, as it would have any other part."""

    def __init__(self, vit: ViT, images: jax.Array, rngs: nnx.Rngs):
        self.vit = nnx.bridge.ToNNX(vit, rngs=rngs).lazy_init(images)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.vit(2 * images - 1)


def loss_of(classifier: Classifier, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy."""
    logits = classifier(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@nnx.jit
def step(classifier: Classifier, optimizer: nnx.Optimizer, images, labels) -> jax.Array:
    """One update, in place as NNX has it."""
    loss, gradients = nnx.value_and_grad(loss_of)(classifier, images, labels)
    optimizer.update(classifier, gradients)
    return loss


def main() -> None:
    """One training step, and then the logits of NNX beside Linen's."""
    train = digits("train")
    images, labels = jnp.asarray(train.images[:256]) / 255, jnp.asarray(train.labels[:256])
    vit = ViT(patch_size=2, width=48, depth=2, num_heads=3, num_classes=10)
    classifier = Classifier(vit, images, nnx.Rngs(0))
    optimizer = nnx.Optimizer(classifier, optax.adam(1e-3), wrt=nnx.Param)
    loss = step(classifier, optimizer, images, labels)
    print(f"loss {loss:.4f} -> {loss_of(classifier, images, labels):.4f}")

    params = nnx.to_pure_dict(nnx.state(classifier.vit, nnx.Param))
    ours = vit.apply({"params": params}, 2 * images - 1)
    difference = jnp.abs(classifier(images) - ours).max()
    print(f"largest logit {jnp.abs(ours).max():.2f}, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
