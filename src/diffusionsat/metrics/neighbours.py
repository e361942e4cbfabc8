"""Distances between many features, block by block, so that memory does not grow with their product."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusionsat.errors import ConfigError
from diffusionsat.metrics.checks import check_features

BLOCK = 2048  # rows a side; a block of distances takes 32 MiB


def distance_blocks(queries: Tensor, points: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Euclidean distances, block by block: (rows of queries, rows of points, distances in float64).

    Args:
        queries: Features, (N, D); a tensor over a memory-mapped file will do.
        points: Features, (M, D).
    """
    # About a mean, since |a|² + |b|² - 2ab loses digits far from the origin.
    centre = points[:BLOCK].double().mean(0)
    for i in range(0, len(queries), BLOCK):
        a = queries[i : i + BLOCK].double() - centre
        for j in range(0, len(points), BLOCK):
            b = points[j : j + BLOCK].double() - centre
            squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
            yield slice(i, i + len(a)), slice(j, j + len(b)), squares.clamp_min_(0).sqrt_()


def nearest(queries: Tensor, points: Tensor, k: int = 1, *, itself: bool = True) -> tuple[Tensor, Tensor]:
    """The k nearest points of every query.

    Args:
        queries: Features, (N, D).
        points: Features, (M, D).
        k: How many, at least 1.
        itself: False if queries and points are the same rows and none may be its own neighbour.

    Returns:
        Euclidean distances, ascending, (N, k), float64, and the rows of the points, (N, k).

    Raises:
        ConfigError: If the features are none, or there are fewer than k points.
    """
    check_features(queries, points, rows=1)
    if not 1 <= k <= len(points) - (not itself):
        raise ConfigError(f"{k} neighbours among {len(points)} points are asked for. Give more points.")
    best = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=queries.device)
    rows = torch.zeros((len(queries), k), dtype=torch.long, device=queries.device)
    for i, j, distances in distance_blocks(queries, points):
        numbers = torch.arange(j.start, j.stop, device=rows.device)
        if not itself:
            distances[torch.arange(i.start, i.stop, device=rows.device)[:, None] == numbers] = torch.inf
        candidates = torch.cat([best[i], distances], 1)
        best[i], order = candidates.topk(k, largest=False)
        rows[i] = torch.cat([rows[i], numbers.expand(len(distances), -1)], 1).gather(1, order)
    return best, rows
