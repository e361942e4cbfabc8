"""Denoisers that need no network."""

from torch import Tensor


class FakeDenoiser:
    """Always sees the same clean latents, and keeps the noise levels that it was asked at.

    Args:
        x0: What it sees, (B, C, h, w) or what broadcasts to it.
    """

    def __init__(self, x0: Tensor) -> None:
        self.x0 = x0
        self.sigmas: list[float] = []

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """See the clean latents."""
        self.sigmas.append(sigma)
        return self.x0.expand_as(x)


class GaussianMixture:
    """The exact denoiser of data drawn from a mixture of Gaussians of one spread.

    With x = x0 + sigma * noise and x0 of component k normal with mean m_k and standard deviation s, E[x0 | x]
    is the components' posterior means weighted by their posterior probabilities.

    Args:
        means: (K, D).
        spread: Standard deviation s of every component, > 0.
        weights: Probability of each component, (K,).
    """

    def __init__(self, means: Tensor, spread: float, weights: Tensor) -> None:
        self.means, self.spread, self.weights = means.double(), spread, weights.double()

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """E[x0 | x], in the shape and dtype of x."""
        shape, flat = x.shape, x.double().flatten(1)
        variance = self.spread**2 + sigma**2
        away = flat[:, None] - self.means  # (B, K, D)
        logits = self.weights.log() - away.square().sum(-1) / (2 * variance)
        posterior = self.means + away * (self.spread**2 / variance)
        x0 = (logits.softmax(1)[..., None] * posterior).sum(1)
        return x0.view(shape).to(x.dtype)
