"""`import vit_jax` is quick, warns of nothing and leaves the heavy packages out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "tensorflow",
    "torch",
    "grain",
    "orbax",
    "matplotlib",
    "optax",
    "tyro",
    "sklearn",
    "PIL",
    "tensorflow_datasets",
    "tensorboardX",
)
PROBE = """
import json, sys, time
import jax, flax.linen
before = time.perf_counter()
import vit_jax
seconds = time.perf_counter() - before
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.fixture(scope="module")
def three_imports():
    """(seconds, names of all top-level modules) of three fresh processes."""
    command = [sys.executable, "-W", "error", "-c", PROBE]
    root = Path(__file__).parents[1]
    return [
        json.loads(subprocess.run(command, cwd=root, check=True, capture_output=True).stdout)
        for _ in range(3)
    ]


def test_import_takes_less_than_a_second_beyond_jax_and_flax(three_imports):
    assert min(seconds for seconds, _ in three_imports) < 1.0


def test_import_loads_nothing_heavy(three_imports):
    _, modules = three_imports[0]
    assert {"jax", "flax", "numpy", "vit_jax"} <= set(modules)  # the probe sees modules at all
    assert [name for name in HEAVY if name in modules] == []
