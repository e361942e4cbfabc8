"""Between numbers as they are stored, light, and what is shown.

*Light* is linear in what the sensor received: 0 is shown black and 1 white, and it goes on beyond both. What
is shown is 0 to 1. With ``low`` and ``high`` the stored numbers of black and white,

    light = (stored - low) / (high - low)          shown = min(max(light, 0), 1) ^ (1 / gamma)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusionsat.data.sensors import DISPLAY_GAMMA, DISPLAY_WHITE, Scaling
from diffusionsat.errors import RasterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiometry:
    """How the stored numbers of some bands relate to what is shown.

    Args:
        low: Stored number that is shown black, one a band.
        high: Stored number that is shown white.
        gamma: 1 if the numbers are for display already.
        white: Reflectance that is shown white; 1 where reflectance is not known.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    gamma: float = 1.0
    white: float = 1.0

    @classmethod
    def of(
        cls, scaling: Scaling | None, dtype: np.dtype, ranges: Sequence[tuple[float, float]]
    ) -> "Radiometry":
        """Of numbers of a known scaling, or for display.

        Args:
            scaling: Of the numbers; None if they are for display.
            dtype: Of the numbers.
            ranges: Lowest and highest number to be shown, one a band, where nothing else tells.
        """
        count = len(ranges)
        if scaling is not None and scaling.gain is not None:
            low, high = -scaling.offset / scaling.gain, (DISPLAY_WHITE - scaling.offset) / scaling.gain
            return cls(low=(low,) * count, high=(high,) * count, gamma=DISPLAY_GAMMA, white=DISPLAY_WHITE)
        if dtype == np.uint8:
            return cls(low=(0.0,) * count, high=(255.0,) * count)
        return cls(low=tuple(r[0] for r in ranges), high=tuple(max(r[1], r[0] + 1e-5) for r in ranges))

    def ranged(self, ranges: Sequence[tuple[float, float] | None]) -> "Radiometry":
        """The same numbers shown linearly between two reflectances, one pair a band; None leaves a band.

        Raises:
            RasterError: If their reflectance is not known.
        """
        if self.white == 1:
            raise RasterError(
                "This ControlNet is shown reflectance; these are numbers for display or of unknown scale. "
                "Give scaling=, the reflectance of one unit."
            )
        low, high = np.array(self.low), np.array(self.high)
        unit = (high - low) / self.white
        ends = [(0.0, self.white) if pair is None else pair for pair in ranges]
        lows, highs = (low + np.array(side) * unit for side in zip(*ends, strict=True))
        return Radiometry(low=tuple(lows), high=tuple(highs), white=self.white)

    def take(self, places: Sequence[int]) -> "Radiometry":
        """Of some of the bands, by position."""
        low, high = (tuple(values[i] for i in places) for values in (self.low, self.high))
        return Radiometry(low=low, high=high, gamma=self.gamma, white=self.white)

    def light(self, stored: np.ndarray) -> np.ndarray:
        """Light, float32, of stored numbers (bands, H, W); of nodata it may be infinite."""
        low, high = self._levels()
        with np.errstate(over="ignore"):
            return ((stored.astype(np.float64) - low) / (high - low)).astype(np.float32)

    def stored(self, light: np.ndarray) -> np.ndarray:
        """Stored numbers, float64, not rounded, of light (bands, H, W)."""
        low, high = self._levels()
        return low + light.astype(np.float64) * (high - low)

    def stored_spread(self, light: np.ndarray) -> np.ndarray:
        """A difference of light (bands, H, W) as one of stored numbers, float64."""
        low, high = self._levels()
        return light.astype(np.float64) * np.abs(high - low)

    def show(self, light: np.ndarray) -> np.ndarray:
        """What is shown of light."""
        return np.clip(light, 0, 1) ** (1 / self.gamma)

    def unshow(self, shown: np.ndarray) -> np.ndarray:
        """The light of what is shown."""
        return np.clip(shown, 0, 1) ** self.gamma

    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.low)[:, None, None], np.array(self.high)[:, None, None]


def rounded(stored: np.ndarray, dtype: np.dtype, nodata: float | None) -> np.ndarray:
    """Numbers in a dtype: whole ones rounded and held in its range, none of them the one for nodata."""
    if dtype.kind not in "iu":
        return stored.astype(dtype)
    limits = np.iinfo(dtype)
    whole = np.clip(np.rint(stored), limits.min, limits.max).astype(dtype)
    if nodata is None or not limits.min <= nodata <= limits.max:
        return whole
    beside = nodata + 1 if nodata < limits.max else nodata - 1
    return np.where(whole == nodata, dtype.type(beside), whole)
