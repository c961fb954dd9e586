"""Devices, meshes, and one step on many devices: by `jax.jit` over a mesh, or by `jax.pmap`."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Device = Literal["auto", "cpu", "gpu", "tpu"]
Parallel = Literal["auto", "pmap"]

# What a function for `data_parallel` takes after its batch: the mapped axis under pmap, else None.
AXIS = "data"


class DeviceError(RuntimeError):
    """The devices asked for are not there, or the batch cannot be spread over them."""


def select_devices(device: Device) -> list[jax.Device]:
    """All local devices of a kind; "auto" takes the best that jax sees.

    Raises:
      DeviceError: jax sees no such device; the message says how to install the support for it.
    """
    try:
        return jax.local_devices() if device == "auto" else jax.local_devices(backend=device)
    # jax asserts that a platform named in JAX_PLATFORMS has come up.
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        setting = f", with JAX_PLATFORMS={platforms}" if platforms else ""
        extra = "tpu" if "tpu" in (device, platforms) else "cuda12"
        raise DeviceError(
            f"device={device!r} was asked for{setting}, but jax {jax.__version__} sees no such "
            f"device. Install the support with: pip install 'jax[{extra}]=={jax.__version__}' (for "
            "a CUDA 13 driver: cuda13), or choose --config.device=cpu"
        ) from error


def overlooked_gpu(devices: list[jax.Device]) -> str | None:
    """What to do where the machine has an NVIDIA GPU and the run is about to use the CPU."""
    if devices[0].platform != "cpu" or not Path("/proc/driver/nvidia/version").exists():
        return None
    return (
        "this machine has an NVIDIA GPU that jax does not see, so the CPU is used. For the GPU: "
        f"pip install 'jax[cuda12]=={jax.__version__}' (CUDA 13 driver: cuda13)"
    )


def make_mesh(devices: list[jax.Device]) -> Mesh:
    """A mesh with axes ("data", "fsdp"): all devices along "data"."""
    return Mesh(np.array(devices).reshape(-1, 1), ("data", "fsdp"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Every device holds its share of the first axis."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raise a DeviceError unless the devices can share a batch evenly."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        below = max(batch_size, 0) // devices * devices
        nearest = f"{below} or {below + devices}" if below else f"{devices}"
        raise DeviceError(
            f"batch_size={batch_size} cannot be shared evenly by {devices} devices: use {nearest}"
        )


@dataclasses.dataclass(frozen=True)
class Parallelised:
    """A function for many devices, as `data_parallel` makes it: call it, or look at its program."""

    program: Any
    """The function under `jax.jit` or `jax.pmap`."""
    place: Callable[[Any], Any]
    """The batch of the host as the program takes it."""
    shape: Callable[[jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]
    """The same for shapes."""

    def __call__(self, state: Any, resident: Any, batch: Any) -> Any:
        return self.program(state, resident, self.place(batch))

    def lower(self, state: Any, resident: Any, batch: Any) -> jax.stages.Lowered:
        """The program for arguments of these shapes; nothing runs and nothing is allocated."""
        return self.program.lower(state, resident, jax.tree.map(self.shape, batch))


def data_parallel(
    function: Callable[..., Any],
    mesh: Mesh,
    parallel: Parallel,
    *,
    donate: bool = False,
    resident: NamedSharding | None = None,
) -> Parallelised:
    """Compile `function(state, resident, batch, axis_name=None) -> replicated results`.

    `state` and `resident` are pytrees of device arrays; every device holds the state, and what is
    resident as its sharding says (None: whole). `batch` is a pytree of host arrays whose first axis
    is split over the devices. Under `jax.jit` the function sees the
    whole batch and `axis_name` is None; under `jax.pmap` it sees one device's share and has to sum
    over `axis_name` itself. With `donate` the state's buffers are reused for the results.

    Raises:
      DeviceError: under pmap every device has to hold what is resident whole.
    """
    donated = (0,) if donate else ()
    if parallel == "pmap":
        if resident is not None and not resident.is_fully_replicated:
            raise DeviceError(
                "parallel='pmap' cannot share resident images among devices: choose "
                "parallel='auto', data.feed='streaming' or a larger data.resident_share"
            )
        mapped = jax.pmap(
            functools.partial(function, axis_name=AXIS),
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            devices=list(mesh.devices.flat),
            donate_argnums=donated,
        )

        def split(shape):
            return mesh.size, shape[0] // mesh.size, *shape[1:]

        return Parallelised(
            mapped,
            lambda batch: jax.tree.map(lambda x: x.reshape(split(x.shape)), batch),
            lambda x: jax.ShapeDtypeStruct(split(x.shape), x.dtype),
        )

    whole, split = replicated(mesh), batch_sharded(mesh)
    compiled = jax.jit(
        function,
        in_shardings=(whole, resident or whole, split),
        out_shardings=whole,
        donate_argnums=donated,
    )
    return Parallelised(compiled, lambda batch: jax.device_put(batch, split), lambda x: x)
