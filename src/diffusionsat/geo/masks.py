"""Where a raster is to be made anew: masks of one band, 0 or 1, on the grid of another raster.

Polygons are drawn, and other masks read, a rectangle at a time.
"""

import copy
import json
import logging
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from diffusionsat.errors import RasterError
from diffusionsat.geo.rasters import ArrayRaster, Pixels, Raster, open_raster
from diffusionsat.geo.warping import on_grid

log = logging.getLogger(__name__)

MaskSource = Any  # what `open_mask` opens
_POLYGONS = ("Polygon", "MultiPolygon")
_STRIP = 512  # rows that are looked at at once


class Mask(Raster):
    """A mask on the grid of a raster.

    Args:
        like: The raster.
        name: What to call it in messages.
    """

    def __init__(self, like: Raster, name: str) -> None:
        super().__init__(
            name=name,
            bands=("mask",),
            width=like.width,
            height=like.height,
            crs=like.crs,
            transform=like.transform,
            dtype=np.uint8,
            nodata=None,
        )

    def _take(self, places: Sequence[int], names: Sequence[str]) -> Raster:
        other = copy.copy(self)
        other.bands = tuple(names)
        return other

    @abstractmethod
    def marked(self, rows: range, columns: range) -> np.ndarray:
        """Where it is set in a rectangle inside, bool (rows, columns)."""

    def _read(self, rows: range, columns: range) -> Pixels:
        marked = self.marked(rows, columns)[None]
        return marked.astype(np.uint8), np.ones_like(marked)


class Gaps(Mask):
    """Where a raster has no data in some of its bands."""

    def __init__(self, raster: Raster, places: Sequence[int]) -> None:
        super().__init__(raster, f"gaps of {raster.name}")
        self.raster, self.places = raster, list(places)

    def marked(self, rows: range, columns: range) -> np.ndarray:
        """See `Mask`."""
        return ~np.all(self.raster.read(rows, columns)[1][self.places], axis=0)


class Nonzero(Mask):
    """Where a raster's first band is not 0."""

    def __init__(self, raster: Raster, like: Raster) -> None:
        super().__init__(like, raster.name)
        self.raster, self.files = raster, raster.files

    def marked(self, rows: range, columns: range) -> np.ndarray:
        """See `Mask`."""
        values, valid = self.raster.read(rows, columns)
        return (values[0] != 0) & valid[0]


class Polygons(Mask):
    """Where a pixel's centre lies in a polygon.

    Args:
        shapes: GeoJSON geometries in the raster's CRS.
        like: The raster.
        name: See `Mask`.
    """

    def __init__(self, shapes: Sequence[Mapping[str, Any]], like: Raster, name: str) -> None:
        super().__init__(like, name)
        self.shapes = tuple(shapes)

    def marked(self, rows: range, columns: range) -> np.ndarray:
        """See `Mask`."""
        from affine import Affine
        from rasterio.features import rasterize

        corner = self.transform @ Affine.translation(columns.start, rows.start)
        shape = (len(rows), len(columns))
        drawn = rasterize(self.shapes, shape, transform=corner, dtype="uint8")
        assert drawn is not None
        return drawn.astype(bool)


class Grown(Mask):
    """A mask made larger by some pixels, by the larger of rows and columns."""

    def __init__(self, mask: Raster, by: int) -> None:
        super().__init__(mask, mask.name)
        self.mask, self.by, self.files = mask, by, mask.files

    def marked(self, rows: range, columns: range) -> np.ndarray:
        """See `Mask`."""
        by = self.by
        values, _ = self.mask.read(*(range(r.start - by, r.stop + by) for r in (rows, columns)))
        marked = values[0] != 0
        for axis, length in enumerate((len(rows), len(columns))):
            shifted = [np.take(marked, range(i, i + length), axis) for i in range(2 * by + 1)]
            marked = np.logical_or.reduce(shifted)
        return marked


class Masked(Raster):
    """A raster with nothing valid where a mask is set.

    Args:
        raster: The raster.
        mask: On its grid.
    """

    def __init__(self, raster: Raster, mask: Raster) -> None:
        super().__init__(
            name=raster.name,
            bands=raster.bands,
            width=raster.width,
            height=raster.height,
            crs=raster.crs,
            transform=raster.transform,
            dtype=raster.dtype,
            nodata=raster.nodata,
        )
        self.raster, self.mask = raster, mask
        self.scales, self.files = raster.scales, (*raster.files, *mask.files)

    def _take(self, places: Sequence[int], names: Sequence[str]) -> "Masked":
        return Masked(self.raster.take(places, names), self.mask)

    def _read(self, rows: range, columns: range) -> Pixels:
        values, valid = self.raster.read(rows, columns)
        return values, valid & (self.mask.read(rows, columns)[0] == 0)


