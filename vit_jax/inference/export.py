"""A trained model as one file that runs without this package: StableHLO or ONNX.

The function in the file takes pixels as decoded and holds the normalisation, so that nobody can
forget it; a JSON beside it says what comes before.
"""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal, cast

import jax
import numpy as np
from jax.export import symbolic_shape
from jaxtyping import Array, Float, Num

import vit_jax
from vit_jax.data.cache import whole_file
from vit_jax.data.decode import decode
from vit_jax.inference import export_onnx as onnx_file
from vit_jax.inference import export_stablehlo as stablehlo_file
from vit_jax.inference.export_card import card_text
from vit_jax.inference.export_check import in_batches, largest_difference, random_batches
from vit_jax.inference.saved import SavedModel
from vit_jax.ops.augment import normalise
from vit_jax.train.fill_in import input_shape

TOLERANCE = 1e-5
"""Largest difference between the file's outputs and the model's, relative to the largest output."""
LARGEST_WEIGHTS = 2**31 - 2**26
"""Bytes. A flatbuffer and a protocol buffer both end at 2 GiB; the rest is for the operations."""
BatchSize = Literal["symbolic"] | int
Forward = Callable[[Num[Array, "b h w c"]], Float[Array, "b ..."]]
Run = Callable[[np.ndarray], np.ndarray]
"""A file that was read back: pixels -> outputs."""


