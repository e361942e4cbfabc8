"""Images that were made elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffusionsat.errors import DatasetError
from diffusionsat.evaluation.cases import central, reduction
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.units import Arrays

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Reading:
    """The images of a unit, from files.

    Args:
        files: All of them.
        size: Side in pixels that they are cut to.
        unit: Images a unit.
    """

    files: tuple[Path, ...]
    size: int
    unit: int

    def __call__(self, unit: int) -> Arrays:
        """``pixels``, uint8 (N, size, size, 3).

        Raises:
            DatasetError: If a file is no image, or is smaller.
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
        return central(pixels, self.size, reduction(side, self.size))


def files_of(request: EvaluateRequest) -> tuple[tuple[Path, ...], int]:
    """The files, and the side that is asked for or that of the first.

    Raises:
        DatasetError: If there are fewer than two, or the first is no image; or they answer no cases, and are
            not as many as are asked for.
    """
    assert request.images is not None
    folder = request.images
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if len(files) < 2:
        raise DatasetError(f"{folder} holds {len(files)} images. Give a folder of at least two.")
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
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file} cannot be read as an image: {error}.") from None


def matching(files: Sequence[Path]) -> bool:
    """Whether files are named by the numbers of the cases: 000000, 000001 and so on."""
    return [file.stem for file in files] == [f"{i:06d}" for i in range(len(files))]
