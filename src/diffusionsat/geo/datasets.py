"""What an open rasterio dataset tells before its pixels are read: its bands, their kind, and their place."""

import json
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError

from diffusionsat.errors import RasterError

RGB = ("red", "green", "blue")
DRIVERS = {  # first bytes of a file, and the driver of GDAL that reads it
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JP2OpenJPEG",
}
_SUFFIXES = {
    ".tif": "GTiff",
    ".tiff": "GTiff",
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jp2": "JP2OpenJPEG",
}
_HEAD = 4096  # bytes in which GDAL looks for what a text is


def driver_of(path: str) -> str | None:
    """The only driver of GDAL that may open a raster; None if any may.

    A VRT names other files, and GDAL takes any file for one in which it says so. So what begins like a
    GeoTIFF, a PNG, a JPEG or a JP2 is opened as such alone, and a VRT only by its name. Of what is not on
    this machine the suffix tells.

    Args:
        path: As GDAL takes it.

    Raises:
        RasterError: If it is a VRT that is not named so.
    """
    suffix = PurePosixPath(path.partition("?")[0]).suffix.lower()
    if path.startswith(("/vsi", "s3://", "gs://")):
        return _SUFFIXES.get(suffix)
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None  # GDAL says why
    if b"<VRTDataset" in head and suffix != ".vrt" and not head.startswith(tuple(DRIVERS)):
        raise RasterError(f"{path} is a VRT, which names other files, by another suffix. Call it .vrt.")
    return next((driver for first, driver in DRIVERS.items() if head.startswith(first)), None)


def band_names(dataset: Any) -> tuple[str, ...]:
    """Names of the bands of an open dataset: descriptions, wavelengths, colours, else ``band1`` and so on."""
    colours = tuple(colour.name for colour in dataset.colorinterp)
    if colours[:3] != RGB and dataset.count == 3 and dataset.dtypes[0] == "uint8":
        colours = RGB
    others = colours if colours[:3] == RGB else plain(dataset.count)
    return tuple(
        dataset.descriptions[i] or _wavelength(dataset, i + 1) or others[i] for i in range(dataset.count)
    )


def plain(count: int) -> tuple[str, ...]:
    """What bands are called that have no names."""
    return tuple(f"band{i}" for i in range(1, count + 1))


def _wavelength(dataset: Any, index: int) -> str | None:
    """The centre of a band as its tags tell it, micrometres."""
    return dataset.tags(index, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM")


def place_of(dataset: Any) -> tuple[CRS | None, Affine]:
    """CRS and transform of an open dataset; of a PNG of ours, as its texts tell them.

    Raises:
        RasterError: If its CRS cannot be understood, or is that of ground control points.
    """
    if dataset.crs is None and dataset.gcps[0]:
        raise RasterError(
            f"{dataset.name} is placed by {len(dataset.gcps[0])} ground control points and has no grid. Give "
            "it one: gdalwarp IN OUT."
        )
    crs, transform = dataset.crs and dataset.crs.to_wkt(), dataset.transform
    if crs is None and dataset.driver == "PNG":
        crs = dataset.tags().get("CRS")
        if crs and transform.is_identity and "TRANSFORM" in dataset.tags():
            transform = Affine(*json.loads(dataset.tags()["TRANSFORM"]))
    try:
        return crs and CRS.from_wkt(crs), transform
    except CRSError as error:
        raise RasterError(f"{dataset.name} has a CRS that cannot be understood: {error}.") from None


def check_kind(path: str, dataset: Any) -> None:
    """Make sure that the bands of an open dataset are numbers that mean a brightness.

    Raises:
        RasterError: If they are complex, of several types, or places in a palette.
    """
    colours = zip(dataset.dtypes, dataset.colorinterp, strict=True)
    types = sorted({kind for kind, colour in colours if colour.name != "alpha"})
    if len(types) > 1:
        raise RasterError(
            f"{path} has bands of several types, {', '.join(types)}. Bring them to one (gdal_translate -ot "
            "UInt16 IN OUT), or leave some out (-b)."
        )
    if not dataset.count or np.dtype(dataset.dtypes[0]).kind not in "iuf":
        kinds = ", ".join(dict.fromkeys(dataset.dtypes)) or "no bands"
        raise RasterError(f"{path} holds {kinds}. Whole or floating-point numbers are expected.")
    if dataset.count == 1 and dataset.colorinterp[0].name == "palette":
        raise RasterError(
            f"{path} holds places in a palette, no colours. Make it: gdal_translate -expand rgb IN OUT."
        )
