"""Images that were made elsewhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffusionsat.errors import DatasetError
from diffusionsat.evaluation.cases import cut
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.units import Arrays

_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr")  # eight bits a colour, and nothing to see through
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Reading:
    """The images of a unit, from files.

    Args:
        files: All of them.
        size: Side in pixels that they are cut to.
        fit: How they are cut, one of `cases.FITS`.
        unit: Images a unit.
    """

    files: tuple[Path, ...]
    size: int
    fit: str
    unit: int

    def __call__(self, unit: int) -> Arrays:
        """``pixels``, uint8 (N, size, size, 3).

        Raises:
            DatasetError: If a file is no image of eight bits a colour, or is smaller.
        """
        files = self.files[unit * self.unit : (unit + 1) * self.unit]
        return {"pixels": np.stack([self._square(file) for file in files])}

    def _square(self, file: Path) -> np.ndarray:
        pixels = _read(file)
        side = min(pixels.shape[:2])
        if side < self.size:
            raise DatasetError(
                f"{file} is {side} pixels small; {self.size} are wanted. Give a smaller --size."
            )
        return cut(pixels, self.size, self.fit)


def files_of(request: EvaluateRequest) -> tuple[tuple[Path, ...], int]:
    """The files, and the side that is asked for or that of the first.

    Raises:
        DatasetError: If there are fewer than two, or the first is no image; or they answer no cases, and are
            not as many as are asked for; or they answer cases, but not one of these.
    """
    assert request.images is not None
    folder = request.images
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if len(files) < 2:
        raise DatasetError(f"{folder} holds {len(files)} images. Give a folder of at least two.")
    if not matching(files) and all(re.fullmatch(r"\d{6}", file.stem) for file in files):
        absent = next(i for i, file in enumerate(files) if file.stem != f"{i:06d}")
        raise DatasetError(
            f"{folder} holds images that are named by numbers, but no {absent:06d}. Give an answer to each "
            "case, or other names for images that answer none."
        )
    if request.n not in (None, len(files)) and not matching(files):
        raise DatasetError(
            f"{folder} holds {len(files)} images; n is {request.n}. Leave -n out, or give as many."
        )
    if request.size is not None:
        return tuple(files), request.size
    return tuple(files), min(_read(files[0]).shape[:2])


def _read(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            if image.mode in ("LA", "PA", "RGBA") and np.asarray(image.getchannel("A")).min() < 255:
                raise ValueError("parts of it are transparent")
            if image.mode not in (*_MODES, "LA", "PA", "RGBA"):
                raise ValueError(f"it has the mode {image.mode}, not 8 bits a colour")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file} cannot be read as an image: {error}.") from None


def matching(files: Sequence[Path]) -> bool:
    """Whether files are named by the numbers of the cases: 000000, 000001 and so on."""
    return [file.stem for file in files] == [f"{i:06d}" for i in range(len(files))]
