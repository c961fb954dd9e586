"""The feeds of a training: resident where the images fit the devices, else streaming."""

import os
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from vit_jax.data.cache import cached_on_disk
from vit_jax.data.encoded import FileSource, decode_all
from vit_jax.data.order import Order
from vit_jax.data.resident import ResidentFeed
from vit_jax.data.source import ArraySource, DataConfig, DataError
from vit_jax.data.streaming import RandomCrop, StreamingFeed

AnySource = ArraySource | FileSource


@runtime_checkable
class Feed(Protocol):
    """Batches as a function of the step number alone."""

    order: Order
    num_examples: int
    batch_size: int
    """Of all processes together."""
    steps_per_epoch: int
    bad_images: dict[str, str]
    """Files that held no picture, by name, and why; as far as they have been met."""
    resident: Any
    """What is on the devices all the time."""

    @property
    def sharding(self) -> NamedSharding | None:
        """Of `resident`; None where there is nothing."""
        ...

    @property
    def crops_on_host(self) -> bool:
        """Whether random crops are cut out of the files already."""
        ...

    def plan(self, step: int) -> dict[str, np.ndarray]:
        """What this process sends for a step, counted from 0 over all epochs."""
        ...

    def gather(self, resident: Any, plan: Any) -> Any:
        """The batch of a plan; runs inside jit, on the devices."""
        ...

    def close(self) -> None: ...


def settle(
    config: DataConfig,
    sources: Mapping[str, AnySource],
    replicated: NamedSharding,
    split: NamedSharding,
) -> tuple[dict[str, AnySource], NamedSharding | None]:
    """The sources as their feeds take them, decoded where they are to be held or cached.

    Args:
      replicated, split: how resident images lie: every device holds them whole, or a share.

    Returns:
      the sources, and the sharding of resident images; None where they stream.

    Raises:
      DataError: a file holds no picture and is not to be skipped, or `feed` is "resident" and the
        images do not fit.
    """
    sharding = _sharding(config, sources, replicated, split)
    settled = {use: _decoded(config, source, sharding) for use, source in sources.items()}
    for use, source in settled.items():
        if isinstance(source, ArraySource) and len(source.bad) == len(source):
            first = next(iter(source.bad))
            raise DataError(
                f"none of the {len(source)} files of the split for {use!r} holds a picture: "
                f"{source.name(first)} {source.bad[first]}"
            )
    return settled, sharding


def make_feed(
    config: DataConfig,
    source: AnySource,
    order: Order,
    sharding: NamedSharding | None,
    crop: RandomCrop | None = None,
    evaluates: bool = False,
) -> Feed:
    """The feed of a source that is settled.

    Args:
      sharding: as `settle` returns it.
      crop: cut out of files as they are read. Images that are decoded already are left whole.
    """
    if sharding is not None:
        assert isinstance(source, ArraySource), "settled"
        return ResidentFeed(source, order, sharding)
    decodes = isinstance(source, FileSource)
    cores = min(16, os.cpu_count() or 1)
    workers = cores if config.workers is None else config.workers
    return StreamingFeed(
        source,
        order,
        # Evaluations come seldom: processes of their own would hold memory, waiting. And images in
        # memory would have to be sent to each process whole.
        workers=workers if decodes and not evaluates else 0,
        threads=cores if decodes else 1,
        crop=crop if decodes else None,
        skip_bad=config.on_bad_image == "skip",
    )


def _sharding(
    config: DataConfig,
    sources: Mapping[str, AnySource],
    replicated: NamedSharding,
    split: NamedSharding,
) -> NamedSharding | None:
    """How resident images lie on the devices; None: they stream."""
    needed = sum(len(source) * _image_bytes(source) for source in sources.values())
    devices = list(replicated.mesh.local_devices)
    room = _smallest(config.resident_share * _memory(devices[0].memory_stats(), len(devices)))
    devices = list(replicated.mesh.devices.flat)
    if config.feed == "streaming":
        return None
    if needed <= room:
        return replicated
    if needed <= room * len(devices):
        return split
    if config.feed == "auto":
        return None
    raise DataError(
        f"data.feed='resident': the images take {needed / 1e9:.1f} GB, above the share "
        f"data.resident_share={config.resident_share} of the memory of {len(devices)} devices, "
        f"{room * len(devices) / 1e9:.1f} GB: raise the share, or choose data.feed='streaming'"
    )


def _smallest(room: float) -> float:
    """That of the process with the least: all have to choose the same feed."""
    if jax.process_count() == 1:
        return room
    # float32 is what JAX sends.
    return float(multihost_utils.process_allgather(np.float32(room)).min())


def _image_bytes(source: AnySource) -> int:
    return int(np.prod(source.image_shape)) * source.dtype.itemsize


def _memory(stats: Mapping[str, int] | None, devices: int) -> int:
    """Bytes of a device's memory by its statistics; of a CPU device, its part of the machine's."""
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // devices


def _decoded(config: DataConfig, source: AnySource, sharding: NamedSharding | None) -> AnySource:
    if isinstance(source, ArraySource):
        return source
    skip_bad = config.on_bad_image == "skip"
    if config.cache == "disk":
        return cached_on_disk(source, skip_bad)
    return decode_all(source, skip_bad) if sharding or config.cache == "memory" else source
