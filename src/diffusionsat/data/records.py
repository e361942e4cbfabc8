"""A record of a data set: one place, its image or images, and what is said about them."""

import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffusionsat.data import sensors
from diffusionsat.data.sensors import RGB, Scaling
from diffusionsat.errors import DatasetError
from diffusionsat.geo.images import quiet_gdal
from diffusionsat.metadata import Metadata

Pieces = tuple[tuple[str, str], ...]  # (name, text) in order; the texts joined are a caption


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image of a record; its pixels are read when they are asked for.

    Args:
        content: Its file, or the bytes of one.
        format: ``jpeg``, ``png``, ``webp``, ``tif`` or ``npy``.
        name: What to call it in messages.
        metadata: What the image shows.
        bands: Names in the order of the pixels.
        role: Its part in the record: ``rgb``, ``sentinel``, ``bands``, ``pre``, ``post``.
        sensor: Whose band names these are, a key of `sensors.SENSORS`.
        scaling: From stored numbers to reflectance; None if they are for display.
        index: Which image of a stack (T, H, W, C) in ``npy``; None if there is no stack.
        pieces: Caption pieces that are true of this frame alone.
    """

    content: Path | bytes
    format: str
    name: str
    metadata: Metadata
    bands: tuple[str, ...] = RGB
    role: str = "rgb"
    sensor: str = "sentinel-2"
    scaling: Scaling | None = None
    index: int | None = None
    pieces: Pieces = ()

    def encoded(self) -> bytes:
        """The file's bytes.

        Raises:
            DatasetError: If it cannot be read.
        """
        if isinstance(self.content, bytes):
            return self.content
        try:
            return self.content.read_bytes()
        except OSError as error:
            raise DatasetError(f"{self.name} cannot be read: {error.strerror or error}.") from None

    def pixels(self) -> np.ndarray:
        """The stored numbers, (H, W, C), C as many as bands.

        Raises:
            DatasetError: If the file is damaged or has other bands.
        """
        try:
            array = _READERS.get(self.format, _image)(self.encoded(), len(self.bands))
        except DatasetError:
            raise
        except Exception as error:  # whatever a damaged file makes of three libraries
            raise DatasetError(f"{self.name} cannot be read: {error}.") from None
        if self.index is not None:
            array = array[self.index]
        if array.ndim == 3 and array.shape[2] != len(self.bands) == array.shape[0]:
            array = np.moveaxis(array, 0, 2)
        if array.ndim != 3 or array.shape[2] != len(self.bands):
            raise DatasetError(
                f"{self.name} has the shape {array.shape}; (height, width, {len(self.bands)}) was expected "
                f"for the bands {', '.join(self.bands)}."
            )
        return array

    def reflectance(self) -> tuple[np.ndarray, np.ndarray]:
        """Reflectance, float32 (H, W, C), and where it is known, bool of the same shape.

        Raises:
            DatasetError: As `pixels`, or if the image is for display or of unknown scale.
        """
        if self.scaling is None or self.scaling.gain is None:
            raise DatasetError(f"{self.name} holds no reflectance. Take its pixels or its colours.")
        return self.scaling.reflectance(self.pixels())

    def rgb(self) -> np.ndarray:
        """Red, green and blue as they are shown, uint8 (H, W, 3).

        Raises:
            DatasetError: As `pixels`, or if a colour is missing.
        """
        colours = self.pixels()[..., sensors.locate(self.bands, RGB, self.sensor)]
        if self.scaling is not None and self.scaling.gain is not None:
            return sensors.display(*self.scaling.reflectance(colours))
        if colours.dtype == np.uint8:
            return colours
        return sensors.stretch(colours, (self.scaling or Scaling()).valid(colours))


def _npy(content: bytes, _: int) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)


def _tif(content: bytes, _: int) -> np.ndarray:
    from rasterio.io import MemoryFile

    with quiet_gdal(), MemoryFile(content) as memory, memory.open() as file:
        return np.moveaxis(file.read(), 0, 2)


def _image(content: bytes, bands: int) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    if bands == 3 and image.mode.startswith("I"):
        raise DatasetError("It is grey, of 16 bits or more; give a GeoTIFF, or 8 bits a colour.")
    if bands == 3 and "A" in image.getbands() and image.getchannel("A").getextrema()[1] == 0:
        raise DatasetError("It is transparent everywhere.")
    if bands == 3:
        image = image.convert("RGB")
    return np.atleast_3d(np.asarray(image))


_READERS = {"npy": _npy, "tif": _tif}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One place of a data set: an image, a pair, or a sequence.

    Args:
        key: Unique within its source.
        source: Name of the data set.
        frames: At least one.
        licence: Of the pixels and labels.
        place: Records that share it show the same ground and must not be split.
        split: The publisher's, if there is one.
        label: Class in the source's words.
        pieces: Caption in parts, so that some can be left out in training.
    """

    key: str
    source: str
    frames: tuple[Frame, ...]
    licence: str
    place: str
    split: str | None = None
    label: str | None = None
    pieces: Pieces = ()

    def caption(self, frame: Frame | None = None, without: Collection[str] = ()) -> str:
        """The caption of one of the frames, by default of the first, without some pieces."""
        pieces = self.pieces + (frame or self.frames[0]).pieces
        return "".join(text for name, text in pieces if name not in without)


@dataclass(frozen=True, slots=True)
class Bad:
    """What a release holds and cannot be used.

    Args:
        file: Which.
        reason: Why.
    """

    file: str
    reason: str
