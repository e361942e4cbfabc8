"""Animations of a place over time, each image marked with its date."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffusionsat.data.frames import open_frame
from diffusionsat.files import write_bytes
from diffusionsat.tasks.inputs import Subject

_LARGEST = 512  # pixels of a side; larger images are made smaller
_MS = 500  # that each is shown


def animate(paths: Sequence[Path], dates: Sequence[str], output: Path, *, overwrite: bool = False) -> Path:
    """Write an animated GIF of rasters of one size.

    Args:
        paths: The rasters.
        dates: Written on each.
        output: The GIF.
        overwrite: Replace an existing file.

    Raises:
        RasterError: If a raster cannot be read or the file cannot be written.
    """
    pictures = [_picture(path, f"SYNTHETIC  {date}") for path, date in zip(paths, dates, strict=True)]
    out = io.BytesIO()
    first, *others = pictures
    first.save(out, "GIF", save_all=True, append_images=others, duration=_MS, loop=0, comment=b"SYNTHETIC")
    write_bytes(output, out.getvalue(), overwrite=overwrite)
    return output


def _picture(path: Path, text: str) -> Image.Image:
    subject = Subject.of(open_frame(path))
    raster = subject.frame.raster
    values, _ = raster.read(range(raster.height), range(raster.width))
    radiometry = subject.radiometry
    shown = radiometry.show(radiometry.light(values[list(subject.colours)]))
    image = Image.fromarray(np.moveaxis(np.rint(255 * shown).astype(np.uint8), 0, 2))
    image.thumbnail((_LARGEST, _LARGEST))
    ImageDraw.Draw(image).text((4, 4), text, "white", ImageFont.load_default(size=11), 1, stroke_fill="black")
    return image
