"""Arms: the cases of an evaluation asked for in another way, each image with the noise that it had before."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from diffusionsat.evaluation.cases import Case, Cases
from diffusionsat.evaluation.evidence import Evidence, Seen
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.section import Section
from diffusionsat.evaluation.units import digest
from diffusionsat.metadata import Metadata
from diffusionsat.metrics.checks import check_features
from diffusionsat.metrics.distributions import ROWS


class Told(Cases):
    """Cases that are told other metadata than what is true of them.

    Args:
        cases: The cases.
        metadata: What each is told; fewer than there are cases are those of the first.
    """

    def __init__(self, cases: Cases, metadata: Sequence[Metadata]) -> None:
        super().__init__(cases.sources, cases.picked[: len(metadata)], cases.size, cases.fit)
        self.metadata = tuple(metadata)

    @property
    def cases(self) -> list[Case]:
        """All of them."""
        return self._told(super().cases, 0)

    @property
    def digest(self) -> str:
        """SHA-256 of all that they say and show, and of what they are told."""
        return digest([super().digest, [known.to_dict() for known in self.metadata]])

    def part(self, rows: range) -> list[Case]:
        """Some of them."""
        return self._told(super().part(rows), rows.start)

    def _told(self, cases: Sequence[Case], first: int) -> list[Case]:
        return [replace(case, metadata=self.metadata[first + i]) for i, case in enumerate(cases)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arm:
    """One other way to ask.

    Args:
        request: How is sampled.
        asked: What is asked for.
        about: What lines of the report say of it; sweeps find their own arms by it.
    """

    request: EvaluateRequest
    asked: Cases
    about: Mapping[str, Any]


def moved(features: Tensor, before: Tensor) -> float:
    """How far images move, beside how far apart images of different cases are.

    Mean Euclidean distance of each image to the one of its case before, divided by that of the images before
    to the next case's. From 0 (nothing changes) over 1 (as much as from case to case), no unit; neither end
    is better by itself. Source: the project's definition.

    Args:
        features: Of the images, (N, D).
        before: Of those that they are compared with, (N, D), in the same order.
    """
    check_features(features, before)
    apart = _distance(before, before, -1)
    return _distance(features, before, 0) / apart if apart else 0.0


def _distance(features: Tensor, others: Tensor, after: int) -> float:
    """The sum of the distances of each row to the one that stands so many rows after it."""
    total = 0.0
    for rows in torch.arange(len(features)).split(ROWS):
        a, b = features[rows].double(), others[(rows + after) % len(others)].double()
        total += float((a - b).norm(dim=1).sum())
    return total


class Variation(Protocol):
    """What images are made for in other ways too; one file each."""

    def arms(self, request: EvaluateRequest, asked: Cases) -> Iterator[Arm]:
        """The other ways."""
        ...

    def measure(self, evidence: Evidence, made: Sequence[tuple[Arm, Seen]]) -> Section:
        """What the report says of them."""
        ...
