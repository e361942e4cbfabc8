"""Rasters made of rasters: bands of several files as one raster, and a rectangle of a raster."""

import copy
import hashlib
import math
from collections.abc import Sequence

import numpy as np
from affine import Affine

from diffusionsat.errors import RasterError
from diffusionsat.geo.rasters import Pixels, Raster


class Stack(Raster):
    """Rasters of the same ground as one, on the grid of the finest; coarser pixels are repeated.

    Args:
        parts: The rasters, in the order of the bands.
        name: See `Raster`.

    Raises:
        RasterError: If a part's pixels are no whole number of the finest's, or it shows other ground.
    """

    def __init__(self, parts: Sequence[Raster], name: str) -> None:
        finest = max(parts, key=lambda part: part.width)
        self.parts = tuple(parts)
        self._steps = tuple(_step(part, finest) for part in parts)
        self._coarseness = tuple(
            step for part, step in zip(parts, self._steps, strict=True) for _ in part.bands
        )
        super().__init__(
            name=name,
            bands=[band for part in parts for band in part.bands],
            width=finest.width,
            height=finest.height,
            crs=finest.crs,
            transform=finest.transform,
            dtype=np.result_type(*(part.dtype for part in parts)),
            nodata=finest.nodata,
        )
        self.scales = tuple(scale for part in parts for scale in part.scales)
        self.files = tuple(file for part in parts for file in part.files)

    @property
    def coarseness(self) -> tuple[int, ...]:
        """See `Raster.coarseness`."""
        return self._coarseness

    def _take(self, places: Sequence[int], names: Sequence[str]) -> "Stack":
        singles = [(part, i) for part in self.parts for i in range(len(part.bands))]
        taken = copy.copy(self)
        taken.parts = tuple(
            part.take([i], [name])
            for (part, i), name in zip((singles[i] for i in places), names, strict=True)
        )
        taken._steps = taken._coarseness = tuple(self._coarseness[i] for i in places)
        taken.bands = tuple(names)
        return taken

    def digest(self) -> str:
        """SHA-256 of those of the parts."""
        return hashlib.sha256("".join(part.digest() for part in self.parts).encode()).hexdigest()

    def _read(self, rows: range, columns: range) -> Pixels:
        read = [
            _repeated(part, step, rows, columns) for part, step in zip(self.parts, self._steps, strict=True)
        ]
        return np.concatenate([v for v, _ in read], dtype=self.dtype), np.concatenate([v for _, v in read])


def _step(part: Raster, finest: Raster) -> int:
    """Pixels of the finest along the side of one of the part's."""
    step = round(finest.width / part.width)
    off = np.subtract(tuple(part.transform @ Affine.scale(1 / step)), tuple(finest.transform))[:6]
    nested = (part.width * step, part.height * step) == (finest.width, finest.height)
    pixel = math.sqrt(abs(finest.transform.determinant))
    if not nested or part.crs != finest.crs or np.abs(off).max() > 0.01 * pixel:
        raise RasterError(
            f"{part.name} is {part.width}x{part.height} pixels that do not lie on those of {finest.name}, "
            f"{finest.width}x{finest.height}. Give bands of one scene, uncut, or open each by itself."
        )
    return step


def _repeated(part: Raster, step: int, rows: range, columns: range) -> Pixels:
    down, across = (range(r.start // step, -(-r.stop // step)) for r in (rows, columns))
    top, left = rows.start - down.start * step, columns.start - across.start * step
    place = slice(None), slice(top, top + len(rows)), slice(left, left + len(columns))
    values, valid = (pixels.repeat(step, 1).repeat(step, 2)[place] for pixels in part.read(down, across))
    return values, valid


def crop(raster: Raster, rows: range, columns: range) -> Raster:
    """The part of a raster in a rectangle, made larger so that it cuts no pixel of the coarsest band.

    Raises:
        RasterError: If the rectangle lies outside.
    """
    step = math.lcm(*raster.coarseness)
    inner = [
        range(max(r.start // step * step, 0), min(-(-r.stop // step) * step, length))
        for r, length in ((rows, raster.height), (columns, raster.width))
    ]
    if not all(inner):
        raise RasterError(
            f"Rows {rows.start} to {rows.stop} and columns {columns.start} to {columns.stop} lie outside of "
            f"{raster.name}, {raster.width}x{raster.height}."
        )
    return _Crop(raster, *inner)


class _Crop(Raster):
    def __init__(self, raster: Raster, rows: range, columns: range) -> None:
        super().__init__(
            name=raster.name,
            bands=raster.bands,
            width=len(columns),
            height=len(rows),
            crs=raster.crs,
            transform=raster.transform @ Affine.translation(columns.start, rows.start),
            dtype=raster.dtype,
            nodata=raster.nodata,
        )
        self.raster, self._rows, self._columns = raster, rows, columns
        self.scales, self.files = raster.scales, raster.files

    @property
    def coarseness(self) -> tuple[int, ...]:
        """See `Raster.coarseness`."""
        return self.raster.coarseness

    def _take(self, places: Sequence[int], names: Sequence[str]) -> "_Crop":
        return _Crop(self.raster.take(places, names), self._rows, self._columns)

    def _read(self, rows: range, columns: range) -> Pixels:
        top, left = self._rows.start, self._columns.start
        return self.raster.read(
            range(rows.start + top, rows.stop + top), range(columns.start + left, columns.stop + left)
        )
