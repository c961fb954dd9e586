"""Output that nobody reads, and complaints about a failure that is told already."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any


def pass_over_closed_loops() -> None:
    """Let the process pass over what TensorStore prints after a read or a write has failed.

    Orbax ends its event loop at the first array that fails, and every other one that is done later
    complains of that, a traceback each. Changes `sys.unraisablehook` and a logger, so it is for
    commands alone.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)


def discard_output() -> None:
    """Let all that is printed from now on go nowhere, where its reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


class _Hook:
    def __init__(self, before: Callable[[Any], Any]):
        self.before = before

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self.before(unraisable)
