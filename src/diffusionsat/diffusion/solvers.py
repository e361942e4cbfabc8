"""Solvers: pure functions from a denoiser, noisy latents and falling noise levels to clean latents.

Each integrates dx/dsigma = (x - D(x, sigma)) / sigma (Karras et al. 2022, equation 1 with data of scale 1)
from the first noise level to the last. ``on_step`` is called after every step and stops the solver by
returning False.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from torch import Tensor

from diffusionsat.diffusion.denoisers import Denoiser


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """What a solver tells after a step.

    Args:
        step: Steps done, from 1.
        steps: Steps in all.
        sigma: Noise level reached.
        latents: Latents at that level, x0 + sigma * noise, (B, C, h, w).
        x0: The denoiser's last estimate of the clean latents, (B, C, h, w).
    """

    step: int
    steps: int
    sigma: float
    latents: Tensor
    x0: Tensor


OnStep = Callable[[StepInfo], bool | None]
Solver = Callable[[Denoiser, Tensor, Sequence[float], OnStep | None], Tensor]


class Cancelled(Exception):  # noqa: N818, it is no error
    """Raised out of a solver whose ``on_step`` returned False."""


def euler(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None) -> Tensor:
    """Euler's method, which is DDIM with eta 0 (Song et al. 2020)."""
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        x0 = denoise(x, sigma)
        x = x0 + (following / sigma) * (x - x0)
        _tell(on_step, i, sigmas, x, x0)
    return x


def heun(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None) -> Tensor:
    """Heun's method, two evaluations a step but one in the last (Karras et al. 2022, Alg. 1)."""
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        x0 = denoise(x, sigma)
        slope = (x - x0) / sigma
        ahead = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (ahead - denoise(ahead, following)) / following) / 2
            ahead = x + (following - sigma) * slope
        x = ahead
        _tell(on_step, i, sigmas, x, x0)
    return x


def midpoint(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None) -> Tensor:
    """The midpoint rule in flow-matching time, two evaluations a step.

    With y = x / (1 + sigma) and t = sigma / (1 + sigma) the equation is dy/dt = (y - x0) / t, whose solutions
    are the straight paths that flow matching learns; the rule is second order in t.
    """
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        t, end = sigma / (1 + sigma), following / (1 + following)
        y = x / (1 + sigma)
        x0 = denoise(x, sigma)
        half = (t + end) / 2
        y_half = y + (half - t) * (y - x0) / t
        x0 = denoise(y_half / (1 - half), half / (1 - half))
        y = y + (end - t) * (y_half - x0) / half
        x = y / (1 - end)
        _tell(on_step, i, sigmas, x, x0)
    return x


def dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None) -> Tensor:
    """DPM-Solver++(2M): second order with one evaluation a step (Lu et al. 2022, Alg. 2, data of scale 1).

    The first step, and the last if it goes to 0, are Euler's.
    """
    previous: Tensor | None = None
    for i, (sigma, _) in enumerate(_pairs(sigmas)):
        x0 = denoise(x, sigma)
        x = dpmpp_2m_step(x, x0, previous, sigmas, i)
        previous = x0
        _tell(on_step, i, sigmas, x, x0)
    return x


def dpmpp_2m_step(
    x: Tensor, x0: Tensor, previous: Tensor | None, sigmas: Sequence[float], step: int
) -> Tensor:
    """One step of `dpmpp_2m`, counted from 0.

    Args:
        x: Latents before it.
        x0: The estimate there.
        previous: That of the step before; None in the first.
        sigmas: All noise levels.
        step: Which step.
    """
    sigma, following = float(sigmas[step]), float(sigmas[step + 1])
    if following == 0:
        return x0
    estimate = x0
    if previous is not None:
        h, previous_h = (
            log(sigma / following),
            log(float(sigmas[step - 1]) / sigma),
        )  # in lambda = -log(sigma)
        estimate = x0 + (x0 - previous) * (h / (2 * previous_h))
    return (following / sigma) * x + (1 - following / sigma) * estimate


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun, "midpoint": midpoint, "dpmpp-2m": dpmpp_2m}


def _pairs(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    levels = [float(s) for s in sigmas]
    return list(pairwise(levels))


def _tell(on_step: OnStep | None, i: int, sigmas: Sequence[float], x: Tensor, x0: Tensor) -> None:
    if on_step is None:
        return
    info = StepInfo(step=i + 1, steps=len(sigmas) - 1, sigma=float(sigmas[i + 1]), latents=x, x0=x0)
    if on_step(info) is False:
        raise Cancelled(f"stopped after step {i + 1} of {len(sigmas) - 1}")
