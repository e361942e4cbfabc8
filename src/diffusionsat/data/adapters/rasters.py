"""What a GeoTIFF tells before its pixels are read: place, resolution, date, bands."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyproj import CRS

from diffusionsat.data import sensors
from diffusionsat.data.sensors import Scaling
from diffusionsat.errors import DatasetError
from diffusionsat.geo.grids import Grid, ground_distance_m
from diffusionsat.geo.images import quiet_gdal


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """What a GeoTIFF tells before its pixels are read.

    Args:
        lon: Longitude of the centre; None without a CRS.
        lat: Latitude of the centre.
        gsd: Ground metres of a pixel at the centre, the geometric mean of both directions.
        acquired: Day of the image, of the tag ACQUISITIONDATETIME.
        stamped: Day of the tag TIFFTAG_DATETIME, which may be that of the image or of the file.
        bands: Descriptions or colours; ``band1`` … where there are neither.
        dtype: Of the numbers.
        scaling: Gain, offset and nodata as the file has them; gain None where it has none.
    """

    lon: float | None = None
    lat: float | None = None
    gsd: float | None = None
    acquired: str | None = None
    stamped: str | None = None
    bands: tuple[str, ...]
    dtype: str
    scaling: Scaling


def read_raster(path: Path) -> Raster:
    """The facts of a GeoTIFF.

    Raises:
        DatasetError: If it cannot be opened, as when its TIFF lacks StripOffsets.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with quiet_gdal(), rasterio.open(path) as file:
            place = _place(file) if file.crs is not None and not file.transform.is_identity else {}
            scaled = (file.scales[0], file.offsets[0]) != (1.0, 0.0)
            return Raster(
                **place,
                acquired=_day((file.tags() | file.tags(ns="IMAGERY")).get("ACQUISITIONDATETIME", "")),
                stamped=_day(file.tags().get("TIFFTAG_DATETIME", "")),
                bands=_bands(file),
                dtype=file.dtypes[0],
                scaling=Scaling(
                    gain=file.scales[0] if scaled else None, offset=file.offsets[0], nodata=file.nodata
                ),
            )
    except RasterioError as error:
        raise DatasetError(f"{path.name} cannot be read as a GeoTIFF: {error}.") from None


def _place(file: Any) -> dict[str, float]:
    grid = Grid(CRS.from_wkt(file.crs.to_wkt()), file.transform, file.width, file.height)
    x, y = file.width / 2, file.height / 2
    lon, lat = grid.centre
    if not (math.isfinite(lon) and math.isfinite(lat)):
        return {}
    across = ground_distance_m(grid.lon_lat(x - 0.5, y), grid.lon_lat(x + 0.5, y))
    down = ground_distance_m(grid.lon_lat(x, y - 0.5), grid.lon_lat(x, y + 0.5))
    return {"lon": lon, "lat": lat, "gsd": math.sqrt(across * down)}


def _day(tag: str) -> str | None:
    match = re.match(r"(\d{4})[-:](\d\d)[-:](\d\d)", tag)
    return "-".join(match.groups()) if match else None


def _bands(file: Any) -> tuple[str, ...]:
    if all(file.descriptions):
        return tuple(file.descriptions)
    colours = tuple(colour.name for colour in file.colorinterp)
    if colours[:3] == sensors.RGB:
        return colours
    if file.count == 3 and file.dtypes[0] == "uint8":
        return sensors.RGB
    return tuple(f"band{i}" for i in range(1, file.count + 1))
