"""Rasters that are read a rectangle at a time: of files and of arrays.

A `Raster` is handed to whoever needs pixels; it knows its bands and where it lies, reads in memory that does
not depend on its size, in any thread, and travels to other processes.
Both kinds stand here, beside what opens them.
"""

import contextlib
import copy
import hashlib
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from pyproj import CRS
from pyproj.exceptions import ProjError

from diffusionsat.errors import RasterError
from diffusionsat.geo.checksums import Checksums
from diffusionsat.geo.datasets import band_names, check_kind, driver_of, place_of
from diffusionsat.geo.grids import Grid, ground_distance_m
from diffusionsat.geo.images import quiet_gdal

_HASHED = 1024  # rows at a time
_CACHE_BYTES = 128_000_000  # by default GDAL keeps what it has read in a twentieth of the machine's memory
_REMOTE: dict[str, Any] = {  # look for no files beside it, and try again
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_TIMEOUT": 60,
}

Pixels = tuple[np.ndarray, np.ndarray]


class Raster(ABC):
    """Bands of numbers, and where they lie.

    Args:
        name: What to call it in messages.
        bands: Names, in order.
        width: Columns.
        height: Rows.
        crs: None if it is not known where the pixels lie.
        transform: Pixel (column, row) to CRS (x, y); may be rotated.
        dtype: Of the numbers as they are stored.
        nodata: Number that stands where there is none; None if there is no such number.

    Attributes:
        scales: What the file tells to multiply each band's numbers by, and what to add then.
        files: Those on this machine that it is read from.
        tags: What the file says of itself.
    """

    def __init__(
        self,
        *,
        name: str,
        bands: Sequence[str],
        width: int,
        height: int,
        crs: CRS | None,
        transform: Affine,
        dtype: Any,
        nodata: float | None,
    ) -> None:
        self.name, self.bands = name, tuple(bands)
        self.width, self.height = width, height
        self.crs, self.transform = crs, transform
        self.dtype, self.nodata = np.dtype(dtype), nodata
        self.scales: tuple[tuple[float, float], ...] = ((1.0, 0.0),) * len(self.bands)
        self.files: tuple[Path, ...] = ()
        self.tags: dict[str, str] = {}
        self._absent: dict[int, float] = {}

    def __repr__(self) -> str:
        bands = ", ".join(self.bands)
        return f"<{type(self).__name__} {self.name}: {self.width}x{self.height} {self.dtype}, {bands}>"

    @property
    def grid(self) -> Grid | None:
        """Where the pixels lie; None without a CRS."""
        return None if self.crs is None else Grid(self.crs, self.transform, self.width, self.height)

    @property
    def coarseness(self) -> tuple[int, ...]:
        """How many pixels, along a side, repeat one number, for each band."""
        return (1,) * len(self.bands)

    def read(self, rows: range, columns: range) -> Pixels:
        """The pixels of a rectangle, which may leave the raster: nothing is valid there.

        Returns:
            Numbers as they are stored, (bands, rows, columns), nodata or 0 outside; and where each band has
            one that is neither nodata nor masked nor infinite nor NaN, bool of the same shape. Of a file that
            has a mask and nodata the mask decides, as in GDAL.

        Raises:
            RasterError: If a file is damaged there, is gone or has changed since it was opened.
        """
        inner = [
            range(min(max(r.start, 0), length), max(min(r.stop, length), 0))
            for r, length in ((rows, self.height), (columns, self.width))
        ]
        if inner == [rows, columns] and all(inner):
            return self._known(rows, columns)
        shape = (len(self.bands), len(rows), len(columns))
        values = np.full(shape, 0 if self.nodata is None else _as(self.nodata, self.dtype), self.dtype)
        valid = np.zeros(shape, bool)
        if all(inner):
            down, across = (
                slice(i.start - o.start, i.stop - o.start)
                for i, o in zip(inner, (rows, columns), strict=True)
            )
            values[:, down, across], valid[:, down, across] = self._known(*inner)
        return values, valid

    @abstractmethod
    def _read(self, rows: range, columns: range) -> Pixels:
        """`read` of a rectangle that is not empty and lies inside."""

    @abstractmethod
    def _take(self, places: Sequence[int], names: Sequence[str]) -> "Raster":
        """Some of the bands, by position, under these names."""

    def take(self, places: Sequence[int], names: Sequence[str] | None = None) -> "Raster":
        """Some of the bands, by position, perhaps under other names."""
        taken = self._take(places, names or [self.bands[i] for i in places])
        taken.scales = tuple(self.scales[i] for i in places)
        taken._absent = {new: self._absent[old] for new, old in enumerate(places) if old in self._absent}
        return taken

    def without(self, number: float, places: Sequence[int]) -> "Raster":
        """The same where a number of some bands, by position, is not valid, whatever the file says."""
        other = copy.copy(self)
        other._absent = self._absent | dict.fromkeys(places, number)
        return other

    def _known(self, rows: range, columns: range) -> Pixels:
        values, valid = self._read(rows, columns)
        for place, number in self._absent.items():
            valid[place] &= values[place] != number
        return values, valid

    def digest(self) -> str:
        """SHA-256 of the numbers and where they are valid."""
        digest = hashlib.sha256()
        for top in range(0, self.height, _HASHED):
            values, valid = self.read(range(top, min(top + _HASHED, self.height)), range(self.width))
            digest.update(np.where(valid, values, 0).tobytes() + valid.tobytes())
        return digest.hexdigest()


