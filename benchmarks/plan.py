"""Images per second, memory and efficiency on many GPUs, reckoned before they are rented.

python benchmarks/plan.py [--gpu H100|A100|H200] [--efficiency 0.35] [--batch 256]

A model, not a measurement: the time of a step is that of its floating-point operations at an
assumed efficiency of one device, plus half of the time that gradients take over the links at 70 %
of their rates; the other half is hidden behind the backward pass. Gradients are summed among the 8
GPUs of a machine, then each GPU sums its eighth with those of the other machines. No time is lost
on input, stragglers or failures. tests/test_plan.py holds it against published measurements.
"""

import argparse
import dataclasses
from collections.abc import Iterator

IN_A_MACHINE = 8
LINK_SHARE = 0.7
"""Of a link's rate, what large messages reach."""
HIDDEN = 0.5
"""Of the time of sending, what the backward pass covers."""
STATE_BYTES = 20
"""Per parameter, in float32: the weight, its gradient, two moments of AdamW, and an average."""
ACTIVATION_BYTES = 32
"""Per token, layer and unit of width, in bfloat16, without remat and with fused attention."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    flops: float
    """Dense bfloat16 operations a second, by the data sheet."""
    inside: float
    """Bytes a second from a GPU to those of its machine, one direction."""
    outside: float
    """Bytes a second from a GPU to other machines, one direction."""
    memory: float
    """Bytes."""


GPUS = {
    "A100": Gpu(312e12, 300e9, 25e9, 80e9),
    "H100": Gpu(989e12, 450e9, 50e9, 80e9),
    "H200": Gpu(989e12, 450e9, 50e9, 141e9),
}


@dataclasses.dataclass(frozen=True)
class Model:
    parameters: int
    step_flops: float
    """Of an image, forward and backward."""
    activation_bytes: float
    """Of an image."""


@dataclasses.dataclass(frozen=True)
class Plan:
    images_per_second: float
    """Of all GPUs."""
    efficiency: float
    """Images per second and GPU, relative to one GPU alone."""
    memory: float
    """Bytes on each GPU, which holds the whole state."""
    memory_in_shares: float
    """The same with the state in shares of the GPUs of a machine, `fsdp=8`."""


def model(name: str, size: int = 224) -> Model:
    """Of a published size, such as "B/16", on square images of `size` pixels."""
    from vit_jax import vit
    from vit_jax.models import forward_flops, grid_size, parameter_count

    found = vit(name)
    rows, columns = grid_size((size, size), found.patch_size)
    tokens = rows * columns + found.num_prefix_tokens
    return Model(
        parameter_count(found, (size, size), 3),
        3 * forward_flops(found, (size, size), 3),
        ACTIVATION_BYTES * found.width * tokens * found.depth,
    )


def sending_seconds(gradient_bytes: float, gpu: Gpu, gpus: int) -> float:
    """How long the gradients of a step take until all GPUs have their sum."""
    inside = min(gpus, IN_A_MACHINE)
    machines = -(-gpus // IN_A_MACHINE)
    here = 2 * (inside - 1) / inside * gradient_bytes / (LINK_SHARE * gpu.inside)
    there = 2 * (machines - 1) / machines * gradient_bytes / inside / (LINK_SHARE * gpu.outside)
    return here + there


def plan(model: Model, gpu: Gpu, gpus: int, batch: int, efficiency: float) -> Plan:
    """What to expect of a training.

    Args:
      batch: images a step on each GPU.
      efficiency: share of its operations a second that one GPU reaches alone, 0..1.
    """
    alone = batch * model.step_flops / (efficiency * gpu.flops)
    step = alone + (1 - HIDDEN) * sending_seconds(4 * model.parameters, gpu, gpus)
    state = STATE_BYTES * model.parameters
    activations = batch * model.activation_bytes
    return Plan(gpus * batch / step, alone / step, state + activations, state / 8 + activations)


def rows(gpu: Gpu, batch: int, efficiency: float) -> Iterator[str]:
    """The table, line by line; the larger a model, the fewer images fit."""
    yield "| model | images a GPU | GPUs | img/s | efficiency | GB a GPU | with fsdp=8 |"
    yield f"| --- |{' ---: |' * 6}"
    for name, share in (("S/16", 1), ("B/16", 1), ("L/16", 2), ("g/14", 8)):
        found, images = model(name), max(1, batch // share)
        for gpus in (8, 64, 1024):
            it = plan(found, gpu, gpus, images, efficiency)
            yield (
                f"| {name} | {images} | {gpus} | {it.images_per_second:,.0f} | {it.efficiency:.1%} "
                f"| {it.memory / 1e9:.1f} | {it.memory_in_shares / 1e9:.1f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", choices=GPUS, default="H100")
    parser.add_argument("--efficiency", type=float, default=0.35, help="of one GPU, 0..1")
    parser.add_argument("--batch", type=int, default=256, help="images a GPU of S/16 and B/16")
    arguments = parser.parse_args()
    gpu = GPUS[arguments.gpu]
    print(
        f"{arguments.gpu}, at an assumed {arguments.efficiency:.0%} of {gpu.flops / 1e12:.0f} TF/s"
    )
    for row in rows(gpu, arguments.batch, arguments.efficiency):
        print(row)


if __name__ == "__main__":
    main()
