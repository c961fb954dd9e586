"""One operation on colours per image, another for each, inside jit.

A branch per operation would compute all of them for the whole batch. Instead, they share a formula
whose numbers per image are neutral but for the operation that the image is to have.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vit_jax.ops import colour
from vit_jax.ops.branch import if_any


class Recolouring(NamedTuple):
    """One operation per image, as numbers: for each image at most one field is not neutral."""

    autocontrast: Bool[Array, "b"]
    equalize: Bool[Array, "b"]
    invert: Bool[Array, "b"]
    bits: Float[Array, "b"]
    """Of posterize; 8 is neutral."""
    threshold: Float[Array, "b"]
    """Of solarize; 2 is neutral."""
    addition: Float[Array, "b"]
    """Of solarize_add; 0 is neutral."""
    brightness: Float[Array, "b"]
    contrast: Float[Array, "b"]
    colour: Float[Array, "b"]
    sharpness: Float[Array, "b"]


def recolour(
    images: Float[Array, "b h w c"], turns: Sequence[Recolouring]
) -> Float[Array, "b h w c"]:
    """One operation per turn and image, in the order of the turns.

    The histograms of `equalize` cost most, so two turns share them: where it comes first, nothing
    came before, and where it comes second, nothing is left to do. An image with equalize in both
    turns of a pair has it once; a second time would only brighten, as Pillow's formula rounds the
    number of pixels per level down.
    """
    for start in range(0, len(turns), 2):
        first, *second = turns[start : start + 2]
        images = _change_levels(_blend_and_stretch(images, first), first)
        chosen = functools.reduce(jnp.logical_or, [first.equalize, *(t.equalize for t in second)])
        images = _equalize_some(images, chosen)
        for turn in second:
            images = _change_levels(_blend_and_stretch(images, turn), turn)
    return images


def _equalize_some(
    images: Float[Array, "b h w c"], chosen: Bool[Array, "b"]
) -> Float[Array, "b h w c"]:
    """Histograms are slow on a CPU: there, where few images are chosen, only theirs are made."""
    most = max(1, len(images) // 8)

    def all_of_them(images):
        return jnp.where(colour.per_image(chosen), colour.equalize(images), images)

    def few(images):
        (index,) = jnp.nonzero(chosen, size=most, fill_value=len(images))
        equalized = colour.equalize(images.at[index].get(mode="clip"))
        return images.at[index].set(equalized, mode="drop")

    def on_cpu(images):
        return jax.lax.cond(chosen.sum() <= most, few, all_of_them, images)

    return jax.lax.platform_dependent(images, cpu=on_cpu, default=all_of_them)


def _blend_and_stretch(
    images: Float[Array, "b h w c"], turn: Recolouring
) -> Float[Array, "b h w c"]:
    """What is linear in the pixels, as one sum; the neutral weights change no bit."""
    factor = turn.brightness * turn.contrast * turn.colour * turn.sharpness
    blends = turn.contrast, turn.colour, turn.sharpness
    to_mean, to_grey, to_smooth = (colour.per_image(1 - factor) for factor in blends)
    stretched, inverted = colour.per_image(turn.autocontrast), colour.per_image(turn.invert)

    def change(images):
        scale, offset = colour.stretch(images)
        scale = jnp.where(stretched, scale, colour.per_image(factor))
        offset = jnp.where(stretched, offset, to_mean * colour.mean_grey(images))
        scale, offset = jnp.where(inverted, -1, scale), jnp.where(inverted, 1, offset)
        blended = scale * images + offset
        blended += to_grey * colour.luma(images) + to_smooth * colour.smooth(images)
        return jnp.clip(blended, 0, 1)

    chosen = turn.autocontrast | turn.invert | (factor != 1)
    return if_any(chosen, change, images)


def _change_levels(images: Float[Array, "b h w c"], turn: Recolouring) -> Float[Array, "b h w c"]:
    """What looks at a value's level."""

    def change(images):
        solarized = colour.solarize_add(colour.solarize(images, turn.threshold), turn.addition)
        return colour.posterize(solarized, turn.bits)

    chosen = (turn.bits < 8) | (turn.threshold <= 1) | (turn.addition > 0)
    return if_any(chosen, change, images)
