"""`vit-jax doctor`."""

import sys
from pathlib import Path

import vit_jax


def doctor() -> int:
    """Say what this machine offers: versions, devices, and where data is looked for."""
    from importlib.metadata import version

    import jax

    from vit_jax.data.tfds_source import data_dir

    print(f"{'vit_jax':<18}{vit_jax.__version__}")
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"):
        print(f"{name:<18}{version(name)}")
    print(f"{'python':<18}{sys.version.split()[0]}")
    for device in jax.local_devices():
        print(f"{'device':<18}{device.platform}:{device.id}  {device.device_kind}")
    folder = data_dir(None)
    print(f"{'TFDS data':<18}{folder}{'' if folder.is_dir() else '  (not there yet)'}")
    print(f"{'run folders':<18}{Path('runs').resolve()}")
    return 0
