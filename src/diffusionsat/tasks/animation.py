"""Animations of a place over time, each image marked with its date."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffusionsat.files import write_bytes
from diffusionsat.geo.images import read_small
from diffusionsat.tasks.restoring import Restoration

LARGEST = 512  # pixels of a side; larger images are made smaller
_MS = 500  # that each is shown


def picture(job: Restoration, path: Path) -> np.ndarray:
    """What a job has written as it is shown, uint8 (H, W, 3), at most `LARGEST` pixels a side."""
    colours, radiometry = read_small(path, LARGEST)[list(job.output.colours)], job.output.radiometry
    return np.moveaxis(np.rint(255 * radiometry.show(radiometry.light(colours))).astype(np.uint8), 0, 2)


def animate(
    pictures: Sequence[np.ndarray], dates: Sequence[str], output: Path, *, overwrite: bool = False
) -> Path:
    """Write an animated GIF of pictures of one size.

    Args:
        pictures: uint8 (H, W, 3).
        dates: Written on each.
        output: The GIF.
        overwrite: Replace an existing file.

    Raises:
        RasterError: If the file cannot be written.
    """
    first, *others = [_marked(*each) for each in zip(pictures, dates, strict=True)]
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=others, duration=_MS, loop=0, comment=b"SYNTHETIC")
    write_bytes(output, out.getvalue(), overwrite=overwrite)
    return output


def _marked(pixels: np.ndarray, date: str) -> Image.Image:
    image, font = Image.fromarray(pixels), ImageFont.load_default(size=11)
    text = f"SYNTHETIC  {date}"
    ImageDraw.Draw(image).text((4, 4), text, "white", font, stroke_width=1, stroke_fill="black")
    return image
