"""Files of weights, read without running anything that is in them.

What a file is, its first bytes say, never its name. Arrays are read one by one, when asked for.
"""

import contextlib
import dataclasses
import json
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

Read = Callable[[str], np.ndarray]


PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How NumPy packs members. LZMA takes as much memory as its header asks for, before any number."""


class WeightsError(ValueError):
    """Weights that cannot be read, adapted or written; says which file and what would be right."""


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """Named arrays in a file, or in several: the shapes are known, the values are not read yet."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    read: Read
    left_out: tuple[str, ...] = ()
    """Names of what the file holds besides."""
    in_file: dict[str, str] = dataclasses.field(default_factory=dict)
    """{name: what the file calls it}, where that is another."""

    def called(self, names: Sequence[str]) -> list[str]:
        """What the file calls these arrays, for messages."""
        return [self.in_file.get(name, name) for name in names]

    def rename(self, names: dict[str, str]) -> "TensorFile":
        """The same arrays under other names, {new: old}; those not named are left out."""
        shapes = {new: self.shapes[old] for new, old in names.items()}
        kept = set(names.values())
        left_out = (*self.left_out, *(name for name in self.shapes if name not in kept))
        in_file = {new: self.in_file.get(old, old) for new, old in names.items()}
        return TensorFile(self.path, shapes, lambda name: self.read(names[name]), left_out, in_file)


