"""The published sizes of plain Vision Transformers, by name."""

from typing import Any, NamedTuple

from vit_jax.models.vit import ViT


class Size(NamedTuple):
    width: int
    depth: int
    mlp_dim: int
    num_heads: int


# Ti, S: DeiT, arXiv 2012.12877, table 1.   B, L, H: ViT, arXiv 2010.11929, table 1.
# g, G: Scaling Vision Transformers, arXiv 2106.04560, table 2.
# So400m: SoViT-400m/14, arXiv 2305.13035, section 4.
SIZES = {
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "So400m": Size(1152, 27, 4304, 16),
    "H": Size(1280, 32, 5120, 16),
    "g": Size(1408, 40, 6144, 16),
    "G": Size(1664, 48, 8192, 16),
}


def vit(name: str, num_classes: int | None = 1000, **fields: Any) -> ViT:
    """A published ViT by size and patch: `vit("B/16")` has 86,567,656 parameters at 224 pixels.

    Args:
      name: "SIZE/PATCH", a size of `SIZES` and a patch in pixels, such as "Ti/16" or "So400m/14".
      num_classes: outputs of the head; None: no head.
      fields: any other field of `ViT`, such as `pool="gap"`.

    Raises:
      ValueError: the name is not SIZE/PATCH.

    >>> vit("S/16", num_classes=10).width
    384
    """
    size, _, patch = name.partition("/")
    if size not in SIZES or not patch.isdecimal() or int(patch) == 0:
        raise ValueError(
            f"name={name!r}: expected SIZE/PATCH with SIZE one of {', '.join(SIZES)} and PATCH in "
            "pixels, such as 'B/16'"
        )
    named: dict[str, Any] = {"patch_size": int(patch), **SIZES[size]._asdict()}
    return ViT(**named | {"num_classes": num_classes} | fields)
