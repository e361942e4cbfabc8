"""What a denoiser is asked for at a noise level, and how much that level counts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffusionsat.diffusion.schedules import Discrete
from diffusionsat.training import recipe

_SMALLEST_AREA = 256  # latents of 16x16; larger ones get noisier times


@dataclass(frozen=True, slots=True)
class Noised:
    """Noisy latents with what the network is to make of them.

    Args:
        latents: As the network sees them, (B, C, h, w).
        target: What it should predict, same shape.
        time: The time by which it knows the noise level, (B,).
        weight: Factor of each image's squared error, (B,).
    """

    latents: Tensor
    target: Tensor
    time: Tensor
    weight: Tensor


Objective = Callable[[Tensor, Tensor, Tensor], Noised]  # clean latents, noise, uniform numbers in (0, 1)


def make_objective(options: recipe.Objective, *, timesteps: bool) -> Objective:
    """The objective of a recipe.

    Args:
        options: Prediction and weighting.
        timesteps: Whether the network knows noise levels as 0, 1, ..., 999, as the published family does, or
            as times from 0 to 1.
    """
    if options.regression:
        return _regression
    if options.prediction == "flow":
        return partial(_flow, options.shift)
    schedule = Discrete.scaled_linear()
    sigmas = schedule.sigmas
    weights = min_snr(sigmas**-2, options.prediction, options.weighting, options.gamma).float()
    times = torch.arange(len(sigmas)) if timesteps else (sigmas / (1 + sigmas)).float()
    alphas = (1 + sigmas**2).rsqrt().float()
    noises = (sigmas * (1 + sigmas**2).rsqrt()).float()

    def noised(latents: Tensor, noise: Tensor, level: Tensor) -> Noised:
        t = (level.cpu() * len(sigmas)).long().clamp(max=len(sigmas) - 1)

        def at(table: Tensor) -> Tensor:
            return table[t].to(latents.device)

        a, s = (at(table)[:, None, None, None] for table in (alphas, noises))
        target = noise if options.prediction == "epsilon" else a * noise - s * latents
        return Noised(a * latents + s * noise, target, at(times), at(weights))

    return noised


def _flow(noisier: float, latents: Tensor, noise: Tensor, level: Tensor) -> Noised:
    """Velocity, noise - clean, at logit-normal times; larger latents get noisier times.

    Source: Lipman et al. 2022; Esser et al. 2024 (SD3), section 3.1 and equation 23, relative to 16x16.
    """
    shift = noisier * max(1.0, (latents.shape[2] * latents.shape[3] / _SMALLEST_AREA) ** 0.5)
    t = torch.special.ndtri(level.double()).sigmoid()
    t = (shift * t / (1 + (shift - 1) * t)).float()
    mixed = torch.lerp(latents, noise, t[:, None, None, None])
    return Noised(mixed, noise - latents, t, torch.ones_like(t))


def _regression(latents: Tensor, noise: Tensor, level: Tensor) -> Noised:
    """Velocity at time 1, from which one step of Euler gives the mean of what the latents can be."""
    return Noised(noise, noise - latents, torch.ones_like(level), torch.ones_like(level))


def min_snr(snr: Tensor, prediction: str, weighting: str, gamma: float) -> Tensor:
    """Weight of the squared error at each signal-to-noise ratio.

    Source: Hang et al. 2023, section 3.4: min(snr, gamma) / snr for epsilon, / (snr + 1) for v. The published
    training uses the first for v too.

    Args:
        snr: alpha^2 / sigma^2, any shape.
        prediction: ``"epsilon"`` or ``"v"``.
        weighting: ``"none"``, ``"min-snr"`` or ``"published"``.
        gamma: Above it a ratio counts as this.
    """
    if weighting == "none":
        return torch.ones_like(snr)
    rightly_v = prediction == "v" and weighting == "min-snr"
    return snr.clamp(max=gamma) / (snr + 1 if rightly_v else snr)
