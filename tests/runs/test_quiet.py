import sys
import types

import pytest

from vit_jax.runs.quiet import pass_over_closed_loops


@pytest.fixture
def told(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: seen.append(found.exc_value))
    pass_over_closed_loops()
    return seen


def test_only_complaints_of_closed_loops_are_passed_over(told):
    others = [RuntimeError("Event loop is open"), ValueError("Event loop is closed"), None]
    for error in (RuntimeError("Event loop is closed"), *others):
        sys.unraisablehook(types.SimpleNamespace(exc_value=error))
    assert told == others


def test_twice_is_once(told):
    hook = sys.unraisablehook
    pass_over_closed_loops()
    assert sys.unraisablehook is hook
