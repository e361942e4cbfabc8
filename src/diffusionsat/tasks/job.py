"""A job on pixels that lie somewhere: latents solved in windows, in memory or on disk, then made pixels.

Every job on rasters is one of these with its own condition frames, measurement and finish. Both ways to solve
give the same latents, since both see the same windows in batches of the same shape.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusionsat.diffusion.canvas import Canvas, solve_on_disk
from diffusionsat.diffusion.denoisers import Denoiser, input_scale
from diffusionsat.diffusion.solvers import SOLVERS, OnStep
from diffusionsat.diffusion.windows import Plan, Window, plan, windowed
from diffusionsat.execution import Execute
from diffusionsat.geo.grids import Grid
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat, Steering
from diffusionsat.models.networks import Frames
from diffusionsat.noise_keys import normal
from diffusionsat.tasks.rendering import Renderer
from diffusionsat.tasks.sampling import Settings, guidance_by
from diffusionsat.tasks.views import View, frames_of

SMALLEST = 64  # pixels of a side that networks are used to
_BATCH_PIXELS = 4 * 256 * 256  # what one batch of windows holds
_KEPT = 32  # batches of windows whose conditions are kept: those of 1,024 pixels squared and more


class Job:
    """What decides the latents of one image.

    Args:
        sat: The model.
        settings: How to sample.
        metadata: Of the image; each window is told the place of its own centre.
        size: Width and height of the image, pixels; any.
        grid: Where it lies; None if that is not known.
        views: Frames that the ControlNet sees.
        control: Its name; None is none.
        index: Of the sample.
    """

    window = 256  # pixels of a side that the networks see at once
    overlap = 96  # pixels that windows share with their neighbours
    grain = 1  # latent pixels that windows begin at multiples of
    stage = 0  # which noise: each stage of an image has its own

    def __init__(
        self,
        sat: DiffusionSat,
        settings: Settings,
        metadata: Metadata,
        size: tuple[int, int],
        *,
        grid: Grid | None = None,
        views: Sequence[View] = (),
        control: str | None = None,
        index: int = 0,
    ) -> None:
        self.sat, self.metadata, self.index = sat, metadata, index
        self.settings = replace(settings, guidance=guidance_by(sat, settings.guidance, control))
        self.width, self.height = size
        self.grid, self.views, self.control = grid, tuple(views), control
        self._kept: dict[tuple[Window, ...], Denoiser] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: without what was kept."""
        return self.__dict__ | {"_kept": {}}

    @cached_property
    def plan(self) -> Plan:
        """The windows, in latents; the canvas is the image filled up to what the networks want."""
        multiple, factor = self.sat.multiple, self.sat.factor
        sides = (max(side, SMALLEST) for side in (self.height, self.width))
        rows, columns = (-(-side // multiple) * multiple // factor for side in sides)
        return plan(rows, columns, self.window // factor, self.overlap // factor, self.grain)

    @property
    def batch(self) -> int:
        """Windows at a time, whatever their number."""
        pixels = self.plan.rows.window * self.plan.columns.window * self.sat.factor**2
        return min(len(self.plan), max(1, _BATCH_PIXELS // pixels))

    @cached_property
    def sigmas(self) -> list[float]:
        """Noise levels that are solved over, falling."""
        return self.levels()

    def levels(self) -> list[float]:
        """Noise levels of the schedule for what the networks see at once."""
        factor = self.sat.factor
        seen = (self.plan.columns.window * factor, self.plan.rows.window * factor)
        return self.sat.schedule.levels(self.settings.steps, seen).tolist()

    @property
    def renderer(self) -> Renderer:
        """What makes pixels of the latents."""
        scale = input_scale(self.sat.config.prediction, self.sigmas[-1])
        rows, columns = self.plan.rows.length, self.plan.columns.length
        return Renderer(sat=self.sat, height=rows, width=columns, scale=scale)

    def noise(self, rows: range, columns: range) -> np.ndarray:
        """Latents at the first noise level, float32 (C, rows, columns)."""
        sigma = self.sigmas[0]
        return self.normal(rows, columns) * np.float32((1 + sigma**2) ** 0.5)

    def normal(self, rows: range, columns: range) -> np.ndarray:
        """Standard normal noise of the image, float32 (C, rows, columns)."""
        return normal(
            self.settings.seed,
            self.index,
            "initial",
            self.stage,
            channels=self.sat.latent_channels,
            rows=rows,
            columns=columns,
        )

    @torch.inference_mode()
    def denoise(self, x: Tensor, sigma: float, windows: Sequence[Window]) -> Tensor:
        """Estimates of a batch of windows; a `WindowDenoiser`."""
        key = tuple(windows)
        found = self._kept.get(key) or self._denoiser(key)
        if len(self._kept) < _KEPT:
            self._kept[key] = found
        return found(x.to(self.sat.device), sigma).to(x.device)

    def _denoiser(self, windows: tuple[Window, ...]) -> Denoiser:
        denoise = self.sat.conditioned(
            [self.settings.prompt] * len(windows),
            [self.metadata_of(window) for window in windows],
            self.settings.negative,
            self.settings.guidance,
            self._steering(windows),
        )
        return self.constrained(denoise, windows)

    def constrained(self, denoise: Denoiser, windows: Sequence[Window]) -> Denoiser:
        """The denoiser of a batch of windows with what was measured respected; here nothing was."""
        return denoise

    def metadata_of(self, window: Window) -> Metadata:
        """The image's, at the window's centre."""
        if self.grid is None or self.metadata.lon is None:
            return self.metadata
        rows, columns = self.pixels_of(window)
        lon, lat = self.grid.lon_lat((columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2)
        return self.metadata.replace(lon=lon, lat=lat)

    def pixels_of(self, window: Window) -> tuple[range, range]:
        """Rows and columns of the image that a window covers; they may go beyond it."""
        factor = self.sat.factor
        rows, columns = (range(r.start * factor, r.stop * factor) for r in (window.rows, window.columns))
        return rows, columns

    def _steering(self, windows: Sequence[Window]) -> Steering | None:
        if self.control is None or not self.views:
            return None
        frames = [frames_of(self.views, *self.pixels_of(window)) for window in windows]
        together = Frames(*(torch.cat(parts) for parts in zip(*frames, strict=True)))
        height, width = together.valid.shape[-2:]
        return Steering(control=self.control, frames=together, size=(width, height))

    def solve(self, on_step: OnStep | None = None) -> np.ndarray:
        """The latents at the last noise level, float32 (C, h, w), in memory.

        Raises:
            Cancelled: If ``on_step`` returned False.
        """
        whole = range(self.plan.rows.length), range(self.plan.columns.length)
        x = torch.from_numpy(self.noise(*whole))[None]
        solver = SOLVERS[self.settings.solver]
        x = solver(windowed(self.denoise, self.plan, self.batch), x, self.sigmas, on_step)
        return x[0].numpy()

    def solve_on_disk(
        self,
        folder: Path,
        identity: str,
        *,
        execute: Execute = map,
        on_unit: Callable[[int, int], bool | None] | None = None,
    ) -> Path:
        """The same in a file, in memory that does not grow with the area; goes on where it was stopped.

        Args:
            folder: For this job alone; it exists.
            identity: What decides the pixels.
            execute: Who does the work.
            on_unit: Called with units done and units in all; returning False stops.

        Raises:
            ConfigError: If the folder holds another job.
            RasterError: If there is no room on the disk.
            Cancelled: If ``on_unit`` returned False.
        """
        canvas = Canvas(
            folder=folder,
            plan=self.plan,
            channels=self.sat.latent_channels,
            sigmas=tuple(self.sigmas),
            solver=SOLVERS[self.settings.solver],
            batch=self.batch,
        )
        solve_on_disk(canvas, self.denoise, self.noise, identity, execute=execute, on_unit=on_unit)
        return canvas.file(canvas.steps)
