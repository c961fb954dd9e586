"""Progress for people: a bar on a terminal, plain lines now and then elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 10.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the process here, and with it what is not saved.
        raise BrokenPipeError


class Progress:
    """Shows how far a training is; `on_line` also gets every line that is printed for good."""

    def __init__(self, total_steps: int, done: int, on_line: Callable[[str], None]):
        self.total_steps = total_steps
        self._on_line = on_line
        self._console = _Console(highlight=False, markup=False, soft_wrap=True)
        self._next_line = 0.0
        self._bar: RichProgress | None = None
        if self._console.is_terminal:
            self._bar = RichProgress(
                BarColumn(bar_width=None),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task("compiling", total=total_steps, completed=done)
            self._bar.start()

    @property
    def on_terminal(self) -> bool:
        return self._console.is_terminal

    def update(
        self,
        done: int,
        loss: float,
        accuracy: float,
        learning_rate: float,
        images_per_second: float | None,
    ) -> None:
        """Show the numbers of a step."""
        speed = f"{images_per_second:,.0f} img/s" if images_per_second else "compiled"
        text = (
            f"step {done}/{self.total_steps}  loss {loss:.4f}  accuracy {accuracy:.1%}  "
            f"lr {learning_rate:.2e}  {speed}"
        )
        if self._bar:
            self._bar.update(self._task, completed=done, description=text)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self._console.print(text)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text)
        self._on_line(text)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None
