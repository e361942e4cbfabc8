"""`Scene`: what every job returns, and how it is written: GeoTIFF, PNG, STAC."""

import base64
import contextlib
import hashlib
import html
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffusionsat.errors import ConfigError, RasterError
from diffusionsat.geo.grids import Grid
from diffusionsat.geo.images import TAG, geotiff, png, save_png
from diffusionsat.geo.stac import item
from diffusionsat.metadata import Metadata

if TYPE_CHECKING:
    from diffusionsat.geo.rasters import ArrayRaster

LAYERS = ("spread", "interval", "samples", "measured", "invented", "support")
SYNTHETIC = "Synthetic image made by a generative model (diffusionsat); not a measurement of any place."


def tags(metadata: Metadata, provenance: Mapping[str, Any]) -> dict[str, str]:
    """What is written into every file."""
    return {
        "SYNTHETIC": "YES",
        "SYNTHETIC_NOTE": SYNTHETIC,
        "PROMPT": provenance.get("prompt", ""),
        "SEED": str(provenance.get("seed", "")),
        "STEPS": str(provenance.get("steps", "")),
        "MODEL": provenance.get("model", ""),
        "MODEL_HASH": provenance.get("model_hash", ""),
        "METADATA": metadata.to_json(),
        TAG: json.dumps(provenance, allow_nan=False),
    }


def layer_path(path: Path, name: str) -> Path:
    """Where a layer goes that is written beside an image."""
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


def forget_layers(path: Path, kept: Container[str], files: Sequence[Path]) -> None:
    """Remove layers that tell of an image which was replaced.

    Args:
        path: The image.
        kept: Names of layers that are its own.
        files: Inputs, which stay.
    """
    from diffusionsat.geo.publishing import refuse_inputs
    from diffusionsat.geo.rasters import open_raster

    for name in LAYERS:
        layer = layer_path(path, name)
        if name in kept or not layer.is_file():
            continue
        with contextlib.suppress(RasterError):  # an input, or no raster
            refuse_inputs(layer, files)
            if open_raster(layer).tags.get("LAYER") == name:
                layer.unlink()


