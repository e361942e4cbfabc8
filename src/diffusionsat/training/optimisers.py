"""Optimisers by name, with learning rates that follow one schedule."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from diffusionsat.training.muon import Muon
from diffusionsat.training.recipe import Optimiser, Schedule

# First and last layers and embeddings of the networks that are trained here: AdamW's, not Muon's.
_ENDS = (
    *("conv_in.", "conv_out.", "embed.", "time_embedding.", "metadata_embedding."),
    *("encoder.1.", "encoder.6.", "decoder.0.", "decoder.6.", "guess."),
)


def make_optimiser(network: nn.Module, options: Optimiser) -> torch.optim.Optimizer:
    """The optimiser of a network's trained parameters."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    if options.name == "adamw":
        parameters = [p for _, p in named]
        optimiser = torch.optim.AdamW(
            parameters,
            lr=options.lr,
            betas=options.betas,
            eps=options.eps,
            weight_decay=options.weight_decay,
        )
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
        return optimiser
    hidden = [p.ndim > 1 and not name.startswith(_ENDS) for name, p in named]
    return Muon(
        [p for (_, p), matrix in zip(named, hidden, strict=True) if matrix],
        [p for (_, p), matrix in zip(named, hidden, strict=True) if not matrix],
        lr=options.lr,
        adam_lr=options.adam_lr,
        betas=options.betas,
        eps=options.eps,
        weight_decay=options.weight_decay,
    )


def resume(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take up a state, but keep the learning rates that the optimiser was made with."""
    rates = [group["initial_lr"] for group in optimiser.param_groups]
    optimiser.load_state_dict(dict(state))
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["initial_lr"] = rate


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set every learning rate to a factor of its initial value."""
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor


def rate(schedule: Schedule, seen: int, images: int) -> float:
    """Factor of the learning rates after ``seen`` of ``images`` images."""
    rise = min(1.0, (seen + 1) / schedule.warm_up) if schedule.warm_up else 1.0
    fall = min(1.0, (images - seen) / schedule.decay) if schedule.decay else 1.0
    return rise * max(schedule.floor, fall)
