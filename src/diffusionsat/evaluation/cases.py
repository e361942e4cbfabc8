"""What a model is measured on: rows of data sets that are asked for, and others to compare with."""

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffusionsat.data.captions import PHRASES, SOURCES
from diffusionsat.data.records import Record
from diffusionsat.data.series import Series
from diffusionsat.data.sources import INDEX, Source
from diffusionsat.errors import ConfigError, DatasetError
from diffusionsat.metadata import Metadata

FACTORS = (4, 2, 1)
MOST = 10_000  # images of a run that is not told how many
FITS = {  # how an image becomes a square
    "central": "the central square, by area means of 4, 2 or 1 pixels a side, the largest that fits",
    "whole": "the whole image, squeezed to a square: bilinear with antialias",
}


def central(pixels: np.ndarray, size: int, factor: int) -> np.ndarray:
    """The central square of an image, ``factor`` pixels averaged to one along each side.

    Args:
        pixels: uint8 (H, W, 3), both sides at least ``factor * size``.
        size: Side of the result in pixels.
        factor: 1, 2 or 4.

    Returns:
        uint8 (size, size, 3).
    """
    side = factor * size
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side]
    return square if factor == 1 else np.asarray(Image.fromarray(square).reduce(factor))


def reduction(side: int, size: int) -> int:
    """The largest of `FACTORS` by which an image can be reduced and be ``size`` pixels still."""
    return next(factor for factor in FACTORS if factor * size <= side)


def cut(pixels: np.ndarray, size: int, fit: str) -> np.ndarray:
    """An image, uint8 (H, W, 3), as a square (size, size, 3); ``fit`` is one of `FITS`."""
    if fit == "whole":
        return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return central(pixels, size, reduction(min(pixels.shape[:2]), size))


def coarser(side: int, size: int, fit: str) -> float:
    """By what the gsd of an image grows when it is cut; of one that is squeezed, along its shorter side."""
    return side / size if fit == "whole" else reduction(side, size)


