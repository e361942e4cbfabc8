"""What all jobs that sample are told in the same words."""

import datetime
import logging
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from diffusionsat.diffusion.guidance import Guidance
from diffusionsat.diffusion.solvers import SOLVERS
from diffusionsat.errors import ConfigError
from diffusionsat.model import DiffusionSat
from diffusionsat.noise_keys import check_seed

log = logging.getLogger(__name__)

MOST_STEPS, MOST_SAMPLES = 1000, 64
UNGUIDED = 1.0  # strength where images steer


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRequest:
    """How to sample; what is None is the model's default.

    Args:
        prompt: What is to be seen; may be empty.
        negative: What is not to be seen.
        seed: 0 to 2**63 - 1.
        steps: Steps of the solver.
        solver: Name of the solver.
        guidance: Strength, or strengths.
        strict: Refuse a prompt that is too long instead of cutting it with a warning.
    """

    prompt: str = ""
    negative: str = ""
    seed: int = 0
    steps: int | None = None
    solver: str | None = None
    guidance: float | Guidance | None = None
    strict: bool = False

    def settings(self, sat: DiffusionSat, strength: float | None = None) -> "Settings":
        """The request with the model's defaults filled in, checked.

        Args:
            sat: The model.
            strength: Of guidance, where nothing is asked for; None is the model's.

        Raises:
            ConfigError: If a value is not possible; the message names what is.
        """
        defaults, guidance = sat.config.defaults, self.guidance
        if not isinstance(guidance, Guidance):
            guidance = guidance_of(sat, guidance, strength=strength)
        for name, text in (("prompt", self.prompt), ("negative", self.negative)):
            _check_text(name, text, sat, self.strict)
        if self.negative and all(given.text for given in guidance.terms()):
            log.warning("the negative prompt does nothing where guidance is 1")
        return Settings(
            prompt=self.prompt,
            negative=self.negative,
            seed=check_seed(self.seed),
            steps=check_count("steps", defaults.steps if self.steps is None else self.steps, MOST_STEPS),
            solver=_check_solver(defaults.solver if self.solver is None else self.solver),
            guidance=guidance,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A `SamplingRequest` in which nothing is left open."""

    prompt: str
    negative: str
    seed: int
    steps: int
    solver: str
    guidance: Guidance


def guidance_of(
    sat: DiffusionSat,
    text: float | None,
    metadata: float | None = None,
    frames: float | None = None,
    *,
    strength: float | None = None,
) -> Guidance:
    """Strengths that were asked for, with the rest as the model has it.

    Args:
        sat: The model.
        text: Strength of the prompt; None is ``strength``.
        metadata: Strength of the metadata; None is the prompt's.
        frames: Strength of the frames; None is that of `guidance_by`.
        strength: Where no strength of the prompt is asked for; None is the model's.

    Raises:
        ConfigError: If a strength is out of range.
    """
    defaults = sat.config.defaults
    if text is None:
        text = defaults.guidance if strength is None else strength
    return Guidance(
        text=text, metadata=metadata, frames=frames, interval=defaults.interval, rescale=defaults.rescale
    )


def guidance_by(sat: DiffusionSat, guidance: Guidance, control: str | None) -> Guidance:
    """Strengths with that of the frames which a ControlNet does best with, where none was asked for."""
    if control is None or guidance.frames is not None:
        return guidance
    return replace(guidance, frames=sat.facts.guidance.get(control))


def provenance(sat: DiffusionSat, settings: Settings, task: str, **more: Any) -> dict[str, Any]:
    """How an image is made, as JSON can hold it; all but ``created`` is the same each time."""
    return {
        "task": task,
        "model": f"{sat.config.name}@{sat.config.version}",
        "model_hash": sat.checkpoint,
        "licence": sat.config.licence,
        "prompt": settings.prompt,
        "negative": settings.negative,
        "seed": settings.seed,
        "steps": settings.steps,
        "solver": settings.solver,
        "guidance": settings.guidance.to_dict(),
        **more,
        "precision": sat.precision,
        "device": sat.device.type,
        "software": f"diffusionsat {version('diffusionsat')}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def check_count(name: str, value: int, most: int) -> int:
    """The number, if it is whole and from 1 to ``most``.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{name} is {value!r}. Give a whole number from 1 to {most}.")
    return value


def _check_solver(name: str) -> str:
    if name not in [*SOLVERS]:  # also of what has no hash
        raise ConfigError(f"solver is {name!r}. Known are: {', '.join(SOLVERS)}.")
    return name


def _check_text(name: str, text: str, sat: DiffusionSat, strict: bool) -> None:
    if not isinstance(text, str):
        raise ConfigError(f"{name} is {text!r}. Give text; it may be empty.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name} is {text!r}, which is no valid Unicode. Give UTF-8 text.") from None
    lost = sat.networks.lost(text)
    if lost is not None:
        most = sat.config.max_tokens
        message = f"the {name} is longer than the model's {most} tokens; it is cut before {lost!r}"
        if strict:
            raise ConfigError(f"{message}, which --strict refuses. Shorten it.")
        log.warning("%s", message)
