"""What proves a checkpoint: the notes beside its arrays, with a checksum of each array.

The checksum is XXH3 with 64 bits, of an array's bytes in row-major order: 10 to 20 GB/s a core, so
that it costs little beside the compression of the same bytes.

Of an array that several processes hold in shares, nobody has all values when it is saved. Then each
process writes checksums of the shares it saves, process 0 in notes.json and the others in files of
their own. When it is restored, on however many processes, its values are brought together, one
array after the other, and every share is compared.
"""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import xxhash
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.runs.fit import named_leaves

FILE = "notes.json"
SHARES = "shares-{}.json"


@dataclasses.dataclass(frozen=True)
class ArrayProof:
    """What is known of an array that was saved."""

    dtype: str
    shape: tuple[int, ...]
    checksum: str | dict[str, str]
    """Of the whole, or of shares by their bounds, such as "0:8,16:32"."""

    def fits(self, array: np.ndarray) -> bool:
        """Whether these are the values that were saved, all of them."""
        if (str(array.dtype), array.shape) != (self.dtype, self.shape):
            return False
        if isinstance(self.checksum, str):
            return checksum(array) == self.checksum
        shares = {key: array[_slices(key)] for key in self.checksum}
        proven = sum(share.size for share in shares.values())
        return proven == array.size and all(
            checksum(share) == self.checksum[key] for key, share in shares.items()
        )


@dataclasses.dataclass(frozen=True)
class Proof:
    """The contents of notes.json."""

    notes: dict[str, Any]
    score: float | None
    arrays: dict[str, ArrayProof]


def on_host(array: Any) -> np.ndarray:
    """All values of an array; where they lie with several processes, all have to ask together."""
    if isinstance(array, jax.Array) and not (
        array.is_fully_replicated or array.is_fully_addressable
    ):
        sharding = array.sharding
        assert isinstance(sharding, NamedSharding)
        whole = NamedSharding(sharding.mesh, PartitionSpec())
        array = jax.jit(lambda x: x, out_shardings=whole)(array)
    if isinstance(array, jax.Array) and array.is_fully_replicated:
        # The shard that Orbax reads too, so that it comes from the device once.
        array = array.addressable_shards[0].data
    return np.asarray(array)


def checksum(array: np.ndarray) -> str:
    """16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def prove(array: np.ndarray) -> ArrayProof:
    """What is written of an array, and what should come back."""
    return ArrayProof(str(array.dtype), array.shape, checksum(array))


@dataclasses.dataclass(frozen=True)
class _Held:
    """What this process has to prove of an array: all of it, or shares of it by their bounds."""

    dtype: str
    shape: tuple[int, ...]
    values: np.ndarray | dict[str, np.ndarray]

    def prove(self) -> ArrayProof:
        values = self.values
        if not isinstance(values, dict):
            return prove(values)
        shares = {bounds: checksum(share) for bounds, share in values.items()}
        return ArrayProof(self.dtype, self.shape, shares)


def _held(array: Any) -> _Held:
    dtype, shape = str(array.dtype), tuple(array.shape)
    shared = isinstance(array, jax.Array) and not array.is_fully_addressable
    if not shared or array.is_fully_replicated:
        return _Held(dtype, shape, on_host(array))
    # Of devices that hold the same, one saves it.
    shares = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    values = {_bounds(shard.index, shape): np.asarray(shard.data) for shard in shares}
    return _Held(dtype, shape, values)


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    ranges = (part.indices(size) for part, size in zip(index, shape, strict=True))
    return ",".join(f"{first}:{end}" for first, end, _ in ranges)


def _slices(bounds: str) -> tuple[slice, ...]:
    return tuple(slice(*map(int, part.split(":"))) for part in bounds.split(","))


def to_text(proof: Proof) -> str:
    """notes.json; its own checksum stands in it."""
    content = dataclasses.asdict(proof)
    return json.dumps(content | {"checksum": _checksum_of(content)}, indent=1) + "\n"


def from_text(text: str) -> Proof:
    """Read what `to_text` wrote.

    Raises:
      ValueError: it is not that, to the last character that matters.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or "checksum" not in content:
        raise ValueError("it holds no checksum")
    stored = content.pop("checksum")
    if stored != _checksum_of(content):
        raise ValueError("its checksum is another")
    arrays = {
        name: ArrayProof(found["dtype"], tuple(found["shape"]), found["checksum"])
        for name, found in content["arrays"].items()
    }
    return Proof(content["notes"], content["score"], arrays)


def read_proof(folder: Path) -> Proof:
    """The proof that lies in a folder, with what processes beside the first have written.

    Raises:
      ValueError: a file is not what was written.
      OSError: it cannot be read.
    """
    proof = from_text((folder / FILE).read_text())
    for file in sorted(folder.glob(SHARES.format("*"))):
        for name, more in from_text(file.read_text()).arrays.items():
            ours = proof.arrays[name]
            assert isinstance(ours.checksum, dict)
            assert isinstance(more.checksum, dict)
            both = dataclasses.replace(ours, checksum=ours.checksum | more.checksum)
            proof.arrays[name] = both
    return proof


def _checksum_of(content: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())


class ProofHandler(ocp.AsyncCheckpointHandler):
    """Writes and reads notes.json as one item of an Orbax checkpoint, committed with the others."""

    async def async_save(self, directory: epath.Path, args: "SaveProof") -> list[Any]:
        """Look at the arrays now, compute and write in the background."""
        # On a CPU these are the arrays' own bytes: a step that is to reuse a buffer that someone
        # still looks at takes a new one instead.
        arrays = {name: _held(leaf) for name, leaf in named_leaves(args.state).items()}
        process = jax.process_index()
        if process:
            arrays = {name: held for name, held in arrays.items() if isinstance(held.values, dict)}

        async def write() -> None:
            proofs = {name: held.prove() for name, held in arrays.items()}
            if not process:
                (directory / FILE).write_text(to_text(Proof(args.notes, args.score, proofs)))
            elif proofs:
                text = to_text(Proof({}, None, proofs))
                (directory / SHARES.format(process)).write_text(text)

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="proof")]

    def save(self, directory: epath.Path, args: "SaveProof") -> None:
        """The same, and wait."""
        for future in asyncio.run(self.async_save(directory, args)):
            future.result()

    def restore(self, directory: epath.Path, args: Any = None) -> Proof:
        """Read notes.json, and what stands beside it."""
        return read_proof(Path(directory))


@ocp.args.register_with_handler(ProofHandler, for_save=True)
@dataclasses.dataclass
class SaveProof(ocp.args.CheckpointArgs):
    """What `ProofHandler` writes."""

    state: Any
    notes: dict[str, Any]
    score: float | None


@ocp.args.register_with_handler(ProofHandler, for_restore=True)
@dataclasses.dataclass
class RestoreProof(ocp.args.CheckpointArgs):
    """Asks for what `ProofHandler` wrote."""
