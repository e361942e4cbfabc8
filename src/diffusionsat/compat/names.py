"""Names of the published package (Khanna et al. 2024) that its users import, and where ours live.

Importing this loads neither torch nor diffusers; a name's home is imported when the name is asked for.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_DATA = (
    *(f"{kind}_numerical_metadata" for kind in ("fmow", "satlas", "spacenet", "texas", "xbd")),
    *(f"{kind}_tokenize_caption" for kind in ("fmow", "satlas", "spacenet", "texas", "xbd")),
    "IdentityTransform",
    "SampleEqually",
    "SentinelDropBands",
    "SentinelFlipBGR",
    "SentinelNormalize",
    "combine_text_and_metadata",
    "fmow_temporal_images",
    "metadata_normalize",
    "metadata_unnormalize",
    "percentile_normalization",
)
# Published name -> our module.
PUBLISHED = {
    "SatUNet": "models.published",
    "ControlNetModel": "models.published",
    "ControlNetModel3D": "models.published",
    "DiffusionSatPipeline": "compat.pipelines",
    "DiffusionSatControlNetPipeline": "compat.pipelines",
    **dict.fromkeys(_DATA, "data.published"),
}
# Module of the published layout -> name in it -> published name.
MODULES = {
    "sat_unet": {"SatUNet": "SatUNet"},
    "controlnet": {"ControlNetModel": "ControlNetModel"},
    "controlnet_3d": {"ControlNetModel3D": "ControlNetModel3D"},
    "pipeline": {"StableDiffusionPipeline": "DiffusionSatPipeline"},
    "pipeline_controlnet": {"StableDiffusionControlNetPipeline": "DiffusionSatControlNetPipeline"},
    "data_util": {name: name for name in _DATA},
}


def published(name: str) -> Any:
    """What a published name, or an old module's, stands for.

    Raises:
        AttributeError: If the published package has no such name.
        MissingExtraError: If it needs packages that are not installed.
    """
    if name in MODULES:
        return import_module(f"diffusionsat.{name}")
    if name not in PUBLISHED:
        raise AttributeError(f"module 'diffusionsat' has no attribute {name!r}")
    return getattr(import_module(f"diffusionsat.{PUBLISHED[name]}"), name)


def install() -> None:
    """Let Python find the modules of the published layout, behind all that is really there."""
    if OldModules not in sys.meta_path:
        sys.meta_path.append(OldModules)


class OldModules:
    """Finder and loader of the modules of the published layout, which are no files here."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The import system's question: is this module ours to make?"""
        package, _, name = fullname.partition(".")
        if package != "diffusionsat" or name not in MODULES:
            return None
        return ModuleSpec(fullname, cls, origin="diffusionsat.compat.names")  # pyright: ignore[reportArgumentType]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        """Leave making the empty module to the import system."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Fill a module: its names are looked up when they are first asked for."""
        names = MODULES[module.__name__.partition(".")[2]]

        def find(name: str) -> Any:
            if name not in names:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return published(names[name])

        module.__doc__ = "Names of the published package; see `diffusionsat.compat.names`."
        module.__dict__.update(__getattr__=find, __all__=list(names), __dir__=lambda: list(names))
