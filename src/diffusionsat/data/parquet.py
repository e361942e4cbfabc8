"""Single images out of Parquet, one row a sample or a sequence, as evaluation and the classifiers want them.

What a row means is told in one place, `diffusionsat.data.adapters.tables`, for the sets that others made and
for the shards that `diffusionsat prepare` makes.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffusionsat.data import shards
from diffusionsat.data.adapters import tables
from diffusionsat.data.sensors import RGB
from diffusionsat.data.sources import held_out
from diffusionsat.errors import DatasetError
from diffusionsat.metadata import Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with what is known about it.

    Args:
        key: Unique within its source.
        source: Name of the data set.
        encoded: The image as a file's bytes (WebP, JPEG, PNG).
        metadata: Place, gsd, cloud cover and date.
        label: Class in the source's words.
        caption: Sentence of the source.
        held_out: Whether its place belongs to the tenth kept for choosing and calibrating; see
            `diffusionsat.data.sources.held_out`.
    """

    key: str
    source: str
    encoded: bytes
    metadata: Metadata
    label: str | None = None
    caption: str | None = None
    held_out: bool = False

    def pixels(self) -> np.ndarray:
        """The image, uint8 (H, W, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.encoded)).convert("RGB"))


def read_samples(path: Path, source: str) -> Iterator[Sample]:
    """The RGB images of a Parquet file, a sequence's frames as single images.

    Raises:
        DatasetError: If the file is absent, or a row is not as it should be.
        MissingExtraError: If pyarrow is not installed.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is no file. Give the Parquet file of a data set's split.")
    for row in tables.rows(path):
        record = shards.record(row, source)
        first = record.frames[0].metadata
        held = held_out(source, row["place"] if "licence" in row else record.key, first.lon, first.lat)
        for i, frame in enumerate(record.frames):
            if frame.bands == RGB and frame.format in ("webp", "jpeg", "png"):
                yield Sample(
                    key=f"{record.key}/{i}" if "frames" in row else record.key,
                    source=source,
                    encoded=frame.encoded(),
                    metadata=frame.metadata,
                    label=record.label,
                    caption=record.caption(frame) or None,
                    held_out=held,
                )