class ArrayRaster(Raster):
    """A raster in memory.

    Args:
        values: (bands, H, W).
        bands: Names.
        valid: Bool, of the same shape; by default all that is finite and not nodata.
        crs: See `Raster`.
        transform: See `Raster`; by default one pixel is one unit.
        nodata: See `Raster`.
        name: See `Raster`.

    Raises:
        RasterError: If shapes and names do not fit together.
    """

    def __init__(
        self,
        values: np.ndarray,
        bands: Sequence[str],
        *,
        valid: np.ndarray | None = None,
        crs: CRS | None = None,
        transform: Affine | None = None,
        nodata: float | None = None,
        name: str = "array",
    ) -> None:
        if values.ndim != 3 or len(values) != len(bands) or not values.size:
            raise RasterError(
                f"{name} has the shape {values.shape} and {len(bands)} band name(s); (bands, rows, columns) "
                "is expected, with a name for each band."
            )
        if values.dtype.kind not in "iuf" or values.dtype == np.float16:
            raise RasterError(
                f"{name} holds {values.dtype}. Whole numbers, float32 or float64 are expected: convert it."
            )
        if valid is not None and (valid.shape != values.shape or valid.dtype != bool):
            raise RasterError(
                f"What is valid of {name} is {valid.dtype} {valid.shape}; bool {values.shape} is expected."
            )
        super().__init__(
            name=name,
            bands=bands,
            width=values.shape[2],
            height=values.shape[1],
            crs=crs,
            transform=transform or Affine.identity(),
            dtype=values.dtype,
            nodata=nodata,
        )
        self.values = values
        self.valid = _measured(values, nodata) if valid is None else valid

    def _read(self, rows: range, columns: range) -> Pixels:
        place = slice(None), slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        return self.values[place].copy(), self.valid[place].copy()

    def _take(self, places: Sequence[int], names: Sequence[str]) -> "ArrayRaster":
        return ArrayRaster(
            self.values[list(places)],
            names,
            valid=self.valid[list(places)],
            crs=self.crs,
            transform=self.transform,
            nodata=self.nodata,
            name=self.name,
        )


