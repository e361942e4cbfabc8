"""Distances between two sets of images, seen through the features of some network.

A figure means nothing without the network, the number of images and the floor: the same distance between two
disjoint sets of real images of that number. Features are (N, D); their sums are kept in float64.
"""

import functools
import operator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusionsat.errors import ConfigError
from diffusionsat.metrics.bootstrap import Interval, mean_interval
from diffusionsat.metrics.checks import check_features
from diffusionsat.metrics.neighbours import distance_blocks

ROWS = 2048  # of features that are looked at together


@dataclass(frozen=True, eq=False)  # without slots, for what is kept
class Moments:
    """Mean and covariance of features that need never be in memory together; ``+`` joins two.

    Source: Chan, Golub & LeVeque 1979.

    Args:
        count: Rows seen, N.
        mean: Mean of each feature, (D,), float64.
        scatter: Sum of outer products of the deviations from the mean, (D, D), float64.

    Example:
        >>> batches = [torch.zeros(3, 2), torch.ones(1, 2)]
        >>> sum(map(Moments.of, batches[1:]), Moments.of(batches[0])).mean.tolist()
        [0.25, 0.25]
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Moments of features, (N, D), N at least 1.

        Raises:
            ConfigError: If they are not that.
        """
        check_features(features, rows=1)
        parts = features.split(ROWS)  # a whole set in float64 would be twice its size
        mean = torch.stack([rows.double().sum(0) for rows in parts]).sum(0) / len(features)
        scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
        for rows in parts:
            deviations = rows.double() - mean
            scatter.addmm_(deviations.T, deviations)
        return cls(len(features), mean, scatter)

    def __add__(self, other: "Moments") -> "Moments":
        if self.mean.shape != other.mean.shape:
            raise ConfigError(f"Features have widths {[len(self.mean), len(other.mean)]}. Give one width.")
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, (D, D).

        Raises:
            ConfigError: If only one row was seen.
        """
        if self.count < 2:
            raise ConfigError("The covariance of one row of features is not defined. Give at least two.")
        return self.scatter / (self.count - 1)

    @functools.cached_property
    def root(self) -> Tensor:
        """Symmetric square root of the covariance, (D, D); kept, since a reference is compared with often.

        Raises:
            ConfigError: If only one row was seen.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_distance(features: Moments, reference: Moments) -> float:
    """Fréchet distance of the normal distributions with these moments (FID where the network is Inception).

    ``|m1 - m2|² + Tr(S1 + S2 - 2 (S1 S2)^½)``, 0 upwards, lower is better, in squared units of the features.
    It is biased upwards by about c/N, and below N = D the covariance is singular: compare at one N only. The
    root's trace is that of (S1^½ S2 S1^½)^½, which is symmetric. Source: Heusel et al. 2017, equation 6;
    Dowson & Landau 1982.

    Args:
        features: Moments of the images that are judged.
        reference: Moments of the real ones.

    Raises:
        ConfigError: If the widths differ or one has fewer than two rows.
    """
    if features.mean.shape != reference.mean.shape:
        raise ConfigError(
            f"Features have widths {[len(features.mean), len(reference.mean)]}. Give one width."
        )
    shift = (features.mean - reference.mean).square().sum()
    product = reference.root @ features.covariance @ reference.root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    return float(shift + features.covariance.trace() + reference.covariance.trace() - 2 * cross)


@dataclass(frozen=True, slots=True, eq=False)
class Extrapolation:
    """A distance at infinitely many images, with the line that it was read from.

    Args:
        value: Intercept of the line.
        sizes: Numbers of images, (K,).
        distances: Distances at those numbers, (K,).
    """

    value: float
    sizes: np.ndarray
    distances: np.ndarray


def frechet_infinity(
    features: Tensor, reference: Moments, *, smallest: int | None = None, points: int = 15, seed: int = 0
) -> Extrapolation:
    """Fréchet distance extrapolated to infinitely many judged images.

    The distance is taken at random subsets of evenly spaced sizes and its line over 1/N followed to 0. Range
    0 upwards but for noise, lower is better, in squared units of the features. The reference's own number of
    images still counts, and the line is straight only well above N = D. Source: Chong & Forsyth 2020.

    Args:
        features: Features of the judged images, (N, D).
        reference: Moments of the real ones.
        smallest: Size of the smallest subset; a tenth of N if not given.
        points: How many sizes.
        seed: Of the subsets.

    Raises:
        ConfigError: If the features are none, or the sizes are not possible.
    """
    smallest = len(features) // 10 if smallest is None else smallest
    if not 2 <= smallest < len(features) or points < 2:
        raise ConfigError(
            f"{points} subsets from {smallest} to {len(features)} rows are asked for. "
            "Give at least two sizes of at least two rows, below the number of rows."
        )
    generator = np.random.Generator(np.random.Philox(seed))
    sizes = np.linspace(smallest, len(features), points).round().astype(int)
    distances = []
    for size in sizes:
        picked = torch.from_numpy(np.sort(generator.permutation(len(features))[:size]))
        parts = (Moments.of(features[rows.to(features.device)]) for rows in picked.split(ROWS))
        distances.append(frechet_distance(functools.reduce(operator.add, parts), reference))
    slope_and_value = np.polynomial.Polynomial.fit(1 / sizes, distances, 1).convert().coef
    return Extrapolation(float(slope_and_value[0]), sizes, np.array(distances))


