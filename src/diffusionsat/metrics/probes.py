"""Does an image show the metadata that was asked for, as probes trained on real images read it.

Arrays are NumPy's, (N,), one number a row; angles in degrees, distances in kilometres.
"""

from collections.abc import Sequence

import numpy as np

from diffusionsat.errors import ConfigError
from diffusionsat.metrics.bootstrap import Interval, bootstrap
from diffusionsat.metrics.checks import check_numbers

EARTH_RADIUS_KM = 6371.0088  # mean radius of WGS84 (IUGG)


def controllability(
    generated: np.ndarray,
    real: np.ndarray,
    shuffled: np.ndarray,
    places: Sequence | np.ndarray,
    *,
    count: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How faithfully a field is obeyed: 1 - (mean generated - mean real) / (mean shuffled - mean real).

    1: the probe errs on generated images as on real ones; 0: the image does not depend on the field;
    unbounded on both sides, higher is better, no unit. ``shuffled`` must be the errors of the *generated*
    images against requests of other rows: against real images a model that ignores the field but makes
    average images would score above 0. Interval by a bootstrap over places. Source: the project's definition.

    Args:
        generated: Probe's error on each generated image against its own request, (N,).
        real: Its error on the real image of the row, (N,).
        shuffled: Its error on the generated image against another row's request, (N,).
        places: Place of each row, (N,).
        count: Draws of the bootstrap.
        level: Confidence.
        seed: Of the bootstrap.

    Raises:
        ConfigError: If the arrays are not that, or shuffled requests are not worse than real images: then the
            probe cannot read the field, and nothing can be said.
    """
    generated, real, shuffled = (np.asarray(x, np.float64) for x in (generated, real, shuffled))
    check_numbers(generated=generated, real=real, shuffled=shuffled)
    if len(np.asarray(places)) != len(real):
        raise ConfigError(f"{len(np.asarray(places))} places for {len(real)} rows are given. Give one a row.")
    if not shuffled.mean() > real.mean():
        raise ConfigError(
            f"The probe errs by {real.mean():g} on real images and {shuffled.mean():g} on shuffled requests: "
            "it does not read this field. Train a better probe."
        )

    def score(rows: np.ndarray) -> float:
        floor = real[rows].mean()
        return 1 - (generated[rows].mean() - floor) / (shuffled[rows].mean() - floor)

    return bootstrap(score, places, count=count, level=level, seed=seed)


def r2(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Share of the variance that is explained: ``1 - sum |y - p|² / sum |y - mean y|²``, columns pooled.

    Range to 1 from below without bound, higher is better, no unit. Source: the definition.

    Args:
        predicted: (N,) or (N, D), such as mean colours.
        truth: Same shape.

    Raises:
        ConfigError: If the arrays are not that, or the truth is constant.
    """
    predicted, truth = (np.asarray(x, np.float64) for x in (predicted, truth))
    if predicted.shape != truth.shape or truth.ndim not in (1, 2):
        raise ConfigError(
            f"predicted is {predicted.shape}, truth {truth.shape}. Give equal shapes (N,) or (N, D)."
        )
    check_numbers(2, predicted=predicted.ravel(), truth=truth.ravel())
    total = ((truth - truth.mean(0)) ** 2).sum()
    if total == 0:
        raise ConfigError("The truth is constant, so that no share of its variance can be explained.")
    return float(1 - ((truth - predicted) ** 2).sum() / total)


def circular_error(predicted: np.ndarray, truth: np.ndarray, *, period: float) -> np.ndarray:
    """Distance on a circle, the short way round: 12 for months, 360 for longitudes or azimuths.

    Range 0 to period / 2, lower is better, in units of the period. Source: the definition.

    Args:
        predicted: (N,).
        truth: (N,).
        period: Length of the circle, above 0.

    Raises:
        ConfigError: If the arrays are not that, or the period is not above 0.
    """
    predicted, truth = (np.asarray(x, np.float64) for x in (predicted, truth))
    check_numbers(predicted=predicted, truth=truth)
    if not period > 0:
        raise ConfigError(f"period is {period!r}. Give the length of the circle, such as 12 for months.")
    apart = np.abs(predicted - truth) % period
    return np.minimum(apart, period - apart)


def great_circle_km(
    lon: np.ndarray, lat: np.ndarray, true_lon: np.ndarray, true_lat: np.ndarray
) -> np.ndarray:
    """Distance on a sphere of the Earth's mean radius, by the haversine formula.

    Range 0 to 20015, lower is better, in kilometres; within 0.6 % of the ellipsoid's. Source: Sinnott 1984.

    Args:
        lon: Longitudes, degrees, (N,).
        lat: Latitudes, degrees, -90 to 90, (N,).
        true_lon: Longitudes, degrees, (N,).
        true_lat: Latitudes, degrees, -90 to 90, (N,).

    Raises:
        ConfigError: If the arrays are not that.
    """
    named = {"lon": lon, "lat": lat, "true_lon": true_lon, "true_lat": true_lat}
    named = {name: np.asarray(x, np.float64) for name, x in named.items()}
    check_numbers(**named)
    for name in ("lat", "true_lat"):
        if np.abs(named[name]).max() > 90:
            raise ConfigError(f"{name} reaches {np.abs(named[name]).max():g}. Give degrees from -90 to 90.")
    lon, lat, true_lon, true_lat = (np.radians(x) for x in named.values())
    h = np.sin((true_lat - lat) / 2) ** 2
    h = h + np.cos(lat) * np.cos(true_lat) * np.sin((true_lon - lon) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(h, 1)))


def spearman(asked: np.ndarray, read: np.ndarray) -> float:
    """Rank correlation of what a sweep asked for and what the probe read, ties at their mean rank.

    Range -1 to 1, higher is better, no unit; 0 if either is constant, since then nothing follows.
    Source: Spearman 1904.

    Args:
        asked: (N,), N at least 3.
        read: (N,).

    Raises:
        ConfigError: If the arrays are not that.
    """
    asked, read = (np.asarray(x, np.float64) for x in (asked, read))
    check_numbers(3, asked=asked, read=read)
    a, b = (_ranks(x) - (len(x) + 1) / 2 for x in (asked, read))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else 0.0


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties at their mean."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
