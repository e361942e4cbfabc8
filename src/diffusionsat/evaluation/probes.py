"""Probes on features: what heads, or a single linear layer, read from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.errors import ConfigError
from diffusionsat.metrics.distributions import ROWS

if TYPE_CHECKING:
    from diffusionsat.evaluation.cases import Case

LEAST = 40  # rows that know a field, to fit a probe of it


def blocks(items: Sequence[Any]) -> Iterator[Any]:
    """Parts of a sequence of rows, so many that their features fit in memory."""
    return (items[first : first + ROWS] for first in range(0, len(items), ROWS))


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """What reads classes and metadata from features of one network, (N, D).

    Args:
        network: Name of the network.
        head: By the name of a set of labels, ``month``, ``year``, ``log_gsd``, ``place`` or ``cloud_cover``:
            (N, K) of features.
        classes: Names of the classes of each set of labels.
        fields: Of month, year, place, gsd and cloud cover, those that can be read.
        family: What kind of probe it is; empty is the network's own heads.
    """

    network: str
    head: Callable[[str, Tensor], np.ndarray]
    classes: Mapping[str, Sequence[str]]
    fields: tuple[str, ...]
    family: str = ""

    @property
    def name(self) -> str:
        """What a report calls it."""
        return f"{self.family} on {self.network}" if self.family else self.network

    def labels(self, features: Tensor, label_set: str, rows: Sequence[int] | None = None) -> np.ndarray:
        """Names of the classes that are read, (N,).

        Args:
            features: (N, D).
            label_set: Name of a data set with labels, such as ``"eurosat_rgb"``.
            rows: Those that are read, a block at a time; None is all.

        Raises:
            ConfigError: If no such set of labels is known.
        """
        if label_set not in self.classes:
            known = ", ".join(self.classes)
            raise ConfigError(f"The classifier knows no labels of {label_set!r}. Known are: {known}.")
        parts = features.split(ROWS) if rows is None else (features[part] for part in blocks(rows))
        return np.array(self.classes[label_set])[
            np.concatenate([self.head(label_set, part).argmax(1) for part in parts])
        ]

    def months(self, features: Tensor) -> np.ndarray:
        """Months that are read, (N,), 0 to 12, where month m goes from m - 1 to m."""
        sine, cosine = self.head("month", features).T
        return np.arctan2(sine, cosine) / (2 * np.pi) * 12 % 12

    def years(self, features: Tensor) -> np.ndarray:
        """Years that are read, (N,)."""
        return self.head("year", features)[:, 0]

    def cloud_covers(self, features: Tensor) -> np.ndarray:
        """Percent under cloud that are read, (N,), 0 to 100."""
        return self.head("cloud_cover", features)[:, 0].clip(0, 100)

    def log_gsds(self, features: Tensor) -> np.ndarray:
        """Decimal logarithms of the metres per pixel that are read, (N,)."""
        return self.head("log_gsd", features)[:, 0]

    def places(self, features: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes that are read, degrees, (N,) each."""
        x, y, z = self.head("place", features).T
        return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))


def fit_probes(network: str, features: Tensor, cases: "Sequence[Case]") -> Probes:
    """Linear probes of everything that the cases know: ridge regression for numbers, softmax for labels.

    Args:
        network: Name of the network that the features are of.
        features: Of real images that are not judged, (N, D).
        cases: What is known of each, (N,).
    """
    classes: dict[str, list[str]] = {}
    layers: dict[str, tuple[Tensor, Tensor]] = {}
    mean, scale = _standard(features)
    for source in dict.fromkeys(case.source for case in cases):
        rows = [i for i, case in enumerate(cases) if case.source == source and case.label]
        labels = np.array([cases[i].label for i in rows])
        if len(rows) >= LEAST and len(set(labels.tolist())) > 1:
            fitted = fit_classifier(features[rows], labels)
            weight = fitted.weight / fitted.scale
            layers[source] = weight, fitted.bias - weight @ fitted.mean
            classes[source] = fitted.labels.tolist()
    fields = []
    for field, (head, numbers) in _TARGETS.items():
        known = np.array([numbers(*case.metadata.numbers) for case in cases], np.float64)
        rows = np.flatnonzero(np.isfinite(known).all(1))
        if len(rows) >= LEAST and np.ptp(known[rows], axis=0).any():
            x = (features[torch.from_numpy(rows)].double() - mean) / scale
            weight, bias = _ridge(x, torch.from_numpy(known[rows]))
            layers[head] = weight / scale, bias - weight / scale @ mean
            fields.append(field)

    def read(name: str, seen: Tensor) -> np.ndarray:
        return torch.cat([F.linear(rows.double(), *layers[name]) for rows in seen.split(ROWS)]).numpy()

    return Probes(network, read, classes, tuple(fields), "linear")


