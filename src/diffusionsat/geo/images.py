"""Pixels as the bytes of a GeoTIFF or PNG, with tags that say what they are; and reading the tags back."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from diffusionsat.errors import RasterError
from diffusionsat.geo.grids import Grid

TAG = "DIFFUSIONSAT"  # provenance, as JSON
_BLOCKS = (512, 256, 128, 64, 32, 16)


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
    # Blocks of half the image, at most, so that a small image has an overview too.
    block = next((b for b in _BLOCKS if 2 * b <= max(height, width)), _BLOCKS[-1])
    with _quiet(), MemoryFile() as plain, MemoryFile(ext=".tif") as cog:
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
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def world_file(grid: Grid) -> bytes:
    """The six lines that place a PNG in its CRS; the last two are the centre of the upper left pixel."""
    a, b, _, d, e, _ = tuple(grid.transform)[:6]
    x, y = grid.transform @ (0.5, 0.5)
    return "".join(f"{value:.12f}\n" for value in (a, d, b, e, x, y)).encode()


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
            raise RasterError(f"{path} cannot be read as a PNG: {error}.") from None
    else:
        import rasterio
        from rasterio.errors import RasterioIOError

        try:
            with _quiet(), rasterio.open(path) as file:
                tags = file.tags()
        except RasterioIOError as error:
            raise RasterError(f"{path} cannot be read as a raster: {error}.") from None
    if TAG not in tags:
        return None
    return {
        "synthetic": tags.get("SYNTHETIC") == "YES",
        "metadata": json.loads(tags.get("METADATA", "{}")),
        **json.loads(tags[TAG]),
    }


def _quiet() -> Any:
    """GDAL without `.aux.xml` files beside what it reads, and silence about images without a place."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    return rasterio.Env(GDAL_PAM_ENABLED=False)
