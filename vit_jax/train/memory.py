"""What a training step needs of a device's memory: of the compiled program, and in words."""

import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax.models.encoder import Remat
from vit_jax.sharding import make_mesh
from vit_jax.train.programs import compile_train_step
from vit_jax.train.setup import Job

USABLE = 0.8
"""Share of a device's memory to reckon with: the kernels that a program calls take some of their
own, which its analysis leaves out, and a full memory is never in one piece."""


LESS: dict[Remat, tuple[Remat, ...]] = {"none": ("dots", "full"), "dots": ("full",), "full": ()}
"""The words of `ViT.remat` with which a step keeps less than with this one, by falling need."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What decides how much memory a step needs, of one model and one optimiser."""

    batch_size: int
    accumulate_steps: int = 1
    remat: Remat = "none"


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes on each device while a step runs; those of another batch follow a line."""

    setting: Setting
    total: int
    """Everything: state, images, activations."""
    activations: int
    """What the program allocates while it runs: activations, gradients and the like."""
    per_image: float
    """How much the total grows with an image of the batch (of all devices)."""

    @property
    def constant(self) -> float:
        """Bytes that do not depend on the batch."""
        return self.total - self.per_image * self.setting.batch_size

    def at(self, batch_size: int) -> float:
        """The total of another batch, by the line."""
        return self.constant + self.per_image * batch_size

    def largest_batch(self, limit: float, unit: int) -> int:
        """The largest multiple of `unit` whose step needs at most `limit` bytes; 0: there is none.

        Raises:
          ValueError: the total does not grow with the batch.
        """
        if self.per_image <= 0:
            raise ValueError(f"{self.per_image} bytes per image tell no largest batch")
        return max(0, math.floor((limit - self.constant) / self.per_image)) // unit * unit

    def parts_that_fit(self, limit: float, gradients: int, devices: int) -> int | None:
        """The smallest `accumulate_steps` with which the same batch fits; None: no number does.

        An estimate: what grows with the batch is taken to be a part's, and summing takes memory
        for the gradients once more.

        Args:
          gradients: bytes of the gradients.
        """
        batch, now = self.setting.batch_size, self.setting.accumulate_steps
        constant = self.constant + (gradients if now == 1 else 0)
        for parts in range(now + 1, batch // devices + 1):
            fits = constant + self.per_image * batch * now / parts <= limit
            if fits and batch % (devices * parts) == 0:
                return parts
        return None


def setting_of(job: Job) -> Setting:
    """The config's."""
    config = job.config
    return Setting(config.batch_size, config.accumulate_steps, config.model.remat)


def batch_unit(job: Job, accumulate_steps: int) -> int:
    """What a batch has to be a multiple of: whole parts on each device, whole pairs, repeats."""
    augment, devices = job.config.augment, len(job.devices)
    pairs = 2 * devices if augment.mixes else 1
    return math.lcm(devices * accumulate_steps, pairs, augment.repeats)


def measure(job: Job, setting: Setting | None = None) -> Need | None:
    """What a step needs, by two compiled programs: of the batch, and of another about half of it.

    Nothing runs and nothing is allocated. Evaluations and what other processes hold come on top.

    Args:
      setting: None: the config's.

    Returns:
      None where the backend does not tell what its programs need.
    """
    setting = setting or setting_of(job)
    unit = batch_unit(job, setting.accumulate_steps)
    batch = setting.batch_size
    other = batch // 2 // unit * unit or 2 * batch
    here, there = (
        _analysis(job, dataclasses.replace(setting, batch_size=size)) for size in (batch, other)
    )
    if here is None or there is None:
        return None
    return Need(
        setting,
        # The program's arguments hold the training images; the others are there as well.
        total=_total(here) + resident_bytes(job) - _on_device(job.train_feed.resident),
        activations=here.temp_size_in_bytes,
        per_image=(_total(here) - _total(there)) / (batch - other),
    )


def lower_train_step(job: Job, setting: Setting) -> jax.stages.Lowered:
    """The program of a step, not compiled yet."""
    recipe = dataclasses.replace(
        job.recipe,
        model=job.recipe.model.clone(remat=setting.remat),
        accumulate_steps=setting.accumulate_steps,
    )
    mesh = make_mesh(job.devices, job.config.fsdp)
    step = compile_train_step(recipe, mesh, job.config.parallel, job.train_feed, job.sharding)
    plan = plan_shapes(job, setting.batch_size)
    return step.lower(job.state_shapes, job.train_feed.resident, plan)


