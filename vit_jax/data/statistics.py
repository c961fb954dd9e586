"""Mean and standard deviation of a set's pixels."""

import numpy as np

from vit_jax.data.encoded import FileSource, decode_all, spread
from vit_jax.data.source import ArraySource, DataError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations, per channel."""

SAMPLE = 4096
"""Images read for the statistics of a set that is not in memory."""


def source_statistics(source: ArraySource | FileSource) -> Statistics:
    """Mean and standard deviation per channel, of pixels in 0..1 (of floats as they are).

    Of all images in memory that could be read; else of `SAMPLE` files spread evenly over the set.
    """
    if isinstance(source, ArraySource):
        images = np.delete(source.images, list(source.bad), axis=0) if source.bad else source.images
        return channel_statistics(images)
    decoded = decode_all(source.take(np.array(spread(len(source), SAMPLE))))
    if len(decoded.bad) == len(decoded):
        raise DataError(
            f"none of {len(decoded)} training files looked at holds a picture: {decoded.name(0)} "
            f"{decoded.bad[0]}"
        )
    return source_statistics(decoded)


def channel_statistics(images: np.ndarray) -> Statistics:
    """Mean and standard deviation per channel of [n, h, w, c], of pixels in 0..1.

    Integers are divided by the largest value of their type and computed exactly, from a histogram;
    floats are taken as they are, in double precision.
    """
    channels = [images[..., channel] for channel in range(images.shape[-1])]
    if images.dtype.kind == "f":
        means = [float(channel.mean(dtype=np.float64)) for channel in channels]
        stds = [float(channel.std(dtype=np.float64)) for channel in channels]
        return tuple(means), tuple(stds)
    return _transposed([_of_histogram(channel) for channel in channels])


def _of_histogram(channel: np.ndarray) -> tuple[float, float]:
    top = np.iinfo(channel.dtype).max
    counts = np.zeros(top + 1, np.int64)
    # In parts: bincount holds its argument as 64-bit integers, eight times the pixels' own size.
    for part in np.array_split(channel, max(1, channel.size >> 24)):
        counts += np.bincount(part.reshape(-1), minlength=top + 1)
    values = np.arange(top + 1) / top
    mean = float((counts * values).sum() / counts.sum())
    variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
    return mean, variance**0.5


def _transposed(pairs: list[tuple[float, float]]) -> Statistics:
    means, stds = zip(*pairs, strict=True)
    return means, stds
