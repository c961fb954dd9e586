"""One look for all pictures: colours that stay apart for colour-blind readers, quiet axes."""

from typing import Any

# The first two are of Okabe and Ito's palette (2008).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"


def figure(columns: int, width: float = 4.2, height: float = 3.4) -> tuple[Any, Any]:
    """A figure, not tied to any window, and its row of axes; sizes in inches per panel."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(columns * width, height), dpi=110, layout="constrained")
    axes = fig.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.6)
        one.set_axisbelow(True)
    return fig, axes
