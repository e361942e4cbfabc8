"""Random numbers that depend on what they are for, not on when they are drawn.

A number is a function of a key (seed, image index, purpose, step) and of its place: absolute row and column
of the latents. So image 3 of 10 equals image 3 of 4, a window of a large canvas gets the canvas's noise,
and no order of work changes a pixel. The generator is Philox 4x64-10 (Salmon et al. 2011), as in NumPy.
"""

import numpy as np

from diffusionsat.errors import ConfigError

PURPOSES = {"initial": 0, "step": 1, "posterior": 2, "order": 3}
BLOCK = 16  # rows and columns of latents that share one stream
_HIGHEST_SEED = 2**63 - 1


def check_seed(seed: int) -> int:
    """The seed, if it is one.

    Raises:
        ConfigError: If it is no whole number from 0 to 2**63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= _HIGHEST_SEED:
        raise ConfigError(f"seed is {seed!r}. Give a whole number from 0 to {_HIGHEST_SEED}.")
    return int(seed)


def normal(
    seed: int,
    image: int,
    purpose: str,
    step: int,
    *,
    channels: int,
    rows: range,
    columns: range,
) -> np.ndarray:
    """Standard normal noise of one image on a window of the plane, float32 (channels, rows, columns).

    Args:
        seed: Of the job, 0 to 2**63 - 1.
        image: Index of the image in the job, 0 to 2**32 - 1.
        purpose: One of `PURPOSES`.
        step: Step of the solver, 0 to 2**24 - 1; 0 where there are no steps.
        channels: Channels of the latents.
        rows: Absolute rows, may be negative.
        columns: Absolute columns, may be negative.

    Raises:
        ConfigError: If the seed is out of range.
    """
    key = np.array([check_seed(seed), image << 32 | step << 8 | PURPOSES[purpose]], np.uint64)
    out = np.empty((channels, len(rows), len(columns)), np.float32)
    for block_row in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
        for block_column in range(columns.start // BLOCK, -(-columns.stop // BLOCK)):
            # Two's complement keeps negative places apart from positive ones.
            counter = np.array([0, 0, block_row % 2**64, block_column % 2**64], np.uint64)
            stream = np.random.Generator(np.random.Philox(key=key, counter=counter))
            block = stream.standard_normal((channels, BLOCK, BLOCK), np.float32)
            top, left = block_row * BLOCK, block_column * BLOCK
            r = slice(max(rows.start, top), min(rows.stop, top + BLOCK))
            c = slice(max(columns.start, left), min(columns.stop, left + BLOCK))
            out[
                :,
                r.start - rows.start : r.stop - rows.start,
                c.start - columns.start : c.stop - columns.start,
            ] = block[:, r.start - top : r.stop - top, c.start - left : c.stop - left]
    return out
