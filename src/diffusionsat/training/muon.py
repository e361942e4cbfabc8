"""Muon: momentum whose update is made orthogonal, for the weights that are matrices; AdamW for the rest.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". `torch.optim.Muon`
takes two-dimensional weights only; here a convolution's weight counts as the matrix (out, in * k * k).
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffusionsat.model import fast_at_bf16

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic iteration, same source


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest (semi-)orthogonal matrices of a stack (n, rows, cols), by Newton-Schulz.

    In bfloat16 where the device is fast at it, else in float32.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16() if fast_at_bf16(matrices.device) else matrices.float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for matrices and AdamW for the other parameters, under one learning-rate schedule.

    Args:
        matrices: Weights of hidden layers, two or more dimensions each.
        others: Every other parameter: first and last layers, embeddings, norms, biases.
        lr: Learning rate of the matrices; a matrix's update has root mean square about ``lr / sqrt(cols)``.
        adam_lr: Learning rate of the others.
        momentum: Nesterov momentum of the matrices.
        betas: Of AdamW.
        eps: Of AdamW.
        weight_decay: Decoupled weight decay of both.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float = 0.02,
        adam_lr: float = 6e-4,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        groups = [
            {"params": list(matrices), "lr": lr, "muon": True, "momentum": momentum},
            {"params": list(others), "lr": adam_lr, "muon": False, "betas": betas, "eps": eps},
        ]
        super().__init__(groups, {"weight_decay": weight_decay})
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    def resume(self, state: dict) -> None:
        """Take up a state, but keep the learning rates that this optimiser was made with."""
        rates = [group["initial_lr"] for group in self.param_groups]
        self.load_state_dict(state)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["initial_lr"] = rate

    def set_rate(self, factor: float) -> None:
        """Set every learning rate to a factor of its initial value."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * factor

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure.")
        for group in self.param_groups:
            (self._step_matrices if group["muon"] else self._step_others)(group)

    def _step_matrices(self, group: dict) -> None:
        by_shape = defaultdict(list)
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            buffer = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(buffer, group["momentum"])
            by_shape[update.shape].append((p, update))
        for shape, pairs in by_shape.items():
            stack = torch.stack([update.reshape(shape[0], -1) for _, update in pairs])
            rate = group["lr"] * max(1.0, stack.shape[1] / stack.shape[2]) ** 0.5
            for (p, _), update in zip(pairs, orthogonalize(stack), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view(shape), alpha=-rate)

    def _step_others(self, group: dict) -> None:
        beta1, beta2 = group["betas"]
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            mean = state["mean"].lerp_(p.grad, 1 - beta1)
            square = state["square"].lerp_(p.grad.square(), 1 - beta2)
            scale = (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-group["lr"] * scale)
