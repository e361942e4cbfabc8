"""Learning to denoise: text-to-image, and ControlNets, which differ in what is trained and what it sees."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from diffusionsat.data.dropout import Rates
from diffusionsat.files import writing
from diffusionsat.tasks.sheet import contact_sheet
from diffusionsat.training.batches import (
    Batch,
    Examples,
    Read,
    Reader,
    all_bands,
    collate,
    generator,
    normal,
)
from diffusionsat.training.families import Family
from diffusionsat.training.objectives import Objective, make_objective
from diffusionsat.training.precision import autocast
from diffusionsat.training.processes import Alone
from diffusionsat.training.recipe import Recipe

_VALIDATION = 1 << 62  # positions of the validation's noise, which no run reaches
_AT_ONCE = 64
_SAMPLES = 8
_NEVER = Rates(no_text=0, no_metadata=0, no_condition=0, no_field=0)


class Denoising(nn.Module):
    """From a batch to the weighted squared error of each image's prediction.

    Args:
        network: Is trained.
        predict: Its prediction, of the network, noisy latents, time and the batch.
        objective: What is predicted.
        precision: Of the autocast.
    """

    def __init__(
        self,
        network: nn.Module,
        predict: Callable[[nn.Module, Tensor, Tensor, Batch], Tensor],
        objective: Objective,
        precision: str,
    ) -> None:
        super().__init__()
        self.network = network
        self._predict, self._objective, self._precision = predict, objective, precision

    def forward(self, batch: Batch) -> Tensor:
        """Losses, (B,)."""
        noised = self._objective(batch.images, batch.noise, batch.level)
        with autocast(self._precision, batch.images.device):
            prediction = self._predict(self.network, noised.latents, noised.time, batch)
        return noised.weight * (prediction.float() - noised.target).square().mean((1, 2, 3))


class DenoisingJob:
    """See `diffusionsat.training.loop.Job`.

    Args:
        recipe: Of the run.
        family: The networks.
        examples: What is learned from.
        held_out: What the validation loss is of; None is nothing.
        folder: Of the run.
        processes: One or many.
    """

    def __init__(
        self,
        recipe: Recipe,
        family: Family,
        examples: Examples,
        held_out: Examples | None,
        folder: Path,
        processes: Alone,
    ) -> None:
        self.recipe, self.family, self.folder, self.processes = recipe, family, folder, processes
        self.conditions = recipe.run.task.startswith("controlnet")
        self.reader = Reader(
            examples,
            recipe.data,
            recipe.run.seed,
            rank=processes.rank,
            ranks=processes.count,
            parts=recipe.optimiser.accumulation,
            conditions=self.conditions,
        )
        self.held_out, self.validation = held_out, []
        objective = make_objective(recipe.objective, timesteps=family.timesteps)
        self.learner: nn.Module = Denoising(family.network, family.predict, objective, recipe.run.precision)

    def batch(self, seen: int, step: int) -> Batch:
        """See `loop.Job.batch`."""
        return self._encoded(self.reader(seen, step))

    def _encoded(self, read: Read) -> Batch:
        device = self.processes.device
        images = read.images.to(device)
        if not read.encoded:
            with autocast(self.recipe.run.precision, device):
                images = self.family.encode(images, read.rngs)
        frames = tuple(part.to(device) for part in read.frames)
        if frames and self.recipe.data.frames is not None:
            frames = all_bands(*frames)
        return Batch(
            images=images.float(),
            noise=normal(read.rngs, tuple(images.shape[1:])).to(device),
            level=read.level.to(device),
            numbers=read.numbers.to(device),
            text=self.family.text(read.captions),
            frames=frames,
        )

    @torch.no_grad()
    def figures(self) -> dict[str, Any]:
        """Validation loss on held-out images, each at a noise level of its own that never changes."""
        if self.held_out is None or not self.recipe.data.held_out:
            return {}
        if not self.validation:
            self.validation = self._validation(self.held_out)
        device = self.processes.device
        losses = torch.cat([self.learner(batch.to(device)) for batch in self.validation])
        return {"validation": float(f"{float(self.processes.mean(losses.mean())):.5g}")}

    def _validation(self, held_out: Examples) -> list[Batch]:
        """This process's share of the held-out images, in batches; nothing of them is dropped.

        All processes have equally many, since sharded ones compute every batch together.
        """
        data, size = self.recipe.data, min(self.recipe.data.sizes)
        total = -(-data.held_out // self.processes.count) * self.processes.count
        share = range(self.processes.rank, total, self.processes.count)
        batches = []
        for start in range(0, len(share), _AT_ONCE):
            positions = share[start : start + _AT_ONCE]
            rngs = [generator(self.recipe.run.seed, _VALIDATION + p) for p in positions]
            some = [held_out.example(p, size) for p in positions]
            encoded = self._encoded(
                collate(some, rngs, replace(data, dropping=_NEVER, no_number=0.0), self.conditions)
            )
            level = (torch.tensor(positions) + 0.5) / total
            batches.append(replace(encoded, level=level.to(encoded.level)))
        return batches

    @torch.no_grad()
    def sheet(self, seen: int) -> None:
        """Samples of the captions and metadata of held-out images, from seeds that never change."""
        if self.held_out is None or self.processes.rank != 0 or self.processes.sharded:
            return
        model = self.family.model(self.processes.device)
        if model is None:
            return
        size = min(self.recipe.data.sizes)
        wanted = [self.held_out.example(p, size) for p in range(_SAMPLES)]
        samples = [
            model.generate(e.caption, e.metadata, seed=i, size=(size, size)).pixels
            for i, e in enumerate(wanted)
        ]
        pixels = contact_sheet(
            [*(e.pixels for e in wanted), *samples],
            [*(e.caption for e in wanted), *(f"seed {i}" for i in range(_SAMPLES))],
            columns=_SAMPLES,
            title=f"held-out images, and samples of their words and metadata after {seen} images",
        )
        (self.folder / "sheets").mkdir(exist_ok=True)
        with writing(self.folder / "sheets" / f"{seen:010d}.png", overwrite=True) as partial:
            Image.fromarray(pixels).save(partial)

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Stop reading."""
        self.reader.close()
