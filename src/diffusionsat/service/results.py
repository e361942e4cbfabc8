"""What jobs make, written as it is served: COGs, PNGs and a STAC item."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusionsat.geo.grids import Grid
from diffusionsat.geo.images import quiet_gdal
from diffusionsat.geo.publishing import RasterWriter
from diffusionsat.geo.rasters import open_raster
from diffusionsat.geo.stac import item
from diffusionsat.metadata import Metadata
from diffusionsat.service.uploads import placed
from diffusionsat.tasks.restoring import Restoration
from diffusionsat.tasks.scene import SYNTHETIC, Scene, tags

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_WHAT = {
    "visual": "The image as it is shown, 8 bits a colour.",
    "spread": "Standard deviation of the samples; where the model is calibrated, of their mean's error.",
    "interval": "Lower and upper ends of the interval in which pixels lie at the level that provenance says.",
    "measured": "What the input determines.",
    "invented": "What the input does not determine; with what it does, the image.",
    "support": "2 where the input determines a pixel, 1 where it does in part, 0 where all is invented.",
}
_WIDEST_PNG = 2048


def save_scene(scene: Scene, files: Path) -> None:
    """Write an image that is in memory."""
    (files / "image.tif").write_bytes(scene.to_geotiff())
    (files / "image.png").write_bytes(scene.to_png())


def save_shown(job: Restoration, files: Path, work: Path) -> None:
    """Write how a raster that a job has made is shown: a COG of 8 bits a colour, and a PNG.

    Args:
        job: What made ``image.tif``.
        files: Where that is, and where these go.
        work: A folder for the time being.
    """
    made, radiometry = open_raster(files / "image.tif"), job.output.radiometry
    colours = made.take(job.output.colours)
    said = tags(job.metadata, job.provenance()) | {"LAYER": "visual"}
    writer = RasterWriter(
        files / "visual.tif",
        work,
        width=made.width,
        height=made.height,
        bands=("red", "green", "blue"),
        dtype=np.uint8,
        crs=made.crs,
        transform=made.transform,
        tags=said,
        overwrite=True,
    )
    for rows, columns in job.blocks():
        values, valid = colours.read(rows, columns)
        shown = np.rint(255 * radiometry.show(radiometry.light(values))).astype(np.uint8)
        writer.write(rows, columns, shown, valid)
    writer.publish()
    (files / "image.png").write_bytes(picture(files / "visual.tif", said))


def save_layers(job: Restoration, files: Path) -> None:
    """Write how the layers look beside them, as PNGs of at most 2,048 pixels a side.

    ``measured`` is shown as the image is; ``invented`` is the difference of what is shown of the two, around
    grey; ``spread`` goes from black to its 99th percentile; ``support`` from black to white. They are
    transparent where the image has no data.

    Args:
        job: What made them.
        files: Where they are, and where these go.
    """
    radiometry = job.output.radiometry
    image, valid = _small(files / "image.tif")

    def show(values: np.ndarray) -> np.ndarray:
        return radiometry.show(radiometry.light(values))

    def layer(name: str) -> np.ndarray | None:
        path = files / f"image.{name}.tif"
        return _small(path)[0] if path.exists() else None

    shown: dict[str, np.ndarray] = {}
    if (measured := layer("measured")) is not None:
        shown["measured"] = show(measured)
        shown["invented"] = 0.5 + (show(image[list(job.output.colours)]) - shown["measured"])
    if (spread := layer("spread")) is not None:
        mean = spread.mean(0, keepdims=True)
        seen = mean[0][valid & np.isfinite(mean[0])]
        shown["spread"] = mean / max(float(np.percentile(seen, 99)) if seen.size else 0.0, 1e-9)
    if (support := layer("support")) is not None:
        shown["support"] = support[:1] / 2
    for name, values in shown.items():
        pixels = np.broadcast_to(np.clip(np.nan_to_num(values), 0, 1), (3, *valid.shape))
        pixels = np.rint(255 * np.concatenate([pixels, valid[None]])).astype(np.uint8)
        info = _texts(tags(job.metadata, job.provenance()) | {"LAYER": name})
        Image.fromarray(np.moveaxis(pixels, 0, 2)).save(files / f"image.{name}.png", "PNG", pnginfo=info)


def picture(path: Path, said: Mapping[str, str]) -> bytes:
    """A PNG of a COG of 8 bits a colour, transparent where nothing is, at most 2,048 pixels a side."""
    with quiet_gdal(), rasterio.open(path) as file:
        shape = _small_shape(file)
        pixels = np.concatenate(
            [file.read((1, 2, 3), out_shape=(3, *shape)), file.dataset_mask(out_shape=shape)[None]]
        )
    out = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels, 0, 2)).save(out, "PNG", pnginfo=_texts(said))
    return out.getvalue()


def _small(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All bands of a COG, (bands, H, W), no side longer than that of a PNG; and where any has data."""
    with quiet_gdal(), rasterio.open(path) as file:
        shape = _small_shape(file)
        return file.read(out_shape=(file.count, *shape)), file.dataset_mask(out_shape=shape) > 0


