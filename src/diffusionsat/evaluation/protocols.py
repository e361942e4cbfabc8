"""Protocols that come with the package: how published tables are made again, with their figures beside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from diffusionsat.config import read_named
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.section import Section


@dataclass(frozen=True, kw_only=True)
class Published:
    """A line of a published table.

    Args:
        method: As the publication calls it.
        figures: By name, in the publication's units.
    """

    method: str
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is asked of a model by one name; see `EvaluateRequest` for what is not said here.

    Args:
        title: What it makes again.
        prepare: Data set that `diffusionsat prepare` makes of the publisher's release.
        notes: What is to be known, where it departs from the publication first of all.
        published: The publication's figures.
    """

    title: str
    prepare: str
    task: str
    split: str = "test"
    n: int | None = None
    size: int
    fit: str = "whole"
    steps: int | None = None
    solver: str | None = None
    guidance: float | None = None
    samples: int = 1
    factor: int = 4
    consistency: str = "soft"
    dates: tuple[int, ...] = (1, 2, 4, 8)
    direction: str = "any"
    given: str | None = None
    references: int = 0
    notes: Sequence[str] = ()
    published: Sequence[Published] = ()

    def options(self) -> dict[str, Any]:
        """What it says of the fields of an `EvaluateRequest`."""
        known = {field.name for field in fields(EvaluateRequest)}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in known}

    def beside(self) -> Section:
        """The publication's figures as a part of a report."""
        lines = [{"method": line.method, **line.figures} for line in self.published]
        notes = [self.title, *self.notes]
        return Section({f"published: {self.title}": lines} if lines else {}, notes=notes)


def shipped() -> dict[str, Path]:
    """The protocols that come with the package, by name."""
    folder = Path(str(resources.files("diffusionsat"))) / "configs" / "evaluation"
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def read_protocol(name_or_path: str) -> Protocol:
    """The protocol of a shipped name or of a TOML or YAML file.

    Raises:
        ConfigError: If there is no such protocol, or it is wrong.
    """
    return read_named(Protocol, name_or_path, shipped())
