import platform
import resource
import subprocess
import sys

import jax
import pytest

from vit_jax.train import allocator
from vit_jax.train.allocator import keep_freed_memory

FAULTS = """
import resource, sys, jax, jax.numpy as jnp
from vit_jax.train.allocator import keep_freed_memory
assert not sys.argv[1:] or keep_freed_memory("cpu")
g = jax.jit(jnp.sin)
x = jnp.ones((12_000_000,))
for _ in range(5): jax.block_until_ready(g(x))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): jax.block_until_ready(g(x))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's allocator"
)
@pytest.mark.skipif(
    not jax.__version__.startswith("0.10."),
    reason="jax 0.12 faults six of ten results in again all the same: docs/performance.md",
)
def test_what_is_freed_is_not_faulted_in_again():
    def faults(*arguments):
        command = [sys.executable, "-c", FAULTS, *arguments]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    pages = 12_000_000 * 4 // resource.getpagesize()
    assert faults() > 8 * pages  # of ten results, each freed and made anew
    assert faults("kept") < pages


@pytest.mark.parametrize(("platforms", "device"), [("", "gpu"), ("", "tpu"), ("cuda", "gpu")])
def test_nothing_is_done_where_the_cpu_does_not_compute(platforms, device, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)  # to call it would be an error
    assert not keep_freed_memory(device)


def test_a_system_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory("cpu")
