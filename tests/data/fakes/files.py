"""Small files of the kinds that releases hold: images, GeoTIFFs, broken ones, tars."""

import io
import json
import struct
import tarfile
import warnings

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning


def pixels(seed, shape, dtype=np.uint8, high=256):
    return np.random.default_rng(seed).integers(1, high, shape).astype(dtype)


def image(path, seed=0, size=(12, 16), bands=3):
    """A JPEG or PNG, by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels(seed, (*size, bands)) if bands > 1 else pixels(seed, size)
    Image.fromarray(array).save(path)
    return path


def geotiff(path, array, crs=None, origin=None, gsd=None, tags=None, descriptions=None, nodata=None):
    """A GeoTIFF of (H, W, C)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, count = array.shape
    place = {"crs": crs, "transform": Affine(gsd, 0, origin[0], 0, -gsd, origin[1])} if crs else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(
            path, "w", "GTiff", width, height, count, dtype=array.dtype, nodata=nodata, **place
        )
    with file:
        file.write(np.moveaxis(array, 2, 0))
        file.update_tags(**(tags or {}))
        if descriptions:
            file.descriptions = descriptions
    return path


def without_strip_offsets(path):
    """Take the entry 273 out of a TIFF's directory: what two files of fMoW's release are like."""
    content = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, start)[0]
    entries = [bytes(content[start + 2 + 12 * i : start + 14 + 12 * i]) for i in range(count)]
    kept = b"".join(e for e in entries if struct.unpack_from("<H", e)[0] != 273)
    head = struct.pack("<H", len(kept) // 12) + kept + bytes(4)
    content[start : start + len(head)] = head
    path.write_bytes(content)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def tar(path, members):
    """A tar of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def box(lon, lat, half=0.001):
    """A square around a place in WKT."""
    w, e, s, n = lon - half, lon + half, lat - half, lat + half
    return f"POLYGON (({w} {s}, {e} {s}, {e} {n}, {w} {n}, {w} {s}))"
