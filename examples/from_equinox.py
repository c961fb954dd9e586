"""The ViT as an Equinox module: python examples/from_equinox.py (pip install equinox)."""

import jax
import jax.numpy as jnp
import optax

from vit_jax import ViT
from vit_jax.data.digits import digits

try:
    import equinox as eqx
except ImportError:
    raise SystemExit("This example needs: pip install equinox") from None


class Classifier(eqx.Module):
    """A ViT's parameters, trained, beside its architecture, which is static."""

    params: dict
    vit: ViT = eqx.field(static=True)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.vit.apply({"params": self.params}, images)


@eqx.filter_value_and_grad
def loss_and_gradients(classifier: Classifier, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy, and its gradient as a module."""
    return optax.softmax_cross_entropy_with_integer_labels(classifier(images), labels).mean()


def main() -> None:
    """Thirty training steps, and then the logits beside Linen's."""
    train = digits("train")
    images, labels = jnp.asarray(train.images[:256]) / 255, jnp.asarray(train.labels[:256])
    vit = ViT(patch_size=2, width=48, depth=2, num_heads=3, num_classes=10)
    classifier = Classifier(vit.init(jax.random.key(0), images)["params"], vit)
    optimizer = optax.adam(3e-3)
    opt_state = optimizer.init(eqx.filter(classifier, eqx.is_array))

    @eqx.filter_jit
    def step(classifier, opt_state):
        loss, gradients = loss_and_gradients(classifier, images, labels)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return eqx.apply_updates(classifier, updates), opt_state, loss

    before, _ = loss_and_gradients(classifier, images, labels)
    for _ in range(30):
        classifier, opt_state, loss = step(classifier, opt_state)
    print(f"loss {before:.4f} -> {loss:.4f}")
    ours = vit.apply({"params": classifier.params}, images)
    difference = jnp.abs(classifier(images) - ours).max()
    print(f"largest logit {jnp.abs(ours).max():.2f}, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
