"""Images that answer to a true one: what is given of it, and what it would take no model to say."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from diffusionsat.data.frames import Frame, open_frame
from diffusionsat.data.records import Frame as Stored
from diffusionsat.data.sensors import RGB, has
from diffusionsat.data.series import Series
from diffusionsat.data.sources import Source
from diffusionsat.errors import ConfigError
from diffusionsat.evaluation.cases import MOST, Case, Cases, coarser, cut
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.units import digest
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.predict import days_apart
from diffusionsat.tasks.restoring import Restoration

WHOLE = "whole"
SENTINEL = "sentinel"  # part in a record, beside sharper images
DIRECTIONS = ("any", "earlier", "later")


class Asking(Protocol):
    """A request of a task on rasters."""

    def job(self, sat: DiffusionSat) -> Restoration:
        """The job, ready to be done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """One image that is to be made.

    Args:
        truth: What is true, uint8 (H, W, 3).
        request: What the model is asked.
        baselines: What is said without a model, uint8 (H, W, 3), by name.
        parts: Pixels that are judged by themselves, bool (H, W), by name; all of them by `WHOLE`.
        given: What is given, uint8 (h, w, 3), with what is true of it; of a hole, black, in the first. The
            first is shown in the sheet; h is a whole part of H.
        about: What lines of the report are split by.
    """

    truth: np.ndarray
    request: Asking
    baselines: Mapping[str, np.ndarray]
    parts: Mapping[str, np.ndarray]
    given: Sequence[tuple[np.ndarray, Metadata]]
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> np.ndarray:
        """The first of what is given."""
        return self.given[0][0]


class Given(Cases):
    """Cases with other dates of the same ground.

    Args:
        sources: Where they are; rows of one place in a `Series`.
        picked: Source and entry of the true images, (K, 2).
        size: Side of the squares in pixels.
        counts: How many other dates are given of each, (K,).
        fit: How images become squares.
        direction: Of time, in which the other dates lie.
    """

    def __init__(
        self,
        sources: Sequence[Source | Series],
        picked: np.ndarray,
        size: int,
        counts: np.ndarray,
        fit: str = "central",
        direction: str = "any",
    ) -> None:
        super().__init__(sources, picked, size, fit)
        self.counts, self.direction = counts, direction

    @functools.cached_property
    def digest(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride], kept
        """SHA-256 of all that they say and show, other dates included."""
        others = [
            [hashlib.sha256(stored.encoded()).hexdigest() for stored in self.dates(row)]
            for row in range(len(self))
        ]
        return digest([super().digest, self.counts.tolist(), others])

    def dates(self, row: int) -> list[Stored]:
        """Images of the other dates that are given, the nearest in time first."""
        record, number = self.record(row)
        return _others(record.frames, number, self.fit, self.direction)[: self.counts[row]]

    def frames(self, row: int) -> list[tuple[np.ndarray, Metadata]]:
        """The same, cut as the true image is: uint8 (size, size, 3), and what is true of each."""
        return [self._square(stored) for stored in self.dates(row)]

    def _square(self, stored: Stored) -> tuple[np.ndarray, Metadata]:
        pixels, known = stored.rgb(), stored.metadata
        factor = coarser(min(pixels.shape[:2]), self.size, self.fit)
        gsd = None if known.gsd is None else known.gsd * factor
        return cut(pixels, self.size, self.fit), known.replace(gsd=gsd)


def _others(frames: Sequence[Stored], number: int, fit: str, direction: str) -> list[Stored]:
    """Images of other dates than the one of a frame, one a date, that show its ground, in time's direction.

    In as many pixels, unless all images are squeezed to a square; a Sentinel-2 image is none of aerial ones.
    """
    target = frames[number]
    if target.metadata.date is None:
        return []
    found: dict[str, Stored] = {}
    for stored in frames:
        date = stored.metadata.date
        if date in (None, target.metadata.date, *found) or not has(stored.bands, RGB, stored.sensor):
            continue
        coarse = [frame.role == SENTINEL for frame in (stored, target)]
        if coarse[0] != coarse[1] or (fit != "whole" and stored.metadata.gsd != target.metadata.gsd):
            continue
        if direction == "any" or (date < target.metadata.date) == (direction == "earlier"):
            found[date] = stored
    return sorted(found.values(), key=lambda stored: days_apart(stored.metadata, target.metadata))