def polynomial_mmd(features: Tensor, reference: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x·y / D + 1)³, over all pairs; see `kernel_distance`.

    For some hundreds of images, as in one cell of a map. A bootstrap gives it no interval, since doubled rows
    raise it. About 0 for equal distributions, lower is better, no unit. Source: Bińkowski et al. 2018.

    Args:
        features: Features of the judged images, (N, D).
        reference: Features of the real ones, (M, D).

    Raises:
        ConfigError: If the features are none, or one set has a single row.
    """
    check_features(features, reference)
    x, y = features.double(), reference.double()
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    return float(within[0] + within[1] - 2 * xy.mean())


def kernel_distance(
    features: Tensor, reference: Tensor, *, block: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Kernel distance (KID): unbiased squared MMD with the kernel (x·y / D + 1)³, with its interval.

    The mean over disjoint random blocks, whose independent values give Student's interval: linear time, and
    usable from some tens of images; near 0 `polynomial_mmd` of all pairs is sharper. About 0 (below too) for
    equal distributions, upwards without bound, lower is better, no unit. Of the larger set as many rows count
    as the smaller one has. Source: Bińkowski et al. 2018; Zaremba, Gretton & Blaschko 2013 (blocks).

    Args:
        features: Features of the judged images, (N, D).
        reference: Features of the real ones, (M, D).
        block: The most rows in a block; there are at least ten blocks.
        level: Confidence of the interval.
        seed: Of the blocks.

    Raises:
        ConfigError: If the features are none, or one set has fewer than 20 rows.
    """
    check_features(features, reference, rows=20)
    if block < 2:
        raise ConfigError(f"block is {block}. Give at least 2 rows.")
    rows = min(len(features), len(reference))
    generator = np.random.Generator(np.random.Philox(seed))
    orders = [torch.from_numpy(generator.permutation(len(x))[:rows]) for x in (features, reference)]
    blocks = zip(*(order.tensor_split(max(10, -(-rows // block))) for order in orders), strict=True)
    device = features.device
    values = [polynomial_mmd(features[a.to(device)], reference[b.to(device)]) for a, b in blocks]
    return mean_interval(np.array(values), level=level)


def cmmd(features: Tensor, reference: Tensor, *, sigma: float = 10.0) -> float:
    """CMMD: 1000 times the squared MMD with the kernel ``exp(-|x - y|² / 2 sigma²)``, diagonals kept.

    0 to 2000, lower is better, no unit. Defined for features of unit length of CLIP ViT-L/14 at 336 px, which
    the caller normalises; another network's figure must carry its name. The diagonals bias it upwards by some
    1000 (1 - mean kernel) (1/N + 1/M). Takes time (N + M)², memory of one block. Source: Jayasumana et al.
    2024 and its code.

    Args:
        features: Features of the judged images, (N, D).
        reference: Features of the real ones, (M, D).
        sigma: Width of the kernel, in units of the features.

    Raises:
        ConfigError: If the features are none or sigma is not above 0.
    """
    check_features(features, reference, rows=1)
    if not sigma > 0:
        raise ConfigError(f"sigma is {sigma!r}. Give a width above 0.")
    pairs = ((features, features, 1), (reference, reference, 1), (features, reference, -2))
    return 1000 * sum(weight * _mean_below_one(x, y, sigma) for x, y, weight in pairs)


def inception_score(logits: Tensor, *, parts: int = 10) -> float:
    """How surely each image is of a class, and how evenly the set is of all: exp(H(E p(y|x)) - E H(p(y|x))).

    The mean over interleaved parts of the set. 1 (all images are of the same classes) to their number, higher
    is better, no unit. It asks no real image what is real and grows with the number of images: read it beside
    what real images get at the same number. Published figures are on Inception's classes. Source: Salimans et
    al. 2016, section 4.

    Args:
        logits: Of the classes of each image, (N, K).
        parts: How many; each has at least two images.

    Raises:
        ConfigError: If the logits are none, or too few for the parts.
    """
    check_features(logits, rows=max(2 * parts, 2))
    scores = []
    for start in range(parts):
        log_p = logits[start::parts].double().log_softmax(1)
        p = log_p.exp()
        mean = p.mean(0)
        scores.append((torch.xlogy(p, p).sum(1).mean() - torch.xlogy(mean, mean).sum()).exp())
    return float(torch.stack(scores).mean())


def _mean_below_one(x: Tensor, y: Tensor, sigma: float) -> float:
    """Mean of exp(-|x - y|² / 2 sigma²) - 1 over all pairs; the ones, which cancel, would cost digits."""
    total = sum(float(torch.expm1(d.square() / (-2 * sigma**2)).sum()) for _, _, d in distance_blocks(x, y))
    return total / (len(x) * len(y))
