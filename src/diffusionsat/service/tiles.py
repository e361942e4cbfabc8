"""Results as layers of any web map: TileJSON and XYZ tiles."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffusionsat.geo.images import quiet_gdal
from diffusionsat.service.limits import Problem

HIGHEST_ZOOM = 24
_SIDE = 256
_SMALLEST = 4  # pixels that an image is shown as at the least


@lru_cache(1)
def _empty() -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGBA", (_SIDE, _SIDE)).save(out, "PNG")
    return out.getvalue()


def shown(files: Path) -> Path:
    """The file of a result that is shown, 8 bits a colour.

    Raises:
        Problem: If there is none.
    """
    for name in ("visual.tif", "image.tif"):
        if (files / name).is_file():
            return files / name
    raise Problem(404, "This result is no image. GET its results for the files that it has.")


def tile(path: Path, z: int, x: int, y: int) -> bytes:
    """A tile of Web Mercator as PNG, 256 pixels a side, transparent where nothing is.

    Raises:
        Problem: If there is no such tile, or the image has no place.
    """
    from rio_tiler.errors import TileOutsideBounds

    if not (0 <= x < 2**z and 0 <= y < 2**z):
        raise Problem(404, f"There is no tile {x}, {y} at zoom {z}: each is from 0 to {2**z - 1}.")
    _check_placed(path)
    try:
        with quiet_gdal(), _reader(path) as reader:
            return reader.tile(x, y, z, tilesize=_SIDE, indexes=(1, 2, 3)).render(img_format="PNG")
    except TileOutsideBounds:
        return _empty()


def tilejson(path: Path, name: str, base: str) -> dict[str, Any]:
    """The layer's description (TileJSON 3.0.0).

    Args:
        path: Of the file that is shown.
        name: Of the job.
        base: Address of the service, which ends in a slash.

    Raises:
        Problem: If the image has no place.
    """
    _check_placed(path)
    with quiet_gdal(), _reader(path) as reader:
        bounds = [float(edge) for edge in reader.get_geographic_bounds("epsg:4326")]
        width = reader.dataset.width
    west, south, east, north = bounds
    span = (east - west) % 360 or 360
    highest = min(HIGHEST_ZOOM, math.ceil(math.log2(360 / span * width / _SIDE)))  # a pixel for a pixel
    lowest = max(0, math.floor(math.log2(360 / span * _SMALLEST / _SIDE)))
    return {
        "tilejson": "3.0.0",
        "name": f"Synthetic image {name}",
        "attribution": "SYNTHETIC: made by a generative model (diffusionsat)",
        "scheme": "xyz",
        "tiles": [f"{base}jobs/{name}/tiles/{{z}}/{{x}}/{{y}}.png"],
        "minzoom": min(lowest, max(0, highest)),
        "maxzoom": max(0, highest),
        "bounds": bounds,
        "center": [(west + span / 2 + 180) % 360 - 180, (south + north) / 2, max(0, highest)],
    }


def _reader(path: Path) -> Any:
    from rio_tiler.io import Reader

    return Reader(str(path))  # pyright: ignore[reportCallIssue], attrs fills in the rest


def _check_placed(path: Path) -> None:
    import rasterio

    with quiet_gdal(), rasterio.open(path) as file:
        if file.crs is None:
            raise Problem(404, "This image has no place, so that no map shows it. GET its image.png.")
