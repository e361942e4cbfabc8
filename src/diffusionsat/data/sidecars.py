"""STAC items beside images: what they say of an image, its bands and its numbers."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from diffusionsat.data.sensors import Scaling
from diffusionsat.errors import RasterError
from diffusionsat.geo.features import centre

log = logging.getLogger(__name__)

_MOST_FILES = 200  # of a folder that are looked into
_MOST_BYTES = 5_000_000
_OFFSET_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What an item says of one of its images.

    Args:
        known: Fields of `Metadata`.
        bands: Names, the common ones where there are; empty if it names none.
        scaling: Of all bands; None if it says nothing.
    """

    known: Mapping[str, Any]
    bands: tuple[str, ...] = ()
    scaling: Scaling | None = None


def sidecar(path: Path) -> Sidecar | None:
    """What is said by the item of an image: in ``NAME.json``, ``item.json``, or one that names the image.

    Items of the folder are looked into in the order of their names, 200 at most.
    """
    own, general = path.with_suffix(".json"), path.parent / "item.json"
    others = (file for file in sorted(path.parent.glob("*.json")) if file not in (own, general))
    for file in (own, general, *islice(others, _MOST_FILES)):
        for item in _items(file, told=file == own):
            asset = _asset(item, file.parent, path)
            of_all = file == general and not _names_files(item, file.parent)
            if asset is not None or file == own or of_all:
                return read_item(item, asset or {})
    return None


def _items(file: Path, *, told: bool) -> Iterator[Mapping[str, Any]]:
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if told:
            log.warning("%s is no JSON and is passed over: %s", file, error)
        return
    for item in content.get("features", [content]) if isinstance(content, dict) else []:
        if isinstance(item, dict) and item.get("type") == "Feature" and "stac_version" in item:
            yield item


def _asset(item: Mapping[str, Any], folder: Path, path: Path) -> Mapping[str, Any] | None:
    for asset in _assets(item):
        href = str(asset.get("href", "")).removeprefix("file://")
        if href and (folder / href).resolve() == path.resolve():
            return asset
    return None


def _names_files(item: Mapping[str, Any], folder: Path) -> bool:
    return any((folder / str(asset.get("href", ""))).is_file() for asset in _assets(item))


def _assets(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    assets = item.get("assets")
    return [a for a in assets.values() if isinstance(a, dict)] if isinstance(assets, dict) else []


def read_item(item: Mapping[str, Any], asset: Mapping[str, Any]) -> Sidecar:
    """What a STAC item (1.0 or 1.1) says of one of its assets.

    Raises:
        RasterError: If its geometry is none.
    """
    about = item.get("properties") or {}
    known = {
        "gsd": asset.get("gsd", about.get("gsd")),
        "cloud_cover": about.get("eo:cloud_cover"),
        "date": str(about.get("datetime") or about.get("start_datetime") or "")[:10] or None,
    }
    if item.get("geometry"):
        try:
            known["lon"], known["lat"] = centre(item["geometry"])
        except (RasterError, TypeError, KeyError, ValueError, IndexError) as error:
            raise RasterError(f"The STAC item {item.get('id')} has no true geometry: {error}.") from None
    bands = asset.get("bands") or asset.get("eo:bands") or []
    names = [b.get("eo:common_name") or b.get("common_name") or b.get("name") for b in bands]
    return Sidecar(
        known={name: value for name, value in known.items() if value is not None},
        bands=tuple(names) if all(isinstance(name, str) for name in names) else (),
        scaling=_scaling(about, asset, bands),
    )


def _scaling(
    about: Mapping[str, Any], asset: Mapping[str, Any], bands: Sequence[Mapping[str, Any]]
) -> Scaling | None:
    """Scaling of an asset's numbers, if all of its bands have the same."""
    told = [
        {key: band.get(f"raster:{key}", band.get(key)) for key in ("scale", "offset", "nodata")}
        for band in asset.get("raster:bands") or bands or [asset]
    ]
    first = told[0]
    if first["scale"] is None or any(other != first for other in told):
        return None
    # Element 84's items keep the offset that it has taken away already (Element84/earth-search#9).
    applied = any(about.get(name) is True for name in _OFFSET_APPLIED)
    nodata = first["nodata"]
    return Scaling(
        gain=float(first["scale"]),
        offset=0.0 if applied else float(first["offset"] or 0),
        nodata=float(nodata) if isinstance(nodata, (int, float)) else None,
    )
