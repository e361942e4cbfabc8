"""Frames as networks are shown them: on the grid of a job, each band in its place, 0 to 1."""

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from affine import Affine
from pyproj import CRS

from diffusionsat.data.frames import Frame
from diffusionsat.data.radiometry import Radiometry
from diffusionsat.errors import RasterError
from diffusionsat.geo.grids import Grid
from diffusionsat.geo.masks import Masked
from diffusionsat.geo.rasters import Raster
from diffusionsat.geo.warping import on_grid
from diffusionsat.metadata import Metadata
from diffusionsat.models.encodings import numbers
from diffusionsat.models.networks import BANDS, Frames
from diffusionsat.tasks.measuring import filled

log = logging.getLogger(__name__)

_SAMPLED = 8  # blocks along each side that tell the range of numbers of unknown scale
_BLOCK = 64
_STRIP = 256  # rows that are looked at at once
_NOWHERE = CRS.from_epsg(3857)  # for rasters without a CRS: any, since all of a job's have the same then


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One frame on the grid of a job.

    Args:
        raster: Its bands on that grid.
        slots: Place in `BANDS` of each band; None for one that has none.
        radiometry: Of its bands.
        metadata: What the networks are told of it.
        continued: Whether gaps are shown as what lies around goes on, where the result has gaps too: beside a
            hole networks draw too bright a rim.
    """

    raster: Raster
    slots: tuple[int | None, ...]
    radiometry: Radiometry
    metadata: Metadata
    continued: bool = False

    def read(self, rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
        """What is shown of every band in `BANDS`, float32 (13, rows, columns), NaN where nothing is.

        Returns:
            The values, and which bands there are, bool (13,).
        """
        values, valid = self.raster.read(rows, columns)
        shown = self.radiometry.show(self.radiometry.light(np.where(valid, values, 0)))
        if self.continued:
            whole, gap = filled(torch.from_numpy(shown)[None], torch.from_numpy(valid)[None])
            shown, valid = whole[0].numpy(), valid | gap[0].numpy()
        out = np.full((len(BANDS), len(rows), len(columns)), np.nan, np.float32)
        there = np.zeros(len(BANDS), bool)
        for band, slot in enumerate(self.slots):
            if slot is not None:
                out[slot], there[slot] = np.where(valid[band], shown[band], np.nan), True
        return out, there


def radiometry(frame: Frame) -> Radiometry:
    """How a frame's numbers relate to what is shown; read from some of its pixels if nothing tells."""
    known = frame.scaling is not None and frame.scaling.gain is not None
    if known or frame.raster.dtype == np.uint8:
        ranges = [(0.0, 1.0)] * len(frame.raster.bands)
    else:
        ranges = _ranges(frame.raster)
    return Radiometry.of(frame.scaling, frame.raster.dtype, ranges)


