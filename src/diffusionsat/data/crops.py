"""Crops of a sample at one size, each with the metadata that is true of it."""

import math
from dataclasses import replace

import numpy as np
from PIL import Image

from diffusionsat.data.parquet import Sample
from diffusionsat.metadata import Metadata

_METRES_A_DEGREE = 111_320.0
_RELIEF_GSD = 100.0  # metres; from here on a mirrored coast is another place


def crop(
    sample: Sample, pixels: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, Metadata]:
    """A random square of an image, after random reduction by 1, 2 or 4, in a random true orientation.

    Orientation: an image without a place may be turned and mirrored in all eight ways. With a place only
    east and west are exchanged, which keeps the sun on its side of the equator (the hour of the day, which
    metadata does not hold, changes from morning to afternoon); at 100 m and coarser nothing is, because the
    shape of the land belongs to the place.

    Args:
        sample: Where the pixels are from.
        pixels: Its image, uint8 (H, W, 3), both sides at least ``size``.
        size: Side of the crop in pixels.
        rng: Source of randomness.

    Returns:
        Pixels, uint8 (size, size, 3), and their metadata: place of the crop's centre and its gsd.
    """
    height, width = pixels.shape[:2]
    factors = [f for f in (1, 2, 4) if min(height, width) >= f * size]
    factor = factors[int(len(factors) * rng.random() ** 1.5)]  # finer more often
    side = factor * size
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    square = pixels[top : top + side, left : left + side]
    if factor > 1:
        square = np.asarray(Image.fromarray(square).reduce(factor))
    metadata = _moved(sample.metadata, left + side / 2 - width / 2, top + side / 2 - height / 2, factor)
    if metadata.lon is None or metadata.lat is None:
        square = np.rot90(square, int(rng.integers(4)))
    elif (metadata.gsd or 0) >= _RELIEF_GSD:
        return square, metadata
    return (square[:, ::-1] if rng.random() < 0.5 else square), metadata


def _moved(metadata: Metadata, right: float, down: float, factor: int) -> Metadata:
    """Metadata of a crop whose centre lies some pixels right of and below the image's."""
    gsd = metadata.gsd
    if gsd is None:
        return metadata
    if metadata.lon is not None and metadata.lat is not None:
        lat = max(-90.0, min(90.0, metadata.lat - down * gsd / _METRES_A_DEGREE))
        lon = metadata.lon + right * gsd / (_METRES_A_DEGREE * max(0.01, math.cos(math.radians(lat))))
        metadata = replace(metadata, lat=lat, lon=(lon + 180) % 360 - 180)
    return replace(metadata, gsd=gsd * factor)
