"""A running average of weights whose memory grows with the length of the training."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

_GAMMA = 6.94  # power-function average of relative width 0.10: Karras et al. 2024 (EDM2), section 3.1


class PowerAverage:
    """Weights averaged over about the last fifth of the training so far, whatever its length.

    Source: Karras et al. 2024 (EDM2), equations 121 to 127.
    """

    def __init__(self, network: nn.Module) -> None:
        self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step ``step``, counted from 1."""
        beta = (1 - 1 / step) ** (_GAMMA + 1)
        for name, value in network.state_dict().items():
            self.weights[name].lerp_(value, 1 - beta)

    @contextlib.contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """The network with the averaged weights, in evaluation mode, for as long as the context lasts."""
        live = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.weights)
        network.eval()
        try:
            yield
        finally:
            network.load_state_dict(live)
            network.train()
