"""Flow matching of the compact denoiser on banks of latents, for `scripts/train_compact.py`.

Every batch is a function of the seed and of the images seen, so a stopped run goes on as if it had not been.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diffusionsat.training import recipe as recipes
from diffusionsat.training.batches import Batch
from diffusionsat.training.compact import predict
from diffusionsat.training.denoising import Denoising
from diffusionsat.training.latents import Bank
from diffusionsat.training.objectives import make_objective
from diffusionsat.training.run import resume_and_train


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the denoiser is trained.

    Args:
        images: Images to see in all.
        batch_size: Images a step at 16x16 latents; larger ones come in smaller batches of equal area.
        weights: Share of each data set, by name.
        lr: Muon's learning rate.
        adam_lr: AdamW's learning rate.
        warm_up: Images over which the learning rates rise.
        decay: Images at the end over which they fall to zero.
        no_text: Share of images whose caption is empty while metadata stays.
        no_metadata: Share of images whose metadata is all unknown while the caption stays.
        no_condition: Share of images with neither.
        no_field: Chance of each group of metadata (place, gsd, cloud cover, date) to be unknown otherwise; of
            the year alone half of it, of longitude, latitude and the day of the year alone a quarter.
        seed: Of order, noise and dropping.
        log_every: Images between two log lines and checkpoints.
    """

    images: int
    batch_size: int = 128
    weights: Mapping[str, float]
    lr: float = 0.02
    adam_lr: float = 6e-4
    warm_up: int = 4000
    decay: int = 60_000
    no_text: float = 0.08
    no_metadata: float = 0.08
    no_condition: float = 0.08
    no_field: float = 0.1
    seed: int = 0
    log_every: int = 8000