def sequences(sources: Sequence[Source]) -> list[Source | Series]:
    """Sources of single images as sequences, the rows of one place a record."""
    return [s if (s.images.frames > 1).any() else Series(s) for s in sources]


def choose(
    sources: Sequence[Source | Series],
    *,
    n: int | None,
    size: int,
    seed: int,
    counts: Callable[[int], Sequence[int]] | None = None,
    clear: bool = False,
    fit: str = "central",
    direction: str = "any",
    given: str | None = None,
) -> Given:
    """Cases for a task that answers to true images.

    Args:
        sources: Data sets; images that are smaller than ``size`` or have no colours are left out.
        n: How many true images; None is all, at most 10,000.
        size: Side of the squares in pixels.
        seed: Of the choice.
        counts: Of the number of other dates there are, how many are given: a case each, none if the image
            is of no use. None gives no other date.
        clear: Leave out images that are known to be more than a tenth under cloud.
        fit: How images become squares.
        direction: Of time, in which other dates lie: any, earlier or later.
        given: Part in their record of images that are given, never true; None is of no record.

    Raises:
        ConfigError: If there are not so many.
        DatasetError: If one cannot be read.
    """
    rows = [
        (which, int(image))
        for which, source in enumerate(sources)
        for image in np.flatnonzero(
            source.images.colour & (source.images.side >= size) & (source.images.role != given)
        )
    ]
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(rows))
    wanted, chosen = MOST if n is None else n, []
    for row in order.tolist():
        if len(chosen) == wanted:
            break
        wished: Sequence[int] = (0,)
        which, image = rows[row]
        if counts is not None or clear or given:
            frames = sources[which].record(image).frames
            number = int(sources[which].images.frame[image])
            wished = wished if counts is None else counts(len(_others(frames, number, fit, direction)))
            if clear and (frames[number].metadata.cloud_cover or 0) > _CLOUDED:
                wished = ()
            if given and all(frame.role != given for frame in frames):
                wished = ()
        if wished:
            chosen.append((rows[row], wished))
    if len(chosen) < max(2, n or 0):
        raise ConfigError(
            f"{max(2, n or 0)} images are wanted, at least 2; the data have {len(chosen)} of {size} px and "
            "more that the task can be tried on: some tasks want a date, or other dates of the same ground. "
            "Give another -n or --size, or more --data."
        )
    chosen.sort()
    picked = np.array([place for place, wished in chosen for _ in wished])
    counted = np.array([count for _, wished in chosen for count in wished])
    return Given(sources, picked, size, counted, fit, direction)


_CLOUDED = 10  # percent


def framed(pixels: np.ndarray, metadata: Metadata) -> Frame:
    """An image, uint8 (H, W, 3), as a job takes it."""
    known: dict[str, Any] = metadata.to_dict()
    return open_frame(pixels, **known)


def plain(colour: np.ndarray, size: int) -> np.ndarray:
    """An image of one colour (3,), uint8 (size, size, 3)."""
    return np.broadcast_to(np.rint(colour).astype(np.uint8), (size, size, 3)).copy()


def mean_of(images: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of images, uint8."""
    return np.rint(np.mean(images, 0)).astype(np.uint8)


def generator(request: EvaluateRequest, row: int) -> np.random.Generator:
    """What is drawn for a case; by its row alone."""
    return np.random.Generator(np.random.Philox(key=[request.seed, row]))


def sampled(request: EvaluateRequest, case: Case) -> dict[str, Any]:
    """What all tasks are asked in the same words."""
    return {
        "prompt": case.prompt,
        "negative": request.negative,
        "seed": request.seed,
        "steps": request.steps,
        "solver": request.solver,
        "strict": request.strict,
        "control": request.control,
    }
