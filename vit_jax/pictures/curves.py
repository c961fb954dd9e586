"""Loss, accuracy and learning rate over a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_jax.pictures.style import BLUE, GREY, ORANGE, figure


def draw_curves(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draw three panels from the rows of metrics.jsonl and save them as PNG."""
    step_rows = [row for row in rows if row["split"] == "train"]
    epoch_rows = [row for row in rows if row["split"] == "train-epoch"]
    eval_rows = [row for row in rows if row["split"] == "eval"]
    suffix = "_ema" if any("loss_ema" in row for row in eval_rows) else ""
    held_out = "held out (averaged weights)" if suffix else "held out"

    fig, (loss, accuracy, rate) = figure(3)
    loss.plot(*_column(step_rows, "loss"), color=BLUE, alpha=0.25, linewidth=1)
    accuracy.plot(*_column(step_rows, "accuracy", 100), color=BLUE, alpha=0.25, linewidth=1)
    for axes, key, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        mark = "o" if len(epoch_rows) <= 30 else ""
        axes.plot(
            *_column(epoch_rows, key, scale), color=BLUE, marker=mark, label="training, epoch mean"
        )
        axes.plot(
            *_column(eval_rows, key + suffix, scale), color=ORANGE, marker=mark, label=held_out
        )
        axes.legend()
    rate.plot(*_column(step_rows, "learning_rate"), color=GREY)
    loss.set(title="Loss", xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    accuracy.set(title="Accuracy", xlabel="epoch", ylabel="correct (%)", ylim=(0, 101))
    rate.set(title="Learning rate", xlabel="epoch", ylim=(0, None))
    fig.savefig(path)


def _column(
    rows: Sequence[dict[str, Any]], key: str, scale: float = 1
) -> tuple[list[float], list[float]]:
    rows = [row for row in rows if key in row]
    return [row["epoch"] for row in rows], [scale * row[key] for row in rows]
