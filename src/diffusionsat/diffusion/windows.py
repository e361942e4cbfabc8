"""Images of any size: overlapping windows, fused into one estimate at every denoising step.

A denoiser of windows becomes a denoiser of the whole: its estimates are averaged with weights that fade
towards a window's borders (Bar-Tal et al. 2023, MultiDiffusion). Each pixel is summed in the plan's order,
so that nothing else, not the order of work nor the number of workers, changes a bit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffusionsat.diffusion.denoisers import Denoiser
from diffusionsat.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the canvas: absolute rows and columns of the latents."""

    rows: range
    columns: range

    @property
    def slices(self) -> tuple[slice, slice]:
        """To cut it out of the last two axes."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)


# Noisy windows (batch, C, h, w), their noise level and where each lies -> estimates, same shape.
WindowDenoiser = Callable[[Tensor, float, Sequence[Window]], Tensor]


@dataclass(frozen=True, slots=True)
class Axis:
    """One side of a canvas, covered by windows of one length.

    Args:
        length: Of the canvas.
        window: Of every window.
        starts: First pixel of every window, rising; the last window ends with the canvas.
    """

    length: int
    window: int
    starts: tuple[int, ...]

    @classmethod
    def cover(cls, length: int, window: int, overlap: int, grain: int = 1) -> "Axis":
        """Windows as few as overlap by at least so much, evenly spaced; a short canvas is one window.

        They start at multiples of the grain; a canvas is the longer by what that needs.
        """
        window = min(window, length)
        apart = max(1, (window - overlap) // grain)  # in grains
        grains = math.ceil((length - window) / grain)
        count = 1 + math.ceil(grains / apart)
        starts = tuple(i * grains // max(1, count - 1) * grain for i in range(count))
        return cls(window + grains * grain, window, starts)

    def touching(self, start: int, stop: int) -> range:
        """The windows, by number, that share pixels with a stretch of the canvas."""
        touch = [i for i, s in enumerate(self.starts) if s < stop and s + self.window > start]
        return range(touch[0], touch[-1] + 1)

    def tile(self, i: int) -> range:
        """What a window owns: from its start to the next one's."""
        return range(self.starts[i], self.starts[i + 1] if i + 1 < len(self.starts) else self.length)


@lru_cache(maxsize=4096)
def _weights(axis: Axis, i: int) -> np.ndarray:
    """Weights of a window's pixels along an axis, float32; all windows' sum to 1 at every pixel."""
    places = np.arange(axis.window) + axis.starts[i] + 0.5

    def fade(start: int) -> np.ndarray:  # a raised cosine over the window that begins there
        inside = (places > start) & (places < start + axis.window)
        return np.where(inside, np.sin(np.pi * (places - start) / axis.window) ** 2, 0)

    touching = axis.touching(axis.starts[i], axis.starts[i] + axis.window)
    return (fade(axis.starts[i]) / sum(fade(axis.starts[k]) for k in touching)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Plan:
    """Windows of one shape that cover a canvas, numbered from 0 row by row.

    Args:
        rows: How they cover its height.
        columns: How they cover its width.
    """

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def windows(self) -> list[Window]:
        """All of them."""
        return [self.window(i) for i in range(len(self))]

    def window(self, i: int) -> Window:
        """One of them."""
        row, column = divmod(i, len(self.columns.starts))
        top, left = self.rows.starts[row], self.columns.starts[column]
        return Window(range(top, top + self.rows.window), range(left, left + self.columns.window))

    def weights(self, i: int) -> np.ndarray:
        """Weights of a window's pixels, float32 (rows, columns); all windows' sum to 1 at every pixel."""
        row, column = divmod(i, len(self.columns.starts))
        return _weights(self.rows, row)[:, None] * _weights(self.columns, column)

    def tile(self, i: int) -> Window:
        """What a window owns of the canvas; tiles neither overlap nor leave a gap."""
        row, column = divmod(i, len(self.columns.starts))
        return Window(self.rows.tile(row), self.columns.tile(column))

    def touching(self, tile: Window) -> list[int]:
        """The windows, by number and rising, that share pixels with a rectangle."""
        rows = self.rows.touching(tile.rows.start, tile.rows.stop)
        columns = self.columns.touching(tile.columns.start, tile.columns.stop)
        return [row * len(self.columns.starts) + column for row in rows for column in columns]


def plan(height: int, width: int, window: int, overlap: int, grain: int = 1) -> Plan:
    """Windows that cover a canvas.

    Args:
        height: Of the canvas, latents, 1 or more.
        width: Likewise.
        window: Side of a window, 1 or more; a side of the canvas that is shorter takes its place.
        overlap: What neighbours share at least, 0 to less than the window.
        grain: What windows start at multiples of; at most what they do not share. A canvas that they would
            not end with is made longer.

    Raises:
        ConfigError: If a number is out of range.
    """
    if min(height, width, window) < 1 or not 0 <= overlap < window or not 1 <= grain <= window - overlap:
        raise ConfigError(
            f"A canvas of {width}x{height} cannot be covered by windows of {window} that overlap by "
            f"{overlap} at a grain of {grain}. Give sizes from 1, an overlap from 0 to less than the window, "
            "and a grain from 1 to what they do not share."
        )
    return Plan(*(Axis.cover(length, window, overlap, grain) for length in (height, width)))


def windowed(denoise_window: WindowDenoiser, plan: Plan, batch: int) -> Denoiser:
    """A denoiser of a whole canvas, made of one of windows.

    Args:
        denoise_window: Sees ``batch`` windows at a time, always so many: the last ones are repeated to fill
            up, since networks' last bits depend on the shape of a batch.
        plan: The windows.
        batch: Windows at a time, 1 or more.

    Returns:
        A denoiser of one canvas (1, C, H, W).
    """

    def denoise(x: Tensor, sigma: float) -> Tensor:
        size = (plan.rows.length, plan.columns.length)
        if len(x) != 1 or x.shape[-2:] != size:
            raise ConfigError(
                f"Latents are {tuple(x.shape)}; these windows cover (1, C, {size[0]}, {size[1]})."
            )
        whole = torch.zeros_like(x)
        for places in batches(len(plan), batch):
            windows = [plan.window(i) for i in places]
            cut = torch.cat([x[(..., *w.slices)] for w in windows])
            estimates = denoise_batch(denoise_window, cut, sigma, windows, batch)
            for i, window, estimate in zip(places, windows, estimates, strict=True):
                whole[(0, slice(None), *window.slices)] += estimate * torch.from_numpy(plan.weights(i)).to(x)
        return whole

    return denoise


def batches(count: int, batch: int) -> list[range]:
    """Numbers 0 to count in stretches of a batch."""
    return [range(first, min(first + batch, count)) for first in range(0, count, batch)]


def denoise_batch(
    denoise_window: WindowDenoiser, cut: Tensor, sigma: float, windows: Sequence[Window], batch: int
) -> Tensor:
    """Estimates of some windows, (n, C, h, w), n up to batch, made as a batch of full size."""
    lack = batch - len(windows)
    full = torch.cat([cut, cut[-1:].expand(lack, -1, -1, -1)])
    return denoise_window(full, sigma, [*windows, *[windows[-1]] * lack])[: len(windows)]
