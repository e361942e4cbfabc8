"""Networks: tensors in, tensors out. The published ones are loaded when they are first asked for."""

from typing import Any

_PUBLISHED = ("ControlNetModel", "ControlNetModel3D", "SatUNet")
__all__ = list(_PUBLISHED)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLISHED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from diffusionsat.models import published

    return getattr(published, name)