class Reader:
    """Batches of banks as a function of the images seen; the bank changes from batch to batch.

    Args:
        banks: Each with its share of the batches; sizes may differ.
        text: Token states of every distinct caption of each bank, and their mask.
        empty: Token states (T, W) and mask (T,) of the empty caption.
        recipe: Shares, dropping, batch size at 16x16 latents and seed.
    """

    def __init__(
        self,
        banks: list[tuple[Bank, float]],
        text: list[tuple[Tensor, Tensor]],
        empty: tuple[Tensor, Tensor],
        recipe: Recipe,
    ) -> None:
        self.banks, self.text, self.empty, self.recipe = banks, text, empty, recipe
        self.shares = np.array([share for _, share in banks])
        self.shares = self.shares / self.shares.sum()
        self.rows = []
        for bank, _ in banks:
            usable = ~bank.held_out.numpy()
            self.rows.append(
                [np.flatnonzero((bank.source.numpy() == i) & usable) for i in range(len(bank.sources))]
            )

    def batch(self, seen: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, token states, mask and metadata numbers of the batch after ``seen`` images."""
        rng = np.random.Generator(np.random.Philox([self.recipe.seed, seen]))
        which = int(rng.choice(len(self.banks), p=self.shares))
        bank, _ = self.banks[which]
        area = bank.latents.shape[2] * bank.latents.shape[3]
        count = max(8, self.recipe.batch_size * 256 // area)
        present = [i for i, rows in enumerate(self.rows[which]) if len(rows)]
        weights = np.array([self.recipe.weights[bank.sources[i]] for i in present])
        chosen = rng.choice(present, size=count, p=weights / weights.sum())
        index = torch.from_numpy(np.array([rng.choice(self.rows[which][i]) for i in chosen]))
        latents = bank.latents[index].float()
        states, mask = (t[bank.text[index]] for t in self.text[which])
        metadata = bank.numbers[index].clone()
        return latents, *self._drop(states.clone(), mask.clone(), metadata, rng)

    def _drop(self, states: Tensor, mask: Tensor, numbers: Tensor, rng: np.random.Generator):
        """Make conditions unknown at the recipe's rates."""
        r = self.recipe
        u = rng.random(len(states))
        no_text = torch.from_numpy(u < r.no_text + r.no_condition)
        no_metadata = torch.from_numpy((u >= r.no_text) & (u < r.no_text + r.no_condition + r.no_metadata))
        length = len(self.empty[1])
        states[no_text] = 0
        states[no_text, :length] = self.empty[0].to(states.dtype)
        mask[no_text] = False
        mask[no_text, :length] = self.empty[1]
        numbers[no_metadata] = math.nan
        for columns, chance in (
            ([0, 1], r.no_field),
            ([2], r.no_field),
            ([3], r.no_field),
            ([4, 5, 6], r.no_field),
            ([0], r.no_field / 4),
            ([1], r.no_field / 4),
            ([4], r.no_field / 2),
            ([5, 6], r.no_field / 4),
        ):
            rows = torch.from_numpy(np.flatnonzero(rng.random(len(numbers)) < chance))
            numbers[rows[:, None], torch.tensor(columns)] = math.nan
        longest = int(mask.any(0).nonzero().max()) + 1
        return states[:, :longest], mask[:, :longest], numbers


class BankJob:
    """See `diffusionsat.training.loop.Job`.

    Args:
        network: The denoiser.
        reader: Its batches.
        validation: One batch that is never trained on, as the reader gives them.
        seed: Of noise.
    """

    def __init__(self, network: nn.Module, reader: Reader, validation: tuple[Tensor, ...], seed: int) -> None:
        self.reader, self.seed = reader, seed
        objective = make_objective(recipes.Objective(), timesteps=False)
        self.learner: nn.Module = Denoising(network, predict, objective, "bf16")
        chunks = zip(*(tensor.split(128) for tensor in validation), strict=True)
        self.validation = [self._noised(chunk, i) for i, chunk in enumerate(chunks)]

    def batch(self, seen: int, step: int) -> Batch:
        """See `loop.Job.batch`."""
        return self._noised(self.reader.batch(seen), self.seed << 32 | seen)

    def _noised(self, parts: tuple[Tensor, ...], seed: int) -> Batch:
        latents, states, mask, numbers = parts
        generator = torch.Generator().manual_seed(seed)
        return Batch(
            images=latents,
            noise=torch.randn(latents.shape, generator=generator),
            level=torch.rand(len(latents), generator=generator).clamp(1e-6, 1 - 1e-6),
            numbers=numbers,
            text=(states, mask),
        )

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Validation loss."""
        losses = torch.cat([self.learner(batch) for batch in self.validation])
        return {"validation": round(float(losses.mean()), 5)}

    def sheet(self, seen: int) -> None:
        """None is made."""


def train_denoiser(
    network: nn.Module, reader: Reader, validation: tuple[Tensor, ...], recipe: Recipe, folder: Path
) -> bool:
    """Train until the recipe's images are seen, or until SIGTERM or Ctrl-C; then save and return.

    Args:
        network: The denoiser, changed in place.
        reader: Its batches.
        validation: One batch that is never trained on.
        recipe: How to train.
        folder: Where ``last.pt`` and ``log.jsonl`` lie; an existing ``last.pt`` is taken up.

    Returns:
        Whether all images have been seen.
    """
    whole = recipes.Recipe(
        run=recipes.Run(
            task="text-to-image",
            output=str(folder),
            images=recipe.images,
            seed=recipe.seed,
            log_every=recipe.log_every,
            save_every=recipe.log_every,
            validate_every=recipe.log_every,
        ),
        data=recipes.Data(procedural=True),  # not asked for: the reader has the data
        optimiser=recipes.Optimiser(lr=recipe.lr, adam_lr=recipe.adam_lr),
        schedule=recipes.Schedule(warm_up=recipe.warm_up, decay=recipe.decay),
    )
    job = BankJob(network, reader, validation, recipe.seed)
    return resume_and_train(job, network, whole, folder)
