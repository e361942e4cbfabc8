"""The measures of the compact model: what its autoencoder loses, and whether samples obey words and numbers.

A measure takes a function that makes images, so that images from elsewhere can be measured too, and gives
lines, mappings that JSON can hold. Test rows are looked at here and nowhere before.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusionsat.data.captions import PHRASES
from diffusionsat.data.parquet import Sample
from diffusionsat.errors import ConfigError
from diffusionsat.evaluation.cases import central, wording
from diffusionsat.evaluation.controllability import ERRORS, obedience
from diffusionsat.evaluation.features import FeatureNetwork, Reader
from diffusionsat.evaluation.probes import fit_classifier
from diffusionsat.evaluation.sampling import Make, centrals, rows
from diffusionsat.evaluation.section import Line
from diffusionsat.metadata import Metadata
from diffusionsat.metrics.distributions import Moments, frechet_distance, kernel_distance
from diffusionsat.metrics.pairs import psnr, ssim
from diffusionsat.metrics.probes import great_circle_km, r2
from diffusionsat.metrics.uncertainty import spread_skill

Autoencode = Callable[[np.ndarray], np.ndarray]  # uint8 (B, H, W, 3) encoded and decoded

EUROSAT = "eurosat_rgb"
EUROSAT_GSD = 10.0
UNSEEN = {"woods": "Forest", "wheat": "AnnualCrop", "suburb": "Residential", "motorway": "Highway"}
METADATA = ("none", "gsd", "rows")
SEASONS = "blue_marble_2004"
RESOLUTIONS = (  # from 0.3 m to 7.4 km
    "uc_merced",
    "naip_california_cities",
    EUROSAT,
    "landsat_30m_paraguay_brazil_us",
    "blue_marble_500m",
    SEASONS,
)
AUTOENCODED = {  # source -> factors by which its images are reduced first
    EUROSAT: (1,),
    "uc_merced": (1, 2, 4),
    "naip_california_cities": (1,),
    SEASONS: (1,),
}
NEIGHBOURS = 10
BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured on.

    Args:
        data: Folder with one folder a data set.
        n: The most rows of each data set, or the images of each class.
        size: Side of the images in pixels.
        seed: Of the choice of rows.
    """

    data: Path
    n: int
    size: int = 64
    seed: int = 0

    def test(self, source: str, n: int | None = None) -> list[Sample]:
        """Test rows of a data set, at most ``n``."""
        return rows(self.data, source, count=self.n if n is None else n, seed=self.seed)

    def train(self, source: str) -> list[Sample]:
        """All train rows of a data set."""
        return rows(self.data, source, split="train")

    def order(self, count: int) -> np.ndarray:
        """A random order of so many rows."""
        return np.random.Generator(np.random.Philox(self.seed)).permutation(count)


def prompt(sample: Sample) -> str:
    """The words that an image is asked for with."""
    return wording(sample.caption, sample.label, sample.source)


def autoencoding(autoencode: Autoencode, reader: Reader, plan: Plan) -> list[Line]:
    """What the autoencoder keeps: PSNR and SSIM, and the share of images whose class is still read.

    Args:
        autoencode: Encodes and decodes at most 64 images.
        reader: The classifier; its share on the real images stands beside.
        plan: What is measured on.
    """
    lines = []
    for source, factor in ((source, f) for source, factors in AUTOENCODED.items() for f in factors):
        images = [(s.label, s.pixels()) for s in plan.test(source)]
        images = [(label, x) for label, x in images if min(x.shape[:2]) >= factor * plan.size]
        if not images:
            continue
        real = np.stack([central(x, plan.size, factor) for _, x in images])
        again = _in_batches(autoencode, real)
        pair = [torch.from_numpy(x).permute(0, 3, 1, 2) / 255 for x in (again, real)]
        line = {"source": source, "reduced": factor, "n": len(real)}
        line["psnr"] = float(psnr(*pair, data_range=1).mean())
        line["ssim"] = float(ssim(*pair, data_range=1).mean())
        if source in reader.network.classes:
            truth = np.array([label for label, _ in images])
            line["read_real"] = _share(reader.labels(real, source), truth)
            line["read"] = _share(reader.labels(again, source), truth)
        lines.append(line)
    return lines


