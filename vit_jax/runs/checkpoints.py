"""Checkpoints with proof: Orbax behind one class, and a checksum for every array."""

import dataclasses
import functools
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Sharding

from vit_jax.runs.failures import CheckpointError, DamagedError, reason, system_reason
from vit_jax.runs.fit import describe_misfit, named_leaves
from vit_jax.runs.together import somewhere

if TYPE_CHECKING:
    from vit_jax.runs.proof import Proof

Tree = Any


class Checkpoints:
    """The checkpoints of a run, one folder per step, written in the background.

    Kept are the `keep` newest and the one with the highest score. A step is in its folder as a
    whole or not at all; beside the arrays lies notes.json with a checksum of each, computed from
    memory while Orbax writes, and every array that is restored is compared with it.
    """

    def __init__(self, folder: str | Path, keep: int = 2, read_only: bool = False):
        import orbax.checkpoint as ocp

        # Orbax reports its work through absl; what matters comes as an exception.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.folder = Path(folder).resolve()
        self.keep = keep
        self._scores = {step: self._score(step) for step in self.steps()}
        self._writing: int | None = None
        self._size = 0
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preserve(self._kept),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoints in {self.folder} cannot be opened ({reason(error)})"
            ) from error

    def save(self, step: int, state: Tree, notes: dict[str, Any], score: float | None) -> None:
        """Start writing a pytree of arrays and JSON notes; the arrays may be donated afterwards.

        Args:
          step: steps done so far.
          score: what makes a checkpoint the best, from 0 up; None: not known.

        Raises:
          CheckpointError: the folder already holds this step or a later one, or the save before
            this one has failed.
        """
        import orbax.checkpoint as ocp

        from vit_jax.runs.proof import SaveProof

        self.wait()
        if any(there >= step for there in self.steps()):
            raise CheckpointError(
                f"step {step} was not saved: {self.folder} already holds step {self.steps()[-1]}"
            )
        notes = json.loads(json.dumps(notes))  # as they are now, not when they are written
        self._scores[step] = score
        self._writing, self._size = step, sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), proof=SaveProof(state, notes, score)
                ),
            )
        except Exception as error:  # of many types, as in the background
            raise self._not_written(error) from error

    def amend(self, step: int, changes: dict[str, Any], score: float) -> None:
        """Give a committed step its score, and some of its notes other values.

        Raises:
          CheckpointError: no such step, or its notes are damaged.
          OSError: they cannot be written; then they are as they were.
        """
        from vit_jax.runs.proof import FILE, to_text

        self.wait()
        proof = self._proof(step)
        proof = dataclasses.replace(proof, notes=proof.notes | changes, score=score)
        file = self.folder / str(step) / "proof" / FILE
        if jax.process_index() == 0:
            temporary = file.with_name(f".{FILE}.tmp")
            with temporary.open("w") as writer:
                writer.write(to_text(proof))
                writer.flush()
                os.fsync(writer.fileno())  # or a power cut may leave an empty file of this name
            temporary.replace(file)
        self._scores[step] = score

    def check(self) -> None:
        """Raise what went wrong in the background, without waiting for what still goes on.

        Raises:
          CheckpointError: the newest save has failed.
        """
        if jax.process_count() > 1:
            return  # they would not all find the same; it is said at the next save
        if self._writing is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
          CheckpointError: the newest save has failed.
        """
        if self._writing is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error
        self._writing = None

    def close(self) -> None:
        """Wait until everything is written, as `wait` does, and end the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps whose folders are there as a whole, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, also one that is still being written; None: none."""
        writing = [] if self._writing is None else [self._writing]
        return max(self.steps() + writing, default=None)

    def best_step(self) -> int | None:
        """The step of the checkpoint with the highest score; None when no score is known."""
        return self._best(self.steps())

    def restore(self, step: int, like: Tree, sharding: Any) -> tuple[Tree, dict[str, Any]]:
        """The state and notes of a step; the state has the structure and shapes of `like`.

        `sharding` is one for all arrays, or a pytree of them.

        Raises:
          DamagedError: an array or a file is not what was saved.
          CheckpointError: no such step, or a state of another structure.
        """
        import orbax.checkpoint as ocp

        proof = self._proof(step)
        if misfit := describe_misfit(proof.arrays, like):
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} is of another model or optimiser:\n{misfit}"
            )
        if isinstance(sharding, Sharding):
            sharding = jax.tree.map(lambda x: sharding, like)
        target = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), like, sharding
        )
        state = self._restore(step, proof, ocp.args.StandardRestore(target))
        return state, proof.notes

    def restore_newest(
        self, like: Tree, sharding: Any, say: Callable[[str], None]
    ) -> tuple[Tree, dict[str, Any]] | None:
        """State and notes of the newest checkpoint that is what was saved; None: there is none.

        Those after it, which are damaged, are moved aside to STEP.damaged, each with a line to
        `say`: so they are not counted among those to keep, and their steps can be saved again.

        Raises:
          CheckpointError: all are damaged, and stay where they are; or the state has another
            structure; or the disk cannot be read.
        """
        damaged: dict[int, CheckpointError] = {}
        for step in reversed(self.steps()):
            found, wrong = self._tried(step, like, sharding)
            if wrong:
                damaged[step] = wrong
                continue
            for number, error in damaged.items():
                say(f"WARNING: {error}")
                say(f"WARNING: going back to step {step}; {self._move_aside(number)}")
            return found
        if damaged:
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged, and nothing was changed: bring one "
                "back from a copy, or begin anew with another --workdir. The newest: "
                f"{next(iter(damaged.values()))}"
            )
        return None

    def _tried(self, step: int, like: Tree, sharding: Any) -> tuple[Any, CheckpointError | None]:
        """What `restore` gives, or why not; where one of several processes fails, all do."""
        found: Any = None
        wrong: CheckpointError | None = None
        try:
            found = self.restore(step, like, sharding)
        except DamagedError as error:
            wrong = error
        if somewhere(wrong is not None) and wrong is None:
            wrong = self._cannot(DamagedError, step, "another process finds it damaged")
        return found, wrong

    def restore_weights(self, step: int, sharding: Sharding) -> tuple[Tree, dict[str, Any]]:
        """The parameters of a step, by their moving average where it has one, and its notes.

        Nothing else of the state is read, and its structure need not be known.

        Raises:
          DamagedError: an array or a file is not what was saved.
          CheckpointError: no such step.
        """
        import orbax.checkpoint as ocp

        proof = self._proof(step)
        averaged = any(name.startswith("ema/") for name in proof.arrays)
        name = "ema" if averaged else "params"
        target: dict[str, Any] = {}
        for path, array in proof.arrays.items():
            *parents, last = path.split("/")
            if parents[:1] == [name]:
                place = functools.reduce(lambda at, key: at.setdefault(key, {}), parents, target)
                place[last] = jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
        restore = ocp.args.PyTreeRestore(
            target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        return self._restore(step, proof, restore)[name], proof.notes

    def _proof(self, step: int) -> "Proof":
        from vit_jax.runs.proof import FILE, read_proof

        if step not in self.steps():
            raise self._cannot(CheckpointError, step, "it is not there")
        file = self.folder / str(step) / "proof" / FILE
        if not file.is_file():
            raise self._cannot(DamagedError, step, f"{file} is missing")
        try:
            return read_proof(file.parent)
        except OSError as error:
            raise self._unreadable(step, f"{file}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise self._cannot(DamagedError, step, f"{file} is damaged") from error

    def _restore(self, step: int, proof: "Proof", state: Any) -> Tree:
        import orbax.checkpoint as ocp

        from vit_jax.runs.proof import on_host

        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(state=state))["state"]
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # nothing is wrong with the files
        # Orbax and TensorStore raise many types, bare Exception among them.
        except Exception as error:
            place = re.search(r'"(/[^"]+)"', str(error))
            where = place[1] if place else self.folder / str(step) / "state"
            if refusal := system_reason(error):
                raise self._unreadable(step, f"{where}: {refusal}") from error
            why = f"{where} is damaged or incomplete"
            raise self._cannot(DamagedError, step, why) from error
        for name, array in named_leaves(restored).items():
            if not proof.arrays[name].fits(on_host(array)):
                why = f"the values of {name} are not those that were saved"
                raise self._cannot(DamagedError, step, why)
        return restored

    def _unreadable(self, step: int, why: str) -> CheckpointError:
        """The disk says no, which may pass: what is to be given up is not decided here."""
        others = [other for other in self.steps() if other < step]
        folder = self.folder / str(step)
        aside = f" To go on from step {others[-1]} instead, move {folder} away" if others else ""
        error = self._cannot(CheckpointError, step, why)
        return CheckpointError(f"{error}.{aside}" if aside else str(error))

    def _cannot(self, kind: type[CheckpointError], step: int, why: str) -> CheckpointError:
        steps = ", ".join(map(str, self.steps())) or "none"
        return kind(
            f"checkpoint {step} in {self.folder} cannot be restored: {why}; there are: {steps}"
        )

    def _not_written(self, error: Exception) -> CheckpointError:
        """What to say of a save that failed; it is no longer waited for."""
        step, self._writing = self._writing, None
        steps = self.steps()
        good = f"the newest good one is step {steps[-1]}" if steps else "there is no older one"
        free = shutil.disk_usage(self.folder).free / 1e6
        return CheckpointError(
            f"checkpoint {step} could not be written to {self.folder} ({reason(error)}); "
            f"it takes up to {self._size / 1e6:,.1f} MB, {free:,.0f} MB are free; {good}. Make "
            f"room, then the same command with --workdir={self.folder.parent} goes on from there"
        )

    def _move_aside(self, step: int) -> str:
        """Rename a damaged step's folder; returns what was done."""
        names = (f"{step}.damaged{n}" for n in ["", *(f"-{m}" for m in range(2, 1000))])
        aside = next(path for name in names if not (path := self.folder / name).exists())
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(aside)
        somewhere(True)  # none goes on before it is done
        self._scores.pop(step, None)
        self._manager.reload()
        return f"what is left of step {step} is in {aside}"

    def _score(self, step: int) -> float | None:
        try:
            return self._proof(step).score
        except CheckpointError:
            return None

    def _best(self, steps: Sequence[int]) -> int | None:
        known = [(score, step) for step in steps if (score := self._scores.get(step)) is not None]
        return max(known, default=(0.0, None))[1]

    def _kept(self, steps: Sequence[int]) -> set[int | None]:
        return {*sorted(steps)[-self.keep :], self._best(steps)}


class _Preserve:
    """Orbax asks it which steps to keep."""

    def __init__(self, kept: Callable[[Sequence[int]], set[int | None]]):
        self.kept = kept

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        kept = self.kept([found.step for found in checkpoints])
        return [found.step in kept for found in checkpoints]
