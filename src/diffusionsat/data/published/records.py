"""Looking into a record, one sample of a webdataset: file extensions to decoded contents."""

import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusionsat.errors import DatasetError

Record = Mapping[str, Any]

_DAY = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?!\d)", re.ASCII)


def name(record: Record) -> str:
    """How a message calls a record."""
    return f"Record {record.get('__key__', 'without __key__')!s}"


def field(record: Record, *path: str | int) -> Any:
    """What lies in a record at a path of keys and indices.

    Raises:
        DatasetError: If it is not there.
    """
    value: Any = record
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise DatasetError(f"{name(record)} has no {_spelled(path)}.") from None
    return value


def number(record: Record, *path: str | int) -> float:
    """The finite number at a path.

    Raises:
        DatasetError: If there is none.
    """
    value = field(record, *path)
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DatasetError(f"{name(record)}: {_spelled(path)} is {value!r}; it must be a finite number.")
    return found


def text(record: Record, *path: str | int) -> str:
    """The text at a path.

    Raises:
        DatasetError: If there is none.
    """
    value = field(record, *path)
    if not isinstance(value, str):
        raise DatasetError(f"{name(record)}: {_spelled(path)} is {value!r}; it must be a text.")
    return value


def items(record: Record, *path: str | int) -> list[Any]:
    """The list at a path.

    Raises:
        DatasetError: If there is none.
    """
    value = field(record, *path)
    if not isinstance(value, list):
        raise DatasetError(f"{name(record)}: {_spelled(path)} is {value!r}; it must be a list.")
    return value


def array(record: Record, *path: str | int, rank: int) -> np.ndarray:
    """The array at a path, of ``rank`` axes.

    Raises:
        DatasetError: If it is absent, ragged or has another number of axes.
    """
    value = field(record, *path)
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise DatasetError(f"{name(record)}: {_spelled(path)} is no array: {error}.") from None
    if found.ndim != rank:
        raise DatasetError(
            f"{name(record)}: {_spelled(path)} has shape {found.shape}; it must have {rank} axes."
        )
    return found


def day(record: Record, written: str) -> tuple[int, int, int]:
    """Year, month and day of a date or time that begins with YYYY-MM-DD.

    Raises:
        DatasetError: If it does not, or is in no calendar.
    """
    match = _DAY.match(written)
    try:
        if match is None:
            raise ValueError("it does not begin with YYYY-MM-DD")
        date = datetime.date(*(int(part) for part in match.groups()))
    except ValueError as error:
        raise DatasetError(f"{name(record)} has the date {written!r}: {error}.") from None
    return date.year, date.month, date.day


def _spelled(path: tuple[str | int, ...]) -> str:
    return " > ".join(str(key) for key in path)