def word_images(make: Make, plan: Plan, *, known: str = "gsd") -> tuple[np.ndarray, np.ndarray]:
    """``n`` images of each EuroSAT class in all phrasings of the captions, and of each of `UNSEEN`.

    Args:
        make: Makes the images.
        plan: What is measured on.
        known: ``"none"``: the words alone; ``"gsd"``: and 10 m; ``"rows"``: and the metadata of train rows of
            the class, whose places the model knows.

    Returns:
        Images, uint8 (N, H, W, 3), and the class or the word that each was asked for.

    Raises:
        ConfigError: If ``known`` is none of these.
    """
    if known not in METADATA:
        raise ConfigError(f"metadata is {known!r}. Give one of {', '.join(METADATA)}.")
    train = plan.train(EUROSAT)
    labels = sorted({s.label for s in train if s.label})
    asked, names = [], []
    for name, ways in ({label: PHRASES[label] for label in labels} | {w: (w,) for w in UNSEEN}).items():
        peers = [s.metadata for s in train if s.label == UNSEEN.get(name, name)]
        drawn = plan.order(len(peers))
        fixed = Metadata() if known == "none" else Metadata(gsd=EUROSAT_GSD)
        for i in range(plan.n):
            metadata = peers[drawn[i % len(peers)]] if known == "rows" else fixed
            asked.append((ways[i % len(ways)], metadata))
            names.append(name)
    return make(asked, f"words_{known}"), np.array(names)


def words(pixels: np.ndarray, names: np.ndarray, reader: Reader, plan: Plan) -> list[Line]:
    """The share of images that the classifier reads as what they were asked for.

    Args:
        pixels: Images, uint8 (N, H, W, 3).
        names: Class or word of each, (N,), as `word_images` gives both.
        reader: The classifier; its share on real test rows stands beside.
        plan: What is measured on.
    """
    said, test = reader.labels(pixels, EUROSAT), plan.test(EUROSAT)
    right = {
        str(name): _share(said[names == name], UNSEEN.get(name, name))
        for name in dict.fromkeys(names.tolist())
    }
    classes = [share for name, share in right.items() if name not in UNSEEN]
    unseen = [share for name, share in right.items() if name in UNSEEN]
    real = reader.labels(centrals(test, plan.size)[0], EUROSAT)
    line = {"n": plan.n, "read": float(np.mean(classes)), "read_unseen": float(np.mean(unseen))}
    return [line | {"read_real": _share(real, _labels(test)), "n_real": len(test), "classes": right}]


def usefulness(pixels: np.ndarray, names: np.ndarray, features: FeatureNetwork, plan: Plan) -> list[Line]:
    """Train on generated, test on real: a linear classifier on features, beside one of as many real rows.

    Args:
        pixels: Images, uint8 (N, H, W, 3).
        names: Class or word of each, (N,); words of `UNSEEN` are left out.
        features: Of a network that has not learned from EuroSAT.
        plan: What is measured on.
    """
    ours = ~np.isin(names, list(UNSEEN))
    train, test = plan.train(EUROSAT), plan.test(EUROSAT)
    peers = [train[i] for i in plan.order(len(train))[: ours.sum()]]
    seen, truth = features(centrals(test, plan.size)[0]), _labels(test)
    by_generated = fit_classifier(features(pixels[ours]), names[ours])(seen)
    by_real = fit_classifier(features(centrals(peers, plan.size)[0]), _labels(peers))(seen)
    line = {"n": int(ours.sum()), "n_real": len(test)}
    return [line | {"read_by_generated": _share(by_generated, truth), "read_by_real": _share(by_real, truth)}]


def place(make: Make, plan: Plan, *, samples: int = 16) -> list[Line]:
    """How much of the mean colour of EuroSAT test chips the samples of their class and place explain.

    R² is the mean of red's, green's and blue's: of the mean of a row's samples, of single samples (2 R² - 1
    for a perfect model), of the mean colour of the class and of the class's nearest train chips.
    ``spread_skill`` is 1 when the samples of a row spread as far as they err.

    Args:
        make: Makes the images.
        plan: What is measured on.
        samples: Of each row, at least 2.

    Raises:
        ConfigError: If there are fewer samples.
    """
    if samples < 2:
        raise ConfigError(f"{samples} samples of each row are asked for. A spread needs at least two.")
    test = plan.test(EUROSAT)
    real, metadata = centrals(test, plan.size)
    truth = _colours(real)
    asked = [(prompt(s), m) for s, m in zip(test, metadata, strict=True) for _ in range(samples)]
    made = _colours(make(asked, f"place_{samples}")).reshape(len(test), samples, 3)
    mean = made.mean(1)
    variance, error = made.var(1, ddof=1).mean(1), ((mean - truth) ** 2).mean(1)
    by_class, by_neighbours = _colours_nearby(test, plan.train(EUROSAT))
    line = {
        "n": len(test),
        "samples": samples,
        "r2": _r2(mean, truth),
        "r2_single": float(np.mean([_r2(made[:, k], truth) for k in range(samples)])),
        "r2_class": _r2(by_class, truth),
        "r2_neighbours": _r2(by_neighbours, truth),
        "spread_skill": spread_skill(torch.from_numpy(variance), torch.from_numpy(error), samples),
    }
    return [line]


