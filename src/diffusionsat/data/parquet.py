"""Single images and sequences in Parquet: one row a sample, image bytes in the row.

Two forms are understood, told apart by the column ``frames``. Without it a row is one image with its
metadata (cloud cover in percent). With it a row is one place, ``frames`` a list of structs with their own
date, gsd and cloud cover (a fraction from 0 to 1).
"""

import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffusionsat.errors import DatasetError, MissingExtraError
from diffusionsat.metadata import Metadata

RGB = ("red", "green", "blue")


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
    """

    key: str
    source: str
    encoded: bytes
    metadata: Metadata
    label: str | None = None
    caption: str | None = None

    def pixels(self) -> np.ndarray:
        """The image, uint8 (H, W, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.encoded)).convert("RGB"))

    @property
    def held_out(self) -> bool:
        """Whether the place belongs to the tenth of places kept for choosing and calibrating.

        A place is a cell of one degree; an image without a place is a place of its own.
        """
        lon, lat = self.metadata.lon, self.metadata.lat
        if lon is None or lat is None:
            place = f"{self.source}/{self.key}"
        else:
            place = f"{math.floor(lon)},{math.floor(lat)}"
        return hashlib.sha256(place.encode()).digest()[0] < 26


def read_samples(path: Path, source: str) -> Iterator[Sample]:
    """The RGB images of a Parquet file, a sequence's frames as single images.

    Raises:
        DatasetError: If the file is absent or lacks the columns.
        MissingExtraError: If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise MissingExtraError("Reading Parquet", "data") from error
    if not path.is_file():
        raise DatasetError(f"{path} is no file. Give the Parquet file of a data set's split.")
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                yield from _frames(row, source) if "frames" in row else [_single(row, source)]
    except KeyError as error:
        raise DatasetError(f"{path} lacks the column {error}; see the how-to page on training.") from None
    except ArrowException as error:
        raise DatasetError(f"{path} cannot be read as Parquet: {error}.") from None


def _single(row: dict[str, Any], source: str) -> Sample:
    return Sample(
        key=row["key"],
        source=source,
        encoded=row["image"],
        metadata=_metadata(row, row["gsd"], row["cloud_cover"], row["date"]),
        label=row["label"],
        caption=row["caption"],
    )


def _frames(row: dict[str, Any], source: str) -> Iterator[Sample]:
    for i, frame in enumerate(row["frames"]):
        if tuple(frame["bands"]) != RGB or frame["format"] not in ("webp", "jpeg", "png"):
            continue
        fraction = frame["cloud_cover"]
        yield Sample(
            key=f"{row['key']}/{i}",
            source=source,
            encoded=frame["image"],
            metadata=_metadata(
                row, frame["gsd"], None if fraction is None else 100 * fraction, frame["date"]
            ),
            label=row["label"],
            caption=row["caption"],
        )


def _metadata(
    row: dict[str, Any], gsd: float | None, cloud_cover: float | None, date: str | None
) -> Metadata:
    numbers = {"lon": row["lon"], "lat": row["lat"], "gsd": gsd, "cloud_cover": cloud_cover}
    known = {name: value for name, value in numbers.items() if value is not None and not math.isnan(value)}
    return Metadata(**known, date=date or None)
