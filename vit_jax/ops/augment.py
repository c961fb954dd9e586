"""What happens to a batch of training images on the device, inside jit.

Randomness is per example: `example_keys` folds the step's key with the example's place in the
batch, so an example looks the same on any number of devices.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from vit_jax.ops import colour, policies, warp
from vit_jax.ops.erasing import random_erasing
from vit_jax.ops.mixing import Mixed, mix

# Streams of randomness, each folded into an example's key.
CROP, FLIP, POLICY, JITTER, ERASING, MIXING = range(6)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """What happens to training images, in the order of the fields; by default nothing."""

    crop_padding: int = 0
    """Pixels of padding per side before a random crop of the original size; 0: no crop."""
    crop_fill: Literal["black", "reflect"] = "black"
    """What the padding is made of."""
    crop_area: tuple[float, float] | None = None
    """Random-resized crop: smallest and largest share of the image's area, such as 0.08 1.0; None:
    no such crop. The streaming feed cuts it out of the file, before it is resized."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a random-resized crop."""
    flip: Literal["none", "random", "alternating"] = "none"
    """Mirror images left to right: random, every other one; alternating, every image in every other
    epoch, half of them in the even ones (arXiv 2404.00498)."""
    policy: Literal["none", "randaugment", "trivialaugment", "threeaugment"] = "none"
    """randaugment (arXiv 1909.13719), trivialaugment (2103.10158), threeaugment (2204.07118)."""
    rand_operations: int = 2
    """RandAugment: operations per image."""
    rand_magnitude: float = 9.0
    """RandAugment: mean strength of the operations, 0..10."""
    rand_std: float = 0.5
    """RandAugment: standard deviation of the strength."""
    rand_probability: float = 0.5
    """RandAugment: share of the operations that are applied; 1 in the paper, 0.5 in timm."""
    colour_jitter: float = 0.0
    """Brightness, contrast and saturation times a factor of at most 1 plus this."""
    erasing: float = 0.0
    """Share of the images of which a random rectangle is painted over (arXiv 1708.04896)."""
    erasing_fill: Literal["zero", "noise"] = "zero"
    """With what: zero, the mean of the data, or noise."""
    mixup: float = 0.0
    """Alpha of mixup (arXiv 1710.09412); 0: none."""
    cutmix: float = 0.0
    """Alpha of CutMix (arXiv 1905.04899); 0: none."""
    mix_probability: float = 1.0
    """Share of the images that are mixed, where either alpha is above 0."""
    mix_switch: float = 0.5
    """Share of the mixed ones that CutMix mixes, where both alphas are above 0."""
    mix_off_epochs: float = 0.0
    """Epochs at the end of the training in which nothing is mixed."""
    repeats: int = 1
    """Copies of each image in a batch, each augmented on its own (arXiv 1901.09335)."""

    def problems(self) -> list[str]:
        """Every field outside its range, in words."""
        ranges: dict[str, tuple[float, float]] = {
            **dict.fromkeys(("repeats", "rand_operations"), (1, math.inf)),
            **dict.fromkeys(("crop_padding", "mixup", "cutmix", "rand_std"), (0, math.inf)),
            **dict.fromkeys(("colour_jitter", "mix_off_epochs"), (0, math.inf)),
            **dict.fromkeys(("rand_probability", "mix_probability", "mix_switch"), (0, 1)),
            "erasing": (0, 1),
            "rand_magnitude": (0, 10),
        }
        found = [
            f"{name}={getattr(self, name)}: should be at least {least}"
            + (f" and at most {most}" if most < math.inf else "")
            for name, (least, most) in ranges.items()
            if not (least <= getattr(self, name) <= most and getattr(self, name) < math.inf)
        ]
        area, ratio = self.crop_area, self.crop_ratio
        if area is not None and not 0 < area[0] <= area[1] <= 1:
            found.append(f"crop_area={area}: should be two shares above 0 and at most 1, in order")
        if not 0 < ratio[0] <= ratio[1] < math.inf:
            found.append(f"crop_ratio={ratio}: should be two numbers above 0, in order")
        if area is not None and self.crop_padding:
            found.append(f"crop_area={area}: augment.crop_padding crops as well; choose one")
        return found

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    @property
    def recolours(self) -> bool:
        return self.policy != "none" or self.colour_jitter > 0


