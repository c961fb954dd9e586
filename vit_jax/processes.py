"""Several processes that train as one: joining, noticing that one is gone, ending together.

Each process drives its own devices, and JAX makes one mesh of all of them. Process 0 leads: it
alone prints and writes what is not a checkpoint. A process that ends without the others leaves them
in a collective that never returns, so each of them looks for the others' signs of life.
"""

import contextlib
import hashlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from vit_jax.launch import Place

PEER_SECONDS = 30
"""A process that gives no sign of life for so long is taken for dead."""
JOIN_SECONDS = 300
"""The longest that processes wait for each other at the start: machines of a job come up one by
one."""
CODE = 1
"""Exit code of a process whose peers are gone."""
AGAIN = (
    "The job cannot go on without it and ends. Start it again with the same command: it goes on "
    "from its newest checkpoint"
)


class ProcessError(RuntimeError):
    """Processes that cannot find each other; the message says what to do."""


def share() -> tuple[int, int]:
    """(which, of how many): the part of every batch that this process brings."""
    import jax

    return jax.process_index(), jax.process_count()


def leads() -> bool:
    """Whether this process prints and writes for all of them."""
    return not share()[0]


def meet() -> None:
    """Wait until all processes are here, all of which have to call this as often.

    No device has a part in it: a collective would give up after seconds. Who waits for a process
    that is dead ends by the signs of life, see `joined`.
    """
    import jax

    if jax.process_count() > 1:
        _store().wait_at_barrier(f"meeting {next(_meetings)}", 24 * 3600 * 1000)


_meetings = itertools.count()


def agree(on: str, value: object) -> None:
    """Raise a ProcessError unless all processes, which all have to call this, have the same value.

    Args:
      on: what it is, for people.
    """
    import jax

    if jax.process_count() == 1:
        return
    place = f"agree/{next(_meetings)}"
    digest = hashlib.sha256(repr(value).encode()).hexdigest()
    _store().key_value_set(f"{place}/{jax.process_index()}", digest)
    meet()
    words = {word for _, word in _store().key_value_dir_get(f"{place}/")}
    if len(words) > 1:
        raise ProcessError(
            f"the processes of the job do not agree on {on}: start all with the same command, and "
            "let all of them see the same data and the same run folder"
        )


def _store() -> Any:
    from jax._src.distributed import global_state  # it has no public name

    return global_state.client


@contextlib.contextmanager
def joined(
    place: Place | None, peer_seconds: float = PEER_SECONDS, join_seconds: float = JOIN_SECONDS
) -> Iterator[None]:
    """A context in which the processes of a job are one; to be entered before JAX has any device.

    Whoever leaves it without an error waits for the others. With an error the process should end
    without more ado, see `end_at_once`: the others notice.

    Raises:
      ProcessError: a process of another number has the port, or the like.
    """
    if place is None:
        yield
        return
    _join(place, join_seconds, peer_seconds)
    if place.index:
        _print_nothing()
    watch = _Watch(place, peer_seconds)
    watch.start()
    yield
    watch.stop()
    import jax

    jax.distributed.shutdown()


def end_at_once(code: int, words: str = "") -> None:
    """End this process where it is one of several, without what waits for the others at the end.

    `words` are its last, for people.
    """
    import jax

    if jax.distributed.is_initialized():
        sys.stderr.write(words)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_if_alone(error: Exception) -> None:
    """End this process with a line where the error is that of a collective without its peers.

    Nothing that waits for them, such as a checkpoint on its way, could be ended any more.
    """
    import jax

    signs = ("gloo", "nccl", "connection", "coordination", "unavailable", "peer", "socket")
    if jax.process_count() > 1 and any(sign in str(error).lower() for sign in signs):
        reason = str(error).strip().split("\n")[0][:160]
        _end(
            f"Error: another process of the job has ended or cannot be reached ({reason}). {AGAIN}"
        )


def _join(place: Place, join_seconds: float, peer_seconds: float) -> None:
    import jax

    # Its handler would take SIGTERM's place; stops are agreed on in the steps, see train/loop.py.
    jax.config.update("jax_enable_preemption_service", False)
    where = place.coordinator or f"what {place.scheduler} says"

    def too_late() -> None:
        _end(
            f"Error: process {place.index} of {place.number} has waited {join_seconds:.0f} s for "
            f"the others at {where}: look whether all are started, each with another --process-id, "
            "and whether the port of process 0 can be reached"
        )

    timer = threading.Timer(join_seconds, too_late)
    timer.daemon = True
    timer.start()
    given: dict[str, Any] = {"cluster_detection_method": place.scheduler}
    if place.coordinator:
        given = {
            "local_device_ids": None if place.local is None else [place.local],
            "coordinator_address": place.coordinator,
            "num_processes": place.number,
            "process_id": place.index,
            "cluster_detection_method": "deactivate",
        }
        # To all addresses by default; on one machine nobody else has to come in.
        if place.coordinator.startswith(("127.0.0.1:", "localhost:")):
            given["coordinator_bind_address"] = place.coordinator
    try:
        # JAX aborts the process at a time-out of its own, with pages of text: ours come first.
        jax.distributed.initialize(
            **given,
            initialization_timeout=int(join_seconds) + 60,
            heartbeat_timeout_seconds=int(2 * peer_seconds) + 10,
            shutdown_timeout_seconds=3600,
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"process {place.index} of {place.number} could not join the others at {where} "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
    finally:
        timer.cancel()


class _Watch(threading.Thread):
    """Says that this process lives, and ends it when another one has not said so for too long."""

    def __init__(self, place: Place, seconds: float):
        super().__init__(name="peers", daemon=True)
        self.store = _store()
        self.place = place
        self.seconds = seconds
        self._over = threading.Event()

    def run(self) -> None:
        seen = {index: ("", time.monotonic()) for index in range(self.place.number)}
        count = 0
        while not self._over.wait(min(1.0, self.seconds / 4)):
            count += 1
            try:
                self._say(str(count))
                words = dict(self.store.key_value_dir_get("alive/"))
            except Exception:  # of the process that holds the store; this is the last to be known
                if not self._over.is_set():
                    _end(f"Error: process 0 of {self.place.number} cannot be reached. {AGAIN}")
                return
            now = time.monotonic()
            for index, (before, since) in seen.items():
                word = words.get(f"alive/{index}", "")
                if word != before:
                    seen[index] = word, now
                elif word != "done" and now - since > self.seconds:
                    _end(
                        f"Error: process {index} of {self.place.number} has given no sign of life "
                        f"for {self.seconds:.0f} s. {AGAIN}"
                    )

    def stop(self) -> None:
        """This process is done, and does not mind any more who else is."""
        self._over.set()
        self.join()
        with contextlib.suppress(Exception):  # then the end is noticed all the same
            self._say("done")

    def _say(self, word: str) -> None:
        self.store.key_value_set(f"alive/{self.place.index}", word, allow_overwrite=True)


def _print_nothing() -> None:
    """What is printed from now on goes nowhere; errors are still seen."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(line: str) -> None:
    os.write(2, f"{line}\n".encode())
    os._exit(CODE)
