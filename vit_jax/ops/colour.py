"""Colours of whole batches, inside jit: Pillow's ImageEnhance and ImageOps on pixels of 0..1.

Pillow works with whole levels of 1/255 and cuts or rounds after each operation; here pixels stay
float32, and levels are rounded only where an operation is about levels (`posterize`, `equalize`).
Images have 1 or 3 channels. Factors are Pillow's: 1 changes nothing, 0 gives the degenerate image.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

LEVELS = 255
"""The white of an 8-bit picture."""
EXACT = jax.lax.Precision.HIGHEST
"""For products: accelerators round the factors otherwise."""
_BINS = LEVELS + 1
_LUMA = (0.299, 0.587, 0.114)
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def brightness(
    images: Float[Array, "b h w c"], factor: Float[Array, "b"]
) -> Float[Array, "b h w c"]:
    """Away from black."""
    return blend(jnp.zeros_like(images), images, factor)


def contrast(images: Float[Array, "b h w c"], factor: Float[Array, "b"]) -> Float[Array, "b h w c"]:
    """Away from the mean grey of the image."""
    return blend(mean_grey(images), images, factor)


def colour(images: Float[Array, "b h w c"], factor: Float[Array, "b"]) -> Float[Array, "b h w c"]:
    """Saturation: away from the grey image. Grey images stay as they are."""
    return images if images.shape[3] == 1 else blend(luma(images), images, factor)


def sharpness(
    images: Float[Array, "b h w c"], factor: Float[Array, "b"]
) -> Float[Array, "b h w c"]:
    """Away from the smoothed image; pixels at the edge stay as they are."""
    return blend(smooth(images), images, factor)


def blend(
    base: Float[Array, "..."], images: Float[Array, "b h w c"], factor: Float[Array, "b"]
) -> Float[Array, "b h w c"]:
    """base + factor * (images - base) within 0..1; a factor of 1 gives exactly `images`."""
    factor = per_image(factor)
    return jnp.clip(factor * images + (1 - factor) * base, 0, 1)


def per_image(values: Shaped[Array, "b"]) -> Shaped[Array, "b 1 1 1"]:
    """To stand beside images [b, h, w, c]."""
    return values[:, None, None, None]


def luma(images: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
    """Grey as in Pillow's mode "L" (ITU-R BT.601)."""
    if images.shape[3] == 1:
        return images
    _require_rgb(images)
    red, green, blue = (weight * images[..., i : i + 1] for i, weight in enumerate(_LUMA))
    return red + green + blue


