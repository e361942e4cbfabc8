"""Crops of a sample at one size, each with the metadata that is true of it."""

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from diffusionsat.metadata import Metadata

_METRES_A_DEGREE = 111_320.0
_RELIEF_GSD = 100.0  # metres; from here on a mirrored coast is another place


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A square of an image, how much it is reduced, and how it is turned.

    Args:
        height: Of the image, pixels.
        width: Of the image, pixels.
        top: First row of the square.
        left: First column of the square.
        size: Side after reduction, pixels.
        factor: Pixels of the image a side of one pixel after reduction.
        turns: Quarter turns, counter-clockwise.
        mirrored: Whether east and west are exchanged after that.
    """

    height: int
    width: int
    top: int
    left: int
    size: int
    factor: int
    turns: int = 0
    mirrored: bool = False

    @property
    def side(self) -> int:
        """Of the square before reduction, pixels."""
        return self.size * self.factor

    def metadata(self, known: Metadata) -> Metadata:
        """What is true of the square, from what is known about the image."""
        right = self.left + self.side / 2 - self.width / 2
        down = self.top + self.side / 2 - self.height / 2
        return _moved(known, right, down, self.factor)

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """The square of the image that it was drawn for, uint8 (size, size, 3), by area means."""
        square = pixels[self.top : self.top + self.side, self.left : self.left + self.side]
        if self.factor > 1:
            square = np.asarray(Image.fromarray(square).reduce(self.factor))
        return self._turned(square)

    def cut_other(
        self, values: np.ndarray, valid: np.ndarray, known: Metadata
    ) -> tuple[np.ndarray, np.ndarray, Metadata]:
        """The same ground of another image that shows the same extent in its own number of pixels.

        It comes on the grid of the square: by area means where it is finer, bilinear where it is coarser,
        over the valid pixels alone.

        Args:
            values: Float (h, w, C).
            valid: Where they are known, bool (h, w).
            known: About that image.

        Returns:
            Values, float32 (size, size, C), 0 where not valid; valid, bool (size, size); and the metadata
            that is true of them.
        """
        height, width = valid.shape
        down, across = height / self.height, width / self.width
        top, left = self.top * down, self.left * across
        box = (left, top, left + self.side * across, top + self.side * down)
        finer = (box[2] - box[0]) * (box[3] - box[1]) >= self.size**2
        method = Image.Resampling.BOX if finer else Image.Resampling.BILINEAR

        def resized(plane: np.ndarray) -> np.ndarray:
            image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
            return np.asarray(image.resize((self.size, self.size), method, box=box))

        weight = resized(valid)
        known_part = np.where(valid[..., None], values, 0)
        planes = [resized(known_part[..., band]) for band in range(values.shape[2])]
        square = np.stack(planes, axis=2) / np.maximum(weight, 1e-6)[..., None]
        there = weight >= 0.5
        square = np.where(there[..., None], square, 0).astype(np.float32)
        moved = _moved(
            known,
            (box[0] + box[2] - width) / 2,
            (box[1] + box[3] - height) / 2,
            math.sqrt((box[2] - box[0]) * (box[3] - box[1])) / self.size,
        )
        return self._turned(square), self._turned(there), moved

    def _turned(self, square: np.ndarray) -> np.ndarray:
        square = np.rot90(square, self.turns)
        return square[:, ::-1] if self.mirrored else square


def draw(known: Metadata, height: int, width: int, size: int, rng: np.random.Generator) -> Crop:
    """A random square of an image, after random reduction by 1, 2 or 4, in a random true orientation.

    Orientation: an image without a place may be turned and mirrored in all eight ways. With a place only
    east and west are exchanged, which keeps the sun on its side of the equator (the hour of the day, which
    metadata does not hold, changes from morning to afternoon); at 100 m and coarser nothing is, because the
    shape of the land belongs to the place.

    Args:
        known: About the image.
        height: Of the image, pixels, at least ``size``.
        width: Of the image, pixels, at least ``size``.
        size: Side of the crop in pixels.
        rng: Source of randomness.
    """
    factors = [f for f in (1, 2, 4) if min(height, width) >= f * size]
    factor = factors[int(len(factors) * rng.random() ** 1.5)]  # finer more often
    side = factor * size
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = Crop(height=height, width=width, top=top, left=left, size=size, factor=factor)
    if known.lon is None or known.lat is None:
        crop = replace(crop, turns=int(rng.integers(4)))
    elif (known.gsd or 0) * factor >= _RELIEF_GSD:
        return crop
    return replace(crop, mirrored=bool(rng.random() < 0.5))


def _moved(metadata: Metadata, right: float, down: float, factor: float) -> Metadata:
    """Metadata of a crop whose centre lies some pixels right of and below the image's."""
    gsd = metadata.gsd
    if gsd is None:
        return metadata
    if metadata.lon is not None and metadata.lat is not None:
        lat = max(-90.0, min(90.0, metadata.lat - down * gsd / _METRES_A_DEGREE))
        lon = metadata.lon + right * gsd / (_METRES_A_DEGREE * max(0.01, math.cos(math.radians(lat))))
        metadata = replace(metadata, lat=lat, lon=(lon + 180) % 360 - 180)
    return replace(metadata, gsd=gsd * factor)
