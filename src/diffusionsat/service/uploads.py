"""Files that clients send: looked over before GDAL sees them, opened by few drivers, kept under our names.

A raster may name other files: a VRT its sources, a GeoTIFF's metadata the file of its overviews. None of it
is followed: what could name another file is refused.
"""

import errno
import re
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pyproj.exceptions import ProjError

from diffusionsat.data.frames import Frame, open_frame
from diffusionsat.data.sensors import identify
from diffusionsat.errors import RasterError
from diffusionsat.files import writing
from diffusionsat.geo.datasets import DRIVERS
from diffusionsat.geo.grids import Grid
from diffusionsat.geo.images import quiet_gdal
from diffusionsat.geo.rasters import Raster, open_raster
from diffusionsat.geo.stac import footprint
from diffusionsat.service.folder import Folder
from diffusionsat.service.limits import Limits, Problem, check
from diffusionsat.tasks.inputs import Subject

_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_KINDS = {**DRIVERS, b"PK\3\4": "zip"}
_SUFFIXES = {
    "GTiff": ".tif",
    "PNG": ".png",
    "JPEG": ".jpg",
    "JP2OpenJPEG": ".jp2",
    "zip": ".zip",
}  # that we give
# What a file may tell; others, as OVERVIEWS and GEOLOCATION, may name other files.
_TOLD = {
    *("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "IMAGERY", "RPC", "TIFF", "EXIF", "COLOR_PROFILE", "xml:XMP"),
    *("xml:GML", "xml:IPR", "xml:UUID"),
}
_MOST_MEMBERS, _MOST_BLOCK_BYTES, _MOST_TEXT_BYTES = 10_000, 2**29, 2**26
_PREVIEW = 512  # pixels of the longer side


def sniffed(head: bytes) -> tuple[str, str]:
    """GDAL's driver, and the suffix, of a file that begins with some bytes.

    Raises:
        Problem: If it is of no kind that is taken.
    """
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            return kind, _SUFFIXES[kind]
    raise Problem(
        415,
        "The file is no GeoTIFF, PNG, JPEG, JP2 or zip of a Sentinel-2 product by its first bytes. A VRT, or "
        "whatever else names other files, is not opened: send the raster itself.",
    )


def receive(folder: Folder, file: BinaryIO, name: str | None, limits: Limits) -> tuple[str, dict[str, Any]]:
    """Take a file in, if it is a raster that jobs can work on.

    Args:
        folder: Where it is kept.
        file: At its start.
        name: As the client calls it; told, but never used as a name of a file.
        limits: Of uploads.

    Returns:
        Its id, and what is known of it.

    Raises:
        Problem: If it is refused.
    """
    driver, suffix = sniffed(file.read(16))
    file.seek(0)
    identifier = secrets.token_hex(8)
    place = folder.upload(identifier)
    place.mkdir()
    try:
        path = place / f"raster{suffix}"
        with path.open("wb") as out:
            shutil.copyfileobj(file, out, 2**20)
        stem = Path((name or "").replace("\\", "/")).stem
        about = _look_over(path, driver, stem, limits)
    except Problem:
        folder.remove_upload(identifier)
        raise
    except Exception as error:  # whatever a damaged file makes of GDAL and of those who read with it
        folder.remove_upload(identifier)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise Problem(507, "There is no room on the disk for the file.") from None
        words = folder.said(str(error.__cause__ or error))
        raise Problem(422, f"The file cannot be read: {words}") from None
    return identifier, {"id": identifier, "name": _shown(name), **about}


def _look_over(path: Path, driver: str, stem: str, limits: Limits) -> dict[str, Any]:
    """What is known of a file that is where it stays, once it is safe to open."""
    size = path.stat().st_size
    if driver == "zip":
        _check_zip(path, limits)
    else:
        with opened(path, driver) as dataset:
            check_dataset(dataset, limits)
            if driver == "JPEG":  # whose first bytes may also make it another kind of file to GDAL
                path = _as_geotiff(dataset, path)
    product = identify(stem)
    known = {"product": stem} if product else {}
    raster, frame = _read(path, known)
    check("The number of pixels", raster.width * raster.height, limits.upload_pixels, 413)
    corners, bounds = placed(raster.grid)
    return known | {
        "file": path.name,
        "bands": list(raster.bands),
        "width": raster.width,
        "height": raster.height,
        "bounds": bounds,
        "corners": corners,
        "metadata": frame.metadata.to_dict() if frame else {},
        "dtype": raster.dtype.name,
        "size_bytes": size,
    }


def check_dataset(dataset: Any, limits: Limits) -> None:
    """Make sure that an open dataset is neither too large nor names another file.

    Raises:
        Problem: If it is or does.
    """
    check("The number of bands", dataset.count, limits.bands, 413)
    check("The number of pixels", dataset.width * dataset.height, limits.upload_pixels, 413)
    for high, wide in dataset.block_shapes:
        size = high * wide * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
        check("The size of its blocks", size, _MOST_BLOCK_BYTES, 413, " bytes")
    spaces = {*dataset.tag_namespaces()}.union(*(dataset.tag_namespaces(i) for i in dataset.indexes))
    foreign = sorted(spaces - _TOLD)
    if foreign:
        raise Problem(
            422,
            f"The file's metadata has the domain {foreign[0][:50]!r}, by which a raster may name other "
            "files; it is not opened. Write it anew without: gdal_translate -co PROFILE=GeoTIFF IN OUT.",
        )


def _check_zip(path: Path, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check("The number of files in the zip", len(members), _MOST_MEMBERS, 413)
            whole = sum(member.file_size for member in members)
            check("What the zip unpacks to", whole, limits.unpacked_bytes, 413, " bytes")
            for member in members:
                if member.filename.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member.filename):
                    raise Problem(422, "The zip holds a file whose name leads out of it. Send the product.")
                if member.filename.lower().endswith(".jp2"):
                    with archive.open(member) as file:
                        if not file.read(len(_JP2)) == _JP2:
                            raise Problem(422, "The zip holds a .jp2 that is no JPEG 2000. Send the product.")
                elif member.filename.lower().endswith(".xml"):
                    check("A text in the zip", member.file_size, _MOST_TEXT_BYTES, 413, " bytes")
    # zipfile raises NotImplementedError for compressions, RuntimeError for passwords that it does not know.
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise Problem(422, f"The zip cannot be read: {error}.") from None


@contextmanager
def opened(path: Path, driver: str) -> Any:
    """A dataset that one driver opens, and that looks at no file beside it."""
    import rasterio

    with (
        quiet_gdal(),
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        rasterio.open(path, driver=driver) as dataset,
    ):
        yield dataset


def _as_geotiff(dataset: Any, path: Path) -> Path:
    import rasterio

    written = path.with_suffix(".tif")
    profile = {"width": dataset.width, "height": dataset.height, "count": dataset.count}
    with (
        writing(written) as partial,
        rasterio.open(partial, "w", driver="GTiff", dtype="uint8", compress="deflate", **profile) as out,
    ):
        for _, window in dataset.block_windows(1):
            out.write(dataset.read(window=window), window=window)
    path.unlink()
    return written


def _read(path: Path, known: Mapping[str, Any]) -> tuple[Raster, Frame | None]:
    """A raster, and the frame if its bands mean something; a mask has but numbers."""
    try:
        frame = frame_of(path, known)
        return frame.raster, frame
    except RasterError:
        if path.suffix == ".zip":
            raise
        return open_raster(path), None


def frame_of(path: Path, known: Mapping[str, Any], name: str | None = None, date: str | None = None) -> Frame:
    """The frame of a file that was looked over.

    Args:
        path: Of the file.
        known: What `receive` found.
        name: What the raster is called in messages and provenance.
        date: What is known better.

    Raises:
        RasterError: If no frame can be made of it.
    """
    product = identify(known.get("product", ""))
    said = {"sensor": product.sensor, "scaling": product.scaling} if product else {}
    if path.suffix == ".zip":
        said = {}
    frame = open_frame(path, date=date or (product.date if product else None), **said)
    frame.raster.name = name or frame.raster.name
    return frame


def placed(grid: Grid | None) -> tuple[list[list[float]] | None, list[float] | None]:
    """Corners (upper left, upper right, lower right, lower left) and bounding box, degrees; None without."""
    if grid is None:
        return None, None
    width, height = grid.width, grid.height
    try:
        corners = [list(grid.lon_lat(*at)) for at in ((0, 0), (width, 0), (width, height), (0, height))]
        box = footprint(grid)[1]
    except (ProjError, ValueError, IndexError):  # a CRS of no place on Earth
        return None, None
    if not np.isfinite([*box, *(number for corner in corners for number in corner)]).all():
        return None, None
    return corners, box


def preview(frame: Frame | Raster) -> bytes:
    """A small PNG of a frame's colours, or of a raster's first band."""
    import io

    from PIL import Image

    if isinstance(frame, Frame):
        subject = Subject.of(frame)
        raster, radiometry = frame.raster.take(subject.colours), subject.radiometry
    else:
        raster, radiometry = frame.take([0]), None
    step = max(1, -(-max(raster.width, raster.height) // _PREVIEW))
    lines, known = [], []
    for row in range(step // 2, raster.height, step):
        values, valid = raster.read(range(row, row + 1), range(raster.width))
        lines.append(values[:, :, step // 2 :: step])
        known.append(valid[:, :, step // 2 :: step].all(0))
    values, valid = np.concatenate(lines, 1), np.concatenate(known)
    if radiometry is None:
        low, high = (values[0][valid].min(), values[0][valid].max()) if valid.any() else (0, 1)
        shown = np.repeat((values - float(low)) / max(float(high) - float(low), 1e-9), 3, 0)
    else:
        shown = radiometry.show(radiometry.light(values))
    pixels = np.concatenate([np.rint(255 * np.clip(shown, 0, 1)), 255 * valid[None]]).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels, 0, 2)).save(out, "PNG")
    return out.getvalue()


def _shown(name: str | None) -> str:
    """A client's name of a file as it may be shown."""
    last = re.split(r"[/\\]", name or "")[-1]
    return "".join(c for c in last if c.isprintable())[:100] or "raster"
