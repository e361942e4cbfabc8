"""What is known about an image besides its pixels: where, when, how sharp, how cloudy.

Any of it may be unknown. The numbers here are in the units people use; what a network sees is made from
`Metadata.numbers` by the encodings in `diffusionsat.models.encodings`.
"""

import calendar
import datetime
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from diffusionsat.errors import MetadataError

NUMBERS = ("lon", "lat", "gsd", "cloud_cover", "year", "month", "day")  # the order of `Metadata.numbers`

_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)
_HINTS = {
    "lon": "degrees east from -180 to 180 (WGS84); west is negative",
    "lat": "degrees north from -90 to 90 (WGS84); south is negative",
    "gsd": "metres per pixel from 0.001 to 1,000,000",
    "cloud_cover": "percent from 0 to 100",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Place, resolution, cloud cover and date of an image; None is unknown.

    Args:
        lon: Longitude of the image's centre, degrees WGS84, -180 to 180.
        lat: Latitude of the image's centre, degrees WGS84, -90 to 90.
        gsd: Ground sample distance, metres per pixel of the delivered image, 0.001 to 1,000,000.
        cloud_cover: Percent of the image under cloud, 0 to 100.
        date: A day, a month or a year: ``"2019-07-14"``, ``"2019-07"``, ``"2019"``; or a `datetime.date`.

    Raises:
        MetadataError: If a value is out of its range, is not finite or is no number.

    Example:
        >>> Metadata(lon=7.44, lat=46.95, date="2019-07").replace(gsd=10).to_json()
        '{"lon": 7.44, "lat": 46.95, "gsd": 10.0, "date": "2019-07"}'
    """

    lon: float | None = None
    lat: float | None = None
    gsd: float | None = None
    cloud_cover: float | None = None
    date: str | None = None

    def __post_init__(self) -> None:
        for name in _HINTS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _number(name, value))
        if self.date is not None:
            object.__setattr__(self, "date", _date(self.date))

    @property
    def year(self) -> int | None:
        """Year of the date."""
        return None if self.date is None else int(self.date[:4])

    @property
    def month(self) -> int | None:
        """Month of the date, 1 to 12; None if only the year is known."""
        return None if self.date is None or len(self.date) < 7 else int(self.date[5:7])

    @property
    def day(self) -> int | None:
        """Day of the month, 1 to 31; None if only the year or the month is known."""
        return None if self.date is None or len(self.date) < 10 else int(self.date[8:10])

    @property
    def numbers(self) -> tuple[float, ...]:
        """The seven numbers named in `NUMBERS`, in the units above; NaN is unknown."""
        return tuple(math.nan if (v := getattr(self, name)) is None else float(v) for name in NUMBERS)

    def interval(self) -> tuple[datetime.date, datetime.date] | None:
        """First and last day that the date may mean; None if it is unknown."""
        if self.year is None:
            return None
        first_month, last_month = (self.month, self.month) if self.month else (1, 12)
        last_day = calendar.monthrange(self.year, last_month)[1]
        first, last = (self.day, self.day) if self.day else (1, last_day)
        return datetime.date(self.year, first_month, first), datetime.date(self.year, last_month, last)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; None makes a field unknown."""
        _refuse_unknown_keys(changes)
        return replace(self, **changes)

    def to_dict(self) -> dict[str, float | str]:
        """The known fields by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Self:
        """Metadata of the fields in a mapping; absent or None is unknown.

        Raises:
            MetadataError: If a key is none of the fields, or a value is not possible.
        """
        _refuse_unknown_keys(known)
        return cls(**known)

    def to_json(self) -> str:
        """The known fields as a JSON object."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Metadata of a JSON object as `to_json` writes it.

        Raises:
            MetadataError: If the text is no JSON object of these fields.
        """
        try:
            known = json.loads(text)
        except ValueError as error:
            raise MetadataError(f"Metadata is no JSON: {error}.") from error
        if not isinstance(known, dict):
            raise MetadataError(f"Metadata is given as a JSON {type(known).__name__}; it must be an object.")
        return cls.from_dict(known)


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise MetadataError(
            f"{name} is {value!r}, no number. Give {_HINTS[name]}, or leave it out (None) if unknown."
        ) from None
    possible = {
        "lon": -180 <= number <= 180,
        "lat": -90 <= number <= 90,
        "gsd": 1e-3 <= number <= 1e6,
        "cloud_cover": 0 <= number <= 100,
    }
    if not possible[name]:
        raise MetadataError(f"{name} is {number:g}. Give {_HINTS[name]}, or leave it out (None) if unknown.")
    return number


def _date(value: Any) -> str:
    if isinstance(value, datetime.datetime):
        value = value.date()
    if isinstance(value, datetime.date):
        return value.isoformat()
    text = "" if isinstance(value, bool) or not isinstance(value, (str, int)) else str(value)
    match = _DATE.fullmatch(text)
    if match is None:
        raise MetadataError(
            f"date is {value!r}. Give YYYY-MM-DD, YYYY-MM or YYYY, or leave it out (None) if unknown."
        )
    year, month, day = (int(part or 1) for part in match.groups())
    try:
        datetime.date(year, month, day)
    except ValueError as error:
        raise MetadataError(f"date is {value!r}, which is in no calendar: {error}.") from None
    return text


def _refuse_unknown_keys(given: Mapping[str, Any]) -> None:
    names = [field.name for field in fields(Metadata)]
    foreign = [key for key in given if key not in names]
    if foreign:
        raise MetadataError(f"Metadata has no field {foreign[0]!r}. Its fields are: {', '.join(names)}.")
