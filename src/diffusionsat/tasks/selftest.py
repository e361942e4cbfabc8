"""Self-test: one small image of fixed words and numbers against what it was when the checkpoint was made."""

from typing import Any

import numpy as np

from diffusionsat.errors import CheckpointError
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat

# Largest allowed difference of a statistic in grey levels of 255. bf16 rounds and its rounding grows over the
# steps; a wrong weight, encoding or solver moves the image by tens.
_TOLERANCE = {"fp32": 0.5, "bf16": 8.0}


def statistics(sat: DiffusionSat) -> list[float]:
    """Mean of each quarter of each colour of the known image, grey levels, 12 numbers."""
    metadata = Metadata(lon=7.44, lat=46.95, gsd=10, cloud_cover=0, date="2019-07-14")
    scene = sat.generate("a river", metadata, seed=1, size=(64, 64), steps=4, solver="euler", guidance=1.0)
    quarters = scene.pixels.astype(np.float64).reshape(2, 32, 2, 32, 3).mean((1, 3))
    return [round(float(v), 3) for v in quarters.ravel()]


def selftest(sat: DiffusionSat) -> dict[str, Any]:
    """Compare with the known answer that the checkpoint carries.

    Returns:
        ``ok``, the largest ``difference`` and the ``tolerance`` in grey levels, and the ``model``.

    Raises:
        CheckpointError: If the checkpoint carries no known answer.
    """
    known = sat.config.known_answer
    if len(known) != 12:
        raise CheckpointError(
            f"{sat.config.name} carries no known answer of 12 numbers; it cannot be tested."
        )
    difference = float(np.abs(np.array(statistics(sat)) - np.array(known)).max())
    tolerance = _TOLERANCE[sat.precision]
    return {
        "ok": difference <= tolerance,
        "difference": round(difference, 3),
        "tolerance": tolerance,
        "precision": sat.precision,
        "model": f"{sat.config.name}@{sat.config.version}",
    }
