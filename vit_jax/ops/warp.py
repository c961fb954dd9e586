"""Geometry of whole batches, inside jit: affine transforms, and crops resized as Pillow does.

Coordinates are Pillow's: x to the right, y down, in pixels from the upper left corner of the upper
left pixel, so the centre of pixel (column, row) is at (column + 0.5, row + 0.5).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

_ATTEMPTS = 10


def affine_warp(
    images: Float[Array, "b h w c"],
    matrices: Float[Array, "b 2 3"],
    fill: tuple[float, ...],
    interpolation: Literal["bilinear", "nearest"] = "bilinear",
) -> Float[Array, "b h w c"]:
    """The pixel at (x, y) takes the input's value at `matrix @ (x, y, 1)`.

    This is Pillow's `Image.transform(size, AFFINE, matrix.ravel(), resample, fillcolor=fill)`. A
    point outside the picture gives `fill`; within half a pixel of its edge, the bilinear one
    repeats the pixels at the edge. Pillow then cuts to 8 bits, on average half a level darker.
    fill: one value per channel.
    """
    if len(fill) != images.shape[3]:
        raise ValueError(f"fill has {len(fill)} values for {images.shape[3]} channels")
    sample = _nearest if interpolation == "nearest" else _bilinear

    def warp(image, matrix):
        height, width, _ = image.shape
        row, column = jnp.arange(height)[:, None] + 0.5, jnp.arange(width) + 0.5
        x, y = (line[0] * column + line[1] * row + line[2] for line in matrix)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        return jnp.where(inside[:, :, None], sample(image, x, y), jnp.array(fill, image.dtype))

    return jax.vmap(warp)(images, matrices)


def shear_x(factor: Float[Array, "b"]) -> Float[Array, "b 2 3"]:
    """x + factor * y, which leaves the uppermost edge where it is."""
    return _matrices(1, factor, 0, 0, 1, 0)


def shear_y(factor: Float[Array, "b"]) -> Float[Array, "b 2 3"]:
    """y + factor * x, which leaves the left edge where it is."""
    return _matrices(1, 0, 0, factor, 1, 0)


def translate_x(pixels: Float[Array, "b"]) -> Float[Array, "b 2 3"]:
    """x + pixels: what is seen moves to the left."""
    return _matrices(1, 0, pixels, 0, 1, 0)


def translate_y(pixels: Float[Array, "b"]) -> Float[Array, "b 2 3"]:
    """y + pixels: what is seen moves up."""
    return _matrices(1, 0, 0, 0, 1, pixels)


def rotate(degrees: Float[Array, "b"], height: int, width: int) -> Float[Array, "b 2 3"]:
    """About the centre of the picture, counterclockwise, as Pillow's `Image.rotate`."""
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    x, y = width / 2, height / 2
    return _matrices(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def compose(first: Float[Array, "b 2 3"], second: Float[Array, "b 2 3"]) -> Float[Array, "b 2 3"]:
    """The one transform that does what `first` and then `second` do.

    Unlike the two in turn, it interpolates once, and what `first` pushes out of the picture can
    come back.
    """
    # Second's output looks up first's output, which looks up the input. Not a matrix product:
    # accelerators round the factors of those.
    linear = sum(first[:, :, i, None] * second[:, i, None, :] for i in range(2))
    return linear + jnp.pad(first[:, :, 2:], ((0, 0), (0, 0), (2, 0)))


def crop_and_resize(
    images: Float[Array, "b h w c"],
    boxes: Float[Array, "b 4"],
    size: tuple[int, int],
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
    antialias: bool = True,
) -> Float[Array, "b H W c"]:
    """Pillow's `Image.resize((W, H), resample, box)` in float: two products with small matrices.

    boxes: top, left, height and width in pixels, within the picture. At a box's edge the kernel
      reads the pixels beyond it, as Pillow's `box` does.
    size: (H, W).
    antialias: widen the kernel to an output pixel where the box shrinks, as Pillow always does.
    """
    (_, height, width, _), boxes = images.shape, boxes.astype(images.dtype)
    top, left, box_height, box_width = boxes.T
    down = _resize_matrices(top, box_height, height, size[0], interpolation, antialias)
    across = _resize_matrices(left, box_width, width, size[1], interpolation, antialias)
    exact = jax.lax.Precision.HIGHEST
    images = jnp.einsum("bHh,bhwc->bHwc", down, images, precision=exact)
    images = jnp.einsum("bWw,bHwc->bHWc", across, images, precision=exact)
    return jnp.clip(images, 0, 1)  # a cubic overshoots


def sample_boxes(
    keys: Key[Array, "b"],
    height: int,
    width: int,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Float[Array, "b 4"]:
    """Random boxes in whole pixels, as torchvision's RandomResizedCrop draws them.

    The share of the picture's area is uniform in `area`, the logarithm of width / height in
    `ratio`; a box that does not fit is drawn again. When none of 10 fits, it is the largest
    centred one of allowed ratio (after Szegedy et al., arXiv 1409.4842, section 6).
    """
    fallback = jnp.array(_centred_box(height, width, ratio), jnp.float32)

    def sample(key):
        size_key, corner_key = jax.random.split(key)
        shares, logarithms = jax.random.uniform(size_key, (2, _ATTEMPTS))
        areas = (area[0] + (area[1] - area[0]) * shares) * (height * width)
        ratios = ratio[0] * (ratio[1] / ratio[0]) ** logarithms
        sizes = jnp.round(jnp.sqrt(jnp.stack([areas / ratios, areas * ratios], axis=1)))
        whole = jnp.array([height, width], jnp.float32)
        fits = ((sizes > 0) & (sizes <= whole)).all(axis=1)
        size = sizes[jnp.argmax(fits)]
        corner = jnp.floor(jax.random.uniform(corner_key, (2,)) * (whole - size + 1))
        # A product that rounds up would be one pixel too far.
        box = jnp.concatenate([jnp.minimum(corner, whole - size), size])
        return jnp.where(fits.any(), box, fallback)

    return jax.vmap(sample)(keys)


def random_resized_crop(
    keys: Key[Array, "b"],
    images: Float[Array, "b h w c"],
    size: tuple[int, int],
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
) -> Float[Array, "b H W c"]:
    """A random box of each picture (`sample_boxes`), resized to `size`, (H, W)."""
    _, height, width, _ = images.shape
    boxes = sample_boxes(keys, height, width, area, ratio)
    return crop_and_resize(images, boxes, size, interpolation)


def _matrices(*entries) -> Float[Array, "b 2 3"]:
    """[b, 2, 3] of six numbers or [b], row by row."""
    return jnp.stack(jnp.broadcast_arrays(*entries), axis=-1).reshape(-1, 2, 3)


def _nearest(image: Float[Array, "h w c"], x: Array, y: Array) -> Float[Array, "h w c"]:
    return _pixels(image, jnp.floor(x).astype(int), jnp.floor(y).astype(int))


def _bilinear(image: Float[Array, "h w c"], x: Array, y: Array) -> Float[Array, "h w c"]:
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    right_weight, bottom_weight = (x - 0.5 - left)[:, :, None], (y - 0.5 - top)[:, :, None]
    left, top = left.astype(int), top.astype(int)

    def line(row):
        start, end = _pixels(image, left, row), _pixels(image, left + 1, row)
        return start + (end - start) * right_weight

    upper, lower = line(top), line(top + 1)
    return upper + (lower - upper) * bottom_weight


def _pixels(image: Float[Array, "h w c"], column: Array, row: Array) -> Float[Array, "h w c"]:
    """The pixels at these places, or at the edge nearest to them."""
    height, width, channels = image.shape
    column, row = jnp.clip(column, 0, width - 1), jnp.clip(row, 0, height - 1)
    # One index for row and column, and no check of it: twice as fast on a CPU.
    flat = image.reshape(height * width, channels)
    return flat.at[row * width + column].get(mode="promise_in_bounds")


def _resize_matrices(
    start: Float[Array, "b"],
    length: Float[Array, "b"],
    old: int,
    new: int,
    interpolation: Literal["bicubic", "bilinear"],
    antialias: bool,
) -> Float[Array, "b {new} {old}"]:
    """Each resamples `length` pixels from `start` on a line of `old` at `new` places."""
    kernel, support = (_cubic, 2) if interpolation == "bicubic" else (_triangle, 1)
    step = (length / new)[:, None]
    widening = jnp.maximum(step, 1) if antialias else jnp.ones_like(step)
    centre = start[:, None] + (jnp.arange(new) + 0.5) * step
    # Pillow rounds the ends of the kernel to whole pixels; what is cut off there is not zero.
    first = jnp.floor(centre - support * widening + 0.5)
    last = jnp.floor(centre + support * widening + 0.5)
    samples = jnp.arange(old)
    weights = kernel((samples + 0.5 - centre[:, :, None]) / widening[:, :, None])
    used = (samples >= first[:, :, None]) & (samples < last[:, :, None])
    weights = jnp.where(used, weights, 0)
    return weights / weights.sum(axis=2, keepdims=True)


def _triangle(distance: Array) -> Array:
    return jnp.maximum(1 - jnp.abs(distance), 0)


def _cubic(distance: Array) -> Array:
    """Keys' cubic convolution kernel (IEEE TASSP 29(6), 1981, equation 15: a = -1/2)."""
    x = jnp.abs(distance)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x <= 1, near, jnp.where(x < 2, far, 0))


def _centred_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, ...]:
    """Top, left, height and width of the largest centred box of a ratio within `ratio`."""
    if width / height < ratio[0]:
        size = round(width / ratio[0]), width
    elif width / height > ratio[1]:
        size = height, round(height * ratio[1])
    else:
        size = height, width
    return (height - size[0]) // 2, (width - size[1]) // 2, *size
