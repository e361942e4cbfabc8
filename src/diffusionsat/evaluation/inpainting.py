"""The tasks `inpaint` and `declouds` in an evaluation: holes of 5 to 80 %, with and without other dates."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusionsat.data.holes import hole
from diffusionsat.data.sources import Source
from diffusionsat.evaluation.paired import Paired
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.trials import (
    Given,
    Trial,
    choose,
    framed,
    generator,
    mean_of,
    plain,
    sampled,
    sequences,
)
from diffusionsat.tasks.declouds import DecloudsRequest
from diffusionsat.tasks.inpaint import InpaintRequest

COPY, MEAN, COLOUR = "copy of the nearest date", "mean of the dates given", "mean colour around"
HOLE = "hole"
MOST = 4  # other dates that are given
_SHARES = ((0.2, "below 20 %"), (0.5, "20 to 50 %"), (1.0, "above 50 %"))


class Inpaint(Paired):
    """See `Paired`; judged inside the hole alone, without a rim.

    Args:
        clouds: Holes are of the shape of clouds alone, and images that are clouded themselves are left out.
    """

    verb = "given (references, share of the hole), mean or copy, made, true"
    baselines = (COPY, MEAN, COLOUR)
    parts = (HOLE,)
    by = ("references", "share")

    def __init__(self, *, clouds: bool) -> None:
        self.clouds = clouds

    def choose(self, sources: Sequence[Source], request: EvaluateRequest, size: int) -> Given:
        """Any images; those with other dates twice."""
        return choose(
            sequences(sources),
            n=request.n,
            size=size,
            seed=request.seed,
            counts=lambda there: [0, min(there, MOST)] if there else [0],
            clear=self.clouds,
            fit=request.fit,
        )

    def conditions(self, request: EvaluateRequest, size: int) -> dict[str, Any]:
        """What the holes are."""
        shapes = "clouds" if self.clouds else "a quarter rectangles, the others clouds"
        return {"holes": f"{shapes}, 5 to 80 %", "references": MOST, "samples": request.samples}

    def trial(self, request: EvaluateRequest, asked: Given, row: int) -> Trial:
        """The image with a hole in which nothing of it is left."""
        (case,), (truth,) = asked.part(range(row, row + 1)), asked.pixels(range(row, row + 1))
        gone = self._hole(asked, request, row)
        frames = asked.frames(row)
        given = np.where(gone[..., None], np.uint8(0), truth)
        around = plain(truth[~gone].mean(0), asked.size)
        references = {}
        if frames:
            references = {COPY: frames[0][0], MEAN: mean_of([pixels for pixels, _ in frames])}
        common = {
            "image": framed(given, case.metadata),
            "mask": gone,
            "references": [framed(*frame) for frame in frames],
            "metadata": case.metadata,
            "feather": 0,
            **sampled(request, case),
        }
        return Trial(
            truth=truth,
            request=DecloudsRequest(grow=0, **common) if self.clouds else InpaintRequest(**common),
            baselines=references | {COLOUR: around},
            parts={HOLE: gone},
            given=[(given, case.metadata), *frames],
            about={
                "references": "with" if frames else "without",
                "share": next(name for most, name in _SHARES if gone.mean() <= most),
            },
        )

    def _hole(self, asked: Given, request: EvaluateRequest, row: int) -> np.ndarray:
        """The hole of a case, bool (size, size); the same with references and without."""
        image = int(np.flatnonzero((asked.picked == asked.picked[row]).all(1))[0])
        rng = generator(request, image)
        while True:
            gone = hole(asked.size, rng)
            if not (self.clouds and _rectangle(gone)):
                return gone


def _rectangle(gone: np.ndarray) -> bool:
    rows, columns = (np.flatnonzero(gone.any(axis)) for axis in (1, 0))
    return bool(gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())
