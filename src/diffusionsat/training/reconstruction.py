"""Learning to reconstruct: the compact autoencoder."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionsat.checkpoints.layout import FORMAT, FORMAT_VERSION, Config
from diffusionsat.checkpoints.shipped import find
from diffusionsat.checkpoints.tensors import write_tensors
from diffusionsat.files import write_bytes
from diffusionsat.model import DiffusionSat
from diffusionsat.models.compact.autoencoder import CompactAutoencoder
from diffusionsat.training.batches import Batch, Examples, Reader, normal
from diffusionsat.training.compact import build, card, read_autoencoder
from diffusionsat.training.precision import autocast
from diffusionsat.training.processes import Alone
from diffusionsat.training.recipe import Recipe

_CALIBRATION = 1024  # images over which the latents' statistics are taken


class Autoencoder:
    """The compact autoencoder in training; see `diffusionsat.training.families.Family`.

    Args:
        recipe: Its model's ``start`` is a checkpoint or an autoencoder's run; empty starts anew.
    """

    timesteps = False

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        if recipe.model.start:
            self.sizes, self.network = read_autoencoder(find(recipe.model.start))
        else:
            self.sizes = dict(recipe.model.sizes)
            self.network = build(CompactAutoencoder, self.sizes, recipe.run.seed)
        self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue], torch's stub lacks it
        self.network.train()

    def to(self, device: torch.device) -> None:
        """See `Family.to`."""
        self.network.to(device)

    def model(self, device: torch.device) -> DiffusionSat | None:
        """None: an autoencoder makes no images."""
        return None

    def write(self, folder: Path, seen: int) -> None:
        """Write what `model.autoencoder` of another recipe takes."""
        options = self.recipe.model
        config = Config(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            name=options.name,
            version=str(seen),
            licence=options.licence,
            autoencoder=self.sizes,
            images_seen=seen,
        )
        storage = "bf16" if options.storage == "int8" else options.storage
        write_tensors(folder / "autoencoder.safetensors", dict(self.network.state_dict()), storage)
        write_bytes(folder / "config.json", config.to_json().encode())
        write_bytes(folder / "README.md", card(self.recipe, seen).encode())


class Reconstruction(nn.Module):
    """From a batch to each image's L1 distance, divergence and perceptual distance.

    Args:
        network: The autoencoder.
        recipe: Weights of the three, and precision.
    """

    def __init__(self, network: CompactAutoencoder, recipe: Recipe) -> None:
        super().__init__()
        self.network, self._options, self._precision = network, recipe.objective, recipe.run.precision
        self._distance: tuple[nn.Module, ...] = ()  # a tuple, so that it is no part of what is trained
        if recipe.objective.perceptual:
            from diffusionsat.training.perceptual import PerceptualDistance

            self._distance = (PerceptualDistance().requires_grad_(False),)

    def forward(self, batch: Batch) -> Tensor:
        """Losses, (B,).

        Some batches are decoded from turned or mirrored latents, some of these also from reduced ones, with
        the image as target changed likewise, which smooths the latents. Source: EQ-VAE, Kouzelis et al. 2025.
        """
        images = batch.images.contiguous(memory_format=torch.channels_last)
        options, chance = self._options, float(batch.level[0])
        with autocast(self._precision, images.device):
            mean, log_variance = (m.float() for m in self.network.moments(images))
            latents, target = mean + batch.noise * (0.5 * log_variance).exp(), images
            if chance < options.turned:
                turn = 1 + int(chance / options.turned * 7)
                latents, target = _turned(latents, turn), _turned(target, turn)
            if chance < options.reduced:
                factor = 4 if chance < 0.3 * options.reduced else 2
                latents, target = F.avg_pool2d(latents, factor), F.avg_pool2d(target, factor)
            decoded = self.network.decode_raw(latents.contiguous(memory_format=torch.channels_last)).float()
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
            loss = (decoded - target).abs().mean((1, 2, 3)) + options.kl * divergence.mean((1, 2, 3))
            for distance in self._distance if target.shape == images.shape else ():
                loss = loss + options.perceptual * distance.to(images.device)(decoded, target)
        return loss


def _turned(images: Tensor, turn: int) -> Tensor:
    """Images turned by ``turn`` quarters, and from 4 on mirrored."""
    turned = torch.rot90(images, turn % 4, (2, 3))
    return turned.flip(3) if turn > 3 else turned


class ReconstructionJob:
    """See `diffusionsat.training.loop.Job`.

    Args:
        recipe: Of the run.
        family: The autoencoder.
        examples: What is learned from.
        held_out: What PSNR is measured on; None is nothing.
        processes: One or many.
    """

    def __init__(
        self,
        recipe: Recipe,
        family: Autoencoder,
        examples: Examples,
        held_out: Examples | None,
        processes: Alone,
    ) -> None:
        self.recipe, self.network, self.held_out = recipe, family.network, held_out
        self.examples, self.processes = examples, processes
        self.reader = Reader(
            examples,
            recipe.data,
            recipe.run.seed,
            rank=processes.rank,
            ranks=processes.count,
            parts=recipe.optimiser.accumulation,
        )
        self.learner: nn.Module = Reconstruction(family.network, recipe)

    def batch(self, seen: int, step: int) -> Batch:
        """See `loop.Job.batch`."""
        read = self.reader(seen, step)
        channels, side = len(self.network.latent_scale), read.images.shape[2] // 4
        # What is done to a batch is drawn for all of it, whatever part of it this process or step has.
        chance = np.random.Generator(np.random.Philox(key=[self.recipe.run.seed, step])).random()
        return Batch(
            images=read.images,
            noise=normal(read.rngs, (channels, side, side)),
            level=torch.full_like(read.level, chance),
            numbers=read.numbers,
        )

    @torch.no_grad()
    def figures(self) -> dict[str, Any]:
        """PSNR [dB] of the reconstruction of held-out images, a mean for each data set."""
        if self.held_out is None or not self.recipe.data.held_out:
            return {}
        values: dict[str, list[float]] = {}
        size = min(self.recipe.data.sizes)
        for position in range(self.recipe.data.held_out):
            example = self.held_out.example(position, size)
            image = self._images([example.pixels])
            decoded = self.network.decode_raw(self.network.moments(image)[0]).clamp(-1, 1)
            error = float(((image - decoded) / 2).square().mean())
            values.setdefault(example.source, []).append(-10 * np.log10(max(error, 1e-10)))
        return {"psnr": {name: round(float(np.mean(many)), 2) for name, many in values.items()}}

    def sheet(self, seen: int) -> None:
        """None is made."""

    @torch.no_grad()
    def finish(self) -> None:
        """Give the latents mean 0 and variance 1, over images of the run."""
        size, network = min(self.recipe.data.sizes), self.network
        means = [
            network.moments(self._images([self.examples.example(p, size).pixels]))[0]
            for p in range(_CALIBRATION)
        ]
        stacked = torch.cat(means)
        network.latent_shift.copy_(stacked.mean((0, 2, 3)))
        network.latent_scale.copy_(stacked.std((0, 2, 3)))

    def close(self) -> None:
        """Stop reading."""
        self.reader.close()

    def _images(self, pixels: list[np.ndarray]) -> Tensor:
        images = torch.from_numpy(np.stack(pixels)).to(self.processes.device).permute(0, 3, 1, 2)
        return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
