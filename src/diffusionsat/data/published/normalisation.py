"""The seven numbers of the published model: shifted so that none is negative, then normalised.

Their order is that of `diffusionsat.metadata.NUMBERS`. Shifted: longitude + 180, latitude + 90, gsd in
metres, cloud cover as a fraction, year - 1980, month, day. Normalised: 0 to 1000 for valid input, but for
gsd. What is not known is the number 0 in the published model; here NaN is understood too, and becomes 0 when
it is normalised.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusionsat.data.published.records import Record, name
from diffusionsat.errors import DatasetError, MetadataError
from diffusionsat.metadata import NUMBERS, Metadata

_LAST_YEAR = 2100
_SPELLINGS = {"lng": "lon", "longitude": "lon", "latitude": "lat"}
_FIRST_MAPPED_YEAR = 1000  # below it, a year in a mapping has been shifted already


def metadata_normalize(
    metadata: Any,
    base_lon: float = 180,
    base_lat: float = 90,
    base_year: int = 1980,
    max_gsd: float = 1.0,
    scale: float = 1000,
) -> Tensor:
    """The normalised numbers that the published networks take, float32 (7,).

    Args:
        metadata: Seven **shifted** numbers as list, tuple, tensor or array; None or NaN is unknown. Or
            unshifted, which is then done here: a `diffusionsat.Metadata`, or a mapping with some of the keys
            lon (lng, longitude), lat (latitude), gsd, cloud_cover (percent), year, month, day, date.
        base_lon: Degrees by which longitude is shifted.
        base_lat: Degrees by which latitude is shifted.
        base_year: Year that counts as 0.
        max_gsd: Metres that become ``scale``.
        scale: Upper end of the normalised numbers.

    Warns:
        UserWarning: If the numbers look as if they had not been shifted.

    Raises:
        MetadataError: If these are not seven numbers, or a mapping's keys can be taken in two ways.
    """
    if isinstance(metadata, Mapping):
        metadata = _understood(metadata)
    if isinstance(metadata, Metadata):
        lon, lat, gsd, cloud, year, month, day = metadata.numbers
        metadata = [lon + base_lon, lat + base_lat, gsd, cloud / 100, year - base_year, month, day]
    shifted = _seven(metadata)
    lon, lat, year = (float(shifted[i]) for i in (0, 1, 4))
    if lon < 0 or lat < 0 or year > 2180 - base_year:
        warnings.warn(
            f"metadata_normalize was given longitude {lon:g}, latitude {lat:g} and year {year:g}, which look "
            f"unshifted: it takes longitude + {base_lon:g}, latitude + {base_lat:g} and year - {base_year}. "
            "Give it a diffusionsat.Metadata, which is shifted for you.",
            UserWarning,
            stacklevel=2,
        )
    return (shifted / _spans(shifted, base_lon, base_lat, base_year, max_gsd) * scale).nan_to_num(0.0).float()


def metadata_unnormalize(
    norm_metadata: Any,
    base_lon: float = 180,
    base_lat: float = 90,
    base_year: int = 1980,
    max_gsd: float = 1.0,
    scale: float = 1000,
    is_print: bool = False,
) -> Tensor:
    """The shifted numbers (7,) of normalised ones; with ``is_print`` degrees and the year, unshifted.

    The other arguments are those of `metadata_normalize`.

    Raises:
        MetadataError: If these are not seven numbers.
    """
    normalised = _seven(norm_metadata).float()
    shifted = normalised / scale * _spans(normalised, base_lon, base_lat, base_year, max_gsd)
    if is_print:
        shifted = shifted + shifted.new_tensor([-base_lon, -base_lat, 0, 0, base_year, 0, 0])
    return shifted


def shifted_numbers(
    record: Record,
    place: tuple[float, float] | None,
    gsd: float,
    cloud_cover: float | None,
    date: tuple[int, int, int] | None,
    *,
    bases: tuple[float, float, int],
    unknown: float,
) -> Tensor:
    """The seven shifted numbers of a record, float32 (7,).

    Args:
        record: Whose they are, for the message.
        place: Longitude and latitude, degrees; None is unknown.
        gsd: Metres per pixel.
        cloud_cover: Fraction from 0 to 1; None is unknown.
        date: Year, month and day; None is unknown.
        bases: What is added to longitude and latitude, and the year that counts as 0.
        unknown: What stands for an unknown number: 0 as published, or NaN.

    Raises:
        DatasetError: If the place is none on Earth.
    """
    base_lon, base_lat, base_year = bases
    numbers = [unknown, unknown, gsd, unknown, unknown, unknown, unknown]
    if place is not None:
        lon, lat = place
        if not (-180 <= lon <= 180 and -90 <= lat <= 90):
            raise DatasetError(
                f"{name(record)} has longitude {lon:g} and latitude {lat:g}, no place on Earth."
            )
        numbers[:2] = lon + base_lon, lat + base_lat
    if cloud_cover is not None:
        numbers[3] = cloud_cover
    if date is not None:
        numbers[4:] = date[0] - base_year, date[1], date[2]
    return torch.tensor(numbers, dtype=torch.float32)


def _spans(like: Tensor, base_lon: float, base_lat: float, base_year: int, max_gsd: float) -> Tensor:
    return like.new_tensor([180 + base_lon, 90 + base_lat, max_gsd, 1, _LAST_YEAR - base_year, 12, 31])


def _seven(metadata: Any) -> Tensor:
    """Seven numbers in the precision in which they came, but at least float32."""
    try:
        if isinstance(metadata, Tensor):
            numbers = metadata.detach()
        else:
            listed = [math.nan if x is None else float(x) for x in metadata]
            numbers = torch.tensor(listed, dtype=torch.float64)
    except (TypeError, ValueError):
        raise MetadataError(f"metadata is {metadata!r}; it must be seven numbers, or a Metadata.") from None
    if numbers.shape != (7,):
        raise MetadataError(
            f"metadata has shape {tuple(numbers.shape)}; it must be seven numbers: {', '.join(NUMBERS)}."
        )
    return numbers if numbers.dtype == torch.float64 else numbers.float()


def _understood(given: Mapping[str, Any]) -> Metadata:
    """Metadata of a mapping whose keys can be taken in one way only."""
    known: dict[str, Any] = {}
    for key, value in given.items():
        field = _SPELLINGS.get(key, key)
        if field not in (*NUMBERS, "date"):
            raise MetadataError(
                f"metadata has the key {key!r}, which is not understood. Its keys may be lon, lat, gsd, "
                'cloud_cover (percent), year, month, day, or date ("YYYY-MM-DD").'
            )
        if field in known:
            raise MetadataError(f"metadata gives {field} twice, the second time as {key!r}. Give it once.")
        known[field] = value
    cloud = known.get("cloud_cover")
    if isinstance(cloud, (int, float)) and 0 < cloud <= 1:
        raise MetadataError(
            f"metadata has cloud_cover {cloud:g}, which may be a fraction or percent. Give a "
            "diffusionsat.Metadata(cloud_cover=...), which takes percent."
        )
    parts = [known.pop(part, None) for part in ("year", "month", "day")]
    if any(part is not None for part in parts):
        if known.get("date") is not None:
            raise MetadataError("metadata gives both a date and its parts. Give one of them.")
        known["date"] = _joined(parts)
    return Metadata.from_dict(known)


def _joined(parts: Sequence[Any]) -> str:
    """YYYY, YYYY-MM or YYYY-MM-DD of a year and what is known within it."""
    given = [part for part in parts if part is not None]
    if given != list(parts[: len(given)]):
        raise MetadataError("metadata gives a month or day without the year or month that it lies in.")
    try:
        numbers = [int(part) for part in given]
        if numbers != [float(part) for part in given] or numbers[0] < _FIRST_MAPPED_YEAR:
            raise ValueError
    except (TypeError, ValueError):
        raise MetadataError(
            f"metadata gives year, month, day as {given!r}; give the calendar year, and whole numbers."
        ) from None
    return "-".join([f"{numbers[0]:04d}", *(f"{number:02d}" for number in numbers[1:])])
