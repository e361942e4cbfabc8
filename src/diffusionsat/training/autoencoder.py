"""Training of the compact autoencoder on crops of images in memory, for `scripts/train_compact.py`."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from diffusionsat.models.compact.autoencoder import FACTOR, CompactAutoencoder
from diffusionsat.training import recipe as recipes
from diffusionsat.training.batches import Batch
from diffusionsat.training.reconstruction import Reconstruction
from diffusionsat.training.run import resume_and_train


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the autoencoder is trained.

    Args:
        images: Crops to see in all.
        weights: Share of each data set, by name.
        batch_size: Crops a step.
        size: Side of a crop in pixels.
        lr: Muon's learning rate.
        adam_lr: AdamW's learning rate.
        warm_up: Crops over which the learning rates rise.
        decay: Crops at the end over which they fall to a hundredth.
        kl: Weight of the divergence from a standard normal.
        perceptual: Weight of the perceptual distance.
        equivariance: Share of steps whose latents are turned or mirrored before they are decoded, with the
            image as target turned likewise (EQ-VAE: Kouzelis et al. 2025); it smooths the latents.
        reduced: Share of steps whose latents are moreover reduced to half or a quarter of their size.
        seed: Of crops, noise and turns.
        log_every: Crops between two log lines and checkpoints.
    """

    images: int
    weights: Mapping[str, float]
    batch_size: int = 32
    size: int = 64
    lr: float = 0.01
    adam_lr: float = 1e-3
    warm_up: int = 2000
    decay: int = 40_000
    kl: float = 1e-5
    perceptual: float = 0.05
    equivariance: float = 0.3
    reduced: float = 0.12
    seed: int = 0
    log_every: int = 4000


def crops(images: Mapping[str, Sequence[np.ndarray]], recipe: Recipe, seen: int) -> Tensor:
    """The batch after ``seen`` crops, (B, 3, size, size) in [-1, 1], turned and mirrored at will."""
    rng = np.random.Generator(np.random.Philox([recipe.seed, seen]))
    names = list(images)
    weights = np.array([recipe.weights[name] for name in names])
    batch = np.empty((recipe.batch_size, recipe.size, recipe.size, 3), np.uint8)
    for row, which in enumerate(rng.choice(len(names), size=recipe.batch_size, p=weights / weights.sum())):
        several = images[names[which]]
        image = several[int(rng.integers(len(several)))]
        height, width = image.shape[:2]
        side = recipe.size * (2 if min(height, width) >= 2 * recipe.size and rng.random() < 0.3 else 1)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        square = image[top : top + side, left : left + side]
        if side > recipe.size:
            square = np.asarray(Image.fromarray(square).reduce(2))
        square = np.rot90(square, int(rng.integers(4)))
        batch[row] = square[:, ::-1] if rng.random() < 0.5 else square
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1


class CropsJob:
    """See `diffusionsat.training.loop.Job`.

    Args:
        network: The autoencoder.
        images: Real images by data set.
        test: Images for the log's PSNR.
        recipe: Of crops.
        learner: From a batch to its losses.
    """

    def __init__(
        self,
        network: CompactAutoencoder,
        images: Mapping[str, Sequence[np.ndarray]],
        test: Mapping[str, Tensor],
        recipe: Recipe,
        learner: nn.Module,
    ) -> None:
        self.network, self.images, self.test, self.recipe = network, images, test, recipe
        self.learner = learner
        self.pool = ThreadPoolExecutor(1)
        self.ahead: dict[int, Future[Tensor]] = {}

    def batch(self, seen: int, step: int) -> Batch:
        """See `loop.Job.batch`; the next crops are cut meanwhile."""
        now = self.ahead.pop(seen, None) or self.pool.submit(crops, self.images, self.recipe, seen)
        following = seen + self.recipe.batch_size
        self.ahead[following] = self.pool.submit(crops, self.images, self.recipe, following)
        generator = torch.Generator().manual_seed(self.recipe.seed << 32 | seen)
        images = now.result()
        count, side = len(images), self.recipe.size // FACTOR
        return Batch(
            images=images,
            noise=torch.randn(count, len(self.network.latent_scale), side, side, generator=generator),
            level=torch.rand(count, generator=generator),
            numbers=torch.full((count, 7), torch.nan),
        )

    def figures(self) -> dict[str, dict[str, float]]:
        """PSNR of the test images, dB."""
        psnr = {name: round(reconstruction_psnr(self.network, t), 2) for name, t in self.test.items()}
        return {"psnr": psnr}

    def sheet(self, seen: int) -> None:
        """None is made."""


def train_autoencoder(
    network: CompactAutoencoder,
    images: Mapping[str, Sequence[np.ndarray]],
    test: Mapping[str, Tensor],
    recipe: Recipe,
    folder: Path,
) -> bool:
    """Train until the recipe's crops are seen, or until SIGTERM or Ctrl-C; then save and return.

    Args:
        network: The autoencoder, changed in place to the averaged weights.
        images: Real images, uint8 (H, W, 3), by data set.
        test: Images for the log's PSNR, (N, 3, H, W) in [-1, 1], by name.
        recipe: How to train.
        folder: Where ``last.pt`` and ``log.jsonl`` lie; an existing ``last.pt`` is taken up.

    Returns:
        Whether all crops have been seen.
    """
    whole = recipes.Recipe(
        run=recipes.Run(
            task="autoencoder",
            output=str(folder),
            images=recipe.images,
            seed=recipe.seed,
            log_every=recipe.log_every,
            save_every=recipe.log_every,
            validate_every=recipe.log_every,
        ),
        data=recipes.Data(procedural=True),  # not asked for: the images are here
        objective=recipes.Objective(
            kl=recipe.kl,
            perceptual=recipe.perceptual,
            turned=recipe.equivariance,
            reduced=recipe.reduced,
        ),
        optimiser=recipes.Optimiser(lr=recipe.lr, adam_lr=recipe.adam_lr, weight_decay=0.0),
        schedule=recipes.Schedule(warm_up=recipe.warm_up, decay=recipe.decay, floor=0.01),
    )
    job = CropsJob(network, images, test, recipe, Reconstruction(network, whole))
    with job.pool:
        return resume_and_train(job, network, whole, folder)


@torch.no_grad()
def reconstruction_psnr(network: CompactAutoencoder, images: Tensor) -> float:
    """Mean over images of the PSNR of their reconstruction, dB; images (N, 3, H, W) in [-1, 1]."""
    values = []
    for batch in images.split(16):
        with torch.autocast(batch.device.type, torch.bfloat16):
            mean, _ = network.moments(batch.contiguous(memory_format=torch.channels_last))
            decoded = network.decode_raw(mean).float().clamp(-1, 1)
        values += (-10 * ((batch - decoded) / 2).square().mean((1, 2, 3)).log10()).tolist()
    return float(np.mean(values))


@torch.no_grad()
def calibrate(network: CompactAutoencoder, batches: Sequence[Tensor]) -> None:
    """Set the latents' shift and scale so that they have mean 0 and variance 1 over some images."""
    means = torch.cat([network.moments(batch)[0] for batch in batches])
    network.latent_shift.copy_(means.mean((0, 2, 3)))
    network.latent_scale.copy_(means.std((0, 2, 3)))
