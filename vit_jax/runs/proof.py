"""What proves a checkpoint: the notes beside its arrays, with a checksum of each array.

The checksum is XXH3 with 64 bits, of an array's bytes in row-major order: 10 to 20 GB/s a core, so
that it costs little beside the compression of the same bytes.
"""

import asyncio
import dataclasses
import json
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import xxhash
from etils import epath

from vit_jax.runs.fit import named_leaves

FILE = "notes.json"


@dataclasses.dataclass(frozen=True)
class ArrayProof:
    """What is known of an array that was saved."""

    dtype: str
    shape: tuple[int, ...]
    checksum: str


@dataclasses.dataclass(frozen=True)
class Proof:
    """The contents of notes.json."""

    notes: dict[str, Any]
    score: float | None
    arrays: dict[str, ArrayProof]


def on_host(array: Any) -> np.ndarray:
    """The values of an array that every device holds whole, or that this process holds all of."""
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


def _checksum_of(content: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())


class ProofHandler(ocp.AsyncCheckpointHandler):
    """Writes and reads notes.json as one item of an Orbax checkpoint, committed with the others."""

    async def async_save(self, directory: epath.Path, args: "SaveProof") -> list[Any]:
        """Look at the arrays now, compute and write in the background."""
        # On a CPU these are the arrays' own bytes: a step that is to reuse a buffer that someone
        # still looks at takes a new one instead.
        arrays = {name: on_host(leaf) for name, leaf in named_leaves(args.state).items()}

        async def write() -> None:
            proofs = {name: prove(array) for name, array in arrays.items()}
            text = to_text(Proof(args.notes, args.score, proofs))
            if jax.process_index() == 0:
                (directory / FILE).write_text(text)

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="proof")]

    def save(self, directory: epath.Path, args: "SaveProof") -> None:
        """The same, and wait."""
        for future in asyncio.run(self.async_save(directory, args)):
            future.result()

    def restore(self, directory: epath.Path, args: Any = None) -> Proof:
        """Read notes.json."""
        return from_text((directory / FILE).read_text())


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
