"""Self-test: one small image of fixed words and numbers against what it was when the checkpoint was made."""

from typing import Any

import numpy as np

from diffusionsat.diffusion.guidance import Guidance
from diffusionsat.errors import CheckpointError
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat

# Largest allowed difference of a mean in grey levels of 255. bf16 rounds, and its rounding grows over the
# steps; a wrong weight, encoding, solver or guidance moves the means by tens.
_TOLERANCE = {"fp32": 0.5, "bf16": 4.0}
_CELLS = 4  # along each side; a scrambled image has other means in them


def statistics(sat: DiffusionSat) -> list[float]:
    """Mean of each colour in each of 16 cells of the known image, grey levels, 48 numbers."""
    metadata = Metadata(lon=7.44, lat=46.95, gsd=10, cloud_cover=0, date="2019-07-14")
    guidance = Guidance(text=2.0, metadata=1.5)
    scene = sat.generate(
        "a river",
        metadata,
        seed=1,
        size=(64, 64),
        steps=6,
        solver="dpmpp-2m",
        guidance=guidance,
        negative="sea",
    )
    side = 64 // _CELLS
    cells = scene.pixels.astype(np.float64).reshape(_CELLS, side, _CELLS, side, 3).mean((1, 3))
    return [round(float(v), 3) for v in cells.ravel()]


def selftest(sat: DiffusionSat) -> dict[str, Any]:
    """Compare with the known answer that the checkpoint carries.

    Returns:
        ``ok``, the largest ``difference`` and the ``tolerance`` in grey levels, and the ``model``.

    Raises:
        CheckpointError: If the checkpoint carries no known answer.
    """
    known = sat.config.known_answer
    if len(known) != _CELLS * _CELLS * 3:
        raise CheckpointError(
            f"{sat.config.name} carries no known answer of 48 numbers; it cannot be tested."
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
