"""SpaceNet 1, 2, 5 and others: buildings and roads of cities.

Records: the city as fourth part of ``__key__``, ``rgb.npy`` and ``metadata.json`` (GeoJSON).
"""

from typing import Any

import numpy as np
from pyproj import Transformer
from torch import Tensor

from diffusionsat.data.published.captions import answer, dropper
from diffusionsat.data.published.draws import Draws
from diffusionsat.data.published.images import channels_last
from diffusionsat.data.published.normalisation import shifted_numbers
from diffusionsat.data.published.places import geodesic_area, geodesic_length, middle, paths
from diffusionsat.data.published.records import Record, array, field, items, name, text
from diffusionsat.data.published.tables import CITIES, City
from diffusionsat.errors import DatasetError


def spacenet_tokenize_caption(
    example: Record,
    tokenizer: Any,
    drop_pct: float = 0.1,
    is_train: bool = True,
    return_text: bool = False,
    *,
    corrected: bool = False,
    rng: Draws | None = None,
) -> Any:
    """A caption such as "a spacenet satellite image of roads of length 1751.109 meters in Moscow".

    Args:
        example: Record.
        tokenizer: Of transformers; unused with ``return_text``.
        drop_pct: Probability that a piece is left out.
        is_train: Without effect, as published.
        return_text: Return the text and not the token ids.
        corrected: Write "1 building", not "1 buildings".
        rng: Source of the draws; None is Python's module-level one.

    Returns:
        The text, or its token ids (L,).

    Raises:
        DatasetError: If the record lacks the city or a feature has no geometry.
    """
    keep = dropper(drop_pct, rng)
    caption = f"a{keep(' spacenet')} satellite image"
    if seen := _seen(example, corrected):
        caption += keep(f" of {seen}")
    caption += keep(f" in {_city(example)}")
    return answer(caption, tokenizer, return_text)


def spacenet_numerical_metadata(
    example: Record,
    target_resolution: int,
    num_metadata: int = 7,
    base_year: int = 1980,
    base_lon: float = 180,
    base_lat: float = 90,
    *,
    corrected: bool = False,
) -> Tensor:
    """The seven shifted numbers, float32 (7,); the place is the middle of all features, or the city's.

    Args:
        example: Record.
        target_resolution: Side of the delivered image, pixels.
        num_metadata: Without effect; there are always seven.
        base_year: Year that counts as 0.
        base_lon: Degrees added to the longitude.
        base_lat: Degrees added to the latitude.
        corrected: The cloud cover, and the date of a city without one, are NaN, where published 0.

    Raises:
        DatasetError: If the record lacks something, or has no features in a city that is not known.
    """
    city = CITIES.get(_city(example), City())
    lines = [line for _, shape in _features(example) for line in shape]
    place = middle(lines) if lines else city.centre
    if place is None:
        raise DatasetError(
            f"{name(example)} has no features, and the city {_city(example)} no place. "
            f"Known are: {', '.join(CITIES)}."
        )
    height, width = channels_last(array(example, "rgb.npy", rank=3)).shape[:2]
    return shifted_numbers(
        example,
        place,
        city.gsd * min(height, width) / target_resolution,
        None,
        city.date,
        bases=(base_lon, base_lat, base_year),
        unknown=np.nan if corrected else 0.0,
    )


def _city(example: Record) -> str:
    parts = text(example, "__key__").split("_")
    if len(parts) < 4:
        raise DatasetError(f"{name(example)} has a key whose fourth part, the city, is missing.")
    return parts[3].title()


def _features(example: Record) -> list[tuple[str, list[np.ndarray]]]:
    """Kind of each feature and its lines and rings (N, 2), degrees."""
    city = CITIES.get(_city(example), City())
    found = []
    drawn = "features" in field(example, "metadata.json")
    for i in range(len(items(example, "metadata.json", "features")) if drawn else 0):
        geometry = ("metadata.json", "features", i, "geometry")
        coordinates = field(example, *geometry, "coordinates")
        try:
            lines = list(paths(coordinates))
        except ValueError as error:
            raise DatasetError(f"{name(example)}: feature {i} of metadata.json: {error}.") from None
        if city.crs != 4326:
            to_degrees = Transformer.from_crs(city.crs, 4326, always_xy=True)
            lines = [np.stack(to_degrees.transform(*line.T), axis=-1) for line in lines]
        found.append((text(example, *geometry, "type"), lines))
    return found


def _seen(example: Record, corrected: bool) -> str:
    """What is seen, by the kind of the first feature; empty without features."""
    features = _features(example)
    if not features:
        return ""
    if features[0][0] not in ("Polygon", "MultiPolygon"):
        length = round(sum(geodesic_length(lines) for _, lines in features), 3)
        return f"roads of length {length} meters" if length else "no roads"
    area = round(sum(geodesic_area(rings) for _, rings in features), 3)
    plural = "" if corrected and len(features) == 1 else "s"
    covering = f" covering an area of {area} squared meters" if area > 0 else ""
    return f"{len(features)} building{plural}{covering}"
