"""Rasters brought to other grids, a rectangle at a time.

A pixel is interpolated where its centre lies, found without approximation, so that it does not matter which
rectangles are asked for. Where the target is coarser it is the mean of several such samples. What is not
valid has no weight, and weights are made to sum to one again: no nodata bleeds into its neighbours. A sample
is valid where the pixel is in which it lies, a target's pixel where at least half of its samples are.
"""

import logging
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import Literal

import numpy as np
from pyproj import CRS, Transformer

from diffusionsat.errors import ConfigError, RasterError
from diffusionsat.geo.grids import Grid
from diffusionsat.geo.rasters import Pixels, Raster

log = logging.getLogger(__name__)

Resampling = Literal["nearest", "bilinear", "cubic", "area"]
_REACH = {"nearest": 1, "area": 1, "bilinear": 2, "cubic": 3}  # pixels around a sample, and one beyond
_AT_ONCE = 1 << 20  # samples, and pixels of the source
_MOST = 512  # samples of a pixel along each side
_TIE = 1e-6  # pixels; that rounding does not choose between two that are equally near


def on_grid(raster: Raster, grid: Grid, resampling: Resampling = "bilinear") -> Raster:
    """A raster on another grid; its pixels are made when they are read.

    Interpolated numbers are float32, or float64 if the raster's need it, and not rounded; with ``nearest``
    the dtype and nodata stay. On its own grid a raster stays itself.

    Args:
        raster: With a CRS.
        grid: The target.
        resampling: ``area`` is the mean of what a pixel covers.

    Raises:
        RasterError: If the raster has no CRS, or lies elsewhere.
        ConfigError: If there is no such resampling.
    """
    if resampling not in _REACH:
        raise ConfigError(f"resampling is {resampling!r}. Give {', '.join(_REACH)}.")
    source = raster.grid
    if source is None:
        raise RasterError(
            f"{raster.name} has no CRS, so that it cannot be brought to another raster's grid. Give it one "
            "(gdal_edit.py -a_srs EPSG:… FILE), or rasters of one grid alone."
        )
    if source == grid:
        return raster
    if _apart(source, grid):
        raise RasterError(
            f"{raster.name} shows other ground: it covers {_extent(source)}; asked for is {_extent(grid)}. "
            "Give rasters that overlap."
        )
    log.info("%s lies on another grid and is resampled (%s)", raster.name, resampling)
    return _Warped(raster, source, grid, resampling)


