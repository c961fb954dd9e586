"""Devices, meshes, and one step on many devices: by `jax.jit` over a mesh, or by `jax.pmap`.

A mesh has the axes ("data", "fsdp"). A batch is split along both. What a training learns, its
state, lies on every device as a whole, or, where "fsdp" is longer than 1, in shares along that
axis; the compiler then brings the weights together where they are used, and the gradients where
they belong.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Device = Literal["auto", "cpu", "gpu", "tpu"]
Parallel = Literal["auto", "pmap"]

# What a function for `data_parallel` takes after its batch: the mapped axis under pmap, else None.
AXIS = "data"

SMALLEST = 2**14
"""Elements from which an array is shared among devices: of a smaller one, its sending would take
longer than what it saves, and biases and scales are the smallest part of any model."""


class DeviceError(RuntimeError):
    """The devices asked for are not there, or the batch cannot be spread over them."""


def select_devices(device: Device) -> list[jax.Device]:
    """All devices of a kind, of all processes; "auto" takes the best that jax sees.

    Raises:
      DeviceError: jax sees no such device; the message says how to install the support for it.
    """
    try:
        return jax.devices() if device == "auto" else jax.devices(device)
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


def make_mesh(devices: list[jax.Device], fsdp: int = 1) -> Mesh:
    """A mesh with axes ("data", "fsdp"): `fsdp` neighbours share the state, all share the batch.

    Raises:
      DeviceError: the devices are no multiple of `fsdp`.
    """
    check_fsdp(fsdp, len(devices))
    return Mesh(np.array(devices).reshape(-1, fsdp), ("data", "fsdp"))


def check_fsdp(fsdp: int, devices: int) -> None:
    """Raise a DeviceError unless the devices are a multiple of those that share a state."""
    if fsdp < 1 or devices % fsdp:
        divisors = [str(n) for n in range(1, devices + 1) if devices % n == 0]
        raise DeviceError(
            f"fsdp={fsdp} does not divide the {devices} devices: use {' or '.join(divisors)}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Every device holds its share of the first axis."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_sharding(mesh: Mesh, shapes: Any, smallest: int | None = None) -> Any:
    """How each array of a state lies on the mesh, by its shape alone.

    Shared along "fsdp" is the longest axis that its size divides, the last of those equally long;
    whole on every device are arrays without such an axis, and those of fewer than `smallest`
    elements (None: SMALLEST). So parameters, the optimiser's moments and a moving average of the
    same shape lie alike.

    Args:
      shapes: a pytree of what has a shape.

    Returns:
      the same pytree of shardings.
    """
    parts = mesh.shape["fsdp"]
    smallest = SMALLEST if smallest is None else smallest

    def sharding(leaf: Any) -> NamedSharding:
        axes = [(size, axis) for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or not axes or math.prod(leaf.shape) < smallest:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * max(axes)[1], "fsdp"))

    return jax.tree.map(sharding, shapes)


def place(tree: Any, sharding: Any) -> Any:
    """Arrays that every process holds whole, as arrays of these shardings (one, or a pytree)."""
    if not jax.tree.leaves(tree):
        return tree
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def placed(array: Any, sharding: Any) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda array: placed(array, sharding), tree)
    return jax.tree.map(placed, tree, sharding)


def place_rows(tree: Any, sharding: NamedSharding) -> Any:
    """The rows of this process, which is its share of a batch, as arrays of the whole batch."""
    processes = jax.process_count()
    if processes == 1:
        return jax.device_put(tree, sharding)

    def placed(rows: Any) -> jax.Array:
        whole = processes * rows.shape[0], *rows.shape[1:]
        return jax.make_array_from_process_local_data(sharding, rows, whole)

    return jax.tree.map(placed, tree)


def on_this_process(tree: Any) -> Any:
    """A copy on one device of this process alone. All processes have to ask for it together."""

    def local(array: Any) -> Any:
        if not isinstance(array, jax.Array):
            return array
        if not array.is_fully_replicated:
            assert isinstance(array.sharding, NamedSharding)
            whole = NamedSharding(array.sharding.mesh, PartitionSpec())
            array = jax.jit(lambda x: x, out_shardings=whole)(array)
        return jnp.copy(array.addressable_shards[0].data)

    return jax.tree.map(local, tree)


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
    meet: Callable[[], None] | None = None
    """Of several processes: waits until all are here."""
    _compiled: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, state: Any, resident: Any, batch: Any) -> Any:
        batch = self.place(batch)
        if self.meet is None:
            return self.program(state, resident, batch)
        shapes = tuple(array.shape for array in jax.tree.leaves((resident, batch)))
        if shapes not in self._compiled:
            # Some compile for longer than others, and those that run give up after 30 s (Gloo).
            self._compiled[shapes] = self.program.lower(state, resident, batch).compile()
            self.meet()
        return self._compiled[shapes](state, resident, batch)

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
    state: Any = None,
    results: Any = None,
    meet: Callable[[], None] | None = None,
) -> Parallelised:
    """Compile `function(state, resident, batch, axis_name=None) -> results`.

    `state` and `resident` are pytrees of device arrays, which lie as their shardings say (None:
    every device holds them whole), and so do the results. `batch` is a pytree of host arrays whose
    first axis is split over the devices; of several processes, each brings its share. Under
    `jax.jit` the function sees the whole batch and `axis_name` is None; under `jax.pmap` it sees
    one device's share and has to sum over `axis_name` itself. With `donate` the state's buffers are
    reused for the results.

    Raises:
      DeviceError: under pmap every device has to hold state and what is resident whole, and there
        is one process.
    """
    donated = (0,) if donate else ()
    if parallel == "pmap":
        _check_pmap(mesh)
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
        in_shardings=(state or whole, resident or whole, split),
        out_shardings=results or whole,
        donate_argnums=donated,
    )
    meet = meet if jax.process_count() > 1 else None
    return Parallelised(compiled, lambda batch: place_rows(batch, split), lambda x: x, meet)


def _check_pmap(mesh: Mesh) -> None:
    for what, there in (("fsdp", mesh.shape["fsdp"]), ("processes", jax.process_count())):
        if there > 1:
            raise DeviceError(
                f"parallel='pmap' with {what}={there}: under pmap one process holds the whole "
                "state on every device; choose parallel='auto'"
            )
