"""Holes in images that a ControlNet is to fill: rectangles, drawn clouds, and real ones from masks."""

import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

_SHARE = (0.05, 0.8)  # of the area
_REAL = 0.5  # share of the holes where there are masks
_TRIES = 8  # crops of masks, until one has a share of cloud that will do
_CLEAR = 0.01  # masks with less cloud are of no use


def hole(size: int, rng: np.random.Generator, masks: Sequence[np.ndarray] = ()) -> np.ndarray:
    """A hole of 5 to 80 % of the area, bool (size, size).

    Args:
        size: Of the image.
        rng: Source of randomness.
        masks: Clouds as `cloud_masks` gives them, of which half of the holes are then made.
    """
    if masks and rng.random() < _REAL:
        for _ in range(_TRIES):
            inside = _part(masks[int(rng.integers(len(masks)))], size, rng)
            if _SHARE[0] <= inside.mean() <= _SHARE[1]:
                return inside
    return _drawn(size, rng)


def cloud_masks(encoded: Iterable[bytes]) -> list[np.ndarray]:
    """Masks that have some cloud or shadow, bool (H, W).

    Args:
        encoded: PNG, 0 where it is clear. Square masks of several dates may stand one under another.
    """
    masks = []
    for content in encoded:
        marked = np.asarray(Image.open(io.BytesIO(content)).convert("L")) > 0
        height, width = marked.shape
        masks += np.split(marked, height // width) if height % width == 0 else [marked]
    return [mask for mask in masks if mask.mean() >= _CLEAR]


def _part(mask: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square part of a mask, a quarter of its side to all of it, turned and mirrored, at another size."""
    shorter = min(mask.shape)
    side = max(1, round(shorter * math.exp(rng.uniform(-math.log(4), 0))))
    top, left = (int(rng.integers(length - side + 1)) for length in mask.shape)
    part = np.rot90(mask[top : top + side, left : left + side], int(rng.integers(4)))
    part = part[:, :: int(rng.choice((-1, 1)))]
    image = Image.fromarray(np.ascontiguousarray(part)).convert("L")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)) > 127


def _drawn(size: int, rng: np.random.Generator) -> np.ndarray:
    """A rectangle, or clouds of one of three sizes."""
    share, kind = rng.uniform(*_SHARE), int(rng.integers(4))
    if kind == 0:
        height = min(1.0, math.sqrt(share) * math.exp(rng.uniform(-0.7, 0.7)))
        height = max(height, share)
        down, across = (min(size, max(1, round(size * part))) for part in (height, share / height))
        top, left = int(rng.integers(size - down + 1)), int(rng.integers(size - across + 1))
        inside = np.zeros((size, size), bool)
        inside[top : top + down, left : left + across] = True
        return inside
    cloud = np.zeros((size, size), np.float32)
    for octave in range(3):
        cells = Image.fromarray(rng.standard_normal((2 ** (kind + octave) + 1,) * 2).astype(np.float32))
        cloud += np.asarray(cells.resize((size, size), Image.Resampling.BICUBIC)) / 2**octave
    return cloud >= np.quantile(cloud, 1 - share)
