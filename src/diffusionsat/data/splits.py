"""Splits by place: blocks of the Earth go whole to train, validation or test, with a strip between them.

Which split a block belongs to is a hash of the block alone. So it does not depend on what a data set holds,
and two data sets split with the same numbers never have one's test ground in the other's train.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diffusionsat.errors import ConfigError

EARTH_RADIUS_KM = 6371.0088  # mean radius, IUGG
_KM_A_DEGREE = math.pi * EARTH_RADIUS_KM / 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Cells of nearly equal area: bands of latitude, each cut into a whole number of columns.

    Args:
        block_km: Height of a cell, and its width within a column's rounding, 1 to 5,000 km.
        buffer_km: Train images nearer than this to a cell of another split are left out, 0 to ``block_km``.
            Places are the images' centres, so it should exceed their width.
        test: Share of the cells, 0 to 1.
        validation: Share of the cells; with ``test`` at most 1.

    Raises:
        ConfigError: If a number is out of its range.
    """

    block_km: float = 100.0
    buffer_km: float = 10.0
    test: float = 0.1
    validation: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.block_km <= 5000:
            raise ConfigError(f"block is {self.block_km:g} km. Give 1 to 5000.")
        if not 0 <= self.buffer_km <= self.block_km:
            raise ConfigError(f"buffer is {self.buffer_km:g} km. Give 0 to the block's {self.block_km:g}.")
        if not (self.test >= 0 and self.validation >= 0 and self.test + self.validation <= 1):
            raise ConfigError(
                f"shares of test and validation are {self.test:g} and {self.validation:g}. "
                "Give numbers from 0 that are together at most 1."
            )

    def split(self, lon: float, lat: float) -> str | None:
        """Split of a place; None if it would be train but lies too near to another split."""
        band = min(int((lat + 90) / self._height), self._bands - 1)
        column = min(int((lon + 180) % 360 / self._width(band)), self._columns(band) - 1)
        own = self.of_text(f"{band},{column}")
        if own != "train" or self.buffer_km == 0:
            return own
        for other in self._neighbours(lon, lat):
            if self.of_text(f"{other[0]},{other[1]}") != "train" and (
                self._distance_km(lon, lat, *other) < self.buffer_km
            ):
                return None
        return own

    def of_text(self, text: str) -> str:
        """Split of anything that a text names: a cell, or the place of an image without coordinates."""
        digest = hashlib.sha256(f"{self.block_km:g} km {text}".encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        if share < self.test:
            return "test"
        return "validation" if share < self.test + self.validation else "train"

    @property
    def _bands(self) -> int:
        return round(180 * _KM_A_DEGREE / self.block_km)

    @property
    def _height(self) -> float:
        return 180 / self._bands

    def _columns(self, band: int) -> int:
        middle = math.radians((band + 0.5) * self._height - 90)
        return max(1, round(360 * _KM_A_DEGREE * math.cos(middle) / self.block_km))

    def _width(self, band: int) -> float:
        return 360 / self._columns(band)

    def _neighbours(self, lon: float, lat: float) -> Iterator[tuple[int, int]]:
        """Cells that may be within the buffer."""
        reach = self.buffer_km / _KM_A_DEGREE
        first = max(0, math.floor((lat - reach + 90) / self._height))
        last = min(self._bands - 1, math.floor((lat + reach + 90) / self._height))
        if abs(lat) + reach >= 90:
            across = 180.0
        else:  # the widest that a circle of this radius is
            across = math.degrees(math.asin(math.sin(math.radians(reach)) / math.cos(math.radians(lat))))
        for band in range(first, last + 1):
            width, columns = self._width(band), self._columns(band)
            west = math.floor((lon - across + 180) / width)
            east = math.floor((lon + across + 180) / width)
            yield from {(band, column % columns) for column in range(west, min(east, west + columns) + 1)}

    def _distance_km(self, lon: float, lat: float, band: int, column: int) -> float:
        """Great-circle distance from a place to the nearest point of a cell."""
        south, north = band * self._height - 90, (band + 1) * self._height - 90
        west = column * self._width(band) - 180
        east_of_west = (lon - west) % 360
        if east_of_west <= self._width(band):
            return max(south - lat, 0.0, lat - north) * _KM_A_DEGREE
        sides = (east_of_west, (west + self._width(band) - lon) % 360)
        return min(_to_meridian_km(lat, side, south, north) for side in sides)


def _to_meridian_km(lat: float, across: float, south: float, north: float) -> float:
    """Distance from a latitude to a piece of the meridian that lies some degrees of longitude away."""
    phi, delta = math.radians(lat), math.radians(across)
    foot = math.degrees(math.atan2(math.sin(phi), math.cos(phi) * math.cos(delta)))
    # Beyond a quarter turn the foot lies over the pole, and the piece's end next to it is the nearest.
    nearest = math.radians(min(max(foot, south), north))
    return EARTH_RADIUS_KM * _angle(phi, nearest, delta)


def _angle(phi: float, other: float, delta: float) -> float:
    half = math.sin((other - phi) / 2) ** 2 + math.cos(phi) * math.cos(other) * math.sin(delta / 2) ** 2
    return 2 * math.asin(min(1.0, math.sqrt(half)))


def nearest_km(places: np.ndarray, others: np.ndarray) -> float | None:
    """Smallest great-circle distance between two sets of places; None if one is empty.

    Args:
        places: Longitude and latitude in degrees, (N, 2).
        others: The same, (M, 2).
    """
    if not len(places) or not len(others):
        return None
    places, others = np.unique(places, axis=0), np.unique(others, axis=0)
    ours, theirs = _on_sphere(places), _on_sphere(others)
    best = (-2.0, 0, 0)
    for start in range(0, len(ours), 1024):
        cosines = ours[start : start + 1024] @ theirs.T
        i, j = np.unravel_index(int(cosines.argmax()), cosines.shape)
        best = max(best, (float(cosines[i, j]), start + int(i), int(j)))
    # A cosine near 1 tells small angles badly: it picks the pair, the half angle measures it.
    (lon, lat), (other_lon, other_lat) = np.radians(places[best[1]]), np.radians(others[best[2]])
    return EARTH_RADIUS_KM * _angle(float(lat), float(other_lat), float(other_lon - lon))


def _on_sphere(places: np.ndarray) -> np.ndarray:
    lon, lat = np.radians(np.asarray(places, np.float64)).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
