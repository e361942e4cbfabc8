"""Calibrations of a model's spread and interval: fitted on places that it never saw, checked on others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusionsat.checkpoints.facts import Calibration
from diffusionsat.data.sources import Source
from diffusionsat.evaluation.paired import LEVEL, Paired, mask_of, tensor
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.trials import Given
from diffusionsat.metrics.bootstrap import Interval, bootstrap
from diffusionsat.metrics.uncertainty import conformal_quantile, spread_skill
from diffusionsat.model import DiffusionSat

FLOOR = 1 / 255  # of light: a step of 8 bits
CONDITIONS = ("task", "steps", "solver", "guidance", "control")


def held_out(source: Source) -> Source:
    """A train split of which only the tenth that models are not trained on is asked for."""
    images = source.images
    source.images = replace(images, colour=images.colour & images.held_out)
    return source


class Made:
    """Samples of some cases, and what is true.

    Args:
        task: What is asked for.
        request: How.
        sat: The model.
        asked: The cases.
    """

    def __init__(self, task: Paired, request: EvaluateRequest, sat: DiffusionSat, asked: Given) -> None:
        self.digest, self.places = asked.digest, [case.place for case in asked.cases]
        rows = range(len(asked))
        trials = [task.trial(request, asked, row) for row in rows]
        first: Any = trials[0].request
        said = replace(first, guidance=task.settings(sat, request).guidance).job(sat).provenance()
        self.conditions = {k: said[k] for k in (*CONDITIONS, "factor", "consistency") if k in said}
        self.truth, self.mask = tensor([t.truth for t in trials]), mask_of(trials, task.parts[0])
        samples = task.make(sat, request, asked, rows)["samples"]
        self.samples = torch.stack([tensor(list(samples[:, k])) for k in range(samples.shape[1])])

    def by_case(self, values: Tensor) -> list[Tensor]:
        """Numbers (N, 3, H, W) of the pixels that count, (m,), of each case."""
        keep = torch.ones_like(values, dtype=torch.bool) if self.mask is None else self.mask.expand_as(values)
        return [one[there] for one, there in zip(values, keep, strict=True)]

    def moments(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation of the first samples, and the mean's error, each (N, 3, H, W)."""
        first = self.samples[:count]
        return first.mean(0), first.std(0), (self.truth - first.mean(0)).abs()


def fit(made: Made, count: int, level: float = LEVEL) -> Calibration:
    """The calibration of so many samples.

    Raises:
        ConfigError: If there are too few places for the level.
    """
    _, deviation, error = made.moments(count)
    variance, squared = (
        torch.stack([one.square().mean() for one in made.by_case(values)]) for values in (deviation, error)
    )
    rows = made.by_case(error / (deviation + FLOOR))
    places = {
        place: [row for row, its in zip(rows, made.places, strict=True) if its == place]
        for place in made.places
    }
    return Calibration(
        conditions=made.conditions,
        samples=count,
        scale=round(1 / spread_skill(variance, squared, count), 4),
        quantile=round(
            conformal_quantile([torch.cat(several) for several in places.values()], level=level), 4
        ),
        floor=FLOOR,
        level=level,
        places=len(places),
        data=made.digest,
    )


def check(made: Made, calibration: Calibration) -> dict[str, Interval]:
    """What a calibration is worth on other cases, with intervals by places drawn anew.

    Returns:
        ``spread_skill`` (1 is best), the same of the ``raw`` spread, ``coverage`` of the interval (its level
        is best), and its mean ``width`` in shares of the display range.
    """
    count = calibration.samples
    _, deviation, error = made.moments(count)
    half = calibration.quantile * (deviation + calibration.floor)
    columns = {
        "variance": deviation.square(),
        "squared": error.square(),
        "covered": (error <= half).double(),
        "width": 2 * half,
    }
    by_case = {name: np.array([float(v.mean()) for v in made.by_case(c)]) for name, c in columns.items()}

    def skill(scale: float, rows: np.ndarray) -> float:
        variance, squared = (torch.from_numpy(by_case[name][rows]) for name in ("variance", "squared"))
        return scale * spread_skill(variance, squared, count)

    return {
        "spread_skill": bootstrap(lambda rows: skill(calibration.scale, rows), made.places),
        "raw": bootstrap(lambda rows: skill(1.0, rows), made.places),
        "coverage": bootstrap(lambda rows: float(by_case["covered"][rows].mean()), made.places),
        "width": bootstrap(lambda rows: float(by_case["width"][rows].mean()), made.places),
    }


def gathered(task: Paired, request: EvaluateRequest, sources: Sequence[Source], size: int) -> Given:
    """The same number of cases of each data set.

    Raises:
        ConfigError: If one has not so many.
    """
    each = [task.choose([source], request, size) for source in sources]
    picked = np.concatenate([one.picked + np.array([which, 0]) for which, one in enumerate(each)])
    counts = np.concatenate([one.counts for one in each])
    return Given([one.sources[0] for one in each], picked, size, counts, request.fit, request.direction)
