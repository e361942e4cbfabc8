"""Is the spread of the samples the size of their error.

Samples are (M, B, C, H, W) for truth (B, C, H, W) unless said otherwise; M samples of each image.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusionsat.errors import ConfigError
from diffusionsat.metrics.checks import check_level, check_mask


def crps(samples: Tensor, truth: Tensor, *, fair: bool = True) -> Tensor:
    """Continuous ranked probability score of an ensemble: ``mean |x_i - y| - sum_ij |x_i - x_j| / (2 d)``.

    d = M (M - 1) in the fair form, which does not reward small ensembles for being narrow, M² in the plain
    one. 0 upwards (the fair form below too, in single pixels), lower is better, in units of the images; equal
    to the absolute error for one sample (plain form). Source: Gneiting & Raftery 2007, equation 21; Ferro
    2014 (fair).

    Args:
        samples: (M, ...), M at least 2 in the fair form.
        truth: (...).
        fair: Which form.

    Returns:
        The score of each value, (...), float64.

    Raises:
        ConfigError: If the shapes do not fit or there are too few samples.
    """
    count = _check_ensemble(samples, truth, least=2 if fair else 1)
    ordered = samples.double().sort(0).values
    ranks = torch.arange(count, dtype=torch.float64, device=samples.device)
    weights = (2 * ranks - count + 1).view(-1, *[1] * truth.ndim)
    spread = 2 * (weights * ordered).sum(0)  # sum over all pairs of |x_i - x_j|
    return (ordered - truth).abs().mean(0) - spread / (2 * count * (count - 1 if fair else count))


def spread_and_error(samples: Tensor, truth: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What `spread_skill` needs of each image: its samples' variance and the squared error of their mean.

    Args:
        samples: (M, B, C, H, W), M at least 2.
        truth: (B, C, H, W).
        mask: Which pixels count, boolean (B, 1, H, W).

    Returns:
        Variance (unbiased) and squared error, each (B,), float64, in squared units of the images; NaN for an
        image of which no pixel counts.

    Raises:
        ConfigError: If the shapes do not fit, there is one sample, or the mask is none.
    """
    _check_ensemble(samples, truth, least=2)
    samples = samples.double()
    return _mean(samples.var(0), mask), _mean((samples.mean(0) - truth).square(), mask)


def spread_skill(variance: Tensor, squared_error: Tensor, members: int) -> float:
    """Spread over error: ((M + 1) / M · mean variance / mean squared error of the samples' mean)^½.

    Range 0 upwards, 1 is best (below: too sure, above: too unsure), no unit. Its inverse is the factor that
    calibrates the spread. Source: Fortin et al. 2014.

    Args:
        variance: Mean variance of each image, (B,), as `spread_and_error` gives it.
        squared_error: Mean squared error of each, (B,).
        members: M.

    Raises:
        ConfigError: If there are fewer than two members.
    """
    if members < 2:
        raise ConfigError(f"{members} samples an image are given. A spread needs at least two.")
    return float(((members + 1) / members * variance.mean() / squared_error.mean()).sqrt())


