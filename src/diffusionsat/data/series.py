"""Single images of one place, each in a row of its own, as a sequence of dates."""

from dataclasses import fields, replace

import numpy as np

from diffusionsat.data.records import Record
from diffusionsat.data.sources import Images, Source
from diffusionsat.errors import DatasetError


class Series:
    """A source of which rows of exactly one place are one record; see `Source`.

    All of it is read at once and kept.

    Args:
        source: Of single images; one without a place stays alone.

    Raises:
        DatasetError: If a row cannot be read, or is a sequence already.
    """

    def __init__(self, source: Source) -> None:
        self.name, held = source.name, source.images
        if (held.frames > 1).any():
            raise DatasetError(
                f"{source.address} holds sequences already. Leave {self.name} out of data.frames.series."
            )
        rows = [source.record(image) for image in range(len(held.ground))]
        order = np.argsort(held.ground, kind="stable")
        counts = np.bincount(held.ground)
        ends = np.cumsum(counts)
        self.records = [
            _together([rows[image] for image in order[end - count : end]])
            for end, count in zip(ends, counts, strict=True)
        ]
        record = np.repeat(np.arange(len(counts)), counts)
        frame = np.arange(len(order)) - (ends - counts)[record]
        kept = {field.name: getattr(held, field.name)[order] for field in fields(Images)}
        self.images = Images(**kept | {"row": record, "frame": frame, "frames": counts[record]})

    def record(self, image: int) -> Record:
        """The record that an entry of `images` belongs to."""
        return self.records[self.images.row[image]]


def _together(rows: list[Record]) -> Record:
    """One record of the images of several; what is said about one of them is said about its frame."""
    frames = tuple(replace(row.frames[0], pieces=row.pieces + row.frames[0].pieces) for row in rows)
    return replace(rows[0], frames=frames, pieces=())
