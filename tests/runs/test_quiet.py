import sys

import pytest

from vit_jax.runs.quiet import pass_over_closed_loops


@pytest.fixture
def told(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: seen.append(error))
    pass_over_closed_loops()
    return seen


def test_only_complaints_of_closed_loops_are_passed_over(told):
    others = [RuntimeError("Event loop is open"), ValueError("Event loop is closed")]
    for error in (RuntimeError("Event loop is closed"), *others):
        sys.excepthook(type(error), error, None)
    assert told == others


def test_twice_is_once(told):
    hook = sys.excepthook
    pass_over_closed_loops()
    assert sys.excepthook is hook
