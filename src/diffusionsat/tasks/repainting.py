"""Jobs that make a part of a raster anew, and leave the rest as it is to the last bit."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusionsat.data.frames import Frame
from diffusionsat.data.radiometry import rounded
from diffusionsat.diffusion.constraints import DETERMINED, INVENTED, PARTLY, feathered, hard
from diffusionsat.diffusion.denoisers import Denoiser
from diffusionsat.diffusion.inversion import left
from diffusionsat.diffusion.operators import Mask
from diffusionsat.diffusion.windows import Window
from diffusionsat.errors import ConfigError
from diffusionsat.geo.rasters import Raster
from diffusionsat.tasks.restoring import Pixels, Restoration

MOST_FEATHER = 64


def check_feather(pixels: int) -> int:
    """The width of a rim, if it is possible.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(pixels, bool) or pixels not in range(MOST_FEATHER + 1):
        raise ConfigError(f"feather is {pixels!r}. Give pixels, 0 to {MOST_FEATHER}.")
    return int(pixels)


class Repainting(Restoration):
    """A raster, and where it is made anew.

    Args:
        *args: See `Restoration`.
        frame: The raster.
        hole: Where it is made anew, one band, 0 or 1; None is everywhere.
        feather: Pixels around the hole over which new fades into old.
        strength: Share of the steps that are done from the noised image on; 1 is from noise alone.
        fills: Whether what has no data is made too where it is made anew; else it stays without.
        begin: Latents at the first noise level, (C, rows, columns) of the whole, instead of drawn ones.
        more: See `Restoration`; the digest of the hole is added.
        **kwargs: See `Restoration`.
    """

    details = True

    def __init__(
        self,
        *args: Any,
        frame: Frame,
        hole: Raster | None,
        feather: int = 0,
        strength: float = 1.0,
        fills: bool = True,
        begin: np.ndarray | None = None,
        more: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        marked = None if hole is None else hole.digest()
        super().__init__(*args, more={**more, "mask": marked}, **kwargs)
        self.frame, self.hole, self.margin, self.strength = frame, hole, feather, strength
        self.fills, self.begin = fills, begin

    @cached_property
    def sigmas(self) -> list[float]:
        """Those that are left from the strength on."""
        return left(self.levels(), self.strength)

    def noise(self, rows: range, columns: range) -> np.ndarray:
        """What was given, noise alone, or the image with noise."""
        if self.begin is not None:
            return self.begin[:, rows.start : rows.stop, columns.start : columns.stop]
        if self.strength == 1:
            return super().noise(rows, columns)
        return self.clean(rows, columns) + np.float32(self.sigmas[0]) * self.normal(rows, columns)

    def clean(self, rows: range, columns: range) -> np.ndarray:
        """Latents of the image, float32 (C, rows, columns)."""
        return self.renderer.encode(lambda down, across: self._shown(down, across)[0], rows, columns)

    def constrained(self, denoise: Denoiser, windows: Sequence[Window]) -> Denoiser:
        """Estimates that are the image where that is known."""
        if self.hole is None:
            return denoise
        places = [self.pixels_of(window) for window in windows]
        shown = [self._shown(*place) for place in places]
        keep = [v & (self.new(*place) == 0) for (_, v), place in zip(shown, places, strict=True)]
        device = self.sat.device
        operator = Mask(torch.from_numpy(np.stack(keep))[:, None].to(device))
        y = operator.linear(torch.from_numpy(np.stack([s for s, _ in shown])).to(device))
        return hard(denoise, y, operator, to_pixels=self._to_shown, to_latents=self._to_latents)

    def _to_shown(self, latents: Tensor) -> Tensor:
        return ((self.sat.networks.decode(latents) + 1) / 2).clamp(0, 1)

    def _to_latents(self, shown: Tensor) -> Tensor:
        return self.sat.networks.encode(2 * shown - 1)

    def _shown(self, rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
        """Red, green and blue as they are shown, (3, rows, columns), and where all three are known."""
        values, valid = self.frame.raster.read(rows, columns)
        places, radiometry = list(self.output.colours), self.output.radiometry
        known = np.all(valid[places], axis=0)
        light = radiometry.light(np.where(known, values[places], 0))
        return radiometry.show(light).astype(np.float32), known

    def new(self, rows: range, columns: range) -> np.ndarray:
        """Weights of what is new, 1 in the hole, float32; what is not known of the image is hole too."""
        if self.hole is None:
            return np.ones((len(rows), len(columns)), np.float32)
        high, wide = (range(r.start - self.margin, r.stop + self.margin) for r in (rows, columns))
        values, there = self.hole.read(high, wide)
        weights = feathered(torch.from_numpy((values[0] != 0) & there[0]), self.margin).numpy()
        return weights[self.margin : self.margin + len(rows), self.margin : self.margin + len(columns)]

    def others(self, rows: range, columns: range) -> Pixels:
        """The raster as it was."""
        values, valid = self.frame.raster.read(rows, columns)
        return values.copy(), valid.copy()

    def composed(
        self, made: np.ndarray, before: np.ndarray, valid: np.ndarray, rows: range, columns: range
    ) -> Pixels:
        """New in the hole, old elsewhere, both in the rim."""
        weight, out = self.new(rows, columns), self.output
        old = valid & (weight < 1)
        mixed = np.where(old, before * (1.0 - weight) + made * weight, made)
        untouched = (weight == 0) | np.zeros_like(valid)
        new = np.where(untouched, before, rounded(mixed, out.dtype, out.nodata))
        return new, valid | (self.fills & ~untouched)

    def measured(self, rows: range, columns: range) -> np.ndarray:
        """The old, by its weight."""
        values, valid = self.frame.raster.read(rows, columns)
        places = list(self.output.colours)
        return np.where(valid[places], values[places] * (1.0 - self.new(rows, columns)), 0)

    def support(self, rows: range, columns: range) -> np.ndarray:
        """Determined outside the hole, partly in its rim."""
        weight = self.new(rows, columns)
        return np.select([weight == 0, weight < 1], [DETERMINED, PARTLY], INVENTED).astype(np.uint8)
