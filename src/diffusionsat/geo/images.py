"""Pixels as the bytes of a GeoTIFF or PNG, with tags that say what they are; and reading the tags back."""

import contextlib
import io
import json
import math
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffusionsat.errors import RasterError
from diffusionsat.files import check_writable, write_bytes, writing
from diffusionsat.geo.grids import Grid

TAG = "DIFFUSIONSAT"  # provenance, as JSON
_BLOCKS = (512, 256, 128)


def geotiff(pixels: np.ndarray, grid: Grid | None, tags: dict[str, str]) -> bytes:
    """A Cloud Optimized GeoTIFF of RGB pixels, uint8 (H, W, 3), with overviews.

    Args:
        pixels: Red, green, blue.
        grid: CRS and transform; None leaves both out.
        tags: Written as TIFF metadata.
    """
    import rasterio.shutil
    from rasterio.enums import ColorInterp
    from rasterio.io import MemoryFile

    height, width, bands = pixels.shape
    place = {} if grid is None else {"crs": grid.crs.to_wkt(), "transform": grid.transform}
    block = next((b for b in _BLOCKS if 2 * b <= max(height, width)), _BLOCKS[-1])
    # One overview at least, also where GDAL would make none.
    overviews = max(1, math.ceil(math.log2(max(height, width) / block)))
    with quiet_gdal(), MemoryFile() as plain, MemoryFile(ext=".tif") as cog:
        with plain.open(
            driver="GTiff", height=height, width=width, count=bands, dtype="uint8", **place
        ) as file:
            file.write(np.moveaxis(pixels, 2, 0))
            file.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
            file.update_tags(
                **tags, TIFFTAG_IMAGEDESCRIPTION=tags["SYNTHETIC_NOTE"], TIFFTAG_SOFTWARE="diffusionsat"
            )
        with plain.open() as file:
            rasterio.shutil.copy(
                file,
                cog.name,
                driver="COG",
                compress="deflate",
                predictor=2,
                blocksize=block,
                overview_count=overviews,
                overview_resampling="average",
            )
        return cog.read()


def png(pixels: np.ndarray, grid: Grid | None, tags: dict[str, str]) -> bytes:
    """A PNG of RGB pixels, uint8 (H, W, 3), with the tags, and the CRS if there is one, as text chunks."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in tags.items():
        info.add_itxt(name, text)
    if grid is not None:
        info.add_itxt("CRS", grid.crs.to_wkt())
        info.add_itxt("TRANSFORM", json.dumps(list(grid.transform)[:6]))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def save_png(
    path: Path, pixels: np.ndarray, grid: Grid | None, tags: dict[str, str], *, overwrite: bool
) -> None:
    """Write a PNG and, if it has a place, its world file: both or none.

    Raises:
        RasterError: If either exists and may not be replaced, or cannot be written.
    """
    beside = path.with_suffix(".pgw")
    check_writable(path, overwrite=overwrite)
    if grid is not None:
        with writing(beside, overwrite=overwrite) as placing:
            placing.write_bytes(world_file(grid))
            write_bytes(path, png(pixels, grid, tags), overwrite=overwrite)
    elif beside.exists() and not overwrite:
        raise RasterError(
            f"{beside} exists and would give {path} a place. Give another name, or --overwrite."
        )
    else:
        write_bytes(path, png(pixels, grid, tags), overwrite=overwrite)
        beside.unlink(missing_ok=True)


def world_file(grid: Grid) -> bytes:
    """The six lines that place a PNG in its CRS; the last two are the centre of the upper left pixel."""
    a, b, _, d, e, _ = tuple(grid.transform)[:6]
    x, y = grid.transform @ (0.5, 0.5)
    return "".join(f"{value:.12f}\n" for value in (a, d, b, e, x, y)).encode()


def read_small(path: Path, largest: int) -> np.ndarray:
    """The numbers of a raster made smaller until no side is over ``largest`` pixels, (bands, H, W)."""
    import rasterio

    with quiet_gdal(), rasterio.open(path) as file:
        scale = max(1.0, max(file.width, file.height) / largest)
        shape = (file.count, *(max(1, round(side / scale)) for side in (file.height, file.width)))
        return file.read(out_shape=shape)


def read_tags(path: Path) -> dict[str, Any] | None:
    """The tags of a GeoTIFF or PNG that diffusionsat wrote; None if it did not.

    Raises:
        RasterError: If the file cannot be read as an image.
    """
    if path.suffix.lower() == ".png":
        from PIL import Image

        try:
            with Image.open(path) as image:
                image.load()
                tags = {str(name): value for name, value in image.info.items()}
        except OSError as error:
            raise RasterError(f"{path} cannot be read as a PNG: {str(error).rstrip('.')}.") from None
    else:
        import rasterio
        from rasterio.errors import RasterioIOError

        try:
            with quiet_gdal(), rasterio.open(path) as file:
                tags = file.tags()
        except RasterioIOError as error:
            raise RasterError(f"{path} cannot be read as a raster: {str(error).rstrip('.')}.") from None
    if TAG not in tags:
        return None
    try:
        known = {"synthetic": tags.get("SYNTHETIC") == "YES", **json.loads(tags[TAG])}
        for name in ("METADATA", "SWEEP"):
            if name in tags:
                known[name.lower()] = json.loads(tags[name])
    except (ValueError, TypeError) as error:
        raise RasterError(f"{path} has damaged tags: {error}.") from None
    return known


@contextlib.contextmanager
def quiet_gdal() -> Iterator[None]:
    """GDAL without `.aux.xml` files beside what it reads, and silence about images without a place."""
    import rasterio

    with _SILENCE, rasterio.Env(GDAL_PAM_ENABLED=False):
        yield


class _Silence:
    """No warnings of images without a place, for as long as any thread is inside.

    Filters of warnings belong to the whole process: a thread that put them back would put them back for all.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.filters: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

    def __enter__(self) -> None:
        from rasterio.errors import NotGeoreferencedWarning

        with self.lock:
            if self.inside == 0:
                self.filters = warnings.catch_warnings()
                self.filters.__enter__()
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.filters.__exit__(None, None, None)


_SILENCE = _Silence()
