import pytest
import torch
from torch import nn

from diffusionsat.training import muon
from diffusionsat.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("fast", [False, True])
def test_orthogonalize_pushes_singular_values_towards_one(monkeypatch, fast):
    monkeypatch.setattr(muon, "fast_at_bf16", lambda device: fast)
    torch.manual_seed(0)
    stack = torch.randn(3, 20, 50)
    values = torch.linalg.svdvals(orthogonalize(stack))
    assert values.min() > 0.6
    assert values.max() < 1.3
    tall = orthogonalize(stack.mT)
    torch.testing.assert_close(tall.mT, orthogonalize(stack), rtol=0, atol=0.03)


def test_muon_equals_torchs_on_matrices(monkeypatch):
    """torch.optim.Muon takes matrices only; with its own rate for tall matrices both are one algorithm."""
    monkeypatch.setattr(muon, "fast_at_bf16", lambda device: True)  # theirs is in bfloat16 everywhere
    torch.manual_seed(0)
    start, gradients = torch.randn(6, 10), [torch.randn(6, 10) for _ in range(4)]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([ours], [], lr=0.02, weight_decay=0.1)
    two = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    for gradient in gradients:
        for parameter, optimiser in ((ours, one), (theirs, two)):
            parameter.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_other_parameters_follow_adamw():
    torch.manual_seed(0)
    start, gradients = torch.randn(5), [torch.randn(5) for _ in range(4)]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([], [ours], adam_lr=1e-2, weight_decay=0.1)
    two = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95))
    for gradient in gradients:
        for parameter, optimiser in ((ours, one), (theirs, two)):
            parameter.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
