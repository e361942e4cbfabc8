"""What form the raster has that a job makes."""

from dataclasses import dataclass

import numpy as np
from affine import Affine
from pyproj import CRS

from diffusionsat.data.radiometry import Radiometry, rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Form of the raster that a job makes.

    Args:
        bands: Names.
        colours: Positions of red, green and blue among them.
        dtype: Of the numbers.
        nodata: Number that means there is none; None is none.
        scales: What readers are told to multiply each band's numbers by, and to add then, as of the input.
        crs: Of the input.
        transform: Of the output.
        radiometry: Of red, green and blue.
    """

    bands: tuple[str, ...]
    colours: tuple[int, int, int]
    dtype: np.dtype
    nodata: float | None
    scales: tuple[tuple[float, float], ...]
    crs: CRS | None
    transform: Affine
    radiometry: Radiometry

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and most light that its numbers can say, float32 (3, 1, 1)."""
        ends = np.array([-np.inf, np.inf])
        if self.dtype.kind in "iu":
            range_ = np.iinfo(self.dtype)
            whole = np.array([range_.min, range_.max], np.int64).astype(self.dtype)
            ends = rounded(whole.astype(np.float64), self.dtype, self.nodata).astype(np.float64)
        low, high = (self.radiometry.light(np.full((3, 1, 1), end)) for end in ends)
        return low, high
