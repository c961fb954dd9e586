"""Random augmentation of whole batches, inside jit.

Randomness is per example: `example_keys` folds the step's key with the example's place in the
batch, so an example looks the same on any number of devices.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """What happens to training images, on the device, in the order of the fields."""

    crop_padding: int = 0
    """Pixels of black padding per side before a random crop of the original size; 0: no crop."""
    flip: bool = False
    """Mirror every other image, left to right."""


def example_keys(key: Key[Array, ""], place: Int[Array, "b"]) -> Key[Array, "b"]:
    """One key per example, from the step's key and the example's place in the batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, place)


def augment(
    keys: Key[Array, "b"], images: UInt8[Array, "b h w c"], config: AugmentConfig
) -> UInt8[Array, "b h w c"]:
    """Apply what the config asks for, each example with its own key."""
    if config.crop_padding:
        images = random_crop(_fold(keys, 0), images, config.crop_padding)
    if config.flip:
        images = random_flip(_fold(keys, 1), images)
    return images


def random_crop(
    keys: Key[Array, "b"], images: UInt8[Array, "b h w c"], padding: int
) -> UInt8[Array, "b h w c"]:
    """Pad each side with `padding` black pixels and cut the original size out at random."""
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def crop(key, image):
        corner = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

    return jax.vmap(crop)(keys, padded)


def random_flip(keys: Key[Array, "b"], images: UInt8[Array, "b h w c"]) -> UInt8[Array, "b h w c"]:
    """Mirror each image left to right with probability 1/2."""
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def normalise(
    images: UInt8[Array, "b h w c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b h w c"]:
    """(pixels / 255 - mean) / std per channel, in float32."""
    pixels = images.astype(jnp.float32) / 255
    return (pixels - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def _fold(keys: Key[Array, "b"], number: int) -> Key[Array, "b"]:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
