"""The last lines of a training: what came out, where everything is, what to run next."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.box import ROUNDED
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vit_jax.pictures.report_facts import duration, next_commands


def show_farewell(
    folder_path: Path,
    summary: dict[str, Any],
    best_step: int | None,
    write_line: Callable[[str], None],
    is_terminal: bool,
    console: Console | None = None,
) -> None:
    """Say how a complete training ended: on a terminal a table, in files and pipes plain lines.

    Args:
      folder_path: of the run; what it holds by now is named.
      summary: what summary.json holds.
      best_step: of the checkpoint with the best held-out accuracy; None where there is none.
      write_line: takes each plain line. On a terminal, which shows the table, it should write to
        log.txt alone.
      console: where the table goes; by default, standard output. A progress bar on another
        console has to be closed before.
    """
    if is_terminal:
        _show_table(folder_path, summary, best_step, console or Console())
    for line in farewell_lines(folder_path, summary, best_step):
        write_line(line)


def farewell_lines(folder_path: Path, summary: dict[str, Any], best_step: int | None) -> list[str]:
    """The farewell as plain lines, each of which makes sense alone."""
    speed, wait = summary["train_images_per_second"], summary["seconds_input_wait"]
    done = f"Done in {summary['seconds_total']:.1f} s"
    done += f": {speed:,.0f} img/s in training" if speed else ""
    lines = [f"{done}, {wait:.2f} s waiting for input"]
    lines += [f"{name}: {value}" for name, value in _results(summary)]
    if best_step is not None:
        lines.append(f"Best held-out accuracy among the checkpoints: step {best_step}")
    lines += [f"{name}: {path}" for name, path in _places(folder_path)]
    lines += [f"{command.purpose}: {command.line}" for command in next_commands(folder_path)]
    return lines


def _results(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The accuracies; the held-out one only where there is no test."""
    if summary["test_examples"]:
        images = f"{summary['test_examples']:,} images"
        found = [("Test accuracy", f"{summary['test_accuracy']:.2%} of {images}")]
        for name, value in summary.items():
            views = name.removeprefix("test_accuracy_")
            if views != name and value is not None:
                found.append((f"Test accuracy, {views}", f"{value:.2%} of {images}"))
        return found
    if summary["eval_accuracy"] is not None:
        return [("Held-out accuracy", f"{summary['eval_accuracy']:.2%}")]
    return []


def _places(folder_path: Path) -> list[tuple[str, str]]:
    """Where the run is, and those of its parts for people that were written."""
    parts = {"Report": folder_path / "report.html", "Pictures": folder_path / "pictures"}
    found = {"Run folder": folder_path} | {k: v for k, v in parts.items() if v.exists()}
    return [(name, str(path)) for name, path in found.items()]


def _show_table(
    folder_path: Path, summary: dict[str, Any], best_step: int | None, console: Console
) -> None:
    """Numbers in a box; paths and commands below it, where no frame gets copied with them."""
    table = Table(box=ROUNDED, show_header=False, border_style="green", padding=(0, 1))
    table.title = Text(f"Training complete: {summary['steps']:,} steps", style="bold green")
    table.title_justify = "left"
    for name, value in _results(summary):
        table.add_row(Text(name), Text(value, style="bold"))
    if best_step is not None:
        table.add_row(Text("Best checkpoint"), Text(f"step {best_step}, by held-out accuracy"))
    table.add_row(Text("Time"), Text(duration(summary["seconds_total"])))
    if speed := summary["train_images_per_second"]:
        table.add_row(Text("Speed"), Text(f"{speed:,.0f} img/s in training"))
    table.add_row(Text("Waiting for input"), Text(duration(summary["seconds_input_wait"])))
    console.print()
    console.print(table, soft_wrap=False)
    places = _places(folder_path)
    wide = max(len(name) for name, _ in places)
    # Unbroken however long: the terminal folds such a line, and copies it as one.
    for name, path in places:
        line = Text.assemble((f"{name:<{wide}}  ", "cyan"), path)
        console.print(line, soft_wrap=True, highlight=False)
    console.print("\nWhat next", style="bold", highlight=False)
    for command in next_commands(folder_path):
        console.print(Text(f"  {command.purpose}:", style="cyan"))
        console.print(Text(f"    {command.line}"), soft_wrap=True, highlight=False)