class FileRaster(Raster):
    """A raster in a file that GDAL reads; opened once in every thread that reads it.

    An alpha band is no band but says what is valid. ``files`` has the sources of a VRT too.

    Args:
        path: As GDAL takes it.
        file: The file on this machine that must not change meanwhile; None if there is none, as of a URL.

    Raises:
        RasterError: If it cannot be opened, or its bands hold no numbers that mean a brightness.
    """

    def __init__(self, path: str, file: Path | None = None) -> None:
        self.path, self.file = path, file
        from rasterio.enums import MaskFlags

        self._state, self._local = _state(file), threading.local()
        opened = self._opened()
        check_kind(path, opened)
        colours = [colour.name for colour in opened.colorinterp]
        self._alpha = colours.index("alpha") + 1 if "alpha" in colours else None
        self._indexes = tuple(i for i in opened.indexes if i != self._alpha)
        self._masked = any(MaskFlags.all_valid not in flags for flags in opened.mask_flag_enums)
        names = band_names(opened)
        crs, transform = place_of(opened)
        super().__init__(
            name=str(file or path),
            bands=[names[i - 1] for i in self._indexes],
            width=opened.width,
            height=opened.height,
            crs=crs,
            transform=transform,
            dtype=opened.dtypes[0],
            nodata=opened.nodata,
        )
        scales = list(zip(opened.scales, opened.offsets, strict=True))
        self.scales = tuple(scales[i - 1] for i in self._indexes)
        self.tags = _tags(opened)
        self.files = () if file is None else (file,)
        if opened.driver == "VRT":
            self.files += tuple(map(Path, opened.files))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_local": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_local": threading.local()})

    def _take(self, places: Sequence[int], names: Sequence[str]) -> "FileRaster":
        taken = copy.copy(self)
        taken._indexes = tuple(self._indexes[i] for i in places)
        taken.bands = tuple(names)
        return taken

    def digest(self) -> str:
        """SHA-256 of the file; of its address, if it is not on this machine.

        Raises:
            RasterError: If the file is gone or has changed since it was opened.
        """
        if self.file is None or self._state is None:
            return hashlib.sha256(self.path.encode()).hexdigest()
        self._check_unchanged()
        return _file_digest(self.file, self._state)

    def _read(self, rows: range, columns: range) -> Pixels:
        from rasterio.windows import Window

        window = Window(columns.start, rows.start, len(columns), len(rows))  # pyright: ignore[reportCallIssue]
        where = f" at rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
        opened = self._opened()
        try:
            with self._settings():
                if self._local.checksums is not None:
                    self._local.checksums.check(self._indexes, rows, columns)
                values = opened.read(self._indexes, window=window)
                valid = np.isfinite(values)
                if self._masked:
                    valid &= opened.read_masks(self._indexes, window=window) > 0
                if self._alpha is not None:
                    valid &= opened.read(self._alpha, window=window) > 0
        except Exception as error:  # whatever a damaged file makes of two libraries
            self._check_unchanged()
            why = str(error.__cause__ or error).rstrip(".")
            raise RasterError(f"{self.name} cannot be read{where}: {why}.") from None
        self._check_unchanged()
        return values, valid

    def _opened(self) -> Any:
        """The file, opened by this thread."""
        import rasterio
        from rasterio.errors import RasterioError

        if not hasattr(self._local, "opened"):
            try:
                with quiet_gdal(), self._settings():
                    self._local.opened = rasterio.open(self.path, driver=driver_of(self.path))
            except (RasterioError, UnicodeError) as error:
                why = str(error).rstrip(".")
                raise RasterError(f"{self.file or self.path} cannot be read as a raster: {why}.") from None
            plain = self.file if not self.path.startswith("/vsi") else None
            self._local.checksums = plain and Checksums(plain, self._local.opened)
            self._check_unchanged()
        return self._local.opened

    def _settings(self) -> contextlib.AbstractContextManager[Any]:
        import rasterio

        return rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES, **(_REMOTE if self.file is None else {}))

    def _check_unchanged(self) -> None:
        if _state(self.file) != self._state:
            raise RasterError(
                f"{self.file} has changed while it was read. Start again with the file as it is now."
            )