def _small_shape(file: Any) -> tuple[int, int]:
    share = min(1.0, _WIDEST_PNG / max(file.width, file.height))
    return max(1, round(file.height * share)), max(1, round(file.width * share))


def _texts(said: Mapping[str, str]) -> PngInfo:
    info = PngInfo()
    for name, text in said.items():
        info.add_itxt(name, text)
    return info


def described(
    name: str,
    files: Path,
    *,
    grid: Grid | None,
    metadata: Metadata,
    size: tuple[int, int],
    provenance: dict[str, Any],
    note: str = SYNTHETIC,
) -> dict[str, Any]:
    """The STAC item of a result, whose addresses are relative to its place in the data folder.

    Args:
        name: Of the job.
        files: Where its files are.
        grid: Where the pixels lie.
        metadata: What the image shows.
        size: Width and height, pixels.
        provenance: How it was made.
        note: What it is.
    """
    found = item(
        identifier=name,
        grid=grid,
        metadata=metadata,
        size=size,
        provenance=provenance,
        note=note,
        href=None,
    )
    properties = found["properties"]
    properties["diffusionsat:provenance"] = provenance
    properties["corners"], _ = placed(grid)
    properties["proj:shape"] = [size[1], size[0]]
    paths = sorted(files.iterdir(), key=lambda path: (path.stem != "image", path.suffix != ".tif", path.name))
    found["assets"] = {_key(path): asset for path in paths if (asset := _asset(name, path)) is not None}
    catalogue = {"href": "../catalog.json", "type": "application/json"}
    found["links"] = [{"rel": rel, **catalogue} for rel in ("root", "parent")]
    return found


def _key(path: Path) -> str:
    if path.name == "image.png":
        return "thumbnail"
    key = re.sub(r"^image\.(?=.)", "", path.stem)
    return f"{key}-thumbnail" if path.suffix == ".png" else key


def _asset(name: str, path: Path) -> dict[str, Any] | None:
    href = f"../jobs/{name}/files/{path.name}"
    if path.suffix == ".png":
        return {"href": href, "type": "image/png", "roles": ["thumbnail", "overview"]}
    if path.suffix != ".tif":
        return None
    key = _key(path)
    roles = ["visual"] if key == "visual" else ["data"]
    return {"href": href, "type": _COG, "roles": roles} | ({"title": _WHAT[key]} if key in _WHAT else {})


def with_addresses(found: dict[str, Any], base: str) -> dict[str, Any]:
    """The item with addresses that do not depend on where it is read.

    Args:
        found: As it is in the data folder.
        base: Address of the service, which ends in a slash.
    """

    def absolute(part: dict[str, Any]) -> dict[str, Any]:
        return part | {"href": base + part["href"].removeprefix("../")}

    name = found["id"]
    own = {"rel": "self", "href": f"{base}items/{name}.json", "type": "application/geo+json"}
    tiles = {"rel": "tilejson", "href": f"{base}jobs/{name}/tilejson.json", "type": "application/json"}
    links = [absolute(link) for link in found["links"]] + [own] + ([tiles] if found["geometry"] else [])
    return found | {"links": links, "assets": {key: absolute(a) for key, a in found["assets"].items()}}
