"""Places and sizes of what is drawn on a map: GeoJSON, well-known text, Web Mercator tiles.

Geometry is a nested list of vertices, as GeoJSON's ``coordinates``; what is needed of it is so little that no
geometry library is asked for.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pyproj import Geod

_WGS84 = Geod(ellps="WGS84")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_VERTEX = re.compile(rf"({_NUMBER})\s+({_NUMBER})(?:\s+{_NUMBER})*")
_POLYGON = re.compile(r"\s*(MULTI)?POLYGON\s*Z?\s*(\(.*\))\s*", re.IGNORECASE | re.DOTALL)

Polygon = list[np.ndarray]  # rings (N, 2): the outline, then the holes


def mercator_to_geo(p: Sequence[float], zoom: int = 13, pixels: float = 512) -> tuple[float, float]:
    """Longitude and latitude of a point given in pixels of the Web Mercator map.

    Args:
        p: Pixels from the west and from the north.
        zoom: The map is 2**zoom tiles wide.
        pixels: Pixels of a tile's side; 1 if ``p`` counts tiles.
    """
    x, y = p[0] / pixels / 2**zoom, p[1] / pixels / 2**zoom
    return 360 * x - 180, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y))))


def paths(coordinates: Any) -> Iterator[np.ndarray]:
    """The lines and rings in nested coordinates, each (N, 2); a height is left off.

    Raises:
        ValueError: If what is nested is no vertices.
    """
    if (
        not isinstance(coordinates, (list, tuple))
        or not coordinates
        or not isinstance(coordinates[0], (list, tuple))
    ):
        raise ValueError(f"{coordinates!r} is no list of vertices")
    if coordinates[0] and isinstance(coordinates[0][0], (int, float)):
        yield np.array([vertex[:2] for vertex in coordinates], dtype=np.float64)
    else:
        for part in coordinates:
            yield from paths(part)


def polygons(wkt: str) -> list[Polygon]:
    """The polygons of a POLYGON or MULTIPOLYGON in well-known text.

    Raises:
        ValueError: If it is neither.
    """
    match = _POLYGON.fullmatch(wkt)
    if match is None:
        raise ValueError(f"{wkt[:60]!r} is no POLYGON or MULTIPOLYGON")
    nested = _VERTEX.sub(lambda vertex: f"[{float(vertex[1])}, {float(vertex[2])}]", match[2])
    coordinates = json.loads(nested.replace("(", "[").replace(")", "]"))
    return [list(paths(polygon)) for polygon in (coordinates if match[1] else [coordinates])]


def centroid(shapes: Sequence[Polygon]) -> tuple[float, float]:
    """Centre of the area of polygons in the plane, (x, y); of lines without area, the mean of vertices."""
    origin = shapes[0][0][0]  # near the polygons, so that no digits are lost
    area, moment = 0.0, np.zeros(2)
    for rings in shapes:
        for i, ring in enumerate(rings):
            ring_area, ring_moment = _moments(ring - origin)
            sign = (1 if i == 0 else -1) * math.copysign(1, ring_area)
            area += sign * ring_area
            moment += sign * ring_moment
    centre = origin + moment / area if area > 0 else np.concatenate([r[0] for r in shapes]).mean(0)
    return float(centre[0]), float(centre[1])


def middle(lines: Sequence[np.ndarray]) -> tuple[float, float]:
    """Middle of the bounding box of lines, (x, y)."""
    vertices = np.concatenate(lines)
    x, y = (vertices.min(0) + vertices.max(0)) / 2
    return float(x), float(y)


def geodesic_area(rings: Sequence[np.ndarray]) -> float:
    """Area within rings on WGS84, square metres; a hole is a ring that runs the other way round."""
    return abs(sum(_WGS84.polygon_area_perimeter(*ring.T)[0] for ring in rings))


def geodesic_length(lines: Sequence[np.ndarray]) -> float:
    """Length of lines on WGS84, metres."""
    return sum(_WGS84.line_length(*line.T) for line in lines)


def _moments(ring: np.ndarray) -> tuple[float, np.ndarray]:
    """Signed area of a ring, and its integral of (x, y), by the shoelace formula."""
    following = np.roll(ring, -1, axis=0)
    cross = ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]
    return float(cross.sum()) / 2, ((ring + following) * cross[:, None]).sum(0) / 6