def open_tensors(path: Path) -> TensorFile:
    """Open .safetensors, a sharded .safetensors.index.json, .npz, or a PyTorch file.

    Raises:
      WeightsError: it is none of these, is damaged, or could only be read by running its content.
    """
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(4096)
    # Eight bytes of length, then JSON. Asked first: the length may begin as other files do.
    if start[4:9] == b"\0\0\0\0{":
        return _open_safetensors(path, size)
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        raise WeightsError(
            f"{path} is an HTML page of {size:,} bytes, not weights: download the file itself, "
            "the 'raw' or 'resolve' link rather than the page about it"
        )
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} is a git-lfs pointer of {size:,} bytes, not weights: run `git lfs pull` "
            "where it comes from, and copy the file again"
        )
    if start.startswith(b"PK"):
        return _open_zip(path)
    if start.startswith(b"\x80"):
        return _open_torch(path)
    raise WeightsError(
        f"{path} ({size:,} bytes) holds no weights: expected .safetensors, .npz, or a PyTorch "
        "state_dict"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      WeightsError: it is no JSON object.
    """
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _open_safetensors(path: Path, size: int) -> TensorFile:
    import safetensors

    expected = _safetensors_size(path)
    if expected > size:
        raise WeightsError(
            f"{path} is cut short: its header promises {expected:,} bytes, there are {size:,}; "
            "copy or download it again"
        )

    def read(name: str) -> np.ndarray:
        # Opened anew for each array, or the pages of all of them would stay in memory.
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                return file.get_tensor(name)
        # An AttributeError is a type that NumPy does not have.
        except (safetensors.SafetensorError, OSError, AttributeError, TypeError) as error:
            raise WeightsError(f"{path}: {name} cannot be read: {error}") from error

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = file.keys()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is no whole safetensors file: {error}") from error
    for name, shape in shapes.items():
        if _least_bytes(shape) > 2 * size:  # the smallest numbers have half a byte
            raise WeightsError(f"{path}: {name} has shape {shape}, more than the file can hold")
    return TensorFile(path, shapes, read)


def _least_bytes(shape: tuple[int, ...]) -> int:
    """Of an array of bytes; an empty one counts its other axes, over which readers may loop."""
    return math.prod(max(1, side) for side in shape)


def _safetensors_size(path: Path) -> int:
    """The size in bytes that the header of a safetensors file promises; 0: it is unreadable."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return 8 + length
        with contextlib.suppress(
            ValueError, LookupError, TypeError, AttributeError, RecursionError
        ):
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
            # Python refuses to print numbers of thousands of digits.
            return 8 + length + min(max(ends, default=0), 2**63)
    return 0


def _open_shards(path: Path) -> TensorFile:
    where = read_json(path).get("weight_map")
    if not isinstance(where, dict) or not where or {*map(type, where.values())} != {str}:
        raise WeightsError(f"{path}: expected an object 'weight_map' from parameter to file")
    files = {}
    for name in sorted(set(where.values())):
        # A shard lies beside its index: a path out of the folder is no shard.
        beside = Path(name).name == name and not name.endswith(".index.json")
        if not beside or not (path.parent / name).is_file():
            raise WeightsError(f"{path} names the file {name!r}, which is not in {path.parent}")
        files[name] = open_tensors(path.parent / name)
    lost = [name for name, file in where.items() if name not in files[file].shapes]
    if lost:
        raise WeightsError(f"{path.parent / where[lost[0]]} lacks {lost[0]}, which {path} promises")
    shapes = {name: files[file].shapes[name] for name, file in where.items()}
    return TensorFile(path, shapes, lambda name: files[where[name]].read(name))


def _open_zip(path: Path) -> TensorFile:
    """An .npz archive of arrays, or a PyTorch file, which is a zip as well."""
    try:
        archive = zipfile.ZipFile(path)
    # Damaged numbers lead zipfile to OSError, ValueError, struct.error and more.
    except Exception as error:
        raise WeightsError(
            f"{path} is a damaged or incomplete archive ({error}): copy or download it again"
        ) from error
    members = archive.infolist()
    if any(member.filename.endswith("data.pkl") for member in members):
        archive.close()
        return _open_torch(path)
    if odd := [member for member in members if member.compress_type not in PACKED]:
        raise WeightsError(
            f"{path}: {odd[0].filename} is packed by method {odd[0].compress_type} of the ZIP "
            "format, which NumPy does not write; unpack it and save it by numpy.savez"
        )
    unpacked, packed = sum(m.file_size for m in members), path.stat().st_size
    # Trained weights hardly compress: what grows a hundredfold was made to fill the memory.
    if unpacked > 100 * packed:
        raise WeightsError(
            f"{path} would unpack from {packed:,} bytes to {unpacked:,}: no weights compress so "
            "well"
        )
    shapes = dict(_npz_shapes(path, archive))
    where = {member.filename.removesuffix(".npy"): member for member in members}

    def read(name: str) -> np.ndarray:
        try:
            with archive.open(where[name]) as file, _without_warnings():
                value = np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:  # of zipfile, of its decompressors, of NumPy
            raise WeightsError(f"{path}: {name} cannot be read: {error}") from error
        # NumPy has no bfloat16 of its own and stores its two bytes as "void".
        return value.view(ml_dtypes.bfloat16) if value.dtype == np.dtype("V2") else value

    return TensorFile(path, shapes, read)


def _npz_shapes(path: Path, archive: zipfile.ZipFile) -> Iterator[tuple[str, tuple[int, ...]]]:
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        try:
            with archive.open(member) as file, _without_warnings():
                read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                    np.lib.format.read_magic(file), np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(file)
        # A RuntimeError is an encrypted member; the header is Python, for NumPy to parse.
        except Exception as error:
            raise WeightsError(f"{path}: {name} is no NumPy array: {error}") from error
        if dtype.hasobject:
            raise WeightsError(
                f"{path}: {name} holds Python objects, which are never unpickled here: save "
                "arrays of numbers"
            )
        if _least_bytes(shape) * max(1, dtype.itemsize) > member.file_size:
            raise WeightsError(f"{path}: {name} is cut short")
        yield name, shape


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """NumPy warns of the age of files that it reads all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open_torch(path: Path) -> TensorFile:
    """A PyTorch file, through PyTorch's own reader that builds tensors and nothing else."""
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path} is a PyTorch file, which only PyTorch can read: pip install torch, or convert "
            'it where that is installed, with python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path.name}', weights_only=True), "
            f"'{path.stem}.safetensors')\""
        ) from error
    try:
        with _without_warnings():  # such as of the age of the format
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises what it likes
        raise WeightsError(
            f"{path} holds more than tensors, or is damaged; nothing in it was run "
            f"({type(error).__name__}). Where the model's code is, save its weights alone instead: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    others: tuple[str, ...] = ()
    for key in ("state_dict", "model"):  # how training scripts wrap the weights
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            others += tuple(str(other) for other in found if other != key)
            found = found[key]
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) and _is_dense(value)
        for name, value in found.items()
    ):
        raise WeightsError(f"{path}: expected a state_dict, names with dense tensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    return TensorFile(path, shapes, lambda name: _torch_to_numpy(found[name]), others)


def _is_dense(tensor: Any) -> bool:
    import torch

    return tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized


def _torch_to_numpy(tensor: Any) -> np.ndarray:
    # NumPy has no bfloat16 and no float8 of PyTorch's.
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
