import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from vit_jax import compilation
from vit_jax.compilation import keep_compiled, quickly

CODE = """
import jax, jax.numpy as jnp
from vit_jax import compilation
from vit_jax.compilation import keep_compiled
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(keep_compiled())
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))
"""


def start(home, **environment):
    """The folder that a process of its own keeps what it compiles in."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE],
        env=kept | {"XDG_CACHE_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def names(home):
    return sorted(path.name for path in home.rglob("jit__lambda*") if "atime" not in path.name)


def test_what_was_compiled_is_found_by_the_next_start(tmp_path):
    folder = start(tmp_path)
    assert folder.startswith(str(tmp_path / "vit_jax" / "compiled"))
    [first] = names(tmp_path)
    written = next(tmp_path.rglob(first)).stat().st_mtime_ns
    assert start(tmp_path) == folder
    assert names(tmp_path) == [first]
    assert next(tmp_path.rglob(first)).stat().st_mtime_ns == written


def test_what_a_kill_has_cut_off_is_compiled_again(tmp_path):
    start(tmp_path)
    [name] = names(tmp_path)
    entry = next(tmp_path.rglob(name))
    whole = entry.read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):
        entry.write_bytes(damaged)
        start(tmp_path)  # without a warning, see there
        assert len(entry.read_bytes()) > 0.9 * len(whole)


def test_the_oldest_goes_where_there_is_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "LARGEST_CACHE", 250)
    monkeypatch.setattr(compilation, "_is_whole", lambda path: True)
    for age in range(4):
        path = tmp_path / f"{age}-cache"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "of another").write_text("y" * 1000)
    compilation._prune(tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"0-cache", "1-cache", "of another", "looked_at"}


def test_the_users_own_choice_stands(tmp_path):
    assert start(tmp_path / "a", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "b")) == "None"
    assert names(tmp_path / "b")
    assert start(tmp_path / "a", JAX_ENABLE_COMPILATION_CACHE="false") == "None"
    assert not (tmp_path / "a").exists()


def test_a_home_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    assert start(tmp_path / "file") == "None"


def test_here_the_tests_have_their_own():
    assert keep_compiled() is None


@pytest.mark.parametrize("function", [jax.random.normal, jax.random.uniform])
def test_quickly_compiled_is_the_same_but_for_rounding(function):
    key, device = jax.random.key(0), jax.devices("cpu")[0]
    options = quickly(device)
    assert options == {"xla_backend_optimization_level": 0}
    quick = jax.jit(lambda key: function(key, (1000,)), compiler_options=options)(key)
    usual = jax.jit(lambda key: function(key, (1000,)))(key)
    np.testing.assert_allclose(quick, usual, rtol=1e-6)
