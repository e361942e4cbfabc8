"""Captions from what a data set says: its label or sentence, in many phrasings, with pieces left out.

The words kept for testing whether meaning carries over ("woods", "wheat", "suburb", "motorway") appear in
no phrase here.
"""

import calendar
import math
from collections.abc import Sequence

import numpy as np

from diffusionsat.data.records import Pieces

VIEWS = (
    "{}",
    "satellite image of {}",
    "a satellite image of {}",
    "satellite photo of {}",
    "aerial view of {}",
    "{} seen from above",
    "{} from space",
)

PHRASES = {
    # EuroSAT
    "AnnualCrop": (
        "annual crops",
        "crop fields",
        "arable farmland",
        "farm fields with annual crops",
        "ploughed fields",
    ),
    "Forest": ("forest", "a dense forest", "trees", "forest canopy", "a forest of tall trees"),
    "HerbaceousVegetation": (
        "herbaceous vegetation",
        "wild grass and shrubs",
        "natural grassland",
        "scrubland",
    ),
    "Highway": (
        "a highway",
        "a highway through the countryside",
        "a main road",
        "a road with an interchange",
    ),
    "Industrial": (
        "industrial buildings",
        "an industrial area",
        "factories and warehouses",
        "large industrial halls",
    ),
    "Pasture": ("pasture", "meadows and pasture", "grazing land", "green meadows"),
    "PermanentCrop": (
        "permanent crops",
        "orchards",
        "vineyards and orchards",
        "olive groves",
        "rows of fruit trees",
    ),
    "Residential": (
        "a residential area",
        "houses and streets",
        "a town with houses",
        "a residential neighbourhood",
    ),
    "River": ("a river", "a river through the land", "a winding river", "a river and its banks"),
    "SeaLake": ("open water", "the sea", "a lake", "sea or lake water", "the ocean"),
    # UC Merced
    "agricultural": ("agricultural fields", "rows of crops"),
    "airplane": ("airplanes on the ground", "an airplane at an airport", "parked airplanes"),
    "baseball diamond": ("a baseball field", "a baseball diamond"),
    "beach": ("a beach", "waves on a sandy beach", "a sandy shore and the sea"),
    "buildings": ("large buildings", "city buildings", "office buildings and streets"),
    "chaparral": ("chaparral", "dry shrubs on bare ground", "sparse bushes"),
    "dense residential": ("a dense residential area", "closely packed houses", "many houses side by side"),
    "forest": ("forest", "a dense forest", "trees"),
    "freeway": ("a freeway", "cars on a freeway", "a freeway with several lanes"),
    "golf course": ("a golf course", "golf greens and sand bunkers"),
    "harbor": ("a harbor with boats", "boats at piers", "a marina"),
    "intersection": ("a road intersection", "crossing streets", "a crossroads"),
    "medium residential": (
        "a residential area with gardens",
        "houses with gardens",
        "family houses along streets",
    ),
    "mobile home park": ("a mobile home park", "rows of mobile homes"),
    "overpass": ("a road overpass", "a bridge of one road over another", "a flyover"),
    "parking lot": ("a parking lot", "parked cars", "rows of cars in a parking lot"),
    "river": ("a river", "a river between trees"),
    "runway": ("a runway", "an airport runway with markings"),
    "sparse residential": ("a single house among trees", "scattered houses", "a sparse residential area"),
    "storage tanks": ("storage tanks", "round storage tanks", "oil tanks"),
    "tennis court": ("tennis courts", "a tennis court"),
}

SOURCES = {
    "blue_marble_2004": (
        "land seen from orbit",
        "a large region of the Earth",
        "continental landscape",
        "the Earth's land",
    ),
    "blue_marble_500m": (
        "mountains and plains",
        "a wide landscape",
        "a region of the Earth",
        "land with relief",
    ),
}

_MONTHS = tuple(calendar.month_name)  # index 0 is empty
_KEPT = ("article", "kind", "caption")  # pieces without which there is no sentence


def in_words(numbers: Sequence[float]) -> str:
    """The known ones of `Metadata.numbers` as words, such as "at 7.44 E 46.95 N, 10 m per pixel, July 2018".

    So a model could be told them without inputs for numbers: what the numbers' own inputs are compared with.
    """
    lon, lat, gsd, cloud, year, month, day = (None if math.isnan(x) else float(x) for x in numbers)
    east = "" if lon is None else f"{abs(lon):.2f} {'E' if lon >= 0 else 'W'}"
    north = "" if lat is None else f"{abs(lat):.2f} {'N' if lat >= 0 else 'S'}"
    place = " ".join(filter(None, (east, north)))
    date = ("" if day is None else f"{day:.0f}", "" if month is None else _MONTHS[int(month)])
    parts = (
        place and f"at {place}",
        "" if gsd is None else f"{gsd:g} m per pixel",
        "" if cloud is None else f"{cloud:.0f} percent clouds",
        " ".join(filter(None, (*date, "" if year is None else f"{year:.0f}"))),
    )
    return ", ".join(filter(None, parts))


def some_pieces(pieces: Pieces, rate: float, rng: np.random.Generator) -> str:
    """A caption of pieces, each left out at a rate, save those without which there is no sentence."""
    left_out = {name for name, _ in pieces if rng.random() < rate} - {*_KEPT}
    return "".join(text for name, text in pieces if name not in left_out)


def caption(
    sentence: str,
    rng: np.random.Generator,
    *,
    source: str,
    label: str | None = None,
    month: int | None = None,
) -> str:
    """One caption of an image; another call with the same generator gives another phrasing.

    Args:
        sentence: Of the data set; may be empty.
        rng: Source of randomness.
        source: Name of the data set.
        label: Class in its words.
        month: When the image was taken, 1 to 12.
    """
    subjects = PHRASES.get(label or "") or SOURCES.get(source)
    if subjects is None or (sentence and rng.random() < 0.7):
        text = sentence or label or ""
        if not text:
            return ""
    else:
        text = VIEWS[rng.integers(len(VIEWS))].format(subjects[rng.integers(len(subjects))])
    if month is not None and rng.random() < 0.2:
        text = f"{text} in {_MONTHS[month]}"
    return text
