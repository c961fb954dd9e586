"""ONNX files: written by jax2onnx, run by onnxruntime."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np


def write(forward: Callable[[Any], Any], spec: jax.ShapeDtypeStruct, output: str) -> bytes:
    """The bytes of an ONNX file with one input, `pixels`, and one output.

    Args:
      forward: with the weights inside.
      spec: of the pixels; a symbolic axis stays free.
      output: its name.

    Raises:
      onnx.checker.ValidationError: what jax2onnx made is no valid ONNX.
    """
    # Not everywhere installed.
    import jax2onnx  # pyrefly: ignore[missing-import]
    import onnx  # pyrefly: ignore[missing-import]

    with _without_notes(), _without_traces():
        model = jax2onnx.to_onnx(
            forward, [spec], model_name="vit", input_names=["pixels"], output_names=[output]
        )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def read(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A file as a function pixels -> outputs, on the CPU."""
    import onnxruntime  # pyrefly: ignore[missing-import]

    # By its bytes: a file under a temporary name has not got the ending yet.
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """onnx_ir warns of each axis length whose type it does not note; the checker comes after."""
    log = logging.getLogger("onnx_ir.serde")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _without_traces() -> Iterator[None]:
    """jax2onnx traces with operations of its own, and what jax keeps of that cannot be run."""
    try:
        yield
    finally:
        jax.clear_caches()