def plan_shapes(job: Job, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What the training feed would send for a batch of this size."""
    kinds: dict[str, tuple[tuple[int, ...], Any]] = {
        "index": ((), np.int32),
        "place": ((), np.int32),
        "mask": ((), np.float32),
    }
    if job.train_feed.sharding is None:
        source = job.sources["train"]
        kinds |= {"image": (source.image_shape, source.dtype), "label": ((), source.labels.dtype)}
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), jax.dtypes.canonicalize_dtype(dtype))
        for name, (shape, dtype) in kinds.items()
    }


def state_bytes(job: Job) -> dict[str, int]:
    """Bytes that each device holds of the parts of the state: all, or its shares."""
    held = jax.tree.map(
        lambda leaf, where: math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        job.state_shapes,
        job.sharding,
    )
    parts = {"parameters": held.params, "optimiser": held.opt_state, "moving average": held.ema}
    return {name: sum(jax.tree.leaves(part)) for name, part in parts.items()}


def resident_bytes(job: Job) -> int:
    """Bytes of the images and labels that each device holds all the time."""
    return sum(_on_device(feed.resident) for feed in job.feeds)


def device_limit(devices: list[jax.Device]) -> int:
    """Bytes a device has for a training, with those that this process holds on it already.

    CPU devices share what the machine, or a limit on the process, leaves free.
    """
    ours = [device for device in devices if device.process_index == jax.process_index()]
    stats = ours[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    held = sum(
        shard.data.nbytes for array in jax.live_arrays() for shard in array.addressable_shards
    )
    return (host_free() + held) // len(ours)


def host_free() -> int:
    """Bytes this process may still take: of the machine, its address space, its control group."""
    free = [_machine_free()]
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        if limit != resource.RLIM_INFINITY:
            free.append(limit - used)
    except (ImportError, OSError):
        pass  # not on this system
    try:
        group = Path("/sys/fs/cgroup")
        cached = re.search(r"^file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        used = int((group / "memory.current").read_text()) - int(cached[1] if cached else 0)
        free.append(int((group / "memory.max").read_text()) - used)
    except (OSError, ValueError):
        pass  # no control group, or one without a limit: "max"
    return max(0, min(free))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory is full."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def explain_out_of_memory(error: BaseException, job: Job) -> str | None:
    """A paragraph on what to do; None where the error is not that of a device's full memory."""
    if not is_out_of_memory(error):
        return None
    text = str(error)
    try:
        need, limit = measure(job), device_limit(job.devices)
        facts = describe_need(need, limit) if need else "This backend does not tell what it needs."
        remedies = remedies_for(job, need, limit)
    # Where memory is short compiling may fail too, in whatever way.
    except Exception:
        facts, remedies = "What it needs could not be found out.", remedies_for(job, None, 0)
    asked = f", asking for {found} at once" if (found := bytes_asked_for(text)) else ""
    return (
        f"Out of memory on {job.devices[0].device_kind} with batch_size={job.config.batch_size}"
        f"{asked}. {facts} What helps: {'; or '.join(remedies)}."
    )


def bytes_asked_for(text: str) -> str | None:
    """The amount that an error of XLA names; None: it names none.

    >>> bytes_asked_for("RESOURCE_EXHAUSTED: Out of memory allocating 2500000000 bytes.")
    '2.5 GB'
    """
    if found := re.search(r"allocat\w* (\d+) bytes", text):
        return in_words(int(found[1]))
    found = re.search(r"allocat\w* ([\d.]+ ?[KMGT]i?B)", text)
    return found[1] if found else None


def describe_need(need: Need, limit: float) -> str:
    """Sentences on what a step needs and what there is."""
    return (
        f"A step needs {in_words(need.total)} on each device, {in_words(need.per_image)} of it per "
        f"image of the batch, and there are {in_words(limit)}, {USABLE:.0%} of which can be "
        + ("used." if need.total > USABLE * limit else "used: something else holds memory too.")
    )


def remedies_for(job: Job, need: Need | None, limit: float) -> list[str]:
    """Flags that make a step smaller, and what they do; the best ones where the need is known."""
    setting, devices = setting_of(job), len(job.devices)
    batch, unit = setting.batch_size, batch_unit(job, setting.accumulate_steps)
    fits, words = batch // 2 // unit * unit, "may fit"
    parts: int | None = 2 * setting.accumulate_steps
    if need and need.per_image > 0 and need.total > USABLE * limit:
        fits, words = need.largest_batch(USABLE * limit, unit), "fits"
        parts = need.parts_that_fit(USABLE * limit, state_bytes(job)["parameters"], devices)
    remedies = [f"--config.batch_size={fits}, which {words}"] if fits else []
    if parts and batch % (devices * parts) == 0:
        remedies.append(
            f"--config.accumulate_steps={parts}, the same update computed in {parts} parts"
        )
    if setting.remat != "full":
        remedies.append("--config.model.remat=full, mostly less memory, for more time")
    return remedies or ["a smaller model"]


def in_words(size: float) -> str:
    """Bytes with a unit, three digits: "1.23 GB"."""
    for unit in ("B", "kB", "MB"):
        if abs(size) < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.0f} GB" if size >= 100 else f"{size:.3g} GB"


def _analysis(job: Job, setting: Setting) -> Any:
    try:
        return lower_train_step(job, setting).compile().memory_analysis()
    except NotImplementedError:
        return None  # some backends have none


def _total(stats: Any) -> int:
    """Results that take an argument's place are counted once."""
    total = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
    return total - stats.alias_size_in_bytes


def _on_device(arrays: Any) -> int:
    """Bytes that each device holds of some arrays."""
    return sum(array.addressable_shards[0].data.nbytes for array in jax.tree.leaves(arrays))


def _machine_free() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists() and (found := re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())):
        return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
