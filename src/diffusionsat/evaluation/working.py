"""The work of an evaluation, in units that are kept: images that are made, or read, looked at and scored."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diffusionsat.evaluation import solving
from diffusionsat.evaluation.cases import Cases
from diffusionsat.evaluation.elsewhere import Reading
from diffusionsat.evaluation.evidence import LOOK, Evidence, Look, RealUnits, Seen, network_of
from diffusionsat.evaluation.paired import UNIT, Paired
from diffusionsat.evaluation.protocol import EDIT, EvaluateRequest
from diffusionsat.evaluation.section import Section
from diffusionsat.evaluation.trials import Given
from diffusionsat.evaluation.units import Arrays, Kept, OnUnit, complete
from diffusionsat.execution import Execute
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.sampling import Settings


class Task(Protocol):
    """A task as an evaluation needs it; one file each."""

    def asks(self, cases: Cases, request: EvaluateRequest) -> Cases:
        """What is asked for, of the cases that were chosen."""
        ...

    def conditions(self, request: EvaluateRequest) -> dict[str, Any]:
        """What the protocol says of the task."""
        ...

    def settings(self, sat: DiffusionSat, request: EvaluateRequest, size: int) -> Any:
        """How every image is sampled, a `Settings`; refuses options that are not possible."""
        ...

    def unit(self, settings: Any) -> int:
        """Images that are made at once."""
        ...

    def make(self, sat: DiffusionSat, request: EvaluateRequest, asked: Cases, rows: range) -> Arrays:
        """``pixels`` of some cases, uint8 (N, H, W, 3)."""
        ...

    def sections(self, evidence: Evidence) -> list[Section]:
        """What the report says."""
        ...


@functools.lru_cache(1)
def load_model(name: str, device: str, precision: str) -> DiffusionSat:
    """The model, loaded once in each process."""
    return DiffusionSat.from_pretrained(name, device=device, precision=precision)


def model_of(request: EvaluateRequest) -> DiffusionSat:
    """The model of a request, its schedule in place."""
    sat = load_model(str(request.model), request.device, request.precision)
    return solving.scheduled(sat, request.schedule)


def made_by(sat: DiffusionSat) -> dict[str, str]:
    """What a report says of a model."""
    return {
        "model": f"{sat.config.name}@{sat.config.version}",
        "model_hash": sat.checkpoint,
        "licence": sat.config.licence,
        "precision": sat.precision,
        "device": sat.device.type,
    }


@dataclass(frozen=True, slots=True)
class _Making:
    """The images of a unit, made by the model."""

    task: Any
    request: EvaluateRequest
    asked: Cases
    unit: int

    def __call__(self, unit: int) -> Arrays:
        request = self.request
        rows = range(unit * self.unit, min((unit + 1) * self.unit, len(self.asked)))
        return self.task.make(model_of(request), request, self.asked, rows)


@dataclass(frozen=True, slots=True)
class Scoring:
    """Scores of a unit's images against the true ones."""

    task: Paired
    request: EvaluateRequest
    asked: Given
    made: Kept
    networks: tuple[str, ...]

    def __call__(self, unit: int) -> Arrays:
        """See `Paired.score`."""
        rows = range(unit * UNIT, min((unit + 1) * UNIT, len(self.asked)))
        names = ["pixels"] if self.request.images is not None else ["pixels", "samples"]
        made = {name: self.made.part(unit, name) for name in names}
        networks = [network_of(name) for name in self.networks]
        return self.task.score(self.request, self.asked, rows, made, networks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Where and how units are done."""

    folder: Path
    execute: Execute
    on_unit: OnUnit | None

    def complete(self, name: str, identity: Any, count: int, compute: Callable[[int], Arrays]) -> Kept:
        """See `units.complete`."""
        return complete(
            self.folder / name, identity, count, compute, execute=self.execute, on_unit=self.on_unit
        )

    def look(
        self, name: str, identity: Any, total: int, size: int, pixels: Callable, networks: Sequence[str]
    ) -> Seen:
        """What networks see of images, and these."""
        said = [identity, [network_of(network).digest for network in networks], size]
        kept = self.complete(name, said, -(-total // size), Look(pixels, tuple(networks)))
        return Seen(kept, pixels, size)

    def look_at(self, name: str, cases: Cases, networks: Sequence[str]) -> Seen:
        """`look`, at the real images of some cases."""
        return self.look(name, cases.digest, len(cases), LOOK, RealUnits(cases), networks)

    def images(
        self,
        request: EvaluateRequest,
        task: Task | Paired,
        settings: Settings | None,
        asked: Cases,
        files: tuple[Path, ...],
        unit: int,
        folder: str = "images",
    ) -> tuple[Kept, dict[str, Any]]:
        """The images that are judged, so many a unit, and what made them."""
        if settings is None:
            stats = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
            identity = [stats, asked.size, asked.fit]
            reading = Reading(files, asked.size, asked.fit, unit)
            read = self.complete(folder, identity, -(-len(files) // unit), reading)
            return read, {"images": str(request.images)}
        sat = model_of(request)
        maker = made_by(sat) | ({"control": request.control} if isinstance(task, Paired) else {})
        given = [request.factor, request.samples, request.consistency, request.schedule]
        given += [request.given] if request.given else []
        given += [request.strength] if request.task == EDIT else []
        identity = [maker, request.task, asked.digest, asked.size, asked.fit, repr(settings), given]
        making = _Making(task, request, asked, unit)
        return self.complete(folder, identity, -(-len(asked) // unit), making), maker
