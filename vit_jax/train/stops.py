"""Being asked to stop: Ctrl-C and SIGTERM end a run between two steps, after a checkpoint."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any

AGAIN_SECONDS = 1.0
"""A second Ctrl-C sooner than this is the first one, which a wrapper has passed on once more."""


def exit_code(number: signal.Signals) -> int:
    """What a shell calls the end by a signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


class StopRequest:
    """A context in which Ctrl-C, SIGTERM and one more signal are noted.

    A Ctrl-C after any of them ends the process at once. Python runs a handler between two of its
    own instructions, which is late while the compiler works; so a thread looks for the second one,
    to which the interpreter writes the number of each signal as it arrives.
    """

    def __init__(self, extra: str | None = None) -> None:
        """`extra`: the name of another signal, such as "SIGUSR1"."""
        self.signal: signal.Signals | None = None
        self._numbers = [signal.SIGINT, signal.SIGTERM]
        if extra is not None:
            self._numbers.append(signal.Signals[extra])
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python delivers signals to the main thread alone; elsewhere its owner decides.
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in self._numbers:
            self._before[number] = signal.signal(number, self._note)
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._ours.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_leave_at_once, args=(theirs,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        signal.set_wakeup_fd(self._wakeup_before)
        self._ours.close()  # which ends the thread
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            return
        self.signal = signal.Signals(number)
        # Not print: whoever is interrupted may hold its lock.
        text = f"\n{self.signal.name}: the run ends after this step, when it is saved."
        with contextlib.suppress(OSError):  # whoever read it may have got the same signal
            os.write(2, f"{text} Ctrl-C again leaves at once.\n".encode())


def _leave_at_once(signals: socket.socket) -> None:
    """End the process at a Ctrl-C after another signal; return when there are no more to come."""
    first: float | None = None
    with signals:
        while numbers := signals.recv(16):
            now = time.monotonic()
            first = now if first is None else first
            if signal.SIGINT in numbers and now - first > AGAIN_SECONDS:
                if sys.stdout.isatty():
                    os.write(1, b"\x1b[?25h")  # the progress display hides the cursor
                os._exit(exit_code(signal.SIGINT))