def open_raster(source: Any) -> Raster:
    """A raster of a path, a URL or an open rasterio dataset; a `Raster` is given back.

    What is in memory alone, as a dataset of a ``MemoryFile`` or a ``WarpedVRT``, is read at once, and so is
    one that is open to be written.

    Raises:
        RasterError: If it cannot be opened.
    """
    import rasterio
    from rasterio.io import DatasetWriter
    from rasterio.vrt import WarpedVRT

    if isinstance(source, Raster):
        return source
    if isinstance(source, (rasterio.DatasetReader, DatasetWriter, WarpedVRT)):
        if source.closed:
            raise RasterError(f"{source.name} is closed. Give an open dataset, or its path.")
        if isinstance(source, rasterio.DatasetReader) and Path(source.name).is_file():
            return open_raster(source.name)
        return _of_dataset(source)
    if not isinstance(source, (str, Path)):
        raise RasterError(
            f"{type(source).__name__} is no raster. Give a path, a URL, an open rasterio dataset or an array."
        )
    path = str(source)
    if path.startswith(("http://", "https://")):
        return FileRaster(f"/vsicurl/{path}")
    if path.startswith(("/vsi", "s3://", "gs://")):
        return FileRaster(path)
    if not Path(path).is_file():
        raise RasterError(f"{path} is no file. Give a raster that is there.")
    return FileRaster(path, Path(path).resolve())


def _of_dataset(dataset: Any) -> ArrayRaster:
    check_kind(dataset.name, dataset)
    crs, transform = place_of(dataset)
    colours = zip(dataset.indexes, dataset.colorinterp, strict=True)
    indexes = [i for i, colour in colours if colour.name != "alpha"]
    names, values = band_names(dataset), dataset.read(indexes)
    raster = ArrayRaster(
        values,
        [names[i - 1] for i in indexes],
        valid=(dataset.read_masks(indexes) > 0) & np.isfinite(values),
        crs=crs,
        transform=transform,
        nodata=dataset.nodata,
        name=dataset.name,
    )
    raster.scales = tuple((dataset.scales[i - 1], dataset.offsets[i - 1]) for i in indexes)
    raster.tags = _tags(dataset)
    return raster


def _tags(dataset: Any) -> dict[str, str]:
    return {**dataset.tags(), **dataset.tags(ns="IMAGERY")}


def refined(raster: Raster, factor: int) -> tuple[Grid | None, Affine]:
    """The grid of pixels of which ``factor`` times ``factor`` make up one of a raster's, and its transform.

    Returns:
        The grid, None without a CRS; and the transform.
    """
    transform = raster.transform @ Affine.scale(1 / factor)
    if raster.crs is None:
        return None, transform
    return Grid(raster.crs, transform, raster.width * factor, raster.height * factor), transform


def ground(grid: Grid) -> tuple[float, float, float] | None:
    """Longitude, latitude and ground metres of a pixel at a grid's centre; None if it lies nowhere on Earth.

    The metres are the geometric mean of those along rows and along columns.
    """
    x, y = grid.width / 2, grid.height / 2
    try:
        lon, lat = grid.centre
        across = ground_distance_m(grid.lon_lat(x - 0.5, y), grid.lon_lat(x + 0.5, y))
        down = ground_distance_m(grid.lon_lat(x, y - 0.5), grid.lon_lat(x, y + 0.5))
    except ProjError:  # a CRS of no place on Earth, as of an engineer's drawing
        return None
    gsd = math.sqrt(across * down)
    return (lon, lat, gsd) if math.isfinite(lon + lat + gsd) and gsd > 0 else None


def _measured(values: np.ndarray, nodata: float | None) -> np.ndarray:
    valid = np.isfinite(values)
    return valid if nodata is None else valid & (values != nodata)


def _as(number: float, dtype: np.dtype) -> float | int:
    """A number as one that a dtype holds; 0 if it does not."""
    if dtype.kind not in "iu":
        return number
    limits = np.iinfo(dtype)
    return int(number) if math.isfinite(number) and limits.min <= number <= limits.max else 0


def _state(file: Path | None) -> tuple[int, int] | None:
    """What changes when a file does: size in bytes and time of change."""
    if file is None:
        return None
    try:
        known = file.stat()
    except OSError as error:
        raise RasterError(f"{file} cannot be read: {error.strerror or error}.") from None
    return known.st_size, known.st_mtime_ns


@lru_cache(maxsize=64)
def _file_digest(file: Path, state: tuple[int, int]) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