def in_colour(raster: Raster, how: Radiometry, rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
    """A part of a raster of three colours as it is shown.

    Args:
        raster: Red, green and blue.
        how: Its numbers relate to what is shown.
        rows: Within the raster, and so the next.
        columns: Of the part.

    Returns:
        uint8 (rows, columns, 3), with gaps filled by what lies around, and where all is known
        (rows, columns).
    """
    values, valid = raster.read(rows, columns)
    levels = 255 * how.show(how.light(np.where(valid, values, 0)))
    whole, _ = filled(torch.from_numpy(levels)[None], torch.from_numpy(valid)[None])
    return np.rint(np.moveaxis(whole[0].numpy(), 0, 2)).astype(np.uint8), np.asarray(valid.all(0))


def _ranges(raster: Raster) -> list[tuple[float, float]]:
    """Percentiles 2 and 98 of every band over blocks spread evenly over a raster."""
    samples: list[list[np.ndarray]] = [[] for _ in raster.bands]
    for top in _spread(raster.height):
        for left in _spread(raster.width):
            rows, columns = (
                range(top, min(top + _BLOCK, raster.height)),
                range(left, min(left + _BLOCK, raster.width)),
            )
            values, valid = raster.read(rows, columns)
            for band, sample in enumerate(samples):
                sample.append(values[band][valid[band]])
    joined = [np.concatenate(sample) for sample in samples]
    ends = [np.percentile(v, (2, 98)) if v.size else (0.0, 1.0) for v in joined]
    return [(float(low), float(high)) for low, high in ends]


def _spread(length: int) -> list[int]:
    last = max(0, length - _BLOCK)
    return sorted({round(i * last / (_SAMPLED - 1)) for i in range(_SAMPLED)})


def slots(frame: Frame) -> tuple[int | None, ...]:
    """Where networks are shown each band of a frame."""
    return tuple(BANDS.index(name) if name in BANDS else None for name in frame.common)


def any_valid(raster: Raster, places: Sequence[int]) -> bool:
    """Whether some pixel has numbers in all of some bands."""
    strips = (range(top, min(top + _STRIP, raster.height)) for top in range(0, raster.height, _STRIP))
    return any(raster.read(rows, range(raster.width))[1][list(places)].all(0).any() for rows in strips)


def frames_of(views: Sequence[View], rows: range, columns: range) -> Frames:
    """What a ControlNet is given of a rectangle: a batch of one."""
    read = [view.read(rows, columns) for view in views]
    values = torch.from_numpy(np.stack([v for v, _ in read]))
    bands = torch.from_numpy(np.stack([b for _, b in read]))
    valid = (values.isfinite() & bands[:, :, None, None]).any(1)
    known = numbers([view.metadata for view in views])
    return Frames(values[None], bands[None], valid[None], known[None])


def footprint(raster: Raster, factor: int = 1) -> Grid:
    """The grid of a raster, or one so many times finer; of pixels alone where there is no CRS."""
    fine = Affine.scale(1 / factor)
    return Grid(
        raster.crs or _NOWHERE, raster.transform @ fine, raster.width * factor, raster.height * factor
    )


Ranges = Mapping[int, tuple[float, float]]


def view_of(
    frame: Frame,
    like: Raster,
    factor: int = 1,
    metadata: Metadata | None = None,
    ranges: Ranges | None = None,
) -> View:
    """A frame on the grid of a raster, or one so many times finer.

    Args:
        frame: The frame.
        like: Whose grid.
        factor: How many times finer.
        metadata: What the networks are told of it; None is the frame's own.
        ranges: See `Control.ranges`.

    Raises:
        RasterError: If they share no ground; or one has no CRS and its size is neither that of the other nor
            ``factor`` times it, or its world file says that it lies elsewhere.
    """
    raster = frame.raster
    if like.crs is None or raster.crs is None:
        if raster.crs is not like.crs:
            bare, placed = (raster, like) if raster.crs is None else (like, raster)
            raise RasterError(
                f"{bare.name} has no CRS, but {placed.name} has, so that they cannot be laid on each other. "
                f"Give it one: gdal_edit.py -a_srs EPSG:… {bare.name}."
            )
        finer = raster.width / like.width
        if (raster.width, raster.height) not in ((like.width * n, like.height * n) for n in (1, factor)):
            sizes = f"of one size, or {raster.name} {factor} times larger" if factor > 1 else "of one size"
            raise RasterError(
                f"{raster.name} cannot be laid on {like.name}: without a CRS in both they must be {sizes}, "
                f"but are {raster.width}x{raster.height} and {like.width}x{like.height}. Give them one."
            )
        same = like.transform @ Affine.scale(1 / finer)
        told = not (raster.transform.is_identity or like.transform.is_identity)
        corners = (0, 0), (raster.width, raster.height)
        off = max(math.dist(raster.transform @ corner, same @ corner) for corner in corners)
        if told and off > 0.5 * math.sqrt(abs(same.determinant)):
            raise RasterError(
                f"{raster.name} and {like.name} have no CRS, and their world files say that they show "
                "different ground. Give both the CRS: gdal_edit.py -a_srs EPSG:…"
            )
        raster = copy.copy(raster)
        raster.crs, raster.transform = _NOWHERE, same
    laid = on_grid(raster, footprint(like, factor), "bilinear")
    if like.crs is not None and raster.grid != like.grid:
        log.warning("%s lies on another grid than %s and is warped to it", raster.name, like.name)
    shown, places = radiometry(frame), slots(frame)
    if not any_valid(laid, [band for band, slot in enumerate(places) if slot is not None]):
        log.warning("%s shows nothing of the ground of %s: there all of it is nodata", raster.name, like.name)
    if ranges is not None:
        shown = shown.ranged([None if slot is None else ranges.get(slot) for slot in places])
    return View(
        raster=laid,
        slots=places,
        radiometry=shown,
        metadata=metadata or frame.metadata,
    )


def without(view: View, hole: Raster) -> View:
    """A view that does not show what lies in a hole, the pixels where a raster's first band is not 0."""
    return replace(view, raster=Masked(view.raster, hole))
