"""Checkpoints: Orbax behind one class."""

import logging
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Sharding

Tree = Any

UNKNOWN = -1.0
"""Stands for a score that is not known, below every real one."""


class CheckpointError(RuntimeError):
    """A checkpoint that is not there or cannot be restored; names the step and the folder."""


class Checkpoints:
    """The checkpoints of a run, one folder per step, written in the background.

    Kept are the `keep` newest and the one with the highest score.
    """

    def __init__(self, folder: str | Path, keep: int = 2, read_only: bool = False):
        import orbax.checkpoint as ocp

        # Orbax reports its work through absl; what matters comes as an exception.
        logging.getLogger("absl").setLevel(logging.ERROR)
        policies = ocp.checkpoint_managers
        self.folder = Path(folder).resolve()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep), policies.BestN(get_metric_fn=_score, n=1)]
            ),
            best_fn=_score,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        # Orbax reads every step's scores here, and raises what the JSON reader does.
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoints in {self.folder} cannot be opened ({_first_line(error)}): move "
                "the damaged step away"
            ) from error

    def save(self, step: int, state: Tree, notes: dict[str, Any], score: float | None) -> None:
        """Start writing a pytree of arrays and JSON notes; the arrays may be donated afterwards.

        Args:
          step: steps done so far.
          score: what makes a checkpoint the best, from 0 up; None: not known.

        Raises:
          CheckpointError: the folder already holds this step.
        """
        import orbax.checkpoint as ocp

        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes)
            ),
            metrics={"score": UNKNOWN if score is None else score},
        )
        if not saved:
            raise CheckpointError(f"step {step} was not saved: {self.folder} already holds it")

    def latest_step(self) -> int | None:
        """The newest checkpoint's step; None when there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the checkpoint with the highest score; None when no score is known."""
        step = self._manager.best_step()
        if step is None or _score(self._manager.metrics(step)) == UNKNOWN:
            return None
        return step

    def restore(self, step: int, like: Tree, sharding: Sharding) -> tuple[Tree, dict[str, Any]]:
        """The state and notes of a step; the state has the structure and shapes of `like`.

        Raises:
          CheckpointError: no such step, damaged files, or a state of another structure.
        """
        import orbax.checkpoint as ocp

        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
        )
        return self._restore(step, ocp.args.StandardRestore(target))

    def restore_weights(self, step: int, sharding: Sharding) -> tuple[Tree, dict[str, Any]]:
        """The parameters of a step, by their moving average where it has one, and its notes.

        Nothing else of the state is read, and its structure need not be known.

        Raises:
          CheckpointError: no such step, or damaged files.
        """
        import orbax.checkpoint as ocp

        if step not in self._manager.all_steps():
            raise self._cannot(step, LookupError("it is not there"))
        try:
            with ocp.StandardCheckpointer() as reader:
                stored = reader.metadata(self.folder / str(step) / "state")
            tree: Any = stored.item_metadata.tree  # pyrefly: ignore[missing-attribute]
            name = "ema" if tree.get("ema") else "params"
            target = {
                name: jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree[name]
                )
            }
        except Exception as error:
            raise self._cannot(step, error) from error
        state, notes = self._restore(
            step,
            ocp.args.PyTreeRestore(
                target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )
        return state[name], notes

    def _restore(self, step: int, state: Any) -> tuple[Tree, dict[str, Any]]:
        import orbax.checkpoint as ocp

        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=state, notes=ocp.args.JsonRestore())
            )
        # Orbax and TensorStore raise many types, bare Exception among them.
        except Exception as error:
            raise self._cannot(step, error) from error
        return restored["state"], restored["notes"]

    def _cannot(self, step: int, error: Exception) -> CheckpointError:
        steps = ", ".join(map(str, sorted(self._manager.all_steps()))) or "none"
        return CheckpointError(
            f"checkpoint {step} in {self.folder} cannot be restored ({_first_line(error)}); "
            f"there are: {steps}"
        )

    def wait(self) -> None:
        """Wait until everything is written; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is written, and end the background threads."""
        self.wait()
        self._manager.close()


def _score(metrics: Any) -> float:
    return metrics["score"]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
