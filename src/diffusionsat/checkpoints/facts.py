"""What is known of a checkpoint's weights and is no part of them: ``facts.json`` beside them.

learnt        what each network has learnt from
guidance      strength of guidance by the frames that each ControlNet does best with; 1 where none is said
model_hash    of the weights that were calibrated; with others there is no calibration
calibrations  see `Calibration`
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from diffusionsat.config import parse
from diffusionsat.errors import CheckpointError, ConfigError
from diffusionsat.files import write_bytes

FACTS = "facts.json"


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """Ranges, ends included, of what a network has learnt from; None is not known.

    Args:
        network: Name of a ControlNet; ``denoiser`` where none steers.
        gsd: Metres per pixel of the images.
        side: The smallest image, pixels.
        frames: How many frames were given.
        factor: How many times coarser these were.
    """

    network: str
    gsd: tuple[float, float] | None = None
    side: int | None = None
    frames: tuple[int, int] | None = None
    factor: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How the spread of samples becomes the size of their mean's error, and an interval.

    The error's standard deviation is ``scale`` times the samples'. The interval is their mean plus and minus
    ``quantile`` times the sum of their standard deviation and ``floor``, which a pixel of a place as likely
    as the calibrated ones lies in with a probability of ``level`` or more.

    Args:
        conditions: What provenance says of the jobs that it holds for, by key.
        samples: How many were made; more samples are surer.
        scale: Of the standard deviation.
        quantile: Of the scores, see `diffusionsat.metrics.uncertainty.conformal_quantile`.
        floor: Of light, added to the standard deviation.
        level: Of the interval.
        places: How many were calibrated on.
        data: SHA-256 of the cases.
    """

    conditions: dict[str, Any]
    samples: int
    scale: float
    quantile: float
    floor: float
    level: float
    places: int
    data: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """See the module."""

    learnt: tuple[Learnt, ...] = ()
    guidance: dict[str, float] = field(default_factory=dict)
    model_hash: str = ""
    calibrations: tuple[Calibration, ...] = ()

    def of(self, control: str | None) -> Learnt:
        """What a ControlNet, or the denoiser alone, has learnt from."""
        network = control or "denoiser"
        return next((one for one in self.learnt if one.network == network), Learnt(network=network))

    def calibration(self, model_hash: str, job: Mapping[str, Any]) -> Calibration | None:
        """That of a job with the most samples that are not more than the job's; None if there is none.

        Args:
            model_hash: Of the job's weights.
            job: Its provenance.
        """
        fitting = [
            one
            for one in self.calibrations
            if model_hash == self.model_hash
            and one.samples <= job["samples"]
            and all(job.get(key) == value for key, value in one.conditions.items())
        ]
        return max(fitting, key=lambda one: one.samples, default=None)


def read_facts(folder: Path) -> Facts:
    """The facts of a checkpoint; none if it has no such file.

    Raises:
        CheckpointError: If the file is damaged.
    """
    file = folder / FACTS
    if not file.is_file():
        return Facts()
    try:
        return parse(Facts, json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None


def add_calibrations(folder: Path, model_hash: str, several: tuple[Calibration, ...]) -> None:
    """Add calibrations to a checkpoint, in place of those of the same jobs or of other weights.

    Raises:
        CheckpointError: If its facts are damaged.
    """
    facts = read_facts(folder)
    new = [(one.conditions, one.samples) for one in several]
    old = facts.calibrations if facts.model_hash == model_hash else ()
    kept = tuple(one for one in old if (one.conditions, one.samples) not in new)
    _write(folder, replace(facts, model_hash=model_hash, calibrations=kept + several))


def forget(folder: Path, network: str) -> None:
    """Drop what a checkpoint knows of a network whose weights become others.

    Raises:
        CheckpointError: If its facts are damaged.
    """
    facts = read_facts(folder)
    kept = replace(
        facts,
        learnt=tuple(one for one in facts.learnt if one.network != network),
        guidance={name: strength for name, strength in facts.guidance.items() if name != network},
    )
    if kept != facts:
        _write(folder, kept)


def _write(folder: Path, facts: Facts) -> None:
    write_bytes(folder / FACTS, (json.dumps(asdict(facts), indent=1) + "\n").encode(), overwrite=True)
