"""Noise levels to visit, and the times by which networks know them.

A schedule gives ``steps + 1`` noise levels, falling, the last one 0 where nothing else is said. Noise levels
are for data of scale 1.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from diffusionsat.errors import ConfigError

_START = 0.999  # flow-matching time of what counts as noise alone


class Schedule(Protocol):
    """Of a model: which noise levels it is asked at, and by what time it knows each."""

    def time(self, sigma: float) -> float:
        """The network's time of a noise level."""
        ...

    def levels(self, steps: int, size: tuple[int, int]) -> Tensor:
        """Noise levels of an image of (width, height) pixels, float64 (steps + 1,)."""
        ...


def flow_time(sigma: float) -> float:
    """Time t = sigma / (1 + sigma) of flow matching, 0 (clean) to 1 (noise)."""
    return sigma / (1 + sigma)


def flow(steps: int, shift: float = 1.0, start: float = _START) -> Tensor:
    """Noise levels evenly spaced in flow-matching time, then moved towards noise by a shift.

    Source: Esser et al. 2024 (SD3), equation 23.

    Args:
        steps: Steps of the solver, at least 1.
        shift: More than 1 spends more steps on noise, as larger images want.
        start: Time of the first level; at 1 the noise level would be infinite.
    """
    t = torch.linspace(start, 0, steps + 1, dtype=torch.float64)
    t = shift * t / (1 + (shift - 1) * t)
    return t / (1 - t)


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Noise levels evenly spaced in sigma^(1 / rho). Source: Karras et al. 2022 (EDM), equation 5."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, ramp.new_zeros(1)])


class Flow:
    """Flow-matching time; larger images start their decisions in more noise, as in training.

    Args:
        shift: Of `flow`, for images of 64 by 64 pixels and smaller; it grows with the side.
        latest: Time that the first level may not exceed, where a network has learned of none that is later.
    """

    def __init__(self, shift: float = 1.0, latest: float = 1.0) -> None:
        self.shift, self.latest = shift, latest

    @classmethod
    def of(cls, prediction: str, shift: float) -> "Flow":
        """Of a network of flow; or of v or epsilon, which are learned at Stable Diffusion's levels."""
        sigma = math.inf if prediction == "flow" else float(Discrete.scaled_linear().sigmas[-1])
        return cls(shift, 1 / (1 + 1 / sigma))

    def time(self, sigma: float) -> float:
        """See `flow_time`."""
        return flow_time(sigma)

    def levels(self, steps: int, size: tuple[int, int]) -> Tensor:
        """See `flow`."""
        width, height = size
        shift = self.shift * max(1.0, (width * height) ** 0.5 / 64)
        start = self.latest / (shift - (shift - 1) * self.latest)  # which the shift moves to the latest
        return flow(steps, shift, min(start, _START))


class Discrete:
    """A variance-preserving schedule of betas, with timesteps 0, 1, 2, ... as networks of diffusers know it.

    Args:
        betas: Variance added at each timestep, (N,).
        spacing: Which of `SPACINGS` `levels` takes.
        offset: Timestep of the last evaluation in leading spacing.

    Raises:
        ConfigError: If the spacing is none of these.
    """

    SPACINGS = ("leading", "trailing")

    def __init__(self, betas: Tensor, spacing: str = "leading", offset: int = 1) -> None:
        if spacing not in self.SPACINGS:
            raise ConfigError(f"timestep spacing is {spacing!r}. Known are: {', '.join(self.SPACINGS)}.")
        alphas = torch.cumprod(1 - betas.double(), 0)
        self.sigmas = ((1 - alphas) / alphas).sqrt()
        self.spacing, self.offset = spacing, offset

    @classmethod
    def scaled_linear(
        cls,
        first: float = 0.00085,
        last: float = 0.012,
        timesteps: int = 1000,
        spacing: str = "leading",
    ) -> "Discrete":
        """Betas linear in their square root, Stable Diffusion's schedule (Rombach et al. 2022)."""
        return cls(torch.linspace(first**0.5, last**0.5, timesteps, dtype=torch.float64) ** 2, spacing)

    def levels(self, steps: int, size: tuple[int, int]) -> Tensor:
        """Noise levels in the schedule's spacing, whatever the size.

        Raises:
            ConfigError: If there are more steps than timesteps.
        """
        if steps >= len(self.sigmas):
            raise ConfigError(
                f"steps is {steps}; this model's schedule allows at most {len(self.sigmas) - 1}."
            )
        return self.leading(steps, self.offset) if self.spacing == "leading" else self.trailing(steps)

    def time(self, sigma: float) -> float:
        """The timestep of a noise level, with fraction, by interpolation in log sigma."""
        logs = self.sigmas.log()
        target = math.log(max(sigma, 1e-30))
        above = int(torch.searchsorted(logs, target).clamp(1, len(logs) - 1))
        low, high = float(logs[above - 1]), float(logs[above])
        return min(max(above - 1 + (target - low) / (high - low), 0.0), len(logs) - 1.0)

    def leading(self, steps: int, offset: int = 1) -> Tensor:
        """Noise levels at timesteps evenly spaced from the clean end: DDIM's order in Stable Diffusion.

        As released, the last step ends at the noise level of timestep 0, not at none (``set_alpha_to_one``
        false); it is followed by no further evaluation, so the level 0 is not appended.
        """
        ratio = len(self.sigmas) // steps
        timesteps = torch.arange(steps).flip(0) * ratio + offset
        return torch.cat([self.sigmas[timesteps], self.sigmas[:1]])

    def trailing(self, steps: int) -> Tensor:
        """Noise levels at timesteps evenly spaced from the noisy end (Lin et al. 2023, table 2), then 0."""
        timesteps = (torch.arange(len(self.sigmas), 0, -len(self.sigmas) / steps).round() - 1).long()[:steps]
        return torch.cat([self.sigmas[timesteps], self.sigmas.new_zeros(1)])
