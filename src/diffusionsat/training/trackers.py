"""A run's log and sheets in TensorBoard, or in Weights & Biases."""

import importlib.util
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from diffusionsat.config import to_toml
from diffusionsat.errors import ConfigError, MissingExtraError
from diffusionsat.training.recipe import Recipe


class _Tracker(Protocol):
    def scalars(self, values: dict[str, float], seen: int) -> None: ...

    def image(self, name: str, pixels: np.ndarray, seen: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    """Event files in the run's folder ``tensorboard``."""

    def __init__(self, recipe: Recipe, folder: Path, seen: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a run that is taken up says again takes the place of what it had said.
        self.writer = SummaryWriter(folder / "tensorboard", purge_step=seen + 1)

    def scalars(self, values: dict[str, float], seen: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, seen)
        self.writer.flush()

    def image(self, name: str, pixels: np.ndarray, seen: int) -> None:
        self.writer.add_image(name, pixels, seen, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class _WandB:
    """A run of the project ``diffusionsat`` in the account that ``wandb login`` or its variables name."""

    def __init__(self, recipe: Recipe, folder: Path, seen: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        file = folder / "wandb-id"
        if not file.exists():
            file.write_text(secrets.token_hex(8))
        try:
            self.run = wandb.init(
                project="diffusionsat",
                name=folder.resolve().name,
                id=file.read_text(),
                resume="allow",
                dir=folder,
                config={"recipe": to_toml(recipe)},
            )
        except wandb.Error as error:
            raise ConfigError(
                f"wandb cannot begin: {error}. Log in, or leave it out of run.trackers."
            ) from None
        self.as_image = wandb.Image

    def scalars(self, values: dict[str, float], seen: int) -> None:
        self.run.log(values, step=seen)

    def image(self, name: str, pixels: np.ndarray, seen: int) -> None:
        self.run.log({name: self.as_image(pixels)}, step=seen)

    def close(self) -> None:
        self.run.finish()


_TRACKERS: dict[str, Callable[[Recipe, Path, int], _Tracker]] = {"tensorboard": _TensorBoard, "wandb": _WandB}


def check(recipe: Recipe) -> None:
    """Refuse trackers that are not installed, before anything is built.

    Raises:
        MissingExtraError: Naming the first.
    """
    for name in recipe.run.trackers:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"run.trackers has {name!r}, which", name)


class Trackers:
    """All trackers of a run.

    Args:
        recipe: Its ``run.trackers`` are opened.
        folder: Of the run.
        seen: Images seen so far.
    """

    def __init__(self, recipe: Recipe, folder: Path, seen: int) -> None:
        self.opened = [_TRACKERS[name](recipe, folder, seen) for name in recipe.run.trackers]
        self.sheets, self.shown = folder / "sheets", seen

    def write(self, line: dict[str, Any]) -> None:
        """Pass on the numbers of a line of the log, and the sheets since the line before."""
        self._show(line["seen"])
        values = dict(_numbers(line))
        for tracker in self.opened:
            tracker.scalars(values, line["seen"])

    def close(self, seen: int) -> None:
        """Pass on the last sheets and end."""
        self._show(seen)
        for tracker in self.opened:
            tracker.close()

    def _show(self, seen: int) -> None:
        for file in sorted(self.sheets.glob("*.png")) if self.opened else ():
            if self.shown < int(file.stem) <= seen:
                with Image.open(file) as sheet:
                    pixels = np.asarray(sheet)
                for tracker in self.opened:
                    tracker.image("sheet", pixels, int(file.stem))
        self.shown = seen


def _numbers(line: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """What a tracker plots: ``psnr/eurosat_rgb`` for a number in a dict."""
    for name, value in line.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif value is not None and name != "seen":
            yield prefix + name, value
