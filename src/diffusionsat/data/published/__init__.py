"""The published preprocessing, as pure functions: captions, numbers and pixels of its five data sets.

By default they give what the released models were trained on, mistakes included (Khanna et al. 2024 and its
code of 2025-01-11). Where that is wrong, ``corrected=True`` does it right.
"""

from importlib import import_module
from typing import Any

# Names are loaded when they are first asked for: some give tensors, and the tables among them need no torch.
_HOMES = {
    "ControlSample": "samples",
    "IdentityTransform": "images",
    "SampleEqually": "samples",
    "SentinelDropBands": "images",
    "SentinelFlipBGR": "images",
    "SentinelNormalize": "images",
    "combine_text_and_metadata": "captions",
    "condition_image": "images",
    "fmow_category": "fmow",
    "fmow_numerical_metadata": "fmow",
    "fmow_sentinel_sample": "fmow",
    "fmow_temporal_images": "fmow",
    "fmow_temporal_sample": "fmow",
    "fmow_tokenize_caption": "fmow",
    "mercator_to_geo": "places",
    "metadata_normalize": "normalisation",
    "metadata_unnormalize": "normalisation",
    "notebook_condition": "images",
    "notebook_image": "images",
    "percentile_normalization": "images",
    "satlas_frame": "satlas",
    "satlas_numerical_metadata": "satlas",
    "satlas_tokenize_caption": "satlas",
    "sentinel_image": "images",
    "spacenet_image": "images",
    "spacenet_numerical_metadata": "spacenet",
    "spacenet_tokenize_caption": "spacenet",
    "target_image": "images",
    "texas_numerical_metadata": "texas",
    "texas_sample": "texas",
    "texas_tokenize_caption": "texas",
    "xbd_numerical_metadata": "xbd",
    "xbd_sample": "xbd",
    "xbd_tokenize_caption": "xbd",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
