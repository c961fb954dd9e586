"""What a ViT looks at, drawn over the images: python examples/attention_maps.py [--out FILE.png]

Trains a small one on drawn scenes first. With a file or folder of weights, or hf-hub:USER/REPO:
python examples/attention_maps.py WEIGHTS IMAGE…
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from colours import trained_on_colours
from PIL import Image
from scenes import COLOURS, scenes

from vit_jax import load_pretrained
from vit_jax.models import grid_size, look_inside
from vit_jax.ops.attention_maps import patch_map, query_weights, rollout
from vit_jax.pictures.attention import overlay
from vit_jax.pictures.batch import draw_batch


def main() -> None:
    """Draw images, and over them the average attention of all layers and heads, and rollout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="?")
    parser.add_argument("images", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("runs/attention.png"))
    given = parser.parse_args()
    if given.weights:
        model, variables, spec = load_pretrained(given.weights)
        size, mean, std, names = spec.image_size, spec.mean, spec.std, spec.class_names
        opened = [Image.open(name).convert("RGB") for name in given.images]
        shown = np.stack([np.asarray(image.resize(size[::-1])) for image in opened])
        pixels, titles = shown / 255, [Path(name).name for name in given.images]
    else:
        model, variables = trained_on_colours(steps=300)
        shown, _, colours = scenes(8, seed=2, size=128)
        pixels = shown.reshape(8, 64, 2, 64, 2, 3).mean(axis=(2, 4)) / 255
        mean, std, names, titles = 0.5, 0.5, COLOURS, [COLOURS[label] for label in colours]

    seen = look_inside(model, variables, jnp.asarray((pixels - mean) / std, jnp.float32))
    grid = grid_size(pixels.shape[1:3], model.patch_size)
    query = "class" if model.pool == "cls" else "mean"
    looks = jnp.concatenate([seen.attention.mean(axis=(0, 2)), rollout(seen.attention)])
    maps = np.asarray(patch_map(query_weights(looks, query, grid), grid))
    shares = np.asarray(jax.nn.softmax(seen.logits))
    guesses = [f"{names[row.argmax()] if names else ''} {row.max():.0%}" for row in shares]
    overlays = [overlay(i, m) for i, m in zip([*shown, *shown], maps, strict=True)]
    labels = [*titles, *guesses, *["rollout"] * len(shown)]
    title = "Images; the attention of all layers and heads, on average; and rolled out"
    given.out.parent.mkdir(parents=True, exist_ok=True)
    draw_batch(np.concatenate([shown / 255, overlays]), labels, given.out, title)
    print(f"{given.out}: {', '.join(map(' -> '.join, zip(titles, guesses, strict=True)))}")


if __name__ == "__main__":
    main()
