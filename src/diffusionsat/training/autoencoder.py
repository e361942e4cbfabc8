"""Training of the compact autoencoder on crops of real images."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffusionsat.models.compact.autoencoder import CompactAutoencoder
from diffusionsat.training.loop import train, trapezoid
from diffusionsat.training.muon import Muon


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


def make_optimiser(network: CompactAutoencoder, recipe: Recipe) -> Muon:
    """Muon for the hidden matrices, AdamW for the first and last layers of each half, norms and biases."""
    ends = {
        id(layer.weight)
        for layer in (network.encoder[1], network.encoder[-1], network.decoder[0], network.decoder[-2])
    }
    matrices = [p for p in network.parameters() if p.ndim > 1 and id(p) not in ends]
    chosen = {id(p) for p in matrices}
    others = [p for p in network.parameters() if id(p) not in chosen]
    return Muon(matrices, others, lr=recipe.lr, adam_lr=recipe.adam_lr, weight_decay=0.0)


def loss(
    network: CompactAutoencoder, image: Tensor, recipe: Recipe, seen: int, distance: torch.nn.Module | None
) -> Tensor:
    """L1 of the reconstruction, a little divergence and a perceptual distance."""
    rng = np.random.Generator(np.random.Philox([recipe.seed, seen, 1]))
    generator = torch.Generator().manual_seed(recipe.seed << 32 | seen)
    target, turn = image, rng.random()
    with torch.autocast(image.device.type, torch.bfloat16):
        mean, log_variance = (m.float() for m in network.moments(image))
        latents = mean + torch.randn(mean.shape, generator=generator) * (0.5 * log_variance).exp()
        if turn < recipe.equivariance:
            quarter_turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            latents, target = (torch.rot90(x, quarter_turns, (2, 3)) for x in (latents, target))
            if mirrored:
                latents, target = latents.flip(3), target.flip(3)
            if turn < recipe.reduced:
                factor = 2 if rng.random() < 0.7 else 4
                latents, target = F.avg_pool2d(latents, factor), F.avg_pool2d(target, factor)
        decoded = network.decode_raw(latents.contiguous(memory_format=torch.channels_last)).float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        total = (decoded - target).abs().mean() + recipe.kl * divergence
        if distance is not None and target.shape == image.shape:
            total = total + recipe.perceptual * distance(decoded, target)
    return total


def train_autoencoder(
    network: CompactAutoencoder,
    images: Mapping[str, Sequence[np.ndarray]],
    test: Mapping[str, Tensor],
    recipe: Recipe,
    folder: Path,
    distance: torch.nn.Module | None = None,
) -> bool:
    """Train until the recipe's crops are seen, or until SIGTERM or Ctrl-C; then save and return.

    Args:
        network: The autoencoder, changed in place to the averaged weights.
        images: Real images, uint8 (H, W, 3), by data set.
        test: Images for the log's PSNR, (N, 3, H, W) in [-1, 1], by name.
        recipe: How to train.
        folder: Where ``last.pt`` and ``log.jsonl`` lie; an existing ``last.pt`` is taken up.
        distance: Perceptual distance; None trains without.

    Returns:
        Whether all crops have been seen.
    """
    with ThreadPoolExecutor(1) as pool:
        ahead: dict[int, Future[Tensor]] = {}

        def batch_loss(seen: int) -> tuple[Tensor, int]:
            now = ahead.pop(seen, None) or pool.submit(crops, images, recipe, seen)
            following = seen + recipe.batch_size
            ahead[following] = pool.submit(crops, images, recipe, following)
            batch = now.result().contiguous(memory_format=torch.channels_last)
            return loss(network, batch, recipe, seen, distance), recipe.batch_size

        average, finished = train(
            network,
            make_optimiser(network, recipe),
            folder,
            images=recipe.images,
            log_every=recipe.log_every,
            rate=lambda seen: trapezoid(seen, recipe.images, recipe.warm_up, recipe.decay, floor=0.01),
            loss=batch_loss,
            figures=lambda: {"psnr": {n: round(reconstruction_psnr(network, t), 2) for n, t in test.items()}},
        )
    network.load_state_dict(average.weights)
    return finished


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