class ExportError(ValueError):
    """A model that cannot be exported as asked; the message says why, or what is missing."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    card: Path
    """The JSON that says what goes in and what comes out."""
    size: int
    """Bytes of the file."""
    difference: float
    """From the model: the largest, relative to the largest output."""
    images: int
    """On how many images it was measured."""


@dataclasses.dataclass(frozen=True)
class Format:
    """How one kind of file is written and read back."""

    name: str
    ending: str
    packages: tuple[str, ...]
    """To write it, as they are imported."""
    install: str
    """The command that brings them."""
    write: Callable[[Forward, jax.ShapeDtypeStruct, str], bytes]
    """(function, its input, name of its output) -> the file."""
    read: Callable[[Path], Run]
    needs: str
    """The command that brings what reading takes."""
    code: tuple[str, ...]
    """Python that reads and runs it; {file} and {output} are filled in."""


def export_stablehlo(
    saved: SavedModel,
    path: str | os.PathLike[str],
    *,
    batch_size: BatchSize = "symbolic",
    probabilities: bool = False,
    images: Sequence[str | os.PathLike[str]] = (),
) -> Exported:
    """Write a model as StableHLO, for any process that has jax, on CPUs, CUDA and TPUs.

    The file is read back and run before it gets its name; one that computes something else than
    the model is not left behind.

    Args:
      path: of a file that does not exist yet; without an ending it gets .stablehlo.
      batch_size: symbolic: any, decided by who calls; a number: that alone.
      probabilities: softmax of the logits instead of the logits.
      images: files to compare on, besides random images.

    Raises:
      ExportError: it cannot be written, or jax.export's flatbuffers is missing.
      DataError: `images` cannot be read.
    """
    return _export(STABLEHLO, saved, Path(path), batch_size, probabilities, images)


def export_onnx(
    saved: SavedModel,
    path: str | os.PathLike[str],
    *,
    batch_size: BatchSize = "symbolic",
    probabilities: bool = False,
    images: Sequence[str | os.PathLike[str]] = (),
) -> Exported:
    """Write a model as ONNX, through jax2onnx; as `export_stablehlo`, but for the ending .onnx.

    Raises:
      ExportError: it cannot be written, or jax2onnx, onnx or onnxruntime is missing.
      DataError: `images` cannot be read.
    """
    return _export(ONNX, saved, Path(path), batch_size, probabilities, images)


def _export(
    kind: Format,
    saved: SavedModel,
    path: Path,
    batch_size: BatchSize,
    probabilities: bool,
    images: Sequence[str | os.PathLike[str]],
) -> Exported:
    path = path.expanduser()
    path = path if path.suffix else path.with_name(path.name + kind.ending)
    card = path.with_name(path.name + ".json")
    _check(kind, saved, (path, card), batch_size, probabilities)
    real = _decoded(saved, images)
    shape = input_shape(saved.model)
    output = _output_name(saved, probabilities)
    with _on_cpu():
        forward = jax.jit(_forward(saved, probabilities))
        outputs = jax.eval_shape(forward, jax.ShapeDtypeStruct((1, *shape), saved.dtype)).shape[1:]
        batch = symbolic_shape("b")[0] if batch_size == "symbolic" else batch_size
        spec = jax.ShapeDtypeStruct((batch, *shape), saved.dtype)
        with _said(path), whole_file(path) as temporary, whole_file(card) as temporary_card:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(kind.write(forward, spec, output))
            size = temporary.stat().st_size
            batches = random_batches(saved, batch_size) + in_batches(real, batch_size)
            difference = largest_difference(kind.read(temporary), forward, batches)
            if not difference <= TOLERANCE:  # NaN is not
                raise ExportError(
                    f"{path} is not written: its outputs differ from the model's by "
                    f"{difference:.1e} of the largest, above {TOLERANCE:.0e}"
                )
            code = [line.format(file=path.name, output=output) for line in kind.code]
            count = sum(map(len, batches))
            text = card_text(
                saved,
                file={"format": kind.name, "needs": kind.needs, "code": code},
                batch=str(batch),
                output=(output, outputs),
                checked={"images": count, "difference": difference, "tolerance": TOLERANCE},
                versions={
                    "vit_jax": vit_jax.__version__,
                    **{name: version(name) for name in ("jax", *kind.packages)},
                },
            )
            temporary_card.write_text(text)
    return Exported(path, card, size, difference, count)


def _check(
    kind: Format,
    saved: SavedModel,
    paths: Sequence[Path],
    batch_size: BatchSize,
    probabilities: bool,
) -> None:
    """Raise an ExportError where it is known beforehand that this cannot work."""
    missing = [name for name in kind.packages if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        raise ExportError(f"{kind.name} files are written with {names}: {kind.install}")
    for path in paths:
        if path.exists():
            raise ExportError(f"{path} exists already: name another place")
    if batch_size != "symbolic" and batch_size < 1:
        raise ExportError(f"batch_size={batch_size}: use symbolic, or a number from 1")
    if probabilities and saved.model.num_classes is None:
        raise ExportError(f"{saved.source} has no head, so there are no probabilities")
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(saved.params))
    if size > LARGEST_WEIGHTS:
        raise ExportError(
            f"{saved.source} has {size / 1e9:.1f} GB of weights, and a {kind.name} file ends at "
            f"{LARGEST_WEIGHTS / 1e9:.1f} GB"
        )


def _forward(saved: SavedModel, probabilities: bool) -> Forward:
    """Pixels as decoded -> outputs, in float32, the weights inside."""
    # Arrays of NumPy become constants wherever the function is compiled.
    variables = {"params": jax.device_get(saved.params)}
    # Neither changes a number, and a file should not hold a loop that copies its weights.
    model = saved.model.clone(dtype="float32", remat="none", scan_layers=False)

    def forward(pixels):
        # The default on GPUs and TPUs is to round the factors to TF32 or bfloat16.
        with jax.default_matmul_precision("highest"):
            images = normalise(pixels, saved.mean, saved.std)
            # Flax types `apply` for all its uses.
            out = cast(Array, model.apply(variables, images))
        return jax.nn.softmax(out) if probabilities else out

    return forward


def _output_name(saved: SavedModel, probabilities: bool) -> str:
    if saved.model.num_classes is None:
        return "features"
    return "probabilities" if probabilities else "logits"


def _decoded(saved: SavedModel, images: Sequence[str | os.PathLike[str]]) -> np.ndarray:
    """Image files as the model was trained on them, [b, h, w, c]."""
    arrays = []
    for image in images:
        try:
            with open(image, "rb") as file:
                arrays.append(decode(file, os.fspath(image), saved.pixels()))
        except OSError as error:
            raise ExportError(f"{image} cannot be read ({error.strerror})") from error
    return np.array(arrays, saved.dtype).reshape(-1, *input_shape(saved.model))


@contextlib.contextmanager
def _on_cpu() -> Iterator[None]:
    """Constants and comparison on the CPU, the one device every machine has."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        device = None
    with jax.default_device(device):
        yield


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """What the disk refuses, as an ExportError."""
    try:
        yield
    except OSError as error:
        raise ExportError(f"{path} cannot be written ({error.strerror})") from error


STABLEHLO = Format(
    "StableHLO",
    ".stablehlo",
    packages=("flatbuffers",),
    install="pip install flatbuffers",
    write=stablehlo_file.write,
    read=stablehlo_file.read,
    needs="pip install jax flatbuffers",
    code=(
        "import pathlib, jax, jax.export",
        'file = pathlib.Path("{file}").read_bytes()',
        "{output} = jax.jit(jax.export.deserialize(file).call)(pixels)",
    ),
)
ONNX = Format(
    "ONNX",
    ".onnx",
    packages=("jax2onnx", "onnx", "onnxruntime"),
    install="pip install jax2onnx onnx onnxruntime",
    write=onnx_file.write,
    read=onnx_file.read,
    needs="pip install numpy onnxruntime",
    code=(
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("{file}")',
        '[{output}] = session.run(None, {{"pixels": pixels}})',
    ),
)
