"""A ViT in a training loop of your own: a pure model, plain parameters, any optimiser."""

import jax
import jax.numpy as jnp
import optax

from vit_jax import ViT
from vit_jax.data.digits import digits


def main(steps: int = 300) -> float:
    """Train on scikit-learn's digits; return the test accuracy."""
    train, test = digits("train"), digits("test")
    model = ViT(
        patch_size=2,
        width=48,
        depth=2,
        num_heads=3,
        pool="gap",
        positions="sincos2d",
        num_classes=10,
    )
    images = jnp.asarray(train.images) / 255.0
    labels = jnp.asarray(train.labels)
    params = model.init(jax.random.key(0), images[:1])["params"]
    optimizer = optax.adam(3e-3, b2=0.95)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, key):
        chosen = jax.random.choice(key, len(labels), (128,), replace=False)

        def loss(params):
            logits = model.apply({"params": params}, images[chosen], train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for key in jax.random.split(jax.random.key(1), steps):
        params, opt_state = step(params, opt_state, key)
    logits = model.apply({"params": params}, jnp.asarray(test.images) / 255.0)
    return float((logits.argmax(axis=1) == test.labels).mean())


if __name__ == "__main__":
    print(f"test accuracy {main():.1%}")
