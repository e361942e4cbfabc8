"""The task `predict` in an evaluation: the ground at a date, of images of one, two, four and eight others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusionsat.data.sources import Source
from diffusionsat.errors import ConfigError
from diffusionsat.evaluation.paired import Paired
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.trials import (
    WHOLE,
    Given,
    Trial,
    choose,
    framed,
    mean_of,
    plain,
    sampled,
    sequences,
)
from diffusionsat.metadata import Metadata
from diffusionsat.tasks.predict import PredictRequest

COPY, MEAN = "copy of the nearest date", "mean of what is given"
SEASON, COLOUR = "copy of the nearest season", "mean colour"
CHANGED = "changed"
_CHANGE = 0.1  # of the display range, in the mean of the three colours


class Predict(Paired):
    """See `Paired`."""

    verb = "nearest date given, the same copied, predicted, true"
    baselines = (COPY, MEAN, SEASON, COLOUR)
    parts = (WHOLE, CHANGED)
    by = ("frames",)

    def choose(self, sources: Sequence[Source], request: EvaluateRequest, size: int) -> Given:
        """Images of a known date with others of their ground; a case for each number of these."""
        return choose(
            sequences(sources),
            n=request.n,
            size=size,
            seed=request.seed,
            counts=lambda there: [count for count in request.dates if count <= there],
            fit=request.fit,
            direction=request.direction,
        )

    def conditions(self, request: EvaluateRequest, size: int) -> dict[str, Any]:
        """What is given, and what counts as changed."""
        dates = request.dates
        if not dates or min(dates) < 1 or len(set(dates)) < len(dates):
            raise ConfigError(f"dates is {list(dates)}. Give numbers of other dates from 1, each once.")
        return {
            "frames": list(dates),
            "samples": request.samples,
            "given": f"the dates nearest to the target's, of {request.direction} time",
            "changed": f"mean over colours of |truth - nearest date| > {_CHANGE}",
        }

    def trial(self, request: EvaluateRequest, asked: Given, row: int) -> Trial:
        """The dates nearest to the image's."""
        (case,), (truth,) = asked.part(range(row, row + 1)), asked.pixels(range(row, row + 1))
        frames = asked.frames(row)
        given = [pixels for pixels, _ in frames]
        nearest = given[0]
        return Trial(
            truth=truth,
            request=PredictRequest(
                frames=[framed(*frame) for frame in frames],
                on=case.metadata.date or "",
                metadata=case.metadata,
                **sampled(request, case),
            ),
            baselines={
                COPY: nearest,
                MEAN: mean_of(given),
                SEASON: min(frames, key=lambda frame: _seasons_apart(frame[1], case.metadata))[0],
                COLOUR: plain(np.mean(given, (0, 1, 2)), asked.size),
            },
            parts={CHANGED: np.abs(truth.astype(float) - nearest).mean(2) > 255 * _CHANGE},
            given=frames,
            about={"frames": str(len(frames))},
        )


def _seasons_apart(one: Metadata, other: Metadata) -> float:
    """Days between two dates whatever their years, the short way round; years alone are in one season."""
    middles = [
        (span[0].timetuple().tm_yday + span[1].timetuple().tm_yday) / 2
        for span in (one.interval(), other.interval())
        if span is not None
    ]
    apart = abs(middles[0] - middles[1])
    return min(apart, 365 - apart)
