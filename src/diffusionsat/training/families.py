"""The two families of networks as training needs them: what is trained, what is frozen, what is written."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from diffusionsat.errors import MissingExtraError
from diffusionsat.model import DiffusionSat
from diffusionsat.training.batches import Batch
from diffusionsat.training.recipe import Recipe

_CAPTIONS = 4096  # whose states are kept


class Family(Protocol):
    """A family of networks in training.

    Attributes:
        network: What is trained; its other parameters are frozen.
        timesteps: Whether it knows noise levels as 0, 1, ..., 999, or as times from 0 to 1.
    """

    network: nn.Module
    timesteps: bool

    def to(self, device: torch.device) -> None:
        """Move the frozen parts."""
        ...

    def text(self, captions: list[str]) -> tuple[Tensor, ...]:
        """What `predict` wants to know of captions."""
        ...

    def encode(self, images: Tensor, rngs: list[np.random.Generator]) -> Tensor:
        """Latents of images (B, 3, H, W) in [-1, 1]."""
        ...

    def predict(self, network: nn.Module, latents: Tensor, time: Tensor, batch: Batch) -> Tensor:
        """The prediction of the trained network, with its frozen base if it has one."""
        ...

    def model(self, device: torch.device) -> DiffusionSat | None:
        """The present weights as a model for samples; None if they make no whole one."""
        ...

    def write(self, folder: Path, seen: int) -> None:
        """Write the present weights as a checkpoint into an empty folder."""
        ...


def make_family(recipe: Recipe) -> Any:
    """The networks of a recipe.

    Raises:
        CheckpointError: If a checkpoint to start from is absent or does not fit.
        ConfigError: If sizes are not possible.
        MissingExtraError: If the family's packages are not installed.
    """
    if recipe.run.task == "autoencoder":
        from diffusionsat.training.reconstruction import Autoencoder

        return Autoencoder(recipe)
    if recipe.model.family == "published":
        from diffusionsat.training.published import Published

        return Published(recipe)
    if recipe.run.task == "controlnet-3d":
        from diffusionsat.training.control import CompactSteered

        return CompactSteered(recipe)
    from diffusionsat.training.compact import Compact

    return Compact(recipe)


def lora(rank: int, modules: list[str]) -> Any:
    """The configuration of low-rank adapters (Hu et al. 2021) on the modules of these names.

    Raises:
        MissingExtraError: If peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError("Training LoRA", "train") from error
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=modules)


class Captions:
    """Token states of captions: one by one and kept, or those of a batch at once, which suits a GPU.

    Args:
        encode: Token states (B, T, W) and further tensors of some captions.

    Attributes:
        alone: Whether one by one.
    """

    def __init__(self, encode: Callable[[list[str]], tuple[Tensor, ...]]) -> None:
        self.alone, self.encode = True, encode
        self.one = functools.lru_cache(_CAPTIONS)(lambda caption: encode([caption]))

    def __call__(self, captions: list[str]) -> tuple[Tensor, ...]:
        """Rows padded to the longest; what further tensors have there is zero (False)."""
        if not self.alone:  # a copy, since what was inferred takes no part in a gradient
            return tuple(part.clone() for part in self.encode(captions))
        rows = [self.one(caption) for caption in captions]
        return tuple(
            nn.utils.rnn.pad_sequence([row[0] for row in column], batch_first=True)
            for column in zip(*rows, strict=True)
        )
