"""Pixels as the published networks take them, and the pictures of its notebook."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffusionsat.data.published.tables import SENTINEL_MEAN, SENTINEL_STD
from diffusionsat.errors import DatasetError


def condition_image(image: np.ndarray, resolution: int) -> Tensor:
    """An image made to fill a square, float32 (C, R, R); of uint8 in [0, 1], of others in their own units.

    The shorter side becomes R (bilinear, antialiased), then the middle of the longer one is kept.

    Args:
        image: Channels last, (H, W, C).
        resolution: R, pixels.

    Raises:
        DatasetError: If the image has no three axes.
    """
    return _square(_tensor(image), resolution)


def target_image(image: np.ndarray, resolution: int) -> Tensor:
    """An image as `condition_image` makes it, moved to [-1, 1]."""
    return condition_image(image, resolution) * 2 - 1


def spacenet_image(image: np.ndarray, resolution: int) -> Tensor:
    """A SpaceNet image in [-1, 1], float32 (3, R, R).

    Args:
        image: (H, W, 3) or (3, H, W). If it is not uint8, each channel is stretched by its percentiles.
        resolution: R, pixels.

    Raises:
        DatasetError: If the image has no three axes.
    """
    image = channels_last(image)
    return target_image(image if image.dtype == np.uint8 else percentile_normalization(image), resolution)


def channels_last(image: np.ndarray) -> np.ndarray:
    """An RGB image as (H, W, 3), given so or as (3, H, W).

    Raises:
        DatasetError: If it has no three axes.
    """
    image = _image(image)
    return np.moveaxis(image, 0, -1) if image.shape[0] == 3 != image.shape[-1] else image


def percentile_normalization(img: np.ndarray, lower: float = 2, upper: float = 98) -> np.ndarray:
    """Each channel stretched from its lower to its upper percentile, clipped to [0, 1], float64 (H, W, C)."""
    low, high = np.percentile(img, [lower, upper], axis=(0, 1))
    return np.clip((img - low) / (high - low + 1e-5), 0, 1)


class SentinelNormalize:
    """Multispectral reflectances to 8 bit: two standard deviations about the mean become 0 to 255.

    Args:
        mean: Mean of each band in digital numbers; None is that of fMoW-Sentinel.
        std: Standard deviation of each band; None likewise.
        channel_specific: Whether each band has its own; else the mean over the bands serves for all.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channel_specific: bool = True,
    ) -> None:
        self.mean = np.asarray(SENTINEL_MEAN if mean is None else mean, dtype=np.float64)
        self.std = np.asarray(SENTINEL_STD if std is None else std, dtype=np.float64)
        if not channel_specific:
            self.mean, self.std = self.mean.mean(), self.std.mean()

    def __call__(self, x: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        """Digital numbers (H, W, bands) to uint8 (H, W, bands)."""
        x = _image(x)
        if np.ndim(self.mean) and x.shape[-1] != len(self.mean):
            raise DatasetError(f"An image has shape {x.shape}; it must have {len(self.mean)} bands, last.")
        scaled = (x - (self.mean - 2 * self.std)) / (4 * self.std) * 255
        return np.clip(scaled, 0, 255).astype(np.uint8)


class SentinelFlipBGR:
    """Channels 1 to 3, blue, green and red, in reversed order."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Bands first, (bands, H, W)."""
        return torch.cat([x[:1], x[1:4].flip(0), x[4:]])


class SentinelDropBands:
    """All channels but some.

    Args:
        dropped_bands: Their indices.
    """

    def __init__(self, dropped_bands: Sequence[int]) -> None:
        self.dropped_bands = dropped_bands

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Bands first, (bands, H, W)."""
        return x[[band for band in range(len(x)) if band not in self.dropped_bands]]


class IdentityTransform:
    """No change; the published one cannot be called."""

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """What is given."""
        return x


_SENTINEL_DROPPED = (0, 9, 10)  # B1, B9, B10


def sentinel_image(multispectral: np.ndarray, resolution: int) -> Tensor:
    """The condition of super-resolution: B4 B3 B2 B5 B6 B7 B8 B8A B11 B12 in [0, 1], float32 (10, R, R).

    Args:
        multispectral: Sentinel-2 in digital numbers, (H, W, 13): B1 to B8, B8A, B9 to B12.
        resolution: R, pixels.

    Raises:
        DatasetError: If it has not 13 bands.
    """
    bands = SentinelFlipBGR()(_tensor(SentinelNormalize()(multispectral)))
    return _square(SentinelDropBands(_SENTINEL_DROPPED)(bands), resolution)


def notebook_image(image: Image.Image, resolution: int) -> Image.Image:
    """A picture made to fill a square as the notebooks do it: bicubic, where training is bilinear."""
    width, height = _covering(image.width, image.height, resolution)
    left, top = _margin(width, resolution), _margin(height, resolution)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + resolution, top + resolution))


def notebook_condition(image: Image.Image, width: int, height: int) -> Tensor:
    """A picture resized as the ControlNet pipeline does it, Lanczos, float32 (3, height, width) in [0, 1]."""
    return _tensor(np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)))


def _image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3:
        raise DatasetError(
            f"An image has shape {image.shape}; it must have three axes: rows, columns, bands."
        )
    return image


def _tensor(image: np.ndarray) -> Tensor:
    """Channels last to channels first, float32; only uint8 is scaled, to [0, 1]."""
    image = _image(image)
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
    return tensor / 255 if image.dtype == np.uint8 else tensor


def _square(image: Tensor, resolution: int) -> Tensor:
    width, height = _covering(image.shape[-1], image.shape[-2], resolution)
    left, top = _margin(width, resolution), _margin(height, resolution)
    resized = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    return resized[:, top : top + resolution, left : left + resolution]


def _covering(width: int, height: int, resolution: int) -> tuple[int, int]:
    """The size with the same proportions whose shorter side is the resolution."""
    if width <= height:
        return resolution, int(resolution * height / width)
    return int(resolution * width / height), resolution


def _margin(size: int, resolution: int) -> int:
    return round((size - resolution) / 2)
