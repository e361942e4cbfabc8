"""Contact sheets: images side by side with a line of text under each."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MARGIN = 6
_LINE = 16


def contact_sheet(
    images: Sequence[np.ndarray], captions: Sequence[str], *, columns: int, title: str = ""
) -> np.ndarray:
    """One picture of many.

    Args:
        images: Each uint8 (H, W, 3), all of one size.
        captions: One line each.
        columns: Images a row.
        title: Line at the top.

    Returns:
        Pixels, uint8 (H, W, 3).
    """
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    top = _LINE + 2 * _MARGIN if title else _MARGIN
    cell_width, cell_height = width + _MARGIN, height + _LINE + _MARGIN
    sheet = Image.new("RGB", (columns * cell_width + _MARGIN, top + rows * cell_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    draw.text((_MARGIN, _MARGIN), _fitted(title, sheet.width - 2 * _MARGIN, font), "black", font)
    for i, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        left, upper = _MARGIN + i % columns * cell_width, top + i // columns * cell_height
        sheet.paste(Image.fromarray(pixels), (left, upper))
        draw.text((left, upper + height), _fitted(caption, width, font), "black", font)
    return np.asarray(sheet)


def _fitted(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, or as much of it as is not wider than ``width`` pixels, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1].rstrip()
    return text + "…"
