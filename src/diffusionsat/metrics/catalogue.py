"""What a report needs to know of each metric, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from diffusionsat.metrics import (
    consistency,
    coverage,
    distributions,
    memorisation,
    pairs,
    probes,
    seams,
    uncertainty,
)

Better = Literal["lower", "higher", "one", "level"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and how to read its figure.

    Args:
        function: What computes it; its result is the figure, a tensor of one an image, an object with it as
            ``value``, or one with it as the attribute of the metric's name.
        better: Which way: lower, higher, nearest to one, or nearest to the level that was asked for.
        unit: Of the figure; empty if it has none.
        range: Lowest and highest possible figure.
    """

    function: Callable[..., Any]
    better: Better
    unit: str
    range: tuple[float, float]

    def worse(self, after: float, before: float, level: float = 0.9) -> bool:
        """Whether a figure is worse than another one; ``level`` is what a level was asked for."""
        if self.better in ("lower", "higher"):
            return after > before if self.better == "lower" else after < before
        wanted = 1.0 if self.better == "one" else level
        return abs(after - wanted) > abs(before - wanted)


METRICS: dict[str, Metric] = {
    "frechet_distance": Metric(distributions.frechet_distance, "lower", "squared features", (0, inf)),
    "frechet_infinity": Metric(distributions.frechet_infinity, "lower", "squared features", (-inf, inf)),
    "kernel_distance": Metric(distributions.kernel_distance, "lower", "", (-inf, inf)),
    "cmmd": Metric(distributions.cmmd, "lower", "", (0, 2000)),
    "inception_score": Metric(distributions.inception_score, "higher", "", (1, inf)),
    "precision": Metric(coverage.manifold_scores, "higher", "", (0, 1)),
    "recall": Metric(coverage.manifold_scores, "higher", "", (0, 1)),
    "density": Metric(coverage.manifold_scores, "higher", "", (0, inf)),
    "coverage": Metric(coverage.manifold_scores, "higher", "", (0, 1)),
    "mse": Metric(pairs.mse, "lower", "squared images", (0, inf)),
    "psnr": Metric(pairs.psnr, "higher", "dB", (-inf, inf)),
    "psnr_pooled": Metric(pairs.decibels, "higher", "dB", (-inf, inf)),
    "ssim": Metric(pairs.ssim, "higher", "", (-1, 1)),
    "uqi": Metric(pairs.uqi, "higher", "", (-1, 1)),
    "spectral_angle": Metric(pairs.spectral_angle, "lower", "degrees", (0, 180)),
    "ergas": Metric(pairs.ergas, "lower", "percent", (0, inf)),
    "feature_distance": Metric(pairs.feature_distance, "lower", "", (0, inf)),
    "lpips": Metric(pairs.lpips, "lower", "", (0, inf)),
    "reflectance": Metric(consistency.consistency, "lower", "images", (0, inf)),
    "angle_deg": Metric(consistency.consistency, "lower", "degrees", (0, 180)),
    "shift_px": Metric(consistency.consistency, "lower", "pixels", (0, inf)),
    "noise_residual": Metric(consistency.noise_residual, "lower", "", (0, inf)),
    "synthesis": Metric(consistency.synthesis, "higher", "images", (0, inf)),
    "improvement": Metric(consistency.correctness, "higher", "", (0, 1)),
    "omission": Metric(consistency.correctness, "lower", "", (0, 1)),
    "hallucination": Metric(consistency.correctness, "lower", "", (0, 1)),
    "crps": Metric(uncertainty.crps, "lower", "images", (-inf, inf)),
    "spread_skill": Metric(uncertainty.spread_skill, "one", "", (0, inf)),
    "interval_coverage": Metric(uncertainty.interval_coverage, "level", "", (0, 1)),
    "interval_width": Metric(uncertainty.interval_width, "lower", "images", (0, inf)),
    "rank_unevenness": Metric(uncertainty.rank_unevenness, "lower", "", (0, 2)),
    "ause": Metric(uncertainty.ause, "lower", "", (0, inf)),
    "controllability": Metric(probes.controllability, "higher", "", (-inf, inf)),
    "r2": Metric(probes.r2, "higher", "", (-inf, 1)),
    "circular_error": Metric(probes.circular_error, "lower", "the period's", (0, inf)),
    "great_circle_km": Metric(probes.great_circle_km, "lower", "km", (0, 20015.2)),
    "spearman": Metric(probes.spearman, "higher", "", (-1, 1)),
    "distance_ratio": Metric(memorisation.distance_ratio, "one", "", (0, inf)),
    "share_below": Metric(memorisation.share_below, "lower", "", (0, 1)),
    "seam_ratio": Metric(seams.seam_ratio, "one", "", (0, inf)),
}
