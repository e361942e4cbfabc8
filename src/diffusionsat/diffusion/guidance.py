"""Guidance: how strongly text, metadata and frames steer, each by itself."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusionsat.diffusion.denoisers import Denoiser
from diffusionsat.errors import ConfigError


class Told(NamedTuple):
    """What an estimate is told; of the rest it knows nothing."""

    text: bool
    metadata: bool
    frames: bool = True


EVERYTHING = Told(True, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """Strengths of guidance; 1 is the model as trained, more obeys more.

    Args:
        text: Strength of the prompt.
        metadata: Strength of the metadata; None is the text's.
        frames: Strength of the images that a ControlNet sees; None is what is known to be best for that one,
            1 where that is not known.
        interval: Noise levels (lowest, highest) between which guidance acts; outside it is 1, which saves
            evaluations. None is everywhere. Source: Kynkäänniemi et al. 2024.
        rescale: From 0 to 1, how far the guided estimate is brought back to the spread of the unguided one.
            Source: Lin et al. 2023, equations 15 and 16.

    Raises:
        ConfigError: If a value is out of range.
    """

    text: float = 1.0
    metadata: float | None = None
    frames: float | None = None
    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        for name in ("text", "metadata", "frames"):
            value = getattr(self, name)
            if (value is not None or name == "text") and not _within(value, 0, 100):
                raise ConfigError(
                    f"guidance of the {name} is {value!r}. Give a number from 0 to 100; 1 is none."
                )
        if self.interval is not None and not _ordered(self.interval):
            raise ConfigError(
                f"guidance interval is {self.interval!r}. Give (lowest, highest) noise level, from 0."
            )
        if not _within(self.rescale, 0, 1):
            raise ConfigError(f"guidance rescale is {self.rescale!r}. Give a number from 0 to 1.")

    @property
    def strengths(self) -> tuple[float, float]:
        """Strength of text and of metadata."""
        return self.text, self.text if self.metadata is None else self.metadata

    def to_dict(self) -> dict[str, Any]:
        """The strengths as JSON can hold them; that of frames where it is not 1, since few jobs have some."""
        said = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if said["frames"] in (None, 1):
            del said["frames"]
        return said

    def terms(self) -> dict[Told, float]:
        """Weights of the estimates D(text, metadata, frames) given; they sum to 1, none of them is 0.

        estimate = D(-,-,f) + metadata * (D(-,m,f) - D(-,-,f)) + text * (D(t,m,f) - D(-,m,f))
            + (frames - 1) * (D(t,m,f) - D(t,m,-))
        """
        text, metadata = self.strengths
        beyond = 0 if self.frames is None else self.frames - 1
        weights = {
            Told(False, False): 1 - metadata,
            Told(False, True): metadata - text,
            Told(True, True, False): -beyond,
            EVERYTHING: text + beyond,
        }
        return {given: weight for given, weight in weights.items() if weight != 0}


def _within(value: Any, low: float, high: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high


def _ordered(interval: Any) -> bool:
    if not isinstance(interval, tuple | list) or len(interval) != 2:
        return False
    low, high = interval
    return _within(low, 0, math.inf) and _within(high, low, math.inf) and math.isfinite(high)


def guided(conditioned: Callable[[Tensor, float, list[Told]], list[Tensor]], guidance: Guidance) -> Denoiser:
    """A denoiser that mixes estimates with and without text, metadata and frames.

    Source: Ho & Salimans 2022; the separate strengths as Brooks et al. 2023 (InstructPix2Pix), equation 3.

    Args:
        conditioned: Function of x, sigma and a list of what is given to as many estimates; it may compute
            them as one batch.
        guidance: The strengths.
    """
    terms = guidance.terms()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        low, high = guidance.interval or (0.0, math.inf)
        if terms.keys() == {EVERYTHING} or not low <= sigma <= high:
            return conditioned(x, sigma, [EVERYTHING])[0]
        given = list(terms)
        estimates = conditioned(x, sigma, given)
        mixed = torch.stack([terms[g] * e for g, e in zip(given, estimates, strict=True)]).sum(0)
        if guidance.rescale and EVERYTHING in terms:
            plain = estimates[given.index(EVERYTHING)]
            ratio = plain.std((1, 2, 3), keepdim=True) / mixed.std((1, 2, 3), keepdim=True).clamp_min(1e-8)
            mixed = mixed * (1 + guidance.rescale * (ratio - 1))
        return mixed

    return denoise
