"""`vit-jax export`."""

from pathlib import Path
from typing import Literal

from vit_jax.weights.run_folder import Which


def export(
    model: str,
    out: str,
    /,
    to: Literal["stablehlo", "onnx"],
    checkpoint: Which | int = "latest",
    batch_size: Literal["symbolic"] | int = "symbolic",
    probabilities: bool = False,
    images: tuple[Path, ...] = (),
) -> int:
    """Write a model as one file that runs without vit_jax, checked, with a JSON on its use.

    Args:
      model: a run folder, weights in any published layout, or hf-hub:USER/REPO.
      out: the file; without an ending it gets .stablehlo or .onnx.
      to: stablehlo: for jax on CPUs, CUDA and TPUs; onnx: for onnxruntime and others, written by
        jax2onnx.
      checkpoint: of a run: latest, best (by held-out accuracy), or a step.
      batch_size: images per call: symbolic for any number, or a number.
      probabilities: of the classes, instead of logits.
      images: image files to compare the file with the model on, besides random images.
    """
    from vit_jax.inference.export import TOLERANCE, export_onnx, export_stablehlo
    from vit_jax.inference.saved import open_model

    write = export_onnx if to == "onnx" else export_stablehlo
    saved = open_model(model, checkpoint)
    done = write(saved, out, batch_size=batch_size, probabilities=probabilities, images=images)
    print(f"{saved.label} -> {to}: {done.path}, {done.size / 1e6:,.1f} MB")
    print(
        f"Read back and run on {done.images} images: within {done.difference:.1e} of the largest "
        f"output (allowed: {TOLERANCE:.0e})"
    )
    print(f"What goes in and what comes out: {done.card}")
    return 0
