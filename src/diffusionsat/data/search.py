"""Images found in a STAC catalogue: the least cloudy one of a place and a time."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from pyproj import Transformer

from diffusionsat.data.frames import Frame, open_frame
from diffusionsat.data.sensors import SENSORS, band_of
from diffusionsat.data.sidecars import read_item
from diffusionsat.errors import ConfigError, MissingExtraError, RasterError
from diffusionsat.geo.rasters import Raster, open_raster
from diffusionsat.geo.stacks import Stack, crop
from diffusionsat.metadata import Metadata

log = logging.getLogger(__name__)

_MOST_ITEMS = 500  # of a search that are looked at


def least_cloudy(
    url: str,
    place: tuple[float, float],
    dates: str,
    *,
    collections: Sequence[str] = (),
    bands: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> Frame:
    """The least cloudy image of a place between two dates; of equals the latest.

    Its pixels are read from where the catalogue says, when they are asked for.

    Args:
        url: Of a STAC API.
        place: Longitude and latitude, degrees WGS84.
        dates: ``A/B``, days, months or years, both included.
        collections: Their names; all by default.
        bands: Common names of those to take, all that the sensor has by default.
        size: Width and height around the place, in pixels of the finest band; all by default.

    Raises:
        ConfigError: If the dates are no range.
        MetadataError: If the place or the dates are impossible.
        RasterError: If the catalogue does not answer, knows no such image, or its images cannot be opened.
        MissingExtraError: If pystac-client is not installed.
    """
    try:
        from pystac_client import Client
        from pystac_client.exceptions import APIError
        from requests import RequestException
    except ImportError:
        raise MissingExtraError("Searching a STAC catalogue", "stac") from None
    known = Metadata(lon=place[0], lat=place[1])
    interval = _interval(dates)
    point = {"type": "Point", "coordinates": [known.lon, known.lat]}
    try:
        search = Client.open(url).search(
            intersects=point,
            datetime=interval,
            collections=list(collections) or None,
            max_items=_MOST_ITEMS,
        )
        items = list(search.items_as_dicts())
    # pystac-client raises NotImplementedError where an API says that it cannot search.
    except (APIError, RequestException, ValueError, KeyError, NotImplementedError) as error:
        raise RasterError(
            f"The STAC API at {url} cannot be searched: {error or type(error).__name__}."
        ) from None
    usable = [(item, assets) for item in items if (assets := assets_of(item, bands))]
    if not usable:
        what = f" of {', '.join(bands)}" if bands else " with bands that are known"
        raise RasterError(
            f"{url} has no image{what} of {known.lon},{known.lat} between {dates} "
            f"({len(items)} item(s) found). Give other dates, or another collection."
        )
    usable.sort(key=lambda one: str(one[0]["properties"].get("datetime")), reverse=True)
    item, assets = min(usable, key=lambda one: _cloudiness(one[0]))
    log.info("%s of %d items: %s %% cloud", item["id"], len(items), item["properties"].get("eo:cloud_cover"))
    return frame_of_item(item, assets, url, around=None if size is None else (place, size))


def _interval(dates: str) -> str:
    """The first and the last day of a range of days, months or years, as the API takes them."""
    first, slash, last = dates.partition("/")
    if not slash:
        raise ConfigError(
            f"The search is over {dates!r}. Give two dates A/B, each YYYY, YYYY-MM or YYYY-MM-DD."
        )
    days = [Metadata(date=date or None).interval() for date in (first, last)]
    ends = [day and day[i].isoformat() for i, day in enumerate(days)]
    return f"{ends[0] or '..'}/{ends[1] or '..'}"


def _cloudiness(item: Mapping[str, Any]) -> float:
    cloud_cover = item["properties"].get("eo:cloud_cover")
    return 101.0 if cloud_cover is None else float(cloud_cover)  # not known is worse than all


def _sensor(item: Mapping[str, Any]) -> str | None:
    about = item["properties"]
    said = " ".join(str(about.get(key, "")) for key in ("constellation", "platform")) + f" {item['id']}"
    return next((name for name in SENSORS if name in said.lower()), None)


def assets_of(item: Mapping[str, Any], bands: Sequence[str] | None) -> dict[str, Mapping[str, Any]]:
    """The assets of a STAC item by the common names of their bands; those of several bands under ``""``.

    Args:
        item: As JSON gives it.
        bands: Those to take; None is all that are known.

    Returns:
        Empty if a band that is asked for is missing.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for asset in item.get("assets", {}).values():
        names = read_item(item, asset).bands
        known = [band.common for name in names if (band := band_of(name, None))]
        if (
            names
            and len(known) == len(names)
            and not {"thumbnail", "overview", "visual"} & set(asset.get("roles", []))
        ):
            found.setdefault(known[0] if len(known) == 1 else "", asset)
    if bands is not None and not set(bands) <= found.keys():
        return {}
    return {name: asset for name, asset in found.items() if bands is None or name in bands}


def frame_of_item(
    item: Mapping[str, Any],
    assets: Mapping[str, Mapping[str, Any]],
    url: str,
    *,
    around: tuple[tuple[float, float], tuple[int, int]] | None = None,
    open_part: Callable[[str], Raster] | None = None,
) -> Frame:
    """The frame that some assets of a STAC item make.

    Args:
        item: As JSON gives it.
        assets: As `assets_of` gives them.
        url: Of the item or its catalogue.
        around: Place and size of the part to take, as in `least_cloudy`; None is all.
        open_part: Opens an asset by its address; by default it is read from there when it is asked for.

    Raises:
        RasterError: If it cannot be opened or understood.
    """
    base = next((link["href"] for link in item.get("links", []) if link.get("rel") == "self"), url)
    part = open_part or _open
    parts: list[Raster] = []
    for name, asset in assets.items():
        if name:
            parts.append(part(urljoin(base, str(asset["href"]))).take([0], [name]))
    first = next(iter(assets.values()))
    if not parts:
        names = read_item(item, first).bands
        parts = [part(urljoin(base, str(first["href"]))).take(range(len(names)), names)]
    raster: Raster = Stack(parts, str(item["id"]))
    if around is not None:
        raster = _around(raster, *around)
    said = read_item(item, first)
    known = {name: said.known.get(name) for name in ("date", "cloud_cover")}
    return open_frame(raster, sensor=_sensor(item), scaling=said.scaling, **known)


def _open(href: str) -> Raster:
    return open_raster(unquote(urlsplit(href).path) if href.startswith("file://") else href)


def _around(raster: Raster, place: tuple[float, float], size: tuple[int, int]) -> Raster:
    """The part of a raster around a place."""
    if raster.crs is None:
        raise RasterError(f"{raster.name} has no CRS, so that no part of it can be found by its place.")
    x, y = Transformer.from_crs("EPSG:4326", raster.crs, always_xy=True).transform(*place)
    column, row = ~raster.transform @ (x, y)
    left, top = round(column - size[0] / 2), round(row - size[1] / 2)
    return crop(raster, range(top, top + size[1]), range(left, left + size[0]))
