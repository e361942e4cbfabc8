"""Fidelity and diversity apart: are the generated images among the real ones, and the real among them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusionsat.metrics.checks import check_features
from diffusionsat.metrics.neighbours import distance_blocks, nearest


@dataclass(frozen=True, slots=True)
class Manifold:
    """Four shares by balls that reach from each image to its k-th neighbour; see `manifold_scores`."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(features: Tensor, reference: Tensor, k: int = 5) -> Manifold:
    """Precision, recall, density and coverage, all without unit, higher is better.

    With balls about each image of a set that reach to its k-th nearest other one: precision, 0 to 1: share of
    generated images in a real image's ball; recall, 0 to 1: share of real images in a generated image's ball;
    density, 0 upwards, 1 for equal distributions: real balls that hold a generated image, in mean, divided by
    k; coverage, 0 to 1: share of real balls that hold a generated image, for equal distributions about 1 -
    2^-k. All depend on N and k. Takes time (N + M)², memory of one block. Source: Kynkäänniemi et al. 2019
    (precision, recall; with k = 3), Naeem et al. 2020 (density, coverage).

    Args:
        features: Features of the generated images, (N, D).
        reference: Features of the real ones, (M, D).
        k: Which neighbour the balls reach to.

    Raises:
        ConfigError: If the features are none, or a set has no k + 1 rows.
    """
    check_features(features, reference)
    real_radius = nearest(reference, reference, k, itself=False)[0][:, -1]
    generated_radius = nearest(features, features, k, itself=False)[0][:, -1]
    holding = torch.zeros(len(features), dtype=torch.long, device=features.device)
    covered = torch.zeros(len(reference), dtype=torch.bool, device=reference.device)
    recalled = covered.clone()
    for i, j, distances in distance_blocks(features, reference):
        inside = distances <= real_radius[j]
        holding[i] += inside.sum(1)
        covered[j] |= inside.any(0)
        recalled[j] |= (distances <= generated_radius[i, None]).any(0)
    return Manifold(
        precision=float((holding > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(holding.double().mean() / k),
        coverage=float(covered.double().mean()),
    )