class _Warped(Raster):
    def __init__(self, raster: Raster, source: Grid, grid: Grid, resampling: Resampling) -> None:
        exact = resampling == "nearest"
        super().__init__(
            name=raster.name,
            bands=raster.bands,
            width=grid.width,
            height=grid.height,
            crs=grid.crs,
            transform=grid.transform,
            dtype=raster.dtype if exact else np.result_type(raster.dtype, np.float32),
            nodata=raster.nodata if exact else None,
        )
        self.raster, self.files = raster, raster.files
        self.resampling: Resampling = resampling
        self._source, self._target = source, grid
        n = 1 if exact else _samples(source, grid)
        self._samples = max(4, 2 * n) if resampling == "area" else n

    def _take(self, places: Sequence[int], names: Sequence[str]) -> "_Warped":
        return _Warped(self.raster.take(places, names), self._source, self._target, self.resampling)

    def digest(self) -> str:
        """That of the raster that is warped."""
        return self.raster.digest()

    def _read(self, rows: range, columns: range) -> Pixels:
        many = len(rows) * len(columns) * self._samples**2 > _AT_ONCE
        if not many:
            x, y = self._places(rows, columns)
            reach = _REACH[self.resampling]
            down, across = _around(y, reach, self.raster.height), _around(x, reach, self.raster.width)
            many = len(down) * len(across) > 4 * _AT_ONCE and len(rows) * len(columns) > 1
            if not many:
                return self._sampled(x, y, down, across)
        if len(rows) >= len(columns):
            middle = rows.start + len(rows) // 2
            halves = [self._read(r, columns) for r in (range(rows.start, middle), range(middle, rows.stop))]
        else:
            middle = columns.start + len(columns) // 2
            halves = [
                self._read(rows, c) for c in (range(columns.start, middle), range(middle, columns.stop))
            ]
        axis = 1 if len(rows) >= len(columns) else 2
        return np.concatenate([v for v, _ in halves], axis), np.concatenate([v for _, v in halves], axis)

    def _places(self, rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
        """Where the samples of a rectangle lie in the source, in pixels from its upper left corner, 2D."""
        n = self._samples
        column, row = ((np.arange(r.start * n, r.stop * n) + 0.5) / n for r in (columns, rows))
        return _across(self._target, self._source, column[None, :], row[:, None])

    def _sampled(self, x: np.ndarray, y: np.ndarray, down: range, across: range) -> Pixels:
        """Pixels interpolated at samples from a rectangle of the source, those of a target's pixel joined."""
        values, valid = self.raster.read(down, across)
        nearest = slice(None), _inside(y, down), _inside(x, across)
        there = valid[nearest]
        if self.resampling == "nearest":
            return values[nearest], there
        known = np.where(valid, values, 0).astype(self.dtype)

        def interpolated(kernel: Callable[[np.ndarray], _Taps]) -> Pixels:
            columns, rows = (
                [(_inside(place, seen), weight) for place, weight in kernel(places)]
                for places, seen in ((x, across), (y, down))
            )
            return _interpolated(known, valid, columns, rows)

        if self.resampling == "area":
            made = known[nearest]
        elif self.resampling == "cubic":
            made, weight = interpolated(_cubic)
            made = np.where(
                weight > 1 - 1e-3, made, interpolated(_linear)[0]
            )  # its weights are of both signs
        else:
            made, _ = interpolated(_linear)
        share = _joined(there.astype(self.dtype), self._samples)
        total = _joined(np.where(there, made, 0), self._samples)
        half = share >= 0.5
        return np.divide(total, share, out=np.zeros_like(total), where=half), half


def _around(places: np.ndarray, reach: int, length: int) -> range:
    """The source's pixels that samples look at, and one beyond each of its ends where they leave it."""
    seen = places[np.isfinite(places)]
    low, high = (seen.min(), seen.max()) if seen.size else (0.0, 0.0)
    first, last = (
        math.floor(min(max(low, -1), length)) - reach,
        math.floor(max(min(high, length), -1)) + reach,
    )
    return range(first, max(last, first) + 1)


def _inside(places: np.ndarray, seen: range) -> np.ndarray:
    """Pixels by number in what was read; what lies outside is put on its rim, where nothing is valid then."""
    whole = np.floor(np.where(np.isfinite(places), places, -1) + _TIE)
    return np.clip(whole, seen.start, seen.stop - 1).astype(np.int64) - seen.start


_Taps = list[tuple[np.ndarray, np.ndarray]]  # pixels along an axis that samples look at, and their weights


def _linear(places: np.ndarray) -> _Taps:
    base = np.floor(places - 0.5)
    t = places - 0.5 - base
    return [(base, 1 - t), (base + 1, t)]


def _cubic(places: np.ndarray) -> _Taps:
    """Keys 1981, with a = -1/2."""
    base = np.floor(places - 0.5)
    t = places - 0.5 - base
    return [
        (base - 1, ((2 - t) * t - 1) * t / 2),
        (base, ((3 * t - 5) * t * t + 2) / 2),
        (base + 1, ((4 - 3 * t) * t + 1) * t / 2),
        (base + 2, (t - 1) * t * t / 2),
    ]


def _interpolated(values: np.ndarray, valid: np.ndarray, across: _Taps, down: _Taps) -> Pixels:
    """Weighted means of what is valid, 0 where nothing is, and the sums of weights."""
    shape = (len(values), *np.broadcast_shapes(across[0][0].shape, down[0][0].shape))
    total, weight = np.zeros(shape, values.dtype), np.zeros(shape, values.dtype)
    for row, down_weight in down:
        for column, across_weight in across:
            place = slice(None), row, column
            share = (down_weight * across_weight).astype(values.dtype)
            total += share * values[place]
            weight += share * valid[place]
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > _TIE), weight


def _joined(samples: np.ndarray, n: int) -> np.ndarray:
    """Means of n x n samples, summed in an order that does not depend on the array's shape."""
    down = reduce(np.add, (samples[:, i::n] for i in range(n)))
    return reduce(np.add, (down[:, :, i::n] for i in range(n))) / n**2


def _samples(source: Grid, target: Grid) -> int:
    """Samples of a pixel along each side: as many as the source has pixels there, at the target's centre."""
    x, y = target.width / 2, target.height / 2
    column, row = _across(
        target, source, np.array([x - 0.5, x + 0.5, x, x]), np.array([y, y, y - 0.5, y + 0.5])
    )
    sides = (
        math.hypot(column[1] - column[0], row[1] - row[0]),
        math.hypot(column[3] - column[2], row[3] - row[2]),
    )
    return min(max(1, round(max(sides))), _MOST) if all(map(math.isfinite, sides)) else 1


def _across(a: Grid, b: Grid, column: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in pixels of one grid as such of another; not finite where there is none."""
    t = a.transform if a.crs != b.crs else ~b.transform @ a.transform
    x, y = t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f
    if a.crs == b.crs:
        return x, y
    x, y = _between(a.crs, b.crs).transform(x, y)
    t = ~b.transform
    return t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f


@lru_cache(maxsize=64)
def _between(a: CRS, b: CRS) -> Transformer:
    return Transformer.from_crs(a, b, always_xy=True)


def _apart(source: Grid, target: Grid) -> bool:
    """Whether two grids surely share no ground: neither's places lie within the other's frame."""
    return not (_meets(source, target) and _meets(target, source))


def _meets(a: Grid, b: Grid) -> bool:
    along = np.linspace(0, 1, 33)
    x, y = _across(a, b, a.width * along[None, :], a.height * along[:, None])
    there = np.isfinite(x) & np.isfinite(y)
    if not there.any():
        return False
    x, y = x[there], y[there]
    return bool(x.min() < b.width and x.max() > 0 and y.min() < b.height and y.max() > 0)


def _extent(grid: Grid) -> str:
    lons, lats = np.array(grid.outline()).T
    return f"longitude {lons.min():.4f} to {lons.max():.4f}, latitude {lats.min():.4f} to {lats.max():.4f}"
