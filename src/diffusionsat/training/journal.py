"""What a run says of itself: a line of JSON now and then, with the means since the line before."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusionsat.errors import CheckpointError, DiffusionSatError
from diffusionsat.files import write_bytes
from diffusionsat.training.processes import Alone

FILE = "log.jsonl"


class Diverged(DiffusionSatError, ArithmeticError):  # noqa: N818, as `Cancelled`
    """The loss or the gradient is no finite number any more."""


class Journal:
    """Means of losses without waiting for the device at every step, and lines of the log.

    Args:
        folder: Where ``log.jsonl`` lies; lines of images that will be seen again are cut off.
        seen: Images seen so far.
        processes: Whose means are taken.
        tell: Called with each line.
    """

    def __init__(
        self, folder: Path, seen: int, processes: Alone, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self.file, self.processes, self.tell = folder / FILE, processes, tell
        if processes.rank == 0 and self.file.exists():
            lines = self.file.read_text().splitlines(keepends=True)
            kept = "".join(line for line in lines if _seen(line) <= seen)
            write_bytes(self.file, kept.encode(), overwrite=True)
        self._begin(seen)

    def _begin(self, seen: int) -> None:
        self.since, self.started, self.steps = seen, time.monotonic(), 0
        self.sums = torch.zeros(2, device=self.processes.device)

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Take in one step's loss and norm of the gradient."""
        self.sums += torch.stack([loss.detach(), norm.detach()]).to(self.sums)
        self.steps += 1

    def check(self, seen: int) -> None:
        """Refuse to go on with numbers that are not finite.

        Raises:
            Diverged: If a loss or gradient since the last line was not.
        """
        if not self.sums.isfinite().all():
            raise Diverged(
                f"The loss is no finite number any more, between {self.since} and {seen} images. The state "
                "saved last is from before. Lower optimiser.lr, set optimiser.clip, or give run.precision "
                "fp32, then go on from there."
            )

    def write(self, seen: int, figures: dict[str, Any]) -> None:
        """Write a line and begin anew.

        Raises:
            CheckpointError: If the disk is full or fails.
        """
        elapsed = max(time.monotonic() - self.started, 1e-9)
        loss, norm = (self.processes.mean(self.sums) / max(self.steps, 1)).tolist()
        line = {"seen": seen, "loss": _rounded(loss), "gradient_norm": _rounded(norm)}
        line |= {"images_per_s": round((seen - self.since) / elapsed, 1), **figures}
        if self.processes.rank == 0:
            try:
                with self.file.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                raise CheckpointError(
                    f"{self.file} cannot be written: {error.strerror}. Make room and go on from the state "
                    "saved last."
                ) from error
            self.tell(line)
        self._begin(seen)


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _seen(line: str) -> float:
    try:
        return json.loads(line)["seen"]
    except (ValueError, KeyError, TypeError):  # a line that was cut short
        return math.inf
