"""Sentinel-2 products as ESA gives them: a ``.SAFE`` folder or its zip, every band on its own grid."""

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from diffusionsat.data.sensors import SENTINEL_2_L1C, Scaling, identify, sentinel2_scaling
from diffusionsat.errors import RasterError
from diffusionsat.geo.rasters import FileRaster
from diffusionsat.geo.stacks import Stack

_BAND = re.compile(r"_(B\d[\dA]|SCL)(?:_(\d\d)m)?\.jp2")
_TILE = re.compile(r"GRANULE/([^/]+)/")
_METADATA = re.compile(r"MTD_(?:MSI|SAF)L\w+\.xml$")
_QUANTIFICATION = ("BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE")
_OFFSETS = ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
_BANDS = (*SENTINEL_2_L1C, "SCL")  # the scene classification, of L2A alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Safe:
    """What a product holds.

    Args:
        raster: All bands, at the resolution of the finest.
        scaling: Of all but SCL.
        known: Date and cloud cover.
    """

    raster: Stack
    scaling: Scaling
    known: Mapping[str, Any]


def is_safe(path: Path) -> bool:
    """Whether a path is to be read as a product: any folder or zip."""
    return path.is_dir() or path.suffix.lower() == ".zip"


def read_safe(path: Path, tile: str | None = None) -> Safe:
    """A product of level 1C or 2A.

    Bands are those that are there, each at its finest resolution. The offset is that of the metadata, or
    of the processing baseline in the name.

    Args:
        path: Its folder, or the zip of it.
        tile: Which of its tiles, as in ``T32TLR``; needed if there are several.

    Raises:
        RasterError: If it is no product, is incomplete, or has not exactly one such tile.
    """
    files = _of_tile(path, _files(path), tile)
    images: dict[str, str] = {}
    for name in sorted(files, key=_metres):
        match = _BAND.search(name)
        if match and "IMG_DATA" in name and match[1] not in images:
            images[match[1]] = name
    bands = [band for band in _BANDS if band in images]
    if not bands or bands == ["SCL"]:
        raise RasterError(
            f"{path} holds no image of a band. Give a Sentinel-2 product: its .SAFE folder, or the zip of it."
        )
    archive = path.resolve() if path.is_file() else None
    parts = [
        FileRaster(_gdal_path(path, images[band]), archive or path.resolve() / images[band]).take([0], [band])
        for band in bands
    ]
    about = next((name for name in files if _METADATA.search(name)), None)
    scaling, known = _by_name(path, images[bands[0]]) if about is None else _by_metadata(path, about)
    return Safe(raster=Stack(parts, str(path)), scaling=scaling, known=known)


def _files(path: Path) -> list[str]:
    """Names of the files within, with slashes."""
    try:
        if path.is_dir():
            return [p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()]
        with zipfile.ZipFile(path) as archive:
            return sorted(archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise RasterError(f"{path} cannot be read: {error}.") from None


def _of_tile(path: Path, files: list[str], wanted: str | None) -> list[str]:
    """The files of one tile, and those of the whole product.

    Raises:
        RasterError: If there are several, or none, of those that are wanted.
    """
    tiles = sorted({match[1] for name in files if _BAND.search(name) and (match := _TILE.search(name))})
    fitting = [tile for tile in tiles if wanted is None or wanted.upper() in tile.upper()]
    if len(fitting) == 1 or (wanted is None and not tiles):
        others = set(tiles) - set(fitting)
        return [name for name in files if (match := _TILE.search(name)) is None or match[1] not in others]
    which = "several tiles" if wanted is None else f"{len(fitting)} tiles {wanted!r}"
    raise RasterError(
        f"{path} holds {which}; its tiles are {', '.join(tiles) or 'none'}. Name one with tile= or --tile: a "
        "part of its name that no other has."
    )


def _metres(name: str) -> tuple[str, str]:
    match = _BAND.search(name)
    return (match[2] or "" if match else "", name)


def _gdal_path(path: Path, name: str) -> str:
    return str(path.resolve() / name) if path.is_dir() else f"/vsizip/{{{path.resolve()}}}/{name}"


def _by_name(path: Path, image: str) -> tuple[Scaling, dict[str, Any]]:
    """What the names of the product and of an image tell."""
    product = identify(path.resolve().name) or identify(image)
    if product is None or product.scaling is None:
        raise RasterError(f"{path} has no MTD_MSIL1C.xml or MTD_MSIL2A.xml, and its name tells no date.")
    return product.scaling, {"date": product.date}


def _by_metadata(path: Path, name: str) -> tuple[Scaling, dict[str, Any]]:
    """What the product's metadata tells."""
    try:
        if path.is_dir():
            content = (path / name).read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:
                content = archive.read(name)
        told = [
            (element.tag.rsplit("}")[-1], element.text or "")
            for element in ElementTree.fromstring(content).iter()
        ]
        date = next((text[:10] for tag, text in told if tag == "PRODUCT_START_TIME"), None)
        cloud = next((float(text) for tag, text in told if tag == "Cloud_Coverage_Assessment"), None)
        baseline = next((text for tag, text in told if tag == "PROCESSING_BASELINE"), None)
        steps = next((float(text) for tag, text in told if tag.endswith(_QUANTIFICATION)), None)
        offsets = {float(text) for tag, text in told if tag in _OFFSETS}
    except (OSError, zipfile.BadZipFile, zlib.error, ElementTree.ParseError, ValueError) as error:
        raise RasterError(f"{path}: {name} cannot be read: {error}.") from None
    scaling = sentinel2_scaling(baseline, date)
    if steps and len(offsets) <= 1:
        offset = offsets.pop() / steps if offsets else scaling.offset
        scaling = Scaling(gain=1 / steps, offset=offset, nodata=0)
    return scaling, {"date": date, "cloud_cover": cloud}
