"""Train the small satellite classifier on the train rows of a data folder.

    python scripts/train_classifier.py --data DATA --output runs/classifier

DATA holds one folder a data set with ``train.parquet`` in it. A tenth of the train places chooses the
moment at which the weights are taken; test rows are not looked at (scripts/measure_compact.py does).
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from diffusionsat.checkpoints.tensors import write_tensors
from diffusionsat.data.captions import PHRASES
from diffusionsat.data.parquet import Sample, read_samples
from diffusionsat.evaluation.features import CLASSIFIER_FILE, CLASSIFIER_FORMAT
from diffusionsat.files import write_bytes
from diffusionsat.model import fast_at_bf16
from diffusionsat.models.compact.classifier import CompactClassifier
from diffusionsat.training.muon import Muon

FAST = fast_at_bf16(torch.device("cpu"))
SIZE = 64  # pixels
RELIEF_GSD = 100.0  # metres; from here on a turned chip is another place
SHIFT = 3  # pixels by which a chip is moved, its edge mirrored
WEIGHTS = {  # share of each source in a batch
    "eurosat_rgb": 0.52,
    "uc_merced": 0.22,
    "blue_marble_2004": 0.14,
    "blue_marble_500m": 0.03,
    "naip_california_cities": 0.03,
    "s2_ports": 0.02,
    "landsat_30m_paraguay_brazil_us": 0.02,
    "swissimage_bern_roofs": 0.02,
}
LABELLED = ("eurosat_rgb", "uc_merced")
LOSSES = {"eurosat_rgb": 1.0, "uc_merced": 1.0, "month": 0.5, "log_gsd": 0.5, "place": 0.5}
SMOOTHING, BATCH, WARM_UP = 0.05, 128, 8_000


@dataclass(frozen=True, slots=True)
class Chips:
    """The images of one source with what is to be read from them."""

    images: list[np.ndarray]
    labels: np.ndarray  # (N,), index in the source's classes; -1 where there are none
    numbers: np.ndarray  # (N, 6): month's sine and cosine, log10 of gsd, place; NaN is unknown


def chips(samples: list[Sample], classes: tuple[str, ...]) -> Chips:
    return Chips(
        [s.pixels() for s in samples],
        np.array([classes.index(s.label) if classes and s.label else -1 for s in samples]),
        np.array([_numbers(s) for s in samples], np.float32),
    )


def _numbers(sample: Sample) -> list[float]:
    known = sample.metadata
    month = math.nan if known.month is None else 2 * math.pi * (known.month - 0.5) / 12
    gsd = math.nan if known.gsd is None else math.log10(known.gsd)
    place = [math.nan] * 3
    if known.lon is not None and known.lat is not None:
        lon, lat = math.radians(known.lon), math.radians(known.lat)
        place = [math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)]
    return [math.sin(month), math.cos(month), gsd, *place]


def view(pixels: np.ndarray, factor: int, rng: np.random.Generator | None) -> np.ndarray:
    """A square of `SIZE` pixels after reduction by a factor: the central one, or a random one."""
    side = factor * SIZE
    spare = [length - side for length in pixels.shape[:2]]
    top, left = ((s // 2 if rng is None else int(rng.integers(s + 1))) for s in spare)
    square = pixels[top : top + side, left : left + side]
    return square if factor == 1 else np.asarray(Image.fromarray(square).reduce(factor))


def draw(source: Chips, row: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A changed view of a row, float32 (64, 64, 3) in [0, 255], and its numbers."""
    pixels, numbers = source.images[row], source.numbers[row].copy()
    factors = [f for f in (1, 2, 4) if min(pixels.shape[:2]) >= f * SIZE]
    factor = int(rng.choice(factors, p=np.array(factors) / sum(factors)))  # the more that is seen the better
    square = np.pad(view(pixels, factor, rng), ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "reflect")
    top, left = rng.integers(2 * SHIFT + 1, size=2)
    square = square[top : top + SIZE, left : left + SIZE]
    relief = 10 ** numbers[2] >= RELIEF_GSD
    if not relief:
        square = np.rot90(square, int(rng.integers(4)))[:, :: int(rng.choice([-1, 1]))]
    numbers[2] += math.log10(factor)
    mean, strength = square.mean((0, 1)), 0.3 if relief else 1.0  # colour is what tells the month
    gain = 1 + strength * 0.15 * rng.standard_normal()
    shift = strength * (8 * rng.standard_normal() + 5 * rng.standard_normal(3))
    return (square - mean) * gain + mean + shift, numbers