def mean_grey(images: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 1"]:
    """The mean of `luma`, which Pillow rounds to a level."""
    batch, height, width, channels = images.shape
    if channels == 1:
        return images.mean(axis=(1, 2), keepdims=True)
    _require_rgb(images)
    # As a product: on a CPU ten times as fast as a sum over pixels.
    weights = jnp.tile(jnp.array(_LUMA), height * width) / (height * width)
    means = jnp.matmul(images.reshape(batch, -1), weights, precision=EXACT)
    return per_image(means)


def smooth(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Pillow's ImageFilter.SMOOTH: of 3x3 pixels, the middle one counts 5 of 13; the edge stays."""
    batch, height, width, channels = images.shape
    # One long line per image: its neighbours above are `width * channels` values before. Sums of
    # such slices are twice as fast on a CPU as those of slices of rows and columns.
    line = images.reshape(batch, -1)
    margin = (width + 1) * channels
    padded = jnp.pad(line, ((0, 0), (margin, margin)))
    starts = [channels * (width * row + column) for row in range(3) for column in range(3)]
    square = sum(padded[:, start : start + line.shape[1]] for start in starts)
    inner = [(jnp.arange(n) > 0) & (jnp.arange(n) < n - 1) for n in (height, width)]
    inner = jnp.broadcast_to((inner[0][:, None] & inner[1])[:, :, None], images.shape[1:])
    return jnp.where(inner.reshape(-1), (square + 4 * line) / 13, line).reshape(images.shape)


def invert(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The negative."""
    return 1 - images


def grayscale(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Grey, in as many channels as before."""
    return jnp.broadcast_to(luma(images), images.shape)


def solarize(
    images: Float[Array, "b h w c"], threshold: Float[Array, "b"]
) -> Float[Array, "b h w c"]:
    """The negative of all values from the threshold, 0..1, on."""
    # A value that is equal up to rounding counts as equal.
    return jnp.where(images < per_image(threshold) - 1e-5, images, 1 - images)


def solarize_add(
    images: Float[Array, "b h w c"], addition: Float[Array, "b"]
) -> Float[Array, "b h w c"]:
    """Add to the dark values, those below level 128, up to white."""
    dark = images < 127.5 / LEVELS
    return jnp.where(dark, jnp.minimum(images + per_image(addition), 1), images)


def posterize(images: Float[Array, "b h w c"], bits: Float[Array, "b"]) -> Float[Array, "b h w c"]:
    """Keep the upper 0..8 bits of each level; 8 changes nothing."""
    step = per_image(jnp.exp2(8.0 - bits))
    kept = jnp.floor(jnp.round(images * LEVELS) / step) * step / LEVELS
    return jnp.where(step > 1, kept, images)


def autocontrast(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Stretch each channel to 0..1; one of a single level stays as it is."""
    scale, offset = stretch(images)
    return jnp.clip(images * scale + offset, 0, 1)


def stretch(
    images: Float[Array, "b h w c"],
) -> tuple[Float[Array, "b 1 1 c"], Float[Array, "b 1 1 c"]]:
    """Scale and offset that bring each channel to 0..1."""
    # Both in one pass, which takes a CPU a quarter of the time of jnp.min and jnp.max.
    low, high = jax.lax.reduce(
        (images, images),
        (jnp.float32(jnp.inf), jnp.float32(-jnp.inf)),
        lambda a, b: (jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])),
        dimensions=(1, 2),
    )
    low, high = low[:, None, None, :], high[:, None, None, :]
    varied = high - low > 0.5 / LEVELS
    scale = 1 / jnp.where(varied, high - low, 1)
    return scale, jnp.where(varied, -low * scale, 0)


def equalize(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Make the levels of each channel equally frequent, by Pillow's formula in whole numbers."""
    batch, channels = len(images), images.shape[3]
    # Within bounds come what may, since nothing checks them later on.
    levels = jnp.clip(jnp.round(images * LEVELS).astype(int), 0, LEVELS)
    # Levels are numbered through the channels of an image.
    levels = (levels + _BINS * jnp.arange(channels)).reshape(batch, -1)
    bins = _BINS * channels
    counts = jax.lax.platform_dependent(
        levels,
        cpu=functools.partial(_histograms_in_one, bins=bins),
        default=functools.partial(_histograms, bins=bins),
    ).reshape(batch, channels, _BINS)
    below = _cumulated(counts)
    # All pixels but those of the highest level that occurs, in whole numbers, as all that follows.
    lower = jnp.max(jnp.where(counts > 0, below, 0), axis=2)[:, None, None, :]
    step = jnp.floor((lower + 0.5) / LEVELS)
    # Looked up before the division: XLA would divide once per pixel all the same, and a table of
    # quotients took three times as long.
    look_up = jax.vmap(lambda table, level: table.at[level].get(mode="promise_in_bounds"))
    darker = look_up(below.reshape(batch, bins), levels).reshape(images.shape)
    equal = jnp.floor((darker + jnp.floor(step / 2) + 0.5) / jnp.maximum(step, 1))
    # Pillow leaves a channel alone that has too few pixels or levels.
    return jnp.where(step > 0, jnp.minimum(equal, LEVELS) / LEVELS, images)


def gaussian_blur(
    images: Float[Array, "b h w c"], sigma: Float[Array, "b"]
) -> Float[Array, "b h w c"]:
    """Pillow's GaussianBlur of `sigma` pixels: three box blurs, each as a matrix per axis.

    Beyond the edge, the pixels at the edge go on. A box whose two end pixels count in part can have
    any variance: the extended box filter of Gwosdek et al. (SSVM 2011, section 3).
    """
    variance = sigma**2 / 3
    whole = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    radius = whole + part / (6 * (variance - (whole + 1) ** 2))
    down, across = (_box_matrices(radius, length) for length in images.shape[1:3])
    for _ in range(3):
        images = jnp.einsum("bHh,bhwc->bHwc", down, images, precision=EXACT)
        images = jnp.einsum("bWw,bHwc->bHWc", across, images, precision=EXACT)
    return images


def _box_matrices(radius: Float[Array, "b"], length: int) -> Float[Array, "b n n"]:
    radius, place = radius[:, None, None], jnp.arange(length)
    distance = jnp.abs(place[:, None] - place)
    inner = jnp.clip(radius + 1 - distance, 0, 1)
    # The first and the last pixel stand for all beyond them, too.
    whole = jnp.floor(radius)
    beyond = jnp.maximum(whole + 1 - distance, 0)
    beyond += jnp.where(distance <= whole + 1, radius - whole, 0)
    weights = jnp.where((place == 0) | (place == length - 1), beyond, inner)
    return weights / weights.sum(axis=2, keepdims=True)


def colour_jitter(
    keys: Key[Array, "b"],
    images: Float[Array, "b h w c"],
    brightness: float,
    contrast: float,
    saturation: float,
) -> Float[Array, "b h w c"]:
    """The three of torchvision's ColorJitter without hue, in an order drawn for each image.

    Each factor is uniform in max(0, 1 - strength) .. 1 + strength; a strength of 0 is no change.
    """
    orders, factors = draw_colour_jitter(keys, (brightness, contrast, saturation))
    for turn in range(3):
        kind = orders[:, turn]
        factor = jnp.take_along_axis(factors, kind[:, None], axis=1)[:, 0]
        base = jnp.where(per_image(kind == 1), mean_grey(images), luma(images))
        images = blend(jnp.where(per_image(kind == 0), 0, base), images, factor)
    return images


def draw_colour_jitter(
    keys: Key[Array, "b"], strengths: tuple[float, float, float]
) -> tuple[Int[Array, "b 3"], Float[Array, "b 3"]]:
    """Each image's order of brightness 0, contrast 1 and saturation 2, and their factors."""
    low = jnp.array([max(0.0, 1 - strength) for strength in strengths])
    high = jnp.array([1 + strength for strength in strengths])

    def draw(key):
        order_key, factor_key = jax.random.split(key)
        order = jnp.array(_ORDERS)[jax.random.randint(order_key, (), 0, len(_ORDERS))]
        return order, jax.random.uniform(factor_key, (3,), jnp.float32, low, high)

    return jax.vmap(draw)(keys)


def _require_rgb(images: Float[Array, "b h w c"]) -> None:
    if images.shape[3] != 3:
        raise ValueError(f"colours are of images with 1 or 3 channels, not {images.shape[3]}")


def _histograms(levels: Int[Array, "b pixels"], bins: int) -> Int[Array, "b bins"]:
    def histogram(line):
        return jnp.zeros(bins, int).at[line].add(1, mode="promise_in_bounds")

    return jax.vmap(histogram)(levels)


def _histograms_in_one(levels: Int[Array, "b pixels"], bins: int) -> Int[Array, "b bins"]:
    """The same as one long histogram: four times as fast on a CPU, but it mixes devices' shares."""
    places = levels + bins * jnp.arange(len(levels))[:, None]
    counts = jnp.zeros(len(levels) * bins, int).at[places].add(1, mode="promise_in_bounds")
    return counts.reshape(-1, bins)


def _cumulated(counts: Int[Array, "b c bins"]) -> Float[Array, "b c bins"]:
    """For each bin the sum of those before, as two small products; exact below 2^24."""
    side = math.isqrt(_BINS)
    before = jnp.triu(jnp.ones((side, side), jnp.float32), 1)
    groups = counts.astype(jnp.float32).reshape(*counts.shape[:2], side, side)
    within = jnp.matmul(groups, before, precision=EXACT)
    earlier = jnp.matmul(groups.sum(axis=3), before, precision=EXACT)
    return (within + earlier[..., None]).reshape(counts.shape)
