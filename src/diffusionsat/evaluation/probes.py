"""Linear probes on features: what a single linear layer reads from them."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class LinearClassifier:
    """Softmax regression on standardised features; made by `fit_classifier`.

    Args:
        labels: Names of the classes, (K,), sorted.
        mean: Of each feature over the rows that were fitted, (D,).
        scale: Standard deviation of each, (D,).
        weight: (K, D).
        bias: (K,).
    """

    labels: np.ndarray
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> np.ndarray:
        """Names that are read from features (N, D), (N,)."""
        logits = F.linear((features.double() - self.mean) / self.scale, self.weight, self.bias)
        return self.labels[logits.argmax(1).cpu().numpy()]


def fit_classifier(features: Tensor, labels: np.ndarray, *, decay: float = 1e-3) -> LinearClassifier:
    """Fit softmax regression by L-BFGS; the same result each time.

    Minimises the mean cross entropy + decay / 2 * |weight|², which is convex.

    Args:
        features: (N, D).
        labels: Name of each row's class, (N,), of at least two kinds.
        decay: Strength of the penalty, above 0.

    Raises:
        ConfigError: If there are not as many labels as rows, all are the same, or decay is not above 0.
    """
    if len(features) != len(labels) or not decay > 0:
        raise ConfigError(
            f"{len(labels)} labels for {len(features)} rows and a decay of {decay!r} are given. "
            "Give one label a row and a decay above 0."
        )
    names, numbers = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ConfigError(f"All rows are {names.tolist()}. Give rows of at least two classes.")
    x = features.double()
    mean, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x, target = (x - mean) / scale, torch.from_numpy(numbers).to(x.device)
    weight = x.new_zeros(len(names), x.shape[1], requires_grad=True)
    bias = x.new_zeros(len(names), requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        error = F.cross_entropy(F.linear(x, weight, bias), target) + decay / 2 * weight.square().sum()
        error.backward()
        return error

    with torch.enable_grad():
        solver.step(closure)
    return LinearClassifier(names, mean, scale, weight.detach(), bias.detach())