def example_keys(key: Key[Array, ""], number: Int[Array, "b"]) -> Key[Array, "b"]:
    """One key per example, from one key and the example's place in the batch, or in the data."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, number)


def augment(
    keys: Key[Array, "b"],
    images: Num[Array, "b h w c"],
    config: AugmentConfig,
    mean: tuple[float, ...],
    mirror: Bool[Array, "b"] | None = None,
) -> Num[Array, "b h w c"]:
    """Crops, flips and colours: all that is done to pixels before they are normalised.

    Args:
      images: uint8, uint16, or float32 of any range.
      mean: of the data, in 0..1, which comes in from outside where an image is turned or moved.
      mirror: which images to mirror, for alternating flips.

    Returns:
      images as they came, or float32 in 0..1 where they had to be interpolated or recoloured.
    """
    if config.crop_padding:
        images = random_crop(_fold(keys, CROP), images, config.crop_padding, config.crop_fill)
    if config.crop_area is not None:
        images, crop_keys = unit_range(images), _fold(keys, CROP)
        _, height, width, _ = images.shape
        box = config.crop_area, config.crop_ratio
        images = warp.random_resized_crop(crop_keys, images, (height, width), *box)
    if config.flip == "random":
        mirror = jax.vmap(jax.random.bernoulli)(_fold(keys, FLIP))
    if config.flip != "none":
        assert mirror is not None, "alternating flips are decided outside"
        images = flip(images, mirror)
    if config.recolours:
        images = _recolour(keys, unit_range(images), config, mean)
    return images


def alternating(first: Key[Array, "b"], epoch: Int[Array, ""]) -> Bool[Array, "b"]:
    """Which images to mirror in an epoch: half of them in the even ones, the others in the odd.

    `first` are keys that stay an example's own through the whole training.
    """
    return jax.vmap(jax.random.bernoulli)(first) ^ (epoch % 2 == 1)


def erase_and_mix(
    keys: Key[Array, "b"],
    images: Float[Array, "b h w c"],
    labels: Int[Array, "b"],
    mask: Float[Array, "b"],
    config: AugmentConfig,
    mixing: bool | Bool[Array, ""] = True,
) -> Mixed:
    """What is done to normalised images; `mixing` is false in the last epochs."""
    if config.erasing:
        erasing_keys = _fold(keys, ERASING)
        images = random_erasing(erasing_keys, images, config.erasing, fill=config.erasing_fill)
    if not config.mixes:
        return Mixed(images, labels, labels, jnp.ones(len(labels)))
    return mix(
        *(_fold(keys, MIXING), images, labels, mask),
        mixup=config.mixup,
        cutmix=config.cutmix,
        probability=config.mix_probability,
        switch=config.mix_switch,
        active=mixing,
    )


def random_crop(
    keys: Key[Array, "b"],
    images: Num[Array, "b h w c"],
    padding: int,
    fill: Literal["black", "reflect"] = "black",
) -> Num[Array, "b h w c"]:
    """Pad each side with `padding` pixels and cut the original size out at random."""
    mode = "constant" if fill == "black" else "reflect"
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode)

    def crop(key, image):
        corner = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

    return jax.vmap(crop)(keys, padded)


def flip(images: Num[Array, "b h w c"], mirror: Bool[Array, "b"]) -> Num[Array, "b h w c"]:
    """Mirror the chosen images left to right."""
    return jnp.where(mirror[:, None, None, None], images[:, :, ::-1], images)


def unit_range(images: Num[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Integers divided by the largest of their type, as float32 in 0..1; floats as they are."""
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) / jnp.iinfo(images.dtype).max
    return images.astype(jnp.float32)


def normalise(
    images: Num[Array, "b h w c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b h w c"]:
    """(pixels in 0..1 - mean) / std per channel, in float32; floats are taken as they are."""
    pixels = unit_range(images)
    return (pixels - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def _recolour(
    keys: Key[Array, "b"],
    images: Float[Array, "b h w c"],
    config: AugmentConfig,
    mean: tuple[float, ...],
) -> Float[Array, "b h w c"]:
    policy_keys = _fold(keys, POLICY)
    if config.policy == "randaugment":
        images = policies.rand_augment(
            *(policy_keys, images, mean),
            num_ops=config.rand_operations,
            magnitude=config.rand_magnitude,
            magnitude_std=config.rand_std,
            probability=config.rand_probability,
        )
    elif config.policy == "trivialaugment":
        images = policies.trivial_augment(policy_keys, images, mean)
    elif config.policy == "threeaugment":
        images = policies.three_augment(policy_keys, images)
    if config.colour_jitter:
        strengths = 3 * (config.colour_jitter,)
        images = colour.colour_jitter(_fold(keys, JITTER), images, *strengths)
    return images


def _fold(keys: Key[Array, "b"], number: int) -> Key[Array, "b"]:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
