"""Conditions made unknown in training: one field, a group of fields, all metadata, the caption, everything.

What is dropped as a whole is the null that guidance uses at sampling: seven numbers NaN, the empty caption.
"""

import math
from dataclasses import dataclass

import numpy as np

from diffusionsat.errors import ConfigError
from diffusionsat.metadata import NUMBERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often conditions are made unknown.

    Args:
        no_text: Share of images whose caption is empty while metadata stays.
        no_metadata: Share of images whose metadata is all unknown while the caption stays.
        no_condition: Share of images with neither.
        no_field: Chance of each group of metadata (place, gsd, cloud cover, date) to be unknown otherwise; of
            the year alone half of it, of longitude, latitude, and month with day alone a quarter each.

    Raises:
        ConfigError: If a number is no share, or the first three are together more than 1.
    """

    no_text: float = 0.08
    no_metadata: float = 0.08
    no_condition: float = 0.08
    no_field: float = 0.1

    def __post_init__(self) -> None:
        whole = (self.no_text, self.no_metadata, self.no_condition)
        if not all(0 <= rate <= 1 for rate in (*whole, self.no_field)) or sum(whole) > 1:
            raise ConfigError(
                f"{self} cannot be. Give rates from 0 to 1; no_text, no_metadata and no_condition are "
                "shares of the same images and together at most 1."
            )


# What is dropped together, and how often relative to `no_field`.
_GROUPS = (
    (("lon", "lat"), 1.0),
    (("gsd",), 1.0),
    (("cloud_cover",), 1.0),
    (("year", "month", "day"), 1.0),
    (("lon",), 0.25),
    (("lat",), 0.25),
    (("year",), 0.5),
    (("month", "day"), 0.25),
)


def draw_whole(count: int, rng: np.random.Generator, rates: Rates) -> tuple[np.ndarray, np.ndarray]:
    """Where the caption, and where all metadata, is to be unknown.

    Args:
        count: Images.
        rng: Source of randomness.
        rates: How often.

    Returns:
        No text and no metadata, both bool (count,); both are True at ``no_condition``.
    """
    u = rng.random(count)
    no_text = u < rates.no_text + rates.no_condition
    no_metadata = (u >= rates.no_text) & (u < rates.no_text + rates.no_condition + rates.no_metadata)
    return no_text, no_metadata


def drop(
    numbers: np.ndarray,
    rng: np.random.Generator,
    rates: Rates,
    no_metadata: np.ndarray | None = None,
) -> np.ndarray:
    """Metadata with some of it unknown.

    Args:
        numbers: As `Metadata.numbers`, (B, 7); not changed.
        rng: Source of randomness.
        rates: How often.
        no_metadata: Where all of it is, (B,), as `draw_whole` gives it beside the captions; drawn if None.

    Returns:
        A copy with NaN where it is unknown.
    """
    if no_metadata is None:
        _, no_metadata = draw_whole(len(numbers), rng, rates)
    dropped = np.array(numbers)
    dropped[no_metadata] = math.nan
    for names, share in _GROUPS:
        rows = np.flatnonzero(rng.random(len(dropped)) < share * rates.no_field)
        dropped[rows[:, None], [NUMBERS.index(name) for name in names]] = math.nan
    return dropped
