"""The confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit_jax.pictures.fonts import drawable, families
from vit_jax.pictures.style import figure

LARGEST_LABELLED = 40
"""Classes up to which names and numbers are readable."""


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """Draw images by label (row) and prediction (column), in per cent of the row, as PNG.

    Args:
      confusion: int [classes, classes], counts.
    """
    classes = len(class_names)
    totals = confusion.sum(axis=1, keepdims=True)
    share = 100 * confusion / np.maximum(totals, 1)
    longest = max(map(len, class_names))
    labelled = classes <= LARGEST_LABELLED
    side = min(max(4.0, 0.5 * classes), 16.0) if labelled else 8.0
    margin = 0.09 * longest if labelled else 0

    fig, (axes,) = figure(1, width=side + 1.6 + margin, height=side + 0.8 + margin)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.grid(visible=False)
    if labelled:
        names = [drawable(name) for name in class_names]
        # A class may be called "$5 or $10".
        look = {"parse_math": False, "fontfamily": families("".join(names))}
        axes.set_xticks(range(classes), names, rotation=90 if longest > 2 else 0, **look)
        axes.set_yticks(range(classes), names, **look)
        for row, column in np.argwhere(confusion):
            axes.text(
                column,
                row,
                f"{share[row, column]:.0f}" if share[row, column] >= 1 else "<1",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[row, column] > 50 else "black",
            )
    correct = np.trace(confusion) / max(confusion.sum(), 1)
    axes.set(
        title=f"{correct:.2%} of {confusion.sum():,} images right",
        xlabel="prediction",
        ylabel="label",
    )
    fig.colorbar(image, ax=axes, shrink=0.8, label="share of the label's images (%)")
    fig.savefig(path)
