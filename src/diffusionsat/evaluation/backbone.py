"""The model as a backbone: linear probes on its features, beside networks that were made to be backbones.

Softmax regression learns from 1, 10 and 100 % of the labels of training rows and is tried on test rows. The
strength of its penalty is chosen on the held-out tenth of the training places, and so may a block be: what is
read there stands in each line, and test rows choose nothing.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusionsat.data.parquet import Sample
from diffusionsat.errors import DatasetError
from diffusionsat.evaluation import figures
from diffusionsat.evaluation.cases import FITS
from diffusionsat.evaluation.features import FeatureNetwork
from diffusionsat.evaluation.probes import fit_classifier
from diffusionsat.evaluation.sampling import centrals, rows
from diffusionsat.evaluation.section import Line, Section
from diffusionsat.evaluation.units import Arrays, complete, digest
from diffusionsat.metadata import Metadata
from diffusionsat.metrics.bootstrap import bootstrap
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.features import Extractor, FeaturesRequest, block_names

SPLITS = ("train", "test")
MOST = 10_000  # rows of a split, where no number is asked for
SIGMAS = (0.05, 0.25, 1.0)
SHARES = (0.01, 0.1, 1.0)
DECAYS = (1e-3, 1e-2, 1e-1, 1.0)
UNIT = 64  # images that are looked at together
Look = Callable[
    [np.ndarray, Sequence[int]], dict[str, Tensor]
]  # images and their numbers to features by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is probed on.

    Args:
        sources: Folders of data sets with labels, each with ``train.parquet`` and ``test.parquet``.
        n: The most training rows, and the most test rows, of each data set.
        size: Side of the images in pixels.
        seed: Of the choice of rows, of the noise and of the labels that are kept.
    """

    sources: tuple[Path, ...]
    n: int
    size: int = 64
    seed: int = 0

    def samples(self, source: Path, split: str) -> list[Sample]:
        """Rows of a data set.

        Raises:
            DatasetError: If the data set is absent, or has rows without a label.
        """
        found = rows(source.parent, source.name, split=split, count=self.n, seed=self.seed)
        if not all(sample.label for sample in found):
            raise DatasetError(f"{source} has rows without a label. Give a data set of classes.")
        return found

    @property
    def protocol(self) -> dict[str, Any]:
        """What decides the figures, beside what is looked with."""
        chosen = {f"{s.name}/{split}": self.samples(s, split) for s in self.sources for split in SPLITS}
        said = [
            [name, s.key, s.label, s.held_out, hashlib.sha256(s.encoded).hexdigest()]
            for name, some in chosen.items()
            for s in some
        ]
        return {
            "sources": [source.name for source in self.sources],
            "data_hash": digest(said),
            "n": {name: len(some) for name, some in chosen.items()},
            "size": self.size,
            "crop": FITS["central"],
            "seed": self.seed,
            "sigma": list(SIGMAS),
            "labels": [f"{share:.0%}" for share in SHARES],
            "decays": list(DECAYS),
        }


def of_model(sat: DiffusionSat, seed: int) -> Look:
    """Pooled features of every part of the denoising network at several noise levels; nothing is told."""
    request = FeaturesRequest(sigma=SIGMAS, blocks=tuple(block_names(sat)), seed=seed)
    extractor = Extractor(sat, request)

    def look(pixels: np.ndarray, numbers: Sequence[int]) -> dict[str, Tensor]:
        count = len(pixels)
        maps = extractor(pixels, [""] * count, [Metadata()] * count, numbers)
        return {name: torch.from_numpy(x.mean((2, 3), dtype=np.float64)).float() for name, x in maps.items()}

    return look


def of_network(network: FeatureNetwork) -> Look:
    """Features of a network."""
    return lambda pixels, _: {network.name: network(pixels)}


def measure(
    looks: Mapping[str, Look],
    plan: Plan,
    folder: Path,
    told: Callable[[str, int, int], None] | None = None,
) -> Section:
    """How well each feature tells the classes of test rows; one line a feature and share of the labels.

    Args:
        looks: What takes features, by a digest of its weights; see `of_model` and `of_network`.
        plan: What is probed on.
        folder: Where features are kept, so that a run that was stopped goes on.
        told: Called with what is done, units done and units in all.

    Raises:
        DatasetError: If a data set is absent, has no labels, or too few training rows; or the folder is of
            another plan or of other weights.
    """
    lines: list[Line] = []
    for source in plan.sources:
        train, test = (plan.samples(source, split) for split in SPLITS)
        seen = [
            _seen(looks, some, plan, folder / source.name / split, told)
            for split, some in zip(SPLITS, (train, test), strict=True)
        ]
        lines += _lines(source.name, train, test, *seen, seed=plan.seed)
    return Section({"linear probes": lines}, files={"probes.png": figures.probes(lines)})


def _seen(
    looks: Mapping[str, Look],
    samples: Sequence[Sample],
    plan: Plan,
    folder: Path,
    told: Callable[[str, int, int], None] | None,
) -> dict[str, Tensor]:
    """Features of some rows, (N, D) by name."""

    def compute(unit: int) -> Arrays:
        numbers = range(unit * UNIT, min((unit + 1) * UNIT, len(samples)))
        pixels, _ = centrals([samples[i] for i in numbers], plan.size)
        return {name: x.numpy() for look in looks.values() for name, x in look(pixels, numbers).items()}

    identity = [digest([s.key for s in samples]), plan.size, plan.seed, list(looks)]
    kept = complete(folder, identity, -(-len(samples) // UNIT), compute, threads=None, on_unit=told)
    return {name: torch.from_numpy(kept.whole(name)) for name in kept.names()}


def _lines(
    source: str,
    train: Sequence[Sample],
    test: Sequence[Sample],
    learned: dict[str, Tensor],
    tried: dict[str, Tensor],
    *,
    seed: int,
) -> list[Line]:
    labels, truth = (np.array([sample.label for sample in split]) for split in (train, test))
    places = [s.key if s.metadata.lon is None else str((s.metadata.lon, s.metadata.lat)) for s in test]
    held_out = np.array([sample.held_out for sample in train])
    if not held_out.any():
        raise DatasetError(
            f"Of {len(train)} training rows of {source} none lies in the held-out tenth of the places, "
            "where the penalty is chosen. Give a larger -n."
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(np.flatnonzero(~held_out))
    lines: list[Line] = []
    for name, features in learned.items():
        block, _, sigma = name.partition("@")
        for share in SHARES:
            some = np.sort(order[: round(share * len(order))])
            if len(set(labels[some])) < 2:
                continue
            fits = [fit_classifier(features[some], labels[some], decay=decay) for decay in DECAYS]
            read = [float((fit(features[held_out]) == labels[held_out]).mean()) for fit in fits]
            best = read.index(max(read))
            right = fits[best](tried[name]) == truth
            line: Line = {"labels": source, "features": block, "sigma": sigma, "share": f"{share:.0%}"}
            line |= {"n_labels": len(some), "n": len(test), "width": features.shape[1]}
            line["read_held_out"] = read[best]
            lines.append(
                line | {"read": asdict(bootstrap(lambda r, x=right: float(x[r].mean()), places, count=200))}
            )
    return lines
