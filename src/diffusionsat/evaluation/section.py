"""A part of a report: tables, scores of single images, and pictures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from diffusionsat.metrics.bootstrap import bootstrap

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """What a measure found.

    Args:
        tables: Lines by the title of their table. Texts in a line say what it is about; its numbers, and its
            mappings with a ``value``, are figures.
        scores: A number an image, (N,), NaN where there is none, by the name of its column.
        files: Pictures and other files by their names.
        notes: What is to be known in reading the tables.
    """

    tables: dict[str, list[Line]]
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def over_places(values: np.ndarray, places: Sequence[str]) -> dict[str, float] | float:
    """The mean of a number an image, (N,), with its interval if there are two places."""
    if len(set(places)) < 2:
        return float(values.mean())
    return asdict(bootstrap(lambda rows: float(values[rows].mean()), places))
