"""StableHLO files, as jax.export writes and reads them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax import export

PLATFORMS = ("cpu", "cuda", "tpu")


def write(forward: Callable[[Any], Any], spec: jax.ShapeDtypeStruct, output: str) -> bytes:
    """The bytes of a file for all of PLATFORMS; needs flatbuffers.

    Args:
      forward: compiled by jax.jit, with the weights inside.
      spec: of the pixels; a symbolic axis stays free.
      output: its name, for which there is no place.
    """
    del output
    with _without_paths():
        return bytes(export.export(cast(Any, forward), platforms=PLATFORMS)(spec).serialize())


def read(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A file as a function pixels -> outputs, on jax's default device."""
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda pixels: np.asarray(call(pixels))


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
    """Without the places in the code, which are paths on the machine that exports."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
