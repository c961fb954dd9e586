"""A ViT from scratch in a training loop of your own: pure functions, plain parameters, optax.

python examples/train_loop.py [EPOCHS]
"""

import sys

import jax
import jax.numpy as jnp
import optax

from vit_jax import ViT, parameter_count
from vit_jax.data.digits import digits

BATCH = 64


def main(epochs: int) -> None:
    """Train on the 8x8 digits of scikit-learn and print the accuracy on those held out."""
    train, test = digits("train"), digits("test")
    images, labels = jnp.asarray(train.images) / 255, jnp.asarray(train.labels)
    model = ViT(patch_size=2, width=48, depth=2, num_heads=3, num_classes=10, pool="gap")
    print(f"{parameter_count(model, (8, 8), channels=1):,} parameters")

    params = model.init(jax.random.key(0), images[:1])["params"]
    steps = epochs * (len(images) // BATCH)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, steps)
    optimizer = optax.adamw(schedule, b2=0.95, weight_decay=0.05)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, rows):
        def loss_of(params):
            logits = model.apply({"params": params}, images[rows], train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    @jax.jit
    def accuracy(params):
        logits = model.apply({"params": params}, jnp.asarray(test.images) / 255)
        return (logits.argmax(axis=1) == jnp.asarray(test.labels)).mean()

    for epoch in range(epochs):
        order = jax.random.permutation(jax.random.key(epoch), len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            params, opt_state, loss = step(params, opt_state, order[start : start + BATCH])
        if (epoch + 1) % 10 == 0 or epoch + 1 == epochs:
            print(f"epoch {epoch + 1}: loss {loss:.3f}, test accuracy {accuracy(params):.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
