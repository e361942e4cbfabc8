"""Scenes as items of a SpatioTemporal Asset Catalog (STAC 1.1.0), as dicts."""

from itertools import pairwise
from typing import Any

from diffusionsat.geo.grids import Grid
from diffusionsat.metadata import Metadata

_EXTENSIONS = {
    "eo": "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
}
_MEDIA = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".tiff": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".png": "image/png",
}


def item(
    *,
    identifier: str,
    grid: Grid | None,
    metadata: Metadata,
    size: tuple[int, int],
    provenance: dict[str, Any],
    note: str,
    href: str | None,
) -> dict[str, Any]:
    """A STAC item that says it is synthetic.

    Args:
        identifier: Of the item.
        grid: Where the pixels lie.
        metadata: What the image shows.
        size: Width and height in pixels.
        provenance: How it was made, with ``created`` (RFC 3339).
        note: Sentence for the description.
        href: File of the image.
    """
    extensions = []
    properties: dict[str, Any] = {
        "description": note,
        "synthetic": True,
        "created": provenance["created"],
        **_datetimes(metadata, provenance["created"]),
        **{f"diffusionsat:{name}": value for name, value in provenance.items() if name != "created"},
    }
    if metadata.gsd is not None:
        properties["gsd"] = metadata.gsd
    if metadata.cloud_cover is not None:
        properties["eo:cloud_cover"] = metadata.cloud_cover
        extensions.append(_EXTENSIONS["eo"])
    stac: dict[str, Any] = {"type": "Feature", "stac_version": "1.1.0", "id": identifier, "geometry": None}
    if grid is not None:
        stac["geometry"], stac["bbox"] = footprint(grid)
        epsg = grid.crs.to_epsg()
        properties["proj:code"] = f"EPSG:{epsg}" if epsg else None
        if epsg is None:
            properties["proj:projjson"] = grid.crs.to_json_dict()
        properties["proj:shape"] = [size[1], size[0]]
        properties["proj:transform"] = list(grid.transform)[:6]
        extensions.append(_EXTENSIONS["proj"])
    suffix = "." + href.rsplit(".", 1)[-1].lower() if href else ""
    image = {
        "href": href,
        "type": _MEDIA.get(suffix, "application/octet-stream"),
        "roles": ["data", "visual"],
    }
    return stac | {
        "properties": properties,
        "links": [],
        "assets": {"image": image} if href else {},
        "stac_extensions": extensions,
    }


def _datetimes(metadata: Metadata, created: str) -> dict[str, Any]:
    interval = metadata.interval()
    if interval is None:
        return {"datetime": created, "diffusionsat:date_known": False}
    first, last = interval
    if first == last:
        return {"datetime": f"{first.isoformat()}T12:00:00Z"}
    return {
        "datetime": None,
        "start_datetime": f"{first.isoformat()}T00:00:00Z",
        "end_datetime": f"{last.isoformat()}T23:59:59Z",
    }


def footprint(grid: Grid) -> tuple[dict[str, Any], list[float]]:
    """GeoJSON geometry and bounding box of a grid, cut at the antimeridian (RFC 7946, section 3.1.9).

    A grid that holds a pole becomes a polygon along the pole's parallel, as plate carrée draws it.
    """
    outline = _unrolled(grid.outline())
    pole = grid.holds_pole
    if pole:
        first, last = outline[0], outline[-1]
        outline = [*outline, (last[0], 90.0 * pole), (first[0], 90.0 * pole), first]
    parts = [part for shift in (-360, 0, 360) if len(part := _clip(outline, shift)) >= 4]
    rings = [_counter_clockwise(part) for part in parts]
    lats = [lat for ring in rings for _, lat in ring]
    if pole:
        west, east = -180.0, 180.0
    elif len(rings) > 1:
        west = min(lon for ring in rings for lon, _ in ring if lon > 0)
        east = max(lon for ring in rings for lon, _ in ring if lon < 0)
    else:
        west, east = min(lon for lon, _ in rings[0]), max(lon for lon, _ in rings[0])
    coordinates = [[[list(point) for point in ring]] for ring in rings]
    geometry = (
        {"type": "Polygon", "coordinates": coordinates[0]}
        if len(coordinates) == 1
        else {"type": "MultiPolygon", "coordinates": coordinates}
    )
    return geometry, [west, min(lats), east, max(lats)]


def _unrolled(outline: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The outline with longitudes that never jump by more than half a turn."""
    out = [outline[0]]
    for lon, lat in outline[1:]:
        before = out[-1][0]
        out.append((before + (lon - before + 180) % 360 - 180, lat))
    return out


def _clip(ring: list[tuple[float, float]], shift: float) -> list[tuple[float, float]]:
    """The part of a ring, moved by ``shift``, between -180 and 180 degrees (Sutherland & Hodgman 1974)."""
    moved = [(lon + shift, lat) for lon, lat in ring]
    for edge, sign in ((-180.0, 1), (180.0, -1)):
        clipped: list[tuple[float, float]] = []
        for (x0, y0), (x1, y1) in pairwise(moved):
            inside0, inside1 = sign * (x0 - edge) >= 0, sign * (x1 - edge) >= 0
            crossing = (edge, y0 + (y1 - y0) * (edge - x0) / (x1 - x0)) if inside0 != inside1 else None
            if inside0:
                clipped.append((x0, y0))
            if crossing:
                clipped.append(crossing)
        if not clipped or len({x for x, _ in clipped}) == 1:
            return []
        moved = [*clipped, clipped[0]]
    return moved


def _counter_clockwise(ring: list[tuple[float, float]]) -> list[tuple[float, float]]:
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring))
    return ring if area > 0 else ring[::-1]