def season(make: Make, reader: Reader, plan: Plan) -> list[Line]:
    """Whether samples obey month, place and gsd, as the classifier reads them; see `controllability`.

    Each row's image is made from its own words and metadata. Month [months] and place [km] are asked on
    blue_marble_2004, gsd [decades] on sets from 0.3 m to 7.4 km.
    """
    share = -(-plan.n // len(RESOLUTIONS))
    mixed = [sample for source in RESOLUTIONS for sample in plan.test(source, share)]
    lines = []
    for name, samples, fields in (
        ("season", plan.test(SEASONS), ("month", "place")),
        ("gsd", mixed, ("gsd",)),
    ):
        real, metadata = centrals(samples, plan.size)
        made = make([(prompt(s), m) for s, m in zip(samples, metadata, strict=True)], name)
        places = [s.key if m.lon is None else (m.lon, m.lat) for s, m in zip(samples, metadata, strict=True)]
        groups = np.array([str(p) for p in places])
        others = [metadata[i] for i in plan.order(len(samples))]
        for field in fields:
            own, true, shuffled = (
                ERRORS[field](reader, pixels, asked)
                for pixels, asked in ((made, metadata), (real, metadata), (made, others))
            )
            lines.append({"field": field, **obedience(own, true, shuffled, groups)})
    return lines


def distances(
    make: Make,
    autoencode: Autoencode,
    features: FeatureNetwork,
    plan: Plan,
    *,
    source: str = EUROSAT,
    unknown: Sequence[str] = (),
) -> list[Line]:
    """Fréchet and kernel distance of samples to real test rows, with their floors at the same number.

    At most 2 ``n`` rows are cut in two halves. The samples are made from words and metadata of the first and
    compared with the images of the second; ``real`` compares the halves, ``autoencoded`` the first encoded
    and decoded with the second.

    Args:
        make: Makes the images.
        autoencode: Encodes and decodes at most 64 images.
        features: Of a network.
        plan: What is measured on.
        source: Data set of the rows.
        unknown: Fields of the metadata that are not told.

    Raises:
        ConfigError: If there are fewer than 40 rows.
        MetadataError: If one of ``unknown`` is no field.
    """
    samples = plan.test(source, 2 * plan.n)
    half = len(samples) // 2
    if half < 20:
        raise ConfigError(f"There are {len(samples)} rows of {source}. Distances need at least 40.")
    order = plan.order(len(samples))
    first, second = [samples[i] for i in order[:half]], [samples[i] for i in order[half : 2 * half]]
    real, metadata = centrals(first, plan.size)
    told = [m.replace(**dict.fromkeys(unknown)) for m in metadata]
    name = "_".join(("frechet", source, *(f"no_{field}" for field in unknown)))
    made = make([(prompt(s), m) for s, m in zip(first, told, strict=True)], name)
    reference = features(centrals(second, plan.size)[0])
    line: Line = {"source": source, "n": half, "unknown": list(unknown)}
    for kind, pixels in (("generated", made), ("autoencoded", _in_batches(autoencode, real)), ("real", real)):
        seen = features(pixels)
        line[f"frechet_{kind}"] = frechet_distance(Moments.of(seen), Moments.of(reference))
        line[f"kernel_{kind}"] = asdict(kernel_distance(seen, reference, seed=plan.seed))
    return [line]


def _colours_nearby(test: Sequence[Sample], train: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours that class alone, and class with nearest train chips (by 1 / (km + 1)), let expect."""
    colours = _colours(np.stack([s.pixels() for s in train]))
    lon, lat = np.array([s.metadata.numbers[:2] for s in train]).T
    labels = _labels(train)
    by_class, by_neighbours = np.empty((len(test), 3)), np.empty((len(test), 3))
    for i, sample in enumerate(test):
        same = np.flatnonzero(labels == sample.label)
        here_lon, here_lat = (np.full(len(same), x) for x in sample.metadata.numbers[:2])
        away = great_circle_km(lon[same], lat[same], here_lon, here_lat)
        nearest = np.argsort(away)[:NEIGHBOURS]
        by_class[i] = colours[same].mean(0)
        by_neighbours[i] = np.average(colours[same[nearest]], axis=0, weights=1 / (away[nearest] + 1))
    return by_class, by_neighbours


def _colours(pixels: np.ndarray) -> np.ndarray:
    """Mean colours, (N, 3) in [0, 255], of uint8 (N, H, W, 3)."""
    return pixels.mean((1, 2), dtype=np.float64)


def _r2(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([r2(predicted[:, c], truth[:, c]) for c in range(3)]))


def _in_batches(function: Autoencode, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([function(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])


def _labels(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([sample.label for sample in samples])


def _share(said: np.ndarray, truth: Any) -> float:
    return float((said == truth).mean())