def interval_coverage(low: Tensor, high: Tensor, truth: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Share of values within their interval, ends included.

    Range 0 to 1, the interval's level is best, no unit; read it with `interval_width`, since a wide interval
    covers all. Source: the definition.

    Args:
        low: Lower ends, (B, C, H, W).
        high: Upper ends.
        truth: Values.
        mask: Which pixels count, boolean (B, 1, H, W).

    Raises:
        ConfigError: If the shapes do not fit, an interval is upside down, or the mask is none.
    """
    _check_ends(low, high, truth)
    return _mean(((low <= truth) & (truth <= high)).double(), mask)


def interval_width(low: Tensor, high: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean width of the intervals.

    Range 0 upwards, lower is better at equal coverage, in units of the images. Source: the definition.

    Raises:
        ConfigError: If the shapes do not fit, an interval is upside down, or the mask is none.
    """
    _check_ends(low, high, low)
    return _mean(high.double() - low, mask)


def rank_histogram(samples: Tensor, truth: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """How often the truth has which rank among its samples; sums over batches add up.

    Where samples equal the truth (8-bit images, say) its count is shared equally by the ranks it may have.
    Source: Hamill 2001.

    Args:
        samples: (M, B, C, H, W).
        truth: (B, C, H, W).
        mask: Which pixels count, boolean (B, 1, H, W).

    Returns:
        Counts of the ranks 0 to M, (M + 1,), float64, from 0; a level histogram is best: high ends mean too
        little spread, a high middle too much.

    Raises:
        ConfigError: If the shapes do not fit, or the mask is none.
    """
    count = _check_ensemble(samples, truth)
    check_mask(mask, truth)
    counted = slice(None) if mask is None else mask.expand_as(truth).flatten()
    below, equal = ((f(samples, truth)).sum(0).flatten()[counted] for f in (torch.lt, torch.eq))
    histogram = torch.zeros(count + 1, dtype=torch.float64, device=truth.device)
    for extra in range(int(equal.max()) + 1 if len(equal) else 0):
        share = torch.where(equal >= extra, 1 / (equal + 1), 0.0).double()
        histogram.index_add_(0, (below + extra).clamp_max(count), share)
    return histogram


def rank_unevenness(histogram: Tensor) -> float:
    """Sum over ranks of ``|share - 1 / (M + 1)|``.

    Range 0 to 2, lower is better (0 flat), no unit; few or dependent pixels raise it by chance.
    Source: Delle Monache et al. 2006 (reliability index).

    Args:
        histogram: Counts, (M + 1,), as `rank_histogram` gives them.

    Raises:
        ConfigError: If the histogram is empty.
    """
    if histogram.ndim != 1 or not bool(histogram.sum() > 0):
        raise ConfigError(
            f"A rank histogram of shape {tuple(histogram.shape)} has no counts. Give one that has."
        )
    return float((histogram.double() / histogram.sum() - 1 / len(histogram)).abs().sum())


def ause(spread: Tensor, error: Tensor) -> float:
    """Area under the sparsification error: does the spread tell which pixels are wrong.

    Pixels are removed from the least to the most sure and the mean error of the rest followed; the area
    between that curve and the one by the error itself, relative to the error of all. Range 0 upwards, lower
    is better (0: ranked as the error ranks), no unit. Pixels of one spread share their error. Source: Ilg et
    al. 2018.

    Args:
        spread: Claimed uncertainty, any shape.
        error: Absolute or squared error, same shape, 0 upwards.

    Raises:
        ConfigError: If the shapes differ, or all errors are 0.
    """
    if spread.shape != error.shape or spread.numel() == 0:
        raise ConfigError(f"spread is {tuple(spread.shape)}, error {tuple(error.shape)}. Give equal shapes.")
    error = error.flatten().double()
    if not bool((error >= 0).all()) or not bool(error.any()):
        raise ConfigError("error has negative values or is 0 everywhere. Give absolute or squared errors.")
    _, level, sizes = spread.flatten().unique(return_inverse=True, return_counts=True)
    shared = (
        torch.zeros(len(sizes), dtype=torch.float64, device=error.device).index_add_(0, level, error) / sizes
    )
    by_spread = shared.repeat_interleave(sizes)  # errors from the surest to the least sure
    removed = by_spread.cumsum(0) - error.sort().values.cumsum(0)
    kept = torch.arange(1, len(error) + 1, device=error.device)
    return float((removed / kept).mean() / error.mean())


def conformal_quantile(scores: Tensor | Sequence[Tensor], *, level: float = 0.9) -> float:
    """The widening that makes intervals cover at least ``level``, whatever the model.

    With scores ``|y - mean| / spread`` of n calibration rows the interval mean ± q · spread of a new row
    covers with that probability, if rows are exchangeable: q is the ceil((n + 1) level)-th smallest. Pixels
    are not, but places may be: given the scores of each of n places, q is the least at which the shares of
    each place's scores that are not above it sum to (n + 1) level, and a pixel drawn from a new place is
    covered so. In units of the scores. Source: Vovk et al. 2005; Angelopoulos & Bates 2023; Lee, Barber &
    Willett 2023 (places).

    Args:
        scores: Of single rows, (n,); or of each of n places, (m,), where m may differ.
        level: Coverage, between 0 and 1.

    Raises:
        ConfigError: If there are too few scores for the level, or they are not finite.
    """
    check_level(level)
    for row in [scores] if isinstance(scores, Tensor) else scores:
        if row.ndim != 1 or not row.numel() or not bool(torch.isfinite(row).all()):
            raise ConfigError(f"Scores of shape {tuple(row.shape)} are no row of finite numbers.")
    # Rounding must not push a sum of shares over a whole number.
    count, wanted = len(scores), (len(scores) + 1) * level - 1e-9
    if wanted > count:
        least = math.ceil(level / (1 - level) - 1e-9)
        raise ConfigError(f"{count} scores cannot promise {level:g}. Give at least {least}.")
    groups = [row.reshape(-1).double() for row in scores]
    shares = torch.cat([torch.full_like(row, 1 / len(row)) for row in groups])
    ordered, order = torch.cat(groups).sort()
    return float(ordered[(shares[order].cumsum(0) < wanted).sum().clamp_max(len(ordered) - 1)])


def _check_ensemble(samples: Tensor, truth: Tensor, least: int = 1) -> int:
    if samples.ndim != truth.ndim + 1 or samples.shape[1:] != truth.shape:
        raise ConfigError(
            f"samples are {tuple(samples.shape)}, truth {tuple(truth.shape)}. Give samples (M, *truth)."
        )
    if not samples.is_floating_point() or not bool(
        torch.isfinite(samples).all() & torch.isfinite(truth).all()
    ):
        raise ConfigError(
            "samples or truth are not floating and finite. Fill nodata, and leave it out by a mask."
        )
    if len(samples) < least:
        raise ConfigError(f"{len(samples)} samples are given. Give at least {least}.")
    return len(samples)


def _check_ends(low: Tensor, high: Tensor, truth: Tensor) -> None:
    if low.shape != high.shape or low.shape != truth.shape:
        shapes = [tuple(x.shape) for x in (low, high, truth)]
        raise ConfigError(f"Lower ends, upper ends and truth are {shapes}. Give equal shapes.")
    if not bool((low <= high).all()):
        raise ConfigError("An interval's lower end is above its upper end, or NaN.")


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over bands and pixels, (B,)."""
    check_mask(mask, values)
    if mask is None:
        return values.mean((1, 2, 3))
    return (values * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) * values.shape[1])