def _month(*numbers: float) -> list[float]:
    angle = 2 * np.pi * (numbers[5] - 0.5) / 12
    return [np.sin(angle), np.cos(angle)]


def _year(*numbers: float) -> list[float]:
    return [numbers[4]]


def _cloud_cover(*numbers: float) -> list[float]:
    return [numbers[3]]


def _gsd(*numbers: float) -> list[float]:
    return [np.log10(numbers[2])]


def _place(*numbers: float) -> list[float]:
    lon, lat = np.radians(numbers[:2])
    return [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]


# Field -> name of its head, and what the head gives, of the seven numbers of metadata.
_TARGETS: dict[str, tuple[str, Callable[..., list[float]]]] = {
    "month": ("month", _month),
    "year": ("year", _year),
    "place": ("place", _place),
    "gsd": ("log_gsd", _gsd),
    "cloud cover": ("cloud_cover", _cloud_cover),
}


def _standard(features: Tensor) -> tuple[Tensor, Tensor]:
    mean = features.double().mean(0)
    return mean, features.double().std(0, correction=0).clamp_min(1e-6)


def _ridge(x: Tensor, y: Tensor, decay: float = 0.1) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) that minimise the mean squared error + decay * |weight|²."""
    bias, centre = y.mean(0), x.mean(0)
    x, y = x - centre, y - bias
    inner = x.T @ x / len(x) + decay * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(inner, x.T @ y / len(x)).T
    return weight, bias - weight @ centre


@dataclass(frozen=True, slots=True, eq=False)
class LinearClassifier:
    """Softmax regression on standardised features; made by `fit_classifier`.

    Args:
        labels: Names of the classes, (K,), sorted.
        mean: Of each feature over the rows that were fitted, (D,).
        scale: Standard deviation of each, (D,).
        weight: (K, D).
        bias: (K,).
    """

    labels: np.ndarray
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> np.ndarray:
        """Names that are read from features (N, D), (N,)."""
        logits = F.linear((features.double() - self.mean) / self.scale, self.weight, self.bias)
        return self.labels[logits.argmax(1).cpu().numpy()]


def fit_classifier(features: Tensor, labels: np.ndarray, *, decay: float = 1e-3) -> LinearClassifier:
    """Fit softmax regression by L-BFGS; the same result each time.

    Minimises the mean cross entropy + decay / 2 * |weight|², which is convex.

    Args:
        features: (N, D).
        labels: Name of each row's class, (N,), of at least two kinds.
        decay: Strength of the penalty, above 0.

    Raises:
        ConfigError: If there are not as many labels as rows, all are the same, or decay is not above 0.
    """
    if len(features) != len(labels) or not decay > 0:
        raise ConfigError(
            f"{len(labels)} labels for {len(features)} rows and a decay of {decay!r} are given. "
            "Give one label a row and a decay above 0."
        )
    names, numbers = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ConfigError(f"All rows are {names.tolist()}. Give rows of at least two classes.")
    mean, scale = _standard(features)
    x, target = (features.double() - mean) / scale, torch.from_numpy(numbers).to(features.device)
    weight = x.new_zeros(len(names), x.shape[1], requires_grad=True)
    bias = x.new_zeros(len(names), requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        error = F.cross_entropy(F.linear(x, weight, bias), target) + decay / 2 * weight.square().sum()
        error.backward()
        return error

    with torch.enable_grad():
        solver.step(closure)
    return LinearClassifier(names, mean, scale, weight.detach(), bias.detach())
