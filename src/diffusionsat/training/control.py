"""The compact ControlNet in training: it steers a denoiser that is frozen."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diffusionsat.checkpoints.compact import open_compact
from diffusionsat.checkpoints.layout import add_control
from diffusionsat.checkpoints.shipped import find
from diffusionsat.errors import ConfigError
from diffusionsat.files import write_bytes
from diffusionsat.model import DiffusionSat
from diffusionsat.models.compact.autoencoder import FACTOR
from diffusionsat.models.compact.designs import DESIGNS, ControlNet
from diffusionsat.models.compact.networks import CompactControl, CompactNetworks
from diffusionsat.models.networks import Frames
from diffusionsat.training.batches import Batch
from diffusionsat.training.compact import build, card
from diffusionsat.training.families import Captions
from diffusionsat.training.precision import attending
from diffusionsat.training.recipe import Recipe

_ROWS = 64  # frames that a GPU computes are filled up to a multiple of this


class CompactSteered:
    """A compact ControlNet with the frozen checkpoint that it is to be added to.

    Args:
        recipe: Its model's ``parts`` is the checkpoint, or ``start`` one that has the ControlNet already.

    Raises:
        CheckpointError: If that is absent or does not fit.
        ConfigError: If the name or the sizes are not possible, or ``start`` has no such ControlNet.
    """

    timesteps = False

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, options = recipe, recipe.model
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", options.name):
            raise ConfigError(f"model.name is {options.name!r}; a ControlNet's is of a-z, 0-9 and dashes.")
        self.base = find(options.start or options.parts)
        opened = open_compact(self.base)
        assert isinstance(opened.networks, CompactNetworks)
        self.networks = opened.networks
        if opened.config.prediction != recipe.objective.prediction:
            raise ConfigError(
                f"{self.base} predicts {opened.config.prediction}, but objective.prediction is "
                f"{recipe.objective.prediction}. Give the same."
            )
        if options.start and options.name not in opened.controls:
            raise ConfigError(
                f"{options.start} has no ControlNet {options.name!r}. Give it as model.parts to train one."
            )
        self.networks.to(torch.device("cpu"), torch.float32)
        for part in (self.networks.denoiser, self.networks.autoencoder, self.networks.prompter.encoder):
            part.requires_grad_(False)
        if options.start:
            control = opened.controls[options.name]()
            assert isinstance(control, CompactControl)
            self.network = control.network.to(torch.float32)
        else:
            frozen = {"denoiser": self.networks.denoiser, "autoencoder": self.networks.autoencoder}
            kind = DESIGNS[options.design]
            self.network = build(kind.from_denoiser, frozen | options.sizes, recipe.run.seed)
        self.network.train()
        self.captions = Captions(self.networks.text)

    def to(self, device: torch.device) -> None:
        """See `Family.to`."""
        self.networks.to(device, torch.float32)
        self.network.to(device)
        self.captions.alone = device.type == "cpu"

    def text(self, captions: list[str]) -> tuple[Tensor, ...]:
        """Token states and their mask."""
        return self.captions(captions)

    @torch.no_grad()
    def encode(self, images: Tensor, rngs: list[np.random.Generator]) -> Tensor:
        """The mean of the posterior."""
        return self.networks.encode(images)

    def predict(self, network: nn.Module, latents: Tensor, time: Tensor, batch: Batch) -> Tensor:
        """The prediction of the steered denoiser; see `Family.predict`.

        Nothing is kept of the denoiser's way down, since nothing there leads to what is trained.
        """
        assert isinstance(network, ControlNet)
        latents = latents.contiguous(memory_format=torch.channels_last)
        frames, (states, mask) = Frames(*batch.frames), batch.text
        with attending(latents.device, few=True):
            # On a GPU each number of frames costs a search for its convolutions' algorithms.
            multiple = _ROWS if latents.is_cuda else 1
            seen = features(network, frames, FACTOR * latents.shape[3], self.networks.encode, multiple)
            residuals = network.residuals(latents, time, states, mask, batch.numbers, seen, frames.numbers)
            return self.networks.denoiser(latents, time, states, mask, batch.numbers, residuals)

    def model(self, device: torch.device) -> DiffusionSat | None:
        """None: samples would need a condition."""
        return None

    def write(self, folder: Path, seen: int) -> None:
        """Write the checkpoint that it was trained on with the ControlNet added."""
        options = self.recipe.model
        shutil.copytree(self.base, folder, dirs_exist_ok=True)
        weights = self.network.state_dict()
        add_control(folder, options.name, self.network.sizes, weights, options.storage, options.licence)
        file = folder / "README.md"
        text = f"{file.read_text(encoding='utf-8')}\n{card(self.recipe, seen)}"
        write_bytes(file, text.encode(), overwrite=True)
        DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32").control(options.name)


def features(
    network: ControlNet,
    frames: Frames,
    side: int,
    encode: Callable[[Tensor], Tensor],
    multiple: int = 1,
) -> tuple[Tensor, ...]:
    """As `CompactControlNet.encode_frames` of images of a side, without computing absent frames.

    What is computed at once is filled up to a multiple.
    """
    there = frames.bands.any(2)
    count = int(there.sum())
    if count == 0:
        return network.encode_frames(frames, (side, side), encode=encode)
    rows = [part[there][:, None] for part in frames]
    rows = [torch.cat([part, part.new_zeros(-count % multiple, *part.shape[1:])]) for part in rows]
    *maps, present = network.encode_frames(Frames(*rows), (side, side), len(rows[0]), encode)
    spread = []
    for part in (*maps, present):
        full = part.new_zeros(*there.shape, *part.shape[2:])
        full[there] = part[:count, 0]
        spread.append(full)
    return tuple(spread)