def wording(caption: str | None, label: str | None, source: str) -> str:
    """The words that an image is asked for with: its own sentence, or the first phrase of its label."""
    phrases = PHRASES.get(label or "") or SOURCES.get(source) or (label or "",)
    return caption or phrases[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One real image, and what is known about it.

    Args:
        source: Name of its data set.
        key: Of its record.
        frame: Of the record.
        label: Its class.
        prompt: Words that it is asked for with.
        metadata: What is true of its central square.
        place: Cases that share it show the same ground, and are never resampled apart.
    """

    source: str
    key: str
    frame: int
    label: str | None
    prompt: str
    metadata: Metadata
    place: str

    def feature(self, number: int) -> dict[str, Any]:
        """The request as a GeoJSON feature, which `diffusionsat generate --features` takes."""
        known = self.metadata.to_dict()
        lon, lat = known.pop("lon", None), known.pop("lat", None)
        point = None if lon is None or lat is None else {"type": "Point", "coordinates": [lon, lat]}
        said = {"id": f"{number:06d}", "prompt": self.prompt, **({"label": self.label} if self.label else {})}
        return {"type": "Feature", "geometry": point, "properties": said | known}


class Cases:
    """Cases of some sources; records and pixels are read when they are asked for.

    Args:
        sources: Where they are.
        picked: Source and entry of its images, (K, 2).
        size: Side of the squares in pixels.
        fit: One of `FITS`.
    """

    def __init__(
        self, sources: Sequence[Source | Series], picked: np.ndarray, size: int, fit: str = "central"
    ) -> None:
        self.sources, self.picked, self.size, self.fit = tuple(sources), picked, size, fit

    def __len__(self) -> int:
        return len(self.picked)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: without what was read."""
        return {name: value for name, value in self.__dict__.items() if name != "_read"}

    @property
    def cases(self) -> list[Case]:
        """All of them.

        Raises:
            DatasetError: If one cannot be read.
        """
        return self._read[0]

    @property
    def digest(self) -> str:
        """SHA-256 of all that they say and show."""
        return self._read[1]

    @functools.cached_property
    def _read(self) -> tuple[list[Case], str]:
        digest, cases = hashlib.sha256(), []
        for row in range(len(self)):
            record, number = self.record(row)
            case = self._case(row, record, number)
            content = hashlib.sha256(record.frames[number].encoded()).hexdigest()
            said = [case.source, case.key, number, case.label, case.prompt, case.metadata.to_dict(), content]
            digest.update(json.dumps(said, sort_keys=True).encode())
            cases.append(case)
        return cases, digest.hexdigest()

    def part(self, rows: range) -> list[Case]:
        """Some of them."""
        if "_read" in self.__dict__:
            return self.cases[rows.start : rows.stop]
        return [self._case(row, *self.record(row)) for row in rows]

    def record(self, row: int) -> tuple[Record, int]:
        """A case's record, and the frame in it."""
        source, image = self.picked[row].tolist()
        return self.sources[source].record(image), int(self.sources[source].images.frame[image])

    def pixels(self, rows: range) -> np.ndarray:
        """Squares of some cases, uint8 (N, size, size, 3)."""
        squares = []
        for row in rows:
            record, number = self.record(row)
            squares.append(cut(record.frames[number].rgb(), self.size, self.fit))
        return np.stack(squares)

    def _case(self, row: int, record: Record, number: int) -> Case:
        source, image = self.picked[row].tolist()
        frame, known = record.frames[number], record.frames[number].metadata
        factor = coarser(int(self.sources[source].images.side[image]), self.size, self.fit)
        place = f"{record.source}/{record.place}"
        if known.lon is not None and known.lat is not None:
            place = f"{math.floor(known.lon)},{math.floor(known.lat)}"
        return Case(
            source=record.source,
            key=record.key,
            frame=number,
            label=record.label,
            prompt=wording(record.caption(frame), record.label, record.source),
            metadata=known.replace(gsd=None if known.gsd is None else known.gsd * factor),
            place=place,
        )


def choose(
    sources: Sequence[Source], *, n: int | None, size: int, seed: int, fit: str = "central"
) -> tuple[Cases, Cases]:
    """Cases to ask for, and as many others to compare with; no ground is in both.

    Args:
        sources: Data sets; images that are smaller than ``size`` or have no colours are left out.
        n: How many of each; None is half of what there is, at most 10,000.
        size: Side of the squares in pixels.
        seed: Of the choice.
        fit: One of `FITS`.

    Raises:
        ConfigError: If there are not so many.
        DatasetError: If one cannot be read.
    """
    images = [
        (which, image)
        for which, source in enumerate(sources)
        for image in np.flatnonzero(source.images.colour & (source.images.side >= size)).tolist()
    ]
    halves: tuple[list[tuple[int, int]], list[tuple[int, int]]] = [], []
    half_of: dict[tuple[int, int], list[tuple[int, int]]] = {}  # of each ground
    for i in np.random.Generator(np.random.Philox(seed)).permutation(len(images)):
        which, image = images[i]
        ground = which, int(sources[which].images.ground[image])
        half_of.setdefault(ground, min(halves, key=len)).append((which, image))
    most = min(map(len, halves))
    count = min(MOST, most) if n is None else n
    if not 2 <= count <= most:
        raise ConfigError(
            f"{count} images to ask for and as many others to compare with are wanted, at least 2; of the "
            f"data's {len(images)} of {size} px and more, of {len(half_of)} places, {most} can be. "
            "Give another -n or --size, or more --data."
        )
    return tuple(  # pyright: ignore[reportReturnType], two of them
        Cases(sources, np.array(sorted(half[:count])), size, fit) for half in halves
    )


def every(
    sources: Sequence[Source], *, size: int, most: int, seed: int, fit: str = "central"
) -> Cases | None:
    """Images that a model was trained on: of train splits without the tenth held out; None if there are none.

    Args:
        sources: Train splits.
        size: Side of the squares in pixels.
        most: A random choice of so many if there are more.
        seed: Of the choice.
        fit: One of `FITS`.

    Raises:
        DatasetError: If one cannot be read.
    """
    rows = [
        (which, int(image))
        for which, source in enumerate(sources)
        for image in np.flatnonzero(
            source.images.colour & (source.images.side >= size) & ~source.images.held_out
        )
    ]
    if len(rows) > most:
        chosen = np.random.Generator(np.random.Philox(seed)).permutation(len(rows))[:most]
        rows = [rows[i] for i in sorted(chosen.tolist())]
    return Cases(sources, np.array(rows), size, fit) if rows else None


def open_sources(addresses: Sequence[str], split: str) -> list[Source]:
    """The data sets of some folders; a folder that holds nothing but folders of data sets means all of them.

    Raises:
        DatasetError: If there is no such split.
    """
    found = []
    for address in addresses:
        folder = Path(address)
        inside = sorted(folder.glob(f"*/{split}.parquet")) if folder.is_dir() else []
        if inside and not (folder / INDEX).exists() and not (folder / f"{split}.parquet").exists():
            found += [Source(file.parent, split=split) for file in inside]
        else:
            found.append(Source(address, split=split))
    names = [source.name for source in found]
    if len(set(names)) < len(names):
        raise DatasetError(f"Two data sets have one name: {', '.join(names)}. Give each once.")
    return found
