"""A ViT that names the colour of the shape in a drawn scene, for the other examples to use."""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from PIL import Image
from scenes import COLOURS, scenes

from vit_jax import ViT, save_pretrained
from vit_jax.weights.layout import Preprocessing


def trained_on_colours(steps: int, number: int = 1500) -> tuple[ViT, dict]:
    """The model and its variables. Images go in as pixels in 0..1, less 0.5, over 0.5."""
    images, _, labels = (jnp.asarray(array) for array in scenes(number, seed=0))
    model = ViT(8, 48, 2, 3, num_classes=len(COLOURS), image_size=64, channels=3)
    params = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0, 2e-3, steps // 10 + 1, steps))

    @jax.jit
    def step(params, opt_state, images, labels):
        def loss_of(params):
            logits = model.apply({"params": params}, images / 127.5 - 1)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state, losses = optimizer.init(params), []
    for key in jax.random.split(jax.random.key(1), steps):
        rows = jax.random.choice(key, number, (32,))
        params, opt_state, loss = step(params, opt_state, images[rows], labels[rows])
        losses.append(loss)
    print(f"loss {jnp.stack(losses[:10]).mean():.3f} -> {jnp.stack(losses[-10:]).mean():.3f}")

    images, _, labels = scenes(500, seed=1)
    logits = jax.jit(model.apply)({"params": params}, images / 127.5 - 1)
    print(f"accuracy on 500 other scenes {(logits.argmax(axis=1) == labels).mean():.1%}")
    return model, {"params": params}


def save_weights(path: Path) -> None:
    """A trained model as Hugging Face would publish it."""
    model, variables = trained_on_colours(steps=200)
    save_pretrained(path, "huggingface", model, variables, Preprocessing((0.5,) * 3, (0.5,) * 3))


def save_folder(root: Path) -> None:
    """Scenes with warm and with cold colours: 80 to train on, 60 held out."""
    for split, seed, number in (("train", 3, 80), ("val", 4, 60)):
        images, _, colours = scenes(number, seed)
        for row, (image, colour) in enumerate(zip(images, colours, strict=True)):
            folder = root / split / ("warm" if colour in (0, 1, 5) else "cold")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{row:03}.png")
