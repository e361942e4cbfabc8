"""How sure a figure is: intervals by resampling places, and p-values by permuting them.

Images of one place resemble each other, so the unit that is drawn or permuted is the group (a place), never
the image. Everything is a function of its seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from diffusionsat.errors import ConfigError
from diffusionsat.metrics.checks import check_level, check_numbers


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its confidence interval.

    Args:
        value: The figure on all rows.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    groups: Sequence | np.ndarray,
    *,
    count: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic when whole groups are drawn with replacement.

    A comparison is paired if the statistic reads both models at the same rows:
    ``bootstrap(lambda rows: (a[rows] - b[rows]).mean(), places)``. The interval is too narrow below some
    twenty groups, and means nothing for distances between sets, which doubled rows raise.
    Source: Efron & Tibshirani 1993, chapter 13; Field & Welsh 2007 for groups.

    Args:
        statistic: Function of row numbers, (n,), some repeated, to a number.
        groups: Group of each row, (N,), such as the place.
        count: How often to draw.
        level: Confidence, between 0 and 1.
        seed: Of the draws.

    Raises:
        ConfigError: If there are fewer than two groups, or the level is none.
    """
    check_level(level)
    rows, starts, sizes = _rows_by_group(groups)
    generator = _generator(seed)
    drawn = np.empty(count)
    for i in range(count):
        picked = generator.integers(len(starts), size=len(starts))
        ends = np.cumsum(sizes[picked])
        within = np.arange(ends[-1]) - np.repeat(ends - sizes[picked], sizes[picked])
        drawn[i] = statistic(rows[np.repeat(starts[picked], sizes[picked]) + within])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(np.arange(len(rows)))), float(low), float(high))


def mean_interval(values: np.ndarray, *, level: float = 0.95) -> Interval:
    """Student's interval of the mean of independent values, (N,), N at least 2; see `student`.

    Raises:
        ConfigError: If the values are not that, or the level is none.
    """
    check_level(level)
    values = np.asarray(values, np.float64)
    check_numbers(2, values=values)
    half = student((1 + level) / 2, len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half)


def student(share: float, freedom: int) -> float:
    """Quantile of Student's distribution, by Fisher and Cornish's expansion about the normal one.

    Within 2 % from 3 degrees of freedom up, within 0.3 % from 9. Source: Abramowitz & Stegun 26.7.5.
    """
    z = NormalDist().inv_cdf(share)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def sign_flip_p_value(
    differences: np.ndarray, groups: Sequence | np.ndarray, *, count: int = 9999, seed: int = 0
) -> float:
    """Two-sided p-value that paired differences have mean 0, by turning the signs of whole groups.

    p = (1 + flips whose absolute sum is at least the observed) / (1 + count), 1 / (1 + count) to 1, no unit,
    lower speaks more against the hypothesis. Source: Fisher 1935; the count as Phipson & Smyth 2010.

    Args:
        differences: Score of one model minus score of the other, (N,).
        groups: Group of each row, (N,).
        count: How many flips to try.
        seed: Of the flips.

    Raises:
        ConfigError: If the arrays are not that, or there are fewer than two groups.
    """
    differences = np.asarray(differences, np.float64)
    check_numbers(differences=differences)
    rows, starts, _ = _rows_by_group(groups, len(differences))
    sums = np.add.reduceat(differences[rows], starts)
    generator = _generator(seed)
    flipped = np.array([(2 * generator.integers(2, size=len(sums)) - 1) @ sums for _ in range(count)])
    return _p_value(np.abs(flipped), abs(sums.sum()))


def label_p_value(
    scores: np.ndarray,
    labels: Sequence | np.ndarray,
    groups: Sequence | np.ndarray,
    *,
    count: int = 9999,
    seed: int = 0,
) -> float:
    """p-value that scores do not depend on a label of the places, by permuting labels among places.

    The statistic is the sum of squares between labels of the places' mean scores, each place weighing the
    same; p as in `sign_flip_p_value`, 1 / (1 + count) to 1, no unit. It answers "no bias by continent".
    Source: Fisher 1935; Anderson 2001.

    Args:
        scores: Score of each row, (N,).
        labels: Label of each row, (N,), one label a group.
        groups: Group of each row, (N,).
        count: How many permutations to try.
        seed: Of the permutations.

    Raises:
        ConfigError: If the arrays are not that, a group has two labels, or there is only one label.
    """
    scores = np.asarray(scores, np.float64)
    check_numbers(scores=scores)
    rows, starts, sizes = _rows_by_group(groups, len(scores))
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    if len(codes) != len(scores) or len(names) < 2:
        raise ConfigError(
            f"{len(codes)} labels of {len(names)} kinds for {len(scores)} scores are given. "
            "Give one label a score and at least two kinds."
        )
    of_group = codes[rows][starts]
    if (codes[rows] != np.repeat(of_group, sizes)).any():
        raise ConfigError("A group has rows of different labels. Give groups that lie within one label.")
    means = np.add.reduceat(scores[rows], starts) / sizes
    means -= means.mean()
    members = np.bincount(of_group)

    def between(order: np.ndarray) -> float:
        return float((np.bincount(of_group, means[order]) ** 2 / members).sum())

    generator = _generator(seed)
    permuted = np.array([between(generator.permutation(len(means))) for _ in range(count)])
    return _p_value(permuted, between(np.arange(len(means))))


def _p_value(drawn: np.ndarray, observed: float) -> float:
    # The slack counts draws that equal the observed value but for rounding.
    slack = 1e-12 * np.abs(drawn).max(initial=0)
    return float((1 + (drawn >= observed - slack).sum()) / (1 + len(drawn)))


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def _rows_by_group(
    groups: Sequence | np.ndarray, length: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers sorted by group, where each group starts in them, and its size."""
    names, codes, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ConfigError(f"{len(names)} groups are given. Resampling needs at least two.")
    if length is not None and len(codes) != length:
        raise ConfigError(f"{len(codes)} groups for {length} rows are given. Give one a row.")
    return np.argsort(codes, kind="stable"), np.cumsum(sizes) - sizes, sizes
