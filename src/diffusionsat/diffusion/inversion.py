"""From an image back to noise: the latents that reproduce it, and a start part of the way."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusionsat.diffusion.denoisers import Denoiser
from diffusionsat.diffusion.solvers import OnStep, Solver, euler
from diffusionsat.errors import ConfigError


def invert(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    solver: Solver = euler,
    on_step: OnStep | None = None,
) -> Tensor:
    """The noisy latents from which a solver reproduces clean ones, up to its own error.

    The equation that solvers integrate is run from the last noise level up to the first. Solvers end with
    x = D(x1, sigma1) where the last level is 0; its inverse is taken to first order, x1 = x + (x - D(x,
    sigma1)), as DDIM inversion does. Source: Song et al. 2020, section 4.3; Mokady et al. 2022, equation 3.

    Args:
        denoise: The denoiser, as it will be used to solve: without guidance, mostly.
        x: Latents at the last noise level, (B, C, h, w).
        sigmas: Noise levels, falling, as a schedule gives them.
        solver: One of `SOLVERS`; use the same to come back.
        on_step: As for solvers.

    Returns:
        Latents at the first noise level, x0 + sigma * noise, same shape.

    Raises:
        ConfigError: If there are not two noise levels at least.
        Cancelled: If ``on_step`` returned False.
    """
    levels = _levels(sigmas)[::-1]
    if levels[0] == 0:
        x, levels = x + (x - denoise(x, levels[1])), levels[1:]
    return solver(denoise, x, levels, on_step)


def start(
    x0: Tensor, noise: Tensor, sigmas: Sequence[float] | Tensor, strength: float
) -> tuple[Tensor, list[float]]:
    """Noisy latents to edit an image from, and the noise levels that are left (SDEdit: Meng et al. 2022).

    Args:
        x0: Latents of the image, (B, C, h, w).
        noise: Standard normal, same shape.
        sigmas: Noise levels, falling, as a schedule gives them.
        strength: Share of the steps that are done, above 0 and at most 1; at 1 nothing of the image is left
            but what shines through the schedule's first level.

    Returns:
        Latents x0 + sigma * noise and the levels from that sigma on.

    Raises:
        ConfigError: If the strength is out of range or there are not two noise levels at least.
    """
    levels = left(sigmas, strength)
    return x0 + levels[0] * noise, levels


def left(sigmas: Sequence[float] | Tensor, strength: float) -> list[float]:
    """The noise levels that are left when a share of the steps is done.

    Args:
        sigmas: Noise levels, falling, as a schedule gives them.
        strength: Share of the steps, above 0 and at most 1.

    Raises:
        ConfigError: If the strength is out of range or there are not two noise levels at least.
    """
    if not 0 < strength <= 1:
        raise ConfigError(f"strength is {strength!r}. Give a number above 0 and at most 1.")
    levels = _levels(sigmas)
    return levels[-max(1, round(strength * (len(levels) - 1))) - 1 :]


def _levels(sigmas: Sequence[float] | Tensor) -> list[float]:
    levels = sigmas.tolist() if isinstance(sigmas, torch.Tensor) else [float(sigma) for sigma in sigmas]
    if len(levels) < 2:
        raise ConfigError(f"There are {len(levels)} noise levels. Give two at least.")
    return levels
