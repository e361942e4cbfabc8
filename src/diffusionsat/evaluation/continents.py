"""Which continent a place is on, by outlines of a few corners each; coasts and shelves belong to their land.

Drawn by hand through seas and along the usual borders (Urals, Caucasus, Bosporus, Suez, Darien, west of New
Guinea), right to a degree or two. Far islands belong to the continent of their people; the rest is ocean.
"""

import numpy as np

_EURAFRICA = [(-10, 35.9), (-5.5, 35.9), (0, 37.2), (11, 37.9), (12, 34.5), (20, 33.5), (28, 34.3)]
_AEGEAN = [(28, 34.3), (26.2, 37), (26, 39.9), (29, 41.15), (31, 43), (37, 44.2), (41, 43.4), (49, 41.7)]
_URALS = [(49, 41.7), (50, 46), (54, 51), (60, 52), (60, 62), (67, 69), (68, 82)]
_RED_SEA = [(28, 34.3), (32.5, 31.7), (32.6, 29.8), (34.4, 27.7), (38, 20), (43.2, 12.6), (51, 12.6)]
_WALLACE = [(137, 8), (131, 1), (130, -8.5), (120, -12), (98, -12)]
_DENMARK = [(-5, 84), (-12, 71), (-28, 66.9), (-33, 60)]
_DARIEN = [(-84, 3), (-77.9, 7.3), (-77.3, 8.7), (-74, 13), (-62.5, 11.5), (-59, 11.8)]
OUTLINES: dict[
    str, list[tuple[float, float]]
] = {  # longitude may pass 180; the first that holds a place counts
    "Antarctica": [(-180, -90), (180, -90), (180, -60), (-180, -60)],
    "Europe": [(-33, 36), *_EURAFRICA, *_AEGEAN, *_URALS, *_DENMARK],
    "Africa": [
        (-27, 33),
        *_EURAFRICA,
        *_RED_SEA,
        (56, 13),
        (60, -5),
        (66, -22),
        (40, -37),
        (14, -37),
        (-20, -12),
    ],
    "Asia": [
        *_RED_SEA[::-1],
        *_AEGEAN,
        *_URALS,
        (191, 75),
        (191, 63),
        (172, 50),
        (150, 40),
        *_WALLACE,
        (70, -10),
    ],
    "Oceania": [
        *_WALLACE[::-1],
        (150, 20),
        (195, 32),
        (212, 24),
        (252, -20),
        (250, -55),
        (110, -55),
        (98, -30),
    ],
    "North America": [
        *_DENMARK[::-1],
        (-5, 84),
        (-169, 84),
        (-169, 63),
        (-190, 50),
        (-130, 45),
        (-120, 15),
        *_DARIEN,
        (-48, 42),
    ],
    "South America": [*_DARIEN, (-30, 5), (-30, -25), (-50, -58), (-82, -58), (-95, 3)],
}


def continent(lon: float, lat: float) -> str:
    """Name of the continent of a place, degrees; ``"ocean"`` for none."""
    for name, outline in OUTLINES.items():
        if any(_within(lon + turn, lat, outline) for turn in (-360, 0, 360)):
            return name
    return "ocean"


def _within(lon: float, lat: float, outline: list[tuple[float, float]]) -> bool:
    """Whether a ray to the east crosses the outline an odd number of times."""
    x, y = np.array(outline, float).T
    following_x, following_y = np.roll(x, -1), np.roll(y, -1)
    crosses = (y > lat) != (following_y > lat)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x + (lat - y) / (following_y - y) * (following_x - x)
    return bool((crosses & (lon < at)).sum() % 2)
