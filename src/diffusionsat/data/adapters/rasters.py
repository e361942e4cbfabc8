"""What a GeoTIFF tells before its pixels are read: place, resolution, date, bands."""

import re
from dataclasses import dataclass
from pathlib import Path

from diffusionsat.data.sensors import Scaling
from diffusionsat.errors import DatasetError, RasterError
from diffusionsat.geo.datasets import band_names, place_of
from diffusionsat.geo.grids import Grid
from diffusionsat.geo.images import quiet_gdal
from diffusionsat.geo.rasters import ground


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
        DatasetError: If it cannot be opened, as when its TIFF lacks StripOffsets; or if north is not up in
            it, which whoever cuts and turns images takes for granted.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with quiet_gdal(), rasterio.open(path) as file:
            crs, transform = place_of(file)
            place = None
            if crs is not None and not transform.is_identity:
                if transform.a <= 0 or transform.e >= 0 or transform.b or transform.d:
                    raise DatasetError(
                        f"{path.name} is turned or mirrored: north is not up in it. Make it so: "
                        "gdalwarp IN OUT."
                    )
                place = ground(Grid(crs, transform, file.width, file.height))
            lon, lat, gsd = place or (None, None, None)
            scaled = (file.scales[0], file.offsets[0]) != (1.0, 0.0)
            return Raster(
                lon=lon,
                lat=lat,
                gsd=gsd,
                acquired=_day((file.tags() | file.tags(ns="IMAGERY")).get("ACQUISITIONDATETIME", "")),
                stamped=_day(file.tags().get("TIFFTAG_DATETIME", "")),
                bands=band_names(file),
                dtype=file.dtypes[0],
                scaling=Scaling(
                    gain=file.scales[0] if scaled else None, offset=file.offsets[0], nodata=file.nodata
                ),
            )
    except (RasterioError, RasterError) as error:
        raise DatasetError(f"{path.name} cannot be read as a GeoTIFF: {error}.") from None


def _day(tag: str) -> str | None:
    match = re.match(r"(\d{4})[-:](\d\d)[-:](\d\d)", tag)
    return "-".join(match.groups()) if match else None
