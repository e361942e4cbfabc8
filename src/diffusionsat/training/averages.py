"""Running averages of weights: the published one, and power functions that can be chosen after training."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

Decay = Callable[[int], float]  # of the n-th optimiser step, counted from 1


def trained_weights(network: nn.Module) -> dict[str, Tensor]:
    """The network's state but for its frozen parameters."""
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in frozen}


class Average:
    """Weights averaged over the training so far.

    Args:
        network: Whose weights.
        decay: How much of the average is kept at a step.
    """

    def __init__(self, network: nn.Module, decay: Decay) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in trained_weights(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step ``step``, counted from 1."""
        share = 1 - self.decay(step)
        for name, value in trained_weights(network).items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, share)
            else:
                self.weights[name].copy_(value)

    @contextlib.contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """The network with the averaged weights, in evaluation mode, for as long as the context lasts."""
        live = {name: value.clone() for name, value in trained_weights(network).items()}
        network.load_state_dict(self.weights, strict=False)
        network.eval()
        try:
            yield
        finally:
            network.load_state_dict(live, strict=False)
            network.train()


def published(highest: float) -> Decay:
    """The decay of the published training, which rises to ``highest`` (diffusers' EMA without a power)."""
    return lambda step: 0.0 if step <= 1 else min(step / (9 + step), highest)


def power(width: float) -> Decay:
    """The decay of an average whose memory is a share of the training so far.

    Source: Karras et al. 2024 (EDM2), equation 127.

    Args:
        width: Standard deviation of the average's memory relative to the training's length, 0 to 0.28.
    """
    exponent = power_exponent(width)
    return lambda step: (1 - 1 / step) ** (exponent + 1)


def power_exponent(width: float) -> float:
    """The exponent gamma of the power function of a relative width. Source: EDM2, equation 126."""
    square = width**-2
    return float(np.roots([1, 7, 16 - square, 12 - square]).real.max())


def combination(snapshots: Sequence[tuple[float, float]], wanted: tuple[float, float]) -> np.ndarray:
    """Factors by which snapshots of averages are added up to the average of another width.

    Source: Karras et al. 2024 (EDM2), section 3.2 and algorithm 3: least squares between the profiles, here
    of such factors as add up to 1, so that no weight shrinks.

    Args:
        snapshots: Time (images or steps) and relative width of each.
        wanted: Time and relative width of the average to make.

    Returns:
        One factor a snapshot; they add up to 1.
    """
    times = np.array([[t for t, _ in snapshots]], np.float64)
    exponents = np.array([[power_exponent(w) for _, w in snapshots]])
    time, exponent = wanted[0], power_exponent(wanted[1])
    gram = _inner(times.T, exponents.T, times, exponents)
    against = _inner(times, exponents, np.array([[time]]), np.array([[exponent]]))
    count = len(gram)
    system = np.ones((count + 1, count + 1))
    system[:count, :count], system[count, count] = gram, 0
    return np.linalg.lstsq(system, np.append(against.ravel(), 1.0), rcond=None)[0][:count]


def _inner(t: np.ndarray, g: np.ndarray, u: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Integral of the product of two profiles (g + 1) x^g / t^(g + 1) on [0, t]."""
    ratio, exponent = np.minimum(t, u) / np.maximum(t, u), np.where(t < u, h, g)
    return (g + 1) * (h + 1) / (g + h + 1) * ratio**exponent / np.maximum(t, u)


def combine(weights: Sequence[Mapping[str, Tensor]], factors: np.ndarray) -> dict[str, Tensor]:
    """The sum of weights times factors, in float32; what is no floating-point number is the last one's."""
    total = {}
    for name, last in weights[-1].items():
        if last.is_floating_point():
            total[name] = sum(
                (one[name].float() * float(f) for one, f in zip(weights, factors, strict=True)),
                start=torch.zeros_like(last, dtype=torch.float32),
            )
        else:
            total[name] = last
    return total