def open_mask(source: MaskSource, like: Raster) -> Raster:
    """A mask on the grid of a raster.

    Args:
        source: A path of a raster, whose first band is not 0 in the mask, or of GeoJSON polygons, in degrees
            WGS84 or in the CRS that it names; an open rasterio dataset; a `Raster`; an array (H, W); GeoJSON
            as a dict.
        like: The raster.

    Raises:
        RasterError: If it cannot be read, has another size where there is no CRS to bring it to the raster's
            grid, or marks nothing there.
    """
    if isinstance(source, Mapping):
        mask: Mask = _polygons(source, like, "mask")
    elif isinstance(source, (str, Path)) and Path(source).suffix.lower() in (".json", ".geojson"):
        mask = _polygons(_geojson(Path(source)), like, str(source))
        mask.files = (Path(source).resolve(),)
    elif isinstance(source, np.ndarray):
        if source.ndim != 2:
            raise RasterError(f"The mask has the shape {source.shape}. Give (rows, columns).")
        array = ArrayRaster(
            _set(source).astype(np.uint8)[None], ["mask"], crs=like.crs, transform=like.transform
        )
        mask = Nonzero(_same_size(array, like, "mask"), like)
    else:
        raster = open_raster(source)
        if raster.crs is None or like.grid is None:
            _same_size(raster, like, raster.name)
        else:
            if raster.grid != like.grid:
                log.warning("%s lies on another grid than %s and is warped to it", raster.name, like.name)
            raster = on_grid(raster, like.grid, "nearest")
        mask = Nonzero(raster, like)
    if not marks_any(mask):
        raise RasterError(f"{mask.name} marks no pixel of {like.name}. Give a mask that lies on it.")
    return mask


def _set(mask: np.ndarray) -> np.ndarray:
    """Where an array is not 0, nor NaN, nor masked itself."""
    known = ~np.ma.getmaskarray(mask) if isinstance(mask, np.ma.MaskedArray) else True
    values = np.asarray(mask)
    return (values != 0) & (values == values) & known


def marks_any(mask: Raster) -> bool:
    """Whether a mask is set anywhere."""
    strips = (range(top, min(top + _STRIP, mask.height)) for top in range(0, mask.height, _STRIP))
    return any(mask.read(rows, range(mask.width))[0].any() for rows in strips)


def _same_size(raster: Raster, like: Raster, name: str) -> Raster:
    if (raster.width, raster.height) != (like.width, like.height):
        raise RasterError(
            f"{name} is {raster.width}x{raster.height} pixels, {like.name} {like.width}x{like.height}. Give "
            "a mask of its size, or both with a CRS."
        )
    return raster


def _geojson(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise RasterError(f"{path} cannot be read as GeoJSON: {error}.") from None


def _polygons(value: Mapping[str, Any], like: Raster, name: str) -> Polygons:
    if like.crs is None:
        raise RasterError(f"{like.name} has no CRS, so that no polygon can be laid on it. Give a raster.")
    shapes = [shape for shape in _geometries(value) if shape.get("type") in _POLYGONS]
    if not shapes:
        raise RasterError(f"{name} holds no polygon. Give GeoJSON Polygons or MultiPolygons.")
    try:
        to_raster = Transformer.from_crs(_named_crs(value), like.crs, always_xy=True)
        drawn = [_projected(shape, to_raster) for shape in shapes]
        if like.crs.is_geographic:  # which may go on beyond 180 degrees, or count from 0 to 360
            turn = 2 * math.pi / like.crs.axis_info[0].unit_conversion_factor
            drawn = [_shifted(shape, by) for shape in drawn for by in (-turn, 0.0, turn)]
        return Polygons(drawn, like, name)
    except (TypeError, ValueError, KeyError, IndexError, ProjError) as error:
        raise RasterError(f"{name} has a polygon or a CRS that cannot be read: {error}.") from None


def _named_crs(value: Mapping[str, Any]) -> CRS:
    """The CRS that GeoJSON of 2008 may name; degrees WGS84 if it names none."""
    named = value.get("crs")
    return CRS.from_epsg(4326) if named is None else CRS.from_user_input(named["properties"]["name"])


def _geometries(value: Any) -> list[Mapping[str, Any]]:
    """The geometries of GeoJSON of any kind."""
    if not isinstance(value, Mapping):
        return []
    if value.get("type") == "FeatureCollection":
        return [g for feature in value.get("features") or [] for g in _geometries(feature)]
    if value.get("type") == "Feature":
        return _geometries(value.get("geometry"))
    if value.get("type") == "GeometryCollection":
        return [g for part in value.get("geometries") or [] for g in _geometries(part)]
    return [value]


def _projected(shape: Mapping[str, Any], transformer: Transformer) -> dict[str, Any]:
    polygons = [shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"]
    moved = [
        [[transformer.transform(*point[:2]) for point in ring] for ring in polygon] for polygon in polygons
    ]
    return {"type": "MultiPolygon", "coordinates": moved}


def _shifted(shape: Mapping[str, Any], by: float) -> dict[str, Any]:
    """Polygons moved along the first axis."""
    moved = [[[(x + by, y) for x, y, *_ in ring] for ring in polygon] for polygon in shape["coordinates"]]
    return {"type": "MultiPolygon", "coordinates": moved}
