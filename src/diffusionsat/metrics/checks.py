"""What every metric asks of its input, with one wording of the refusals."""

import numpy as np
import torch
from torch import Tensor

from diffusionsat.errors import ConfigError


def check_images(image: Tensor, target: Tensor, *, bands: int = 1, side: int = 1) -> None:
    """Refuse what are not two batches of images of one shape.

    Args:
        image: Images, (B, C, H, W), floating and finite.
        target: As many, of the same shape.
        bands: The fewest bands that the metric is defined for.
        side: The shortest side in pixels that it is defined for.

    Raises:
        ConfigError: If they are not that.
    """
    for name, x in (("image", image), ("target", target)):
        if x.ndim != 4 or not x.is_floating_point():
            raise ConfigError(f"{name} is {_described(x)}. Give a floating tensor (B, C, H, W).")
        if x.numel() == 0 or not bool(torch.isfinite(x).all()):
            raise ConfigError(
                f"{name} of shape {tuple(x.shape)} is empty or has values that are not finite. "
                "Fill nodata, and leave it out by a mask."
            )
    if image.shape != target.shape:
        raise ConfigError(f"image is {tuple(image.shape)}, target {tuple(target.shape)}. Give equal shapes.")
    _, c, h, w = image.shape
    if c < bands or min(h, w) < side:
        raise ConfigError(
            f"Images have {c} bands of {h} x {w} pixels; this metric needs {bands} bands and {side} pixels."
        )


def check_mask(mask: Tensor | None, image: Tensor) -> None:
    """Refuse a mask that is not boolean of shape (B, 1, H, W), for images (B, C, H, W).

    Raises:
        ConfigError: If it is not that.
    """
    b, _, h, w = image.shape
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (b, 1, h, w)):
        raise ConfigError(
            f"mask is {_described(mask)}. Give a boolean tensor {(b, 1, h, w)}, True where pixels count."
        )


def check_features(*features: Tensor, rows: int = 2) -> None:
    """Refuse what are not matrices of features (N, D) of one width D, with at least so many rows each.

    Raises:
        ConfigError: If they are not that.
    """
    for x in features:
        if x.ndim != 2 or not x.is_floating_point():
            raise ConfigError(f"Features are {_described(x)}. Give a floating tensor (N, D).")
        if len(x) < rows:
            raise ConfigError(f"{len(x)} rows of features are given. Give at least {rows}.")
        if not all(bool(torch.isfinite(part).all()) for part in x.split(4096)):  # isfinite copies
            raise ConfigError(f"Features of shape {tuple(x.shape)} have values that are not finite.")
    if len({x.shape[1] for x in features}) > 1:
        raise ConfigError(f"Features have widths {[x.shape[1] for x in features]}. Give one width.")


def check_numbers(least: int = 1, **arrays: np.ndarray) -> None:
    """Refuse what are not arrays (N,) of finite numbers and one length.

    Raises:
        ConfigError: If they are not that, or N is below ``least``.
    """
    for name, x in arrays.items():
        if x.ndim != 1 or len(x) < least:
            raise ConfigError(f"{name} has the shape {x.shape}. Give one row of at least {least} numbers.")
        if x.dtype.kind not in "iufb" or not np.isfinite(x).all():
            raise ConfigError(
                f"{name} ({x.dtype}) has values that are no finite numbers. Leave those rows out."
            )
    lengths = {name: len(x) for name, x in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(f"Lengths differ: {lengths}. Give one number a row in each.")


def check_level(level: float) -> None:
    """Refuse a level of confidence or coverage that is not between 0 and 1.

    Raises:
        ConfigError: If it is not that.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level!r}. Give a share between 0 and 1, such as 0.9.")


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
