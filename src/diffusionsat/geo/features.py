"""GeoJSON features as places with properties: a collection, one feature, or one feature a line."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffusionsat.errors import RasterError

_PROPERTIES = ("prompt", "label", "date", "gsd", "cloud_cover", "seed", "id")
_KINDS = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature, or what is wrong with it.

    Args:
        index: Position in the input, from 0.
        place: Longitude and latitude of its centre; None for a null geometry.
        properties: Those of prompt, label, date, gsd, cloud_cover, seed and id that are given and not null.
        error: Why it cannot be used; None if it can.
    """

    index: int
    place: tuple[float, float] | None = None
    properties: Mapping[str, Any]
    error: str | None = None


def read_features(text: str) -> list[Feature]:
    """The features of a text: a FeatureCollection, a Feature, or one Feature a line (also RFC 8142).

    A byte order mark is passed over. What is wrong with one feature is told in it and harms no other.

    Raises:
        RasterError: If there is no feature at all.
    """
    text = text.removeprefix("\ufeff")
    features = [_feature(index, value) for index, value in enumerate(_values(text))]
    if not features:
        raise RasterError(
            "The GeoJSON holds no feature. Give a FeatureCollection, a Feature, or one Feature a line."
        )
    return features


def _values(text: str) -> Iterator[Any]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        for line in text.replace("\x1e", "").splitlines():
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield RasterError(f"is no JSON: {error}")
        return
    yield from (
        whole["features"] if isinstance(whole, dict) and isinstance(whole.get("features"), list) else [whole]
    )


def _feature(index: int, value: Any) -> Feature:
    if isinstance(value, RasterError):
        return Feature(index=index, properties={}, error=str(value))
    if not isinstance(value, dict) or value.get("type") != "Feature":
        return Feature(index=index, properties={}, error="is no GeoJSON Feature")
    given = value.get("properties") or {}
    properties = {k: given[k] for k in _PROPERTIES if isinstance(given, dict) and given.get(k) is not None}
    if "id" not in properties and value.get("id") is not None:
        properties["id"] = value["id"]
    geometry = value.get("geometry")
    if geometry is None:
        return Feature(index=index, properties=properties)
    try:
        return Feature(index=index, place=centre(geometry), properties=properties)
    except (RasterError, TypeError, ValueError, KeyError, IndexError, OverflowError, RecursionError) as error:
        return Feature(
            index=index, properties=properties, error=f"has a geometry that cannot be read: {error}"
        )


def centre(geometry: Mapping[str, Any]) -> tuple[float, float]:
    """Centre (lon, lat) of a geometry's bounding box, the narrower one of the two around the Earth.

    So a polygon across the antimeridian, in one piece or cut in two, has its centre where it lies.

    Raises:
        RasterError: If the geometry has no coordinates, or they are no degrees.
    """
    points = list(_points(geometry))
    if not points:
        raise RasterError("it has no coordinates")
    if not all(
        math.isfinite(v) and abs(v) <= limit for p in points for v, limit in zip(p, (180, 90), strict=True)
    ):
        raise RasterError("its coordinates are no degrees of longitude and latitude")
    lats = [lat for _, lat in points]
    lons = sorted({lon % 360 for lon, _ in points})
    if len(lons) == 1 and len({lon for lon, _ in points}) == 2:  # -180 and 180: all around the Earth
        return 0.0, (min(lats) + max(lats)) / 2
    gaps = [(following - lon) % 360 or 360 for lon, following in zip(lons, [*lons[1:], lons[0]], strict=True)]
    widest = max(range(len(gaps)), key=gaps.__getitem__)
    west, span = lons[(widest + 1) % len(lons)], 360 - gaps[widest]
    lon = (west + span / 2 + 180) % 360 - 180
    return lon, (min(lats) + max(lats)) / 2


def _points(geometry: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    if geometry["type"] == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _points(part)
        return
    if geometry["type"] not in _KINDS:
        raise RasterError(f"its type is {geometry['type']!r}, not {', '.join(_KINDS)} or GeometryCollection")
    stack = [geometry["coordinates"]]
    while stack:
        coordinates = stack.pop()
        if not isinstance(coordinates, list):
            raise RasterError(f"{coordinates!r} stands where coordinates belong")
        if coordinates and isinstance(coordinates[0], (int, float)):
            yield float(coordinates[0]), float(coordinates[1])
        else:
            stack.extend(reversed(coordinates))
