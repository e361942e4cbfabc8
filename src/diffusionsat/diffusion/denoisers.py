"""Networks as denoisers: epsilon, v, x0 and flow prediction behind one function of (x, sigma).

With x = x0 + sigma * noise, a network of a variance-preserving schedule sees x / sqrt(1 + sigma^2) and one
trained by flow matching sees x / (1 + sigma), which is (1 - t) * x0 + t * noise at t = sigma / (1 + sigma).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusionsat.errors import ConfigError

Denoiser = Callable[[Tensor, float], Tensor]
Network = Callable[[Tensor, Tensor], Tensor]  # scaled latents (B, C, h, w), time (B,) -> prediction


def x0_of_epsilon(x: Tensor, prediction: Tensor, sigma: float) -> Tensor:
    """x0 of a prediction of the noise (Ho et al. 2020)."""
    return x - sigma * prediction


def x0_of_v(x: Tensor, prediction: Tensor, sigma: float) -> Tensor:
    """x0 of v = alpha * noise - sqrt(1 - alpha^2) * x0 (Salimans & Ho 2022); 1 / alpha^2 = 1 + sigma^2."""
    return x / (1 + sigma**2) - prediction * sigma / (1 + sigma**2) ** 0.5


def x0_of_x0(x: Tensor, prediction: Tensor, sigma: float) -> Tensor:
    """The prediction itself."""
    return prediction


def x0_of_flow(x: Tensor, prediction: Tensor, sigma: float) -> Tensor:
    """x0 of the velocity noise - x0 (Lipman et al. 2022)."""
    return (x - sigma * prediction) / (1 + sigma)


def input_scale(prediction: str, sigma: float) -> float:
    """What x0 + sigma * noise is divided by to become what the network sees."""
    return 1 + sigma if prediction == "flow" else (1 + sigma**2) ** 0.5


PREDICTIONS = {"epsilon": x0_of_epsilon, "v": x0_of_v, "x0": x0_of_x0, "flow": x0_of_flow}


def denoiser(network: Network, prediction: str, time: Callable[[float], float]) -> Denoiser:
    """A network as a denoiser.

    Args:
        network: Function of scaled latents (B, C, h, w) and time (B,).
        prediction: What it predicts, one of `PREDICTIONS`.
        time: The time that the network knows a noise level by.

    Raises:
        ConfigError: If the prediction is none of these.
    """
    if prediction not in PREDICTIONS:
        raise ConfigError(f"prediction is {prediction!r}. Known are: {', '.join(PREDICTIONS)}.")
    x0 = PREDICTIONS[prediction]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        t = torch.full((len(x),), time(sigma), device=x.device)
        return x0(x, network(x / input_scale(prediction, sigma), t).to(x.dtype), sigma)

    return denoise
