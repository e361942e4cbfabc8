"""A progress bar on stderr, or nothing where that is no terminal or is to be quiet."""

import sys
from typing import Any

from diffusionsat.cli import options


def _rate() -> Any:
    """A column of a bar: how many a second."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.3g}/s")

    return Rate()


class Bar:
    """How far a job is.

    Args:
        unit: What is counted; ``"bytes"`` are shown as such, with their rate.
        total: How many there are; None is unknown.
    """

    def __init__(self, unit: str, total: int | None) -> None:
        self.unit, self.total = unit, total
        self.shown = sys.stderr.isatty() and not options.quiet()

    def __enter__(self) -> "Bar":
        if self.shown:
            from rich import progress
            from rich.console import Console

            counts = (
                (progress.DownloadColumn(), progress.TransferSpeedColumn())
                if self.unit == "bytes"
                else (progress.MofNCompleteColumn(), _rate())
            )
            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                *counts,
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.unit, total=self.total)
        return self

    def advance(self) -> None:
        """One more is done."""
        if self.shown:
            self.bar.advance(self.task)

    def show(self, done: int, total: int | None = None, what: str | None = None) -> None:
        """So many are done, of so many; ``what`` stands in place of the unit."""
        if self.shown:
            self.bar.update(self.task, completed=done, total=total, description=what)

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.bar.stop()
