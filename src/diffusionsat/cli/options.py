"""Options that mean the same in every command, and the forms of their values."""

import datetime
import functools
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from diffusionsat.errors import ConfigError, MetadataError
from diffusionsat.metadata import Metadata

MOST_VALUES = 100  # of a sweep
MOST_IMAGES = 10_000  # of one command but for --features


class LngLat(click.ParamType):
    """``LON,LAT`` in degrees WGS84."""

    name = "LON,LAT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """The pair of numbers."""
        if isinstance(value, tuple):
            return value
        try:
            lon, lat = (float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no place. Give LON,LAT in degrees, as in 7.44,46.95.", param, ctx)
        return lon, lat


class Size(click.ParamType):
    """``WxH`` in pixels."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """The pair of whole numbers."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)x(\d+)", value)
        if match is None:
            self.fail(f"{value!r} is no size. Give WIDTHxHEIGHT in pixels, as in 256x256.", param, ctx)
        return int(match[1]), int(match[2])


def verbosity(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-v``, ``-q`` and ``--debug``, and send the package's log to stderr accordingly."""

    @click.option("-v", "--verbose", is_flag=True, help="Tell more on stderr.")
    @click.option("-q", "--quiet", is_flag=True, help="Tell only errors on stderr.")
    @click.option("--debug", is_flag=True, help="Tell everything, with tracebacks.")
    @functools.wraps(function)
    def wrapped(*args: Any, verbose: bool, quiet: bool, debug: bool, **kwargs: Any) -> Any:
        quiet = quiet or kwargs.get("as_json", False)
        level = (
            logging.DEBUG
            if debug
            else logging.ERROR
            if quiet
            else logging.INFO
            if verbose
            else logging.WARNING
        )
        logger = logging.getLogger("diffusionsat")
        logger.handlers = [logging.StreamHandler(sys.stderr)]
        logger.handlers[0].setFormatter(_Lower("%(levelname)s: %(message)s"))
        logger.setLevel(level)
        click.get_current_context().meta["quiet"] = quiet
        return function(*args, **kwargs)

    return wrapped


class _Lower(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


def model(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--model``, ``--device`` and ``--precision``."""
    for option in (
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default="auto",
            show_default=True,
            help="Of the computation.",
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda", "mps"]),
            default="auto",
            show_default=True,
            help="Where it is computed.",
        ),
        click.option(
            "--model",
            default="compact",
            show_default=True,
            metavar="NAME|PATH",
            help="A name that `models` shows, or a folder.",
        ),
    ):
        function = option(function)
    return function


def sampling(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of sampling: seed, steps, solver, guidance, negative, strict."""
    for option in (
        click.option(
            "--strict", is_flag=True, help="Refuse a prompt that is too long instead of cutting it."
        ),
        click.option("--negative", default="", metavar="TEXT", help="What is not to be seen."),
        click.option(
            "--metadata-guidance", type=float, metavar="G", help="Strength of the metadata [--guidance]."
        ),
        click.option(
            "--guidance",
            type=float,
            metavar="G",
            help="Strength of prompt and metadata; 1 is none [the model's; 1 where images are given].",
        ),
        click.option("--solver", metavar="NAME", help="euler, heun, midpoint or dpmpp-2m [the model's]."),
        click.option("--steps", type=int, metavar="K", help="Steps of the solver [the model's]."),
        click.option(
            "--seed", type=int, default=0, show_default=True, metavar="S", help="Same seed, same pixels."
        ),
    ):
        function = option(function)
    return function


def numbered(output: Path, count: int) -> list[Path]:
    """Where several images of one command go: OUT-000, OUT-001 and so on; OUT itself for one.

    Raises:
        ConfigError: If so many are not made.
    """
    if not 1 <= count <= MOST_IMAGES:
        raise ConfigError(f"n is {count}. Give a whole number from 1 to {MOST_IMAGES}.")
    if count == 1:
        return [output]
    digits = max(3, len(str(count - 1)))
    return [output.with_stem(f"{output.stem}-{i:0{digits}d}") for i in range(count)]


def frames_guidance(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--frames-guidance``."""
    return click.option(
        "--frames-guidance",
        type=float,
        metavar="G",
        help="Strength of the images that the ControlNet sees; 1 is none [what it does best with].",
    )(function)


def output(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-o/--output``, ``--overwrite`` and ``--json``."""
    for option in (
        click.option(
            "--json", "as_json", is_flag=True, help="No people's text; stdout is JSON lines in any case."
        ),
        click.option("--overwrite", is_flag=True, help="Replace existing output."),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            required=True,
            metavar="OUT",
            help="Where the result goes.",
        ),
    ):
        function = option(function)
    return function


def place(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--lnglat``, ``--date``, ``--gsd`` and ``--cloud``: what is known about an image."""
    for option in (
        click.option("--cloud", type=float, metavar="P", help="Its cloud cover in percent."),
        click.option("--gsd", type=float, metavar="G", help="Its metres per pixel."),
        click.option("--date", metavar="YYYY[-MM[-DD]]", help="Its day, month or year."),
        click.option("--lnglat", type=LngLat(), metavar="LON,LAT", help="Its centre, degrees WGS84."),
    ):
        function = option(function)
    return function


def known_metadata(
    lnglat: tuple[float, float] | None, date: str | None, gsd: float | None, cloud: float | None
) -> Any:
    """Metadata of the options that `place` adds."""
    lon, lat = lnglat or (None, None)
    return Metadata(lon=lon, lat=lat, gsd=gsd, cloud_cover=cloud, date=date)


def numbers(text: str, name: str) -> tuple[float, ...]:
    """Numbers between commas.

    Raises:
        ConfigError: If they are none.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{name} is {text!r}. Give numbers between commas, as in 0.1,0.5.") from None


def quiet() -> bool:
    """Whether people's text is to be left out: -q or --json."""
    return click.get_current_context().meta.get("quiet", False)


def parse_values(text: str) -> tuple[str, list[Any]]:
    """Name and values of ``FIELD=A/B`` (a range), ``FIELD=A/B/N`` (N values) or ``FIELD=A,B,C``.

    A range of dates goes by its own precision, years, months or days; gsd goes in equal ratios, other
    numbers in equal steps.

    Raises:
        ConfigError: If the field is unknown or the values are none.
    """
    name, equals, values = text.partition("=")
    fields = ("lon", "lat", "gsd", "cloud_cover", "date")
    if not equals or name not in fields or not values:
        raise ConfigError(
            f"sweep is {text!r}. Give FIELD=A/B, FIELD=A/B/N or FIELD=A,B,C; fields are {', '.join(fields)}."
        )
    parts = values.split("/")
    try:
        if len(parts) == 1:
            many = values.split(",")
            return name, many if name == "date" else [float(v) for v in many]
        if len(parts) > 3:
            raise ValueError
        count = int(parts[2]) if len(parts) == 3 else None
        if count is not None and not 2 <= count <= MOST_VALUES:
            raise ValueError
        if name == "date":
            return name, _dates(parts[0], parts[1], count or 12)
        return name, _numbers(float(parts[0]), float(parts[1]), count or 6, ratio=name == "gsd")
    except MetadataError:
        raise
    except ValueError:
        raise ConfigError(
            f"sweep is {text!r}; {values!r} is no range and no list. Give A/B, A/B/N or A,B,C."
        ) from None


def parse_dates(text: str) -> list[str]:
    """Dates of ``A,B,C``, all of a range ``A/B`` in its own precision, or N of it, ``A/B/N``; each once.

    Raises:
        ConfigError: If they are no list and no range, or too many.
        MetadataError: If one is no date.
    """
    parts = text.split("/")
    try:
        if len(parts) == 1:
            dates = text.split(",")
        else:
            first, last, count = [*parts, str(sys.maxsize)][:3]
            if len(parts) > 3 or int(count) < 1:
                raise ValueError
            dates = _dates(first, last, int(count))
    except MetadataError:
        raise
    except ValueError:
        raise ConfigError(
            f"dates is {text!r}. Give A,B,C, or a range A/B from early to late, each YYYY, YYYY-MM or "
            "YYYY-MM-DD, or N dates of it, A/B/N."
        ) from None
    dates = list(dict.fromkeys(Metadata(date=date).date or date for date in dates))
    if len(dates) > MOST_VALUES:
        raise ConfigError(
            f"dates is {text!r}, {len(dates)} dates; at most {MOST_VALUES} can be made. Give A/B/N."
        )
    return dates


def _numbers(first: float, last: float, count: int, *, ratio: bool) -> list[float]:
    if count < 2 or (ratio and min(first, last) <= 0):
        raise ValueError
    steps = [i / (count - 1) for i in range(count)]
    return [first * (last / first) ** s if ratio else first + s * (last - first) for s in steps]


def _dates(first: str, last: str, most: int) -> list[str]:
    """Dates from first to last in their own precision, thinned evenly to at most ``most``."""
    span, end = Metadata(date=first).interval(), Metadata(date=last).interval()
    if span is None or end is None or len(first) != len(last) or span[0] > end[0]:
        raise ValueError
    (start, _), (stop, _) = span, end
    if len(first) == len("YYYY-MM-DD"):
        every = [(start + datetime.timedelta(d)).isoformat() for d in range((stop - start).days + 1)]
    elif len(first) == len("YYYY-MM"):
        months = range(start.year * 12 + start.month - 1, stop.year * 12 + stop.month)
        every = [f"{m // 12:04d}-{m % 12 + 1:02d}" for m in months]
    else:
        every = [f"{y:04d}" for y in range(start.year, stop.year + 1)]
    if len(every) <= most:
        return every
    return [every[round(i * (len(every) - 1) / (most - 1))] for i in range(most)] if most > 1 else every[:1]
