"""Where the pixels of an image lie: a CRS and an affine transform for a place and a resolution."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from affine import Affine
from pyproj import CRS, Geod, Transformer

from diffusionsat.errors import RasterError

WIDEST_UTM_M = 100_000.0  # an extent over this gets its own projection
_WIDEST_M = 15_000_000.0  # about a hemisphere's diameter seen equal-area
_GEOD = Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels on the ground.

    Args:
        crs: Projected coordinate system, metres.
        transform: Pixel (column, row) to CRS (x, y); north up.
        width: Columns.
        height: Rows.
    """

    crs: CRS
    transform: Affine
    width: int
    height: int

    @classmethod
    def around(cls, lon: float, lat: float, gsd: float, width: int, height: int) -> "Grid":
        """The grid centred on a place, with pixels of ``gsd`` metres.

        Local UTM, with Norway's and Svalbard's wider zones; UPS north of 84 and south of -80 degrees; a
        Lambert azimuthal equal-area projection centred on the place if a side is over 100 km.

        Raises:
            RasterError: If the extent is wider than a hemisphere.
        """
        widest = gsd * max(width, height)
        if widest > _WIDEST_M:
            raise RasterError(
                f"An image of {width}x{height} pixels of {gsd:g} m spans {widest / 1000:,.0f} km; at most "
                f"{_WIDEST_M / 1000:,.0f} km can be mapped. Give fewer pixels or a smaller gsd."
            )
        crs = _equal_area(lon, lat) if widest > WIDEST_UTM_M else CRS.from_epsg(_local_epsg(lon, lat))
        x, y = _from_wgs84(crs).transform(lon, lat)
        corner = Affine.translation(x - gsd * width / 2, y + gsd * height / 2)
        return cls(crs, corner @ Affine.scale(gsd, -gsd), width, height)

    @property
    def centre(self) -> tuple[float, float]:
        """Longitude and latitude of the centre, degrees WGS84."""
        return self.lon_lat(self.width / 2, self.height / 2)

    def lon_lat(self, column: float, row: float) -> tuple[float, float]:
        """Longitude, -180 to 180, and latitude of a place in pixels, degrees WGS84."""
        lon, lat = _to_wgs84(self.crs).transform(*(self.transform @ (column, row)))
        return (float(lon) if -180 <= lon <= 180 else (float(lon) + 180) % 360 - 180), float(lat)

    def outline(self, points: int = 8) -> list[tuple[float, float]]:
        """The border as longitudes and latitudes, counter-clockwise from the upper left, closed.

        Args:
            points: Points a side.
        """
        w, h = self.width, self.height
        along = np.linspace(0, 1, points, endpoint=False)
        columns = np.concatenate([0 * along, w * along, w + 0 * along, w - w * along, [0]])
        rows = np.concatenate([h * along, h + 0 * along, h - h * along, 0 * along, [0]])
        t = self.transform
        x, y = t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f
        lon, lat = _to_wgs84(self.crs).transform(x, y)
        return [(float(x), float(y)) for x, y in zip(lon, lat, strict=True)]

    @property
    def holds_pole(self) -> int:
        """1 if the north pole lies inside, -1 for the south pole, else 0."""
        for sign in (1, -1):
            x, y = _from_wgs84(self.crs).transform(0.0, 90.0 * sign)
            column, row = ~self.transform @ (x, y)
            if math.isfinite(column) and 0 <= column <= self.width and 0 <= row <= self.height:
                return sign
        return 0


def ground_distance_m(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Metres along the ellipsoid between two places, each (lon, lat)."""
    return _GEOD.inv(*first, *second)[2]


def _local_epsg(lon: float, lat: float) -> int:
    if lat >= 84:
        return 5041  # UPS north, axes east and north
    if lat < -80:
        return 5042
    zone = min(60, int((lon + 180) // 6) + 1)
    if 56 <= lat < 64 and 3 <= lon < 12:
        zone = 32
    if lat >= 72 and 0 <= lon < 42:
        zone = 31 + 2 * int((lon + 3) // 12)
    return (32600 if lat >= 0 else 32700) + zone


def _equal_area(lon: float, lat: float) -> CRS:
    return CRS.from_proj4(f"+proj=laea +lat_0={lat:.9f} +lon_0={lon:.9f} +datum=WGS84 +units=m +no_defs")


@functools.lru_cache(64)
def _from_wgs84(crs: CRS) -> Transformer:
    return Transformer.from_crs("EPSG:4326", crs, always_xy=True)


@functools.lru_cache(64)
def _to_wgs84(crs: CRS) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