def batch(sources: dict[str, Chips], seed: int, count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Images (B, 3, 64, 64) in [-1, 1] and the target of each head: classes with -1, numbers with NaN."""
    rng = np.random.Generator(np.random.Philox(seed))
    images, numbers = np.empty((count, SIZE, SIZE, 3), np.float32), np.empty((count, 6), np.float32)
    labels = {name: np.full(count, -1) for name in LABELLED}
    shares = np.array([WEIGHTS[name] for name in sources])
    for i, choice in enumerate(rng.choice(len(sources), size=count, p=shares / shares.sum())):
        name, source = list(sources.items())[choice]
        row = int(rng.integers(len(source.images)))
        images[i], numbers[i] = draw(source, row, rng)
        if name in labels:
            labels[name][i] = source.labels[row]
    targets = {name: torch.from_numpy(values) for name, values in labels.items()}
    month, gsd, place = torch.from_numpy(numbers).split((2, 1, 3), 1)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).clamp(0, 255) / 127.5 - 1
    return tensor.contiguous(memory_format=torch.channels_last), targets | {
        "month": month,
        "log_gsd": gsd,
        "place": place,
    }


def loss(said: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> torch.Tensor:
    total = torch.zeros(())
    for name, target in targets.items():
        out = said[name].float()
        if name in LABELLED:
            rows = target >= 0
            error = F.cross_entropy(out[rows], target[rows], label_smoothing=SMOOTHING, reduction="sum")
        else:
            rows = target.isfinite().all(1)
            error = (out[rows] - target[rows]).square().sum()
        total = total + LOSSES[name] * error / len(target)
    return total


@torch.inference_mode()
def accuracies(network: CompactClassifier, sources: dict[str, Chips]) -> dict[str, float]:
    """Share of the central views, of the largest factor that fits, whose label is read."""
    result = {}
    for name in LABELLED:
        source = sources[name]
        squares = [view(p, min(p.shape[:2]) // SIZE, None) for p in source.images]
        said = []
        for start in range(0, len(squares), 256):
            pixels = torch.from_numpy(np.stack(squares[start : start + 256])).permute(0, 3, 1, 2)
            with torch.autocast("cpu", torch.bfloat16, enabled=FAST):
                said.append(network(pixels.float() / 127.5 - 1)[name].argmax(1))
        result[name] = float((torch.cat(said).numpy() == source.labels).mean())
    return result


def train(network: CompactClassifier, args: argparse.Namespace, parts: tuple[dict, dict]) -> dict:
    """Train; the network is left with the averaged weights that read the held-out tenth best."""
    seen_sources, held_out = parts
    matrices = [p for p in network.trunk[2:].parameters() if p.ndim == 4]
    chosen = {id(p) for p in matrices}
    others = [p for p in network.parameters() if id(p) not in chosen]
    optimiser = Muon(matrices, others, lr=0.02, adam_lr=2e-3, weight_decay=0.02)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    best: dict = {"score": 0.0}
    start, steps = time.monotonic(), args.images // BATCH
    every = max(1, steps // 12)
    for step in range(steps):
        seen = step * BATCH
        optimiser.set_rate(min(1.0, (seen + BATCH) / WARM_UP) * (1 - step / steps))
        images, targets = batch(seen_sources, (args.seed << 32) + step, BATCH)
        with torch.autocast("cpu", torch.bfloat16, enabled=FAST):
            said = network(images)
        error = loss(said, targets)
        error.backward()
        optimiser.step()
        optimiser.zero_grad()
        decay = min(0.99, (step + 1) / (step + 10))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - decay)
        if (step + 1) % every == 0 or step + 1 == steps:
            kept = {name: value.clone() for name, value in network.state_dict().items()}
            network.load_state_dict(average)
            read = accuracies(network.eval(), held_out)
            if sum(read.values()) >= best["score"]:
                weights = {name: value.clone() for name, value in average.items()}
                best = {"score": sum(read.values()), "images": seen + BATCH, "read": read, "weights": weights}
            network.load_state_dict(kept)
            network.train()
            line = {"images": seen + BATCH, "loss": error.item(), **read}
            print(json.dumps(line | {"seconds": round(time.monotonic() - start)}), flush=True)
    network.load_state_dict(best["weights"])
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=220_000)
    parser.add_argument("--rows", type=int, help="of each source, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)  # initial weights
    seen, held_out, classes = {}, {}, {}
    for name in WEIGHTS:
        samples = list(read_samples(args.data / name / "train.parquet", name))[: args.rows]
        samples = [s for s in samples if (s.metadata.cloud_cover or 0) < 60]
        labels = tuple(label for label in PHRASES if label in {s.label for s in samples})
        if name in LABELLED:
            classes[name] = labels
        usable = classes.get(name, ())
        seen[name] = chips([s for s in samples if not s.held_out], usable)
        held_out[name] = chips([s for s in samples if s.held_out], usable)
    network = CompactClassifier(classes=classes).to(memory_format=torch.channels_last)
    best = train(network, args, (seen, held_out))
    args.output.mkdir(parents=True, exist_ok=True)
    write_tensors(args.output / CLASSIFIER_FILE, network.state_dict(), "int8")
    config = {
        "format": CLASSIFIER_FORMAT,
        "version": "1",
        "classes": classes,
        "channels": [32, 64, 128, 192],
        "images_seen": best["images"],
        "held_out": best["read"],
    }
    write_bytes(args.output / "config.json", (json.dumps(config, indent=2) + "\n").encode(), overwrite=True)


if __name__ == "__main__":
    main()
