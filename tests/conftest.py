"""Eight fake CPU devices, programs that compile quickly, and one cache of them for all workers."""

import os
import tempfile
from importlib.metadata import version

# Before jax is imported: it reads these once.
os.environ["JAX_PLATFORMS"] = "cpu"
_flags = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):
    # XLA's older way to write a fusion's code, which compiles in half the time; later ones lack it.
    _flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_flags])
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the cache of the process above
    _cache = tempfile.TemporaryDirectory(prefix="vit_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
