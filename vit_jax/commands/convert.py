"""`vit-jax convert`."""

from typing import Literal

LayoutName = Literal["huggingface", "timm", "torchvision", "google"]


def convert(model: str, out: str, /, to: LayoutName) -> int:
    """Write a model's weights in a published layout.

    Args:
      model: a run folder, weights in any published layout, or hf-hub:USER/REPO.
      out: a new folder for huggingface and timm, a file for torchvision (.safetensors) and google
        (.npz).
      to: the layout.
    """
    from vit_jax.weights import load_pretrained, save_pretrained

    network, variables, spec = load_pretrained(model)
    print(f"{spec.layout} -> {to}: {save_pretrained(out, to, network, variables, spec)}")
    return 0