def deciding(bands: Sequence[str], provenance: Mapping[str, Any]) -> list[str]:
    """Bands whose validity is the image's: not those that were copied, holes and all."""
    return [name for name in bands if name not in provenance.get("bands_copied", ())]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """A generated image with its place, its metadata and how it was made.

    Args:
        pixels: Red, green, blue, uint8 (H, W, 3).
        grid: Where the pixels lie; None if the place or the gsd is unknown.
        metadata: What was asked for.
        provenance: Model and its hash, prompt, seed, solver, steps, guidance, precision.
        raster: The numbers in the input's bands, units and dtype, if an image was the input; ``pixels`` is
            how they are shown.
        said: Tags that let the raster be read as the input was.
        layers: Rasters on the same grid that say more, by their names, of `LAYERS`.
        files: Those that the inputs were read from, which are not written over.
    """

    pixels: np.ndarray = field(repr=False)
    grid: Grid | None
    metadata: Metadata
    provenance: dict[str, Any]
    raster: "ArrayRaster | None" = field(default=None, repr=False)
    said: Mapping[str, str] = field(default_factory=dict, repr=False)
    layers: "Mapping[str, ArrayRaster]" = field(default_factory=dict, repr=False)
    files: Sequence[Path] = field(default=(), repr=False)

    def layer(self, name: str) -> np.ndarray:
        """Values of a layer, (bands, H, W).

        Raises:
            ConfigError: If there is none of this name.
        """
        if name not in self.layers:
            there = ", ".join(self.layers) or "none"
            raise ConfigError(f"The scene has no layer {name!r}; it has: {there}.")
        return self.layers[name].values

    @property
    def measured(self) -> np.ndarray:
        """The part of red, green and blue that the input determines, float32 (3, H, W), in its units."""
        return self.layer("measured")

    @property
    def invented(self) -> np.ndarray:
        """The rest, so that both sum to the pixels, float32 (3, H, W)."""
        return self.layer("invented")

    @property
    def support(self) -> np.ndarray:
        """2 where the input determines a pixel, 1 where it does partly, 0 where all is invented; (H, W)."""
        return self.layer("support")[0]

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of the samples, float32 (3, H, W), in the input's units.

        With a calibration of the model it is that of their mean's error.
        """
        return self.layer("spread")

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the interval in which pixels lie at the level that provenance says.

        Each is float32 (3, H, W), in the input's units.

        Raises:
            ConfigError: If fewer than two samples were made, or the model has no calibration of such a job.
        """
        low, high = np.split(self.layer("interval"), 2)
        return low, high

    @property
    def samples(self) -> np.ndarray:
        """Each of the K samples whose mean the pixels are, (K, 3, H, W), in the input's units and dtype.

        Raises:
            ConfigError: If fewer than two were made.
        """
        each = self.layer("samples")
        return each.reshape(-1, 3, *each.shape[1:])

    @property
    def crs(self) -> Any:
        """CRS (`pyproj.CRS`) of the pixels; None without a place."""
        return self.grid and self.grid.crs

    @property
    def transform(self) -> Any:
        """Affine transform from (column, row) to the CRS; None without a place."""
        return self.grid and self.grid.transform

    def tags(self) -> dict[str, str]:
        """What is written into every file."""
        return tags(self.metadata, self.provenance) | dict(self.said)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a Cloud Optimized GeoTIFF (.tif, .tiff) or a PNG with a world file (.png, .pgw).

        A PNG holds no CRS; its text chunks name it. Without a place both are plain pixels. What lies beside
        an image that is replaced, and changes how it is read, goes, and so do layers of a GeoTIFF.

        Args:
            path: File to write.
            overwrite: Replace an existing file.

        Returns:
            The path.

        Raises:
            RasterError: If the suffix is another, the file exists, is an input or cannot be written; nothing
                is left then.
        """
        from diffusionsat.geo.publishing import check_replaceable, forget_sidecars, replacing

        path = Path(path)
        if path.suffix.lower() in (".tif", ".tiff"):
            with replacing(path, inputs=self.files, overwrite=overwrite) as partial:
                partial.write_bytes(self.to_geotiff())
            forget_layers(path, (), self.files)
        elif path.suffix.lower() == ".png":
            check_replaceable(path, inputs=self.files, overwrite=overwrite)
            save_png(path, self.pixels, self.grid, self.tags(), overwrite=overwrite)
            forget_sidecars(path, own=[path.with_suffix(".pgw")])
        else:
            raise RasterError(f"{path} has suffix {path.suffix!r}. Give .tif, .tiff or .png.")
        return path

    def to_stac(self, *, href: str | None = None) -> dict[str, Any]:
        """A STAC item (1.1.0) as a dict; ``href`` names the image's file.

        An unknown date gives the time of making and ``diffusionsat:date_known`` false; no place gives a null
        geometry.
        """
        return item(
            identifier=self.identifier,
            grid=self.grid,
            metadata=self.metadata,
            size=(self.pixels.shape[1], self.pixels.shape[0]),
            provenance=self.provenance,
            note=SYNTHETIC,
            href=href,
        )

    @property
    def identifier(self) -> str:
        """A name that is the same for the same image, and another for another."""
        made = {k: v for k, v in self.provenance.items() if k != "created"} | self.metadata.to_dict()
        digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
        return f"synthetic-{self.provenance.get('model', 'image')}-{digest[:16]}"

    def to_geotiff(self) -> bytes:
        """The bytes of a Cloud Optimized GeoTIFF with the tags: of the raster, if there is one."""
        if self.raster is not None:
            from diffusionsat.geo.publishing import cloud_optimized

            bands = deciding(self.raster.bands, self.provenance)
            return cloud_optimized(self.raster, self.tags(), bands)
        return geotiff(self.pixels, self.grid, self.tags())

    def to_png(self) -> bytes:
        """The bytes of a PNG with the tags as text chunks."""
        return png(self.pixels, self.grid, self.tags())

    _repr_png_ = to_png

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self.to_png()).decode()
        caption = f"synthetic: {self.provenance.get('prompt') or 'no prompt'}, {self.metadata.to_json()}"
        image = f'<img src="data:image/png;base64,{picture}">'
        return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"
