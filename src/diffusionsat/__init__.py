"""DiffusionSat: a generative foundation model for satellite images, usable.

>>> from diffusionsat import DiffusionSat, Metadata
>>> sat = DiffusionSat.from_pretrained("compact")  # doctest: +SKIP
>>> scene = sat.generate("a river", Metadata(lon=7.4, lat=46.9, gsd=10))  # doctest: +SKIP
"""

from importlib import import_module
from typing import Any

from diffusionsat.compat import names as _published

# Names are loaded when they are first asked for, so that `import diffusionsat` is quick and loads no torch.
_HOMES = {
    "Cancelled": "diffusion.solvers",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DatasetError": "errors",
    "DecloudsRequest": "tasks.declouds",
    "DiffusionSat": "model",
    "DiffusionSatError": "errors",
    "EditRequest": "tasks.edit",
    "Frame": "data.frames",
    "GenerateRequest": "tasks.generate",
    "Grid": "geo.grids",
    "Guidance": "diffusion.guidance",
    "InpaintRequest": "tasks.inpaint",
    "Metadata": "metadata",
    "MetadataError": "errors",
    "MissingExtraError": "errors",
    "PredictRequest": "tasks.predict",
    "RasterError": "errors",
    "Scene": "tasks.scene",
    "StepInfo": "diffusion.solvers",
    "UpscaleRequest": "tasks.upscale",
    "open_frame": "data.frames",
}
_published.install()  # old scripts import modules that are no longer there
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("diffusionsat")
    if name not in _HOMES:
        return _published.published(name)
    value = getattr(import_module(f"diffusionsat.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
