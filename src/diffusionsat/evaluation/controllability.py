"""Do images show the metadata that they were asked for with, as probes trained on real images read it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from diffusionsat.errors import ConfigError
from diffusionsat.evaluation import figures
from diffusionsat.evaluation.cases import Case
from diffusionsat.evaluation.evidence import Evidence
from diffusionsat.evaluation.probes import Probes
from diffusionsat.evaluation.section import Section
from diffusionsat.metadata import Metadata
from diffusionsat.metrics.probes import circular_error, controllability, great_circle_km

LEAST = 20  # images with a field, for a figure of it
HEEDED = 0.5  # a controllability that is surely below is worth a note


def _month_error(reader: Any, seen: Any, asked: Sequence[Metadata]) -> np.ndarray:
    months = np.array([m.numbers[5] for m in asked])
    return circular_error(reader.months(seen), months - 0.5, period=12)


def _year_error(reader: Any, seen: Any, asked: Sequence[Metadata]) -> np.ndarray:
    return np.abs(reader.years(seen) - [m.numbers[4] for m in asked])


def _place_error(reader: Any, seen: Any, asked: Sequence[Metadata]) -> np.ndarray:
    read_lon, read_lat = reader.places(seen)
    lon, lat = np.array([m.numbers[:2] for m in asked]).T
    return great_circle_km(read_lon, read_lat, lon, lat)


def _gsd_error(reader: Any, seen: Any, asked: Sequence[Metadata]) -> np.ndarray:
    return np.abs(reader.log_gsds(seen) - np.log10([m.numbers[2] for m in asked]))


def _cloud_error(reader: Any, seen: Any, asked: Sequence[Metadata]) -> np.ndarray:
    return np.abs(reader.cloud_covers(seen) - [m.numbers[3] for m in asked])


# Errors of what `Probes`, or a `Reader` of images, read: months, years, kilometres, decades, percent; (N,).
ERRORS: dict[str, Callable[[Any, Any, Sequence[Metadata]], np.ndarray]] = {
    "month": _month_error,
    "year": _year_error,
    "place": _place_error,
    "gsd": _gsd_error,
    "cloud cover": _cloud_error,
}
KNOWN: dict[str, Callable[[Metadata], Any]] = {
    "month": lambda m: m.month,
    "year": lambda m: m.year,
    "place": lambda m: None if m.lat is None else m.lon,
    "gsd": lambda m: m.gsd,
    "cloud cover": lambda m: m.cloud_cover,
}


def obedience(
    own: np.ndarray, true: np.ndarray, shuffled: np.ndarray, places: Sequence | np.ndarray
) -> dict[str, Any]:
    """A line of a report: mean errors, and `controllability`.

    Args:
        own: Error on each generated image against its own request.
        true: On the real image of the row.
        shuffled: On the generated image against another row's request.
        places: Place of each row.

    Raises:
        ConfigError: If the probe does not read the field.
    """
    line = {"n": len(own), "error": float(own.mean()), "error_real": float(true.mean())}
    line["error_shuffled"] = float(shuffled.mean())
    return line | {"controllability": asdict(controllability(own, true, shuffled, places))}


def cycle(count: int, seed: int) -> np.ndarray:
    """Another row for each of so many, (N,): a random cycle through all, so that nobody keeps its own."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    return np.roll(order, 1)[np.argsort(order)]


def measure(evidence: Evidence) -> Section:
    """Controllability of every field by every family of probes that can read it.

    A field is asked for where a case knows it; the shuffled request is another case's of the same field.
    """
    lines, notes = [], []
    scores: dict[str, np.ndarray] = {}
    for probes in evidence.probes:
        made, real = (seen.features(probes.network) for seen in (evidence.made, evidence.real))
        for field in probes.fields:
            rows = np.array(
                [i for i, c in enumerate(evidence.asked.cases) if KNOWN[field](c.metadata) is not None]
            )
            if len(rows) < LEAST:
                continue
            cases = [evidence.asked.cases[i] for i in rows]
            try:
                line, own = _line(probes, field, cases, made[rows], real[rows], evidence.seed)
            except ConfigError as error:
                notes.append(f"{field} by {probes.name}: {error}")
                continue
            lines.append({"field": field, "probe": probes.name, **line})
            if line["controllability"]["high"] < HEEDED:
                heeded = f"{line['controllability']['value']:.2f}"
                notes.append(f"{field} is hardly heeded: controllability {heeded} by {probes.name}.")
            column = np.full(len(evidence.asked), np.nan)
            column[rows] = own
            scores[f"{field}_error {probes.name}"] = column
    silent = [field for field in ERRORS if field not in {line["field"] for line in lines}]
    if silent:
        notes.append(
            f"Nothing is said of {', '.join(silent)}: fewer than {LEAST} images know it, or no probe does."
        )
    if not lines:
        return Section({}, notes=notes)
    rows = [(f"{line['field']}, {line['probe']}", line["controllability"]) for line in lines]
    picture = figures.intervals("controllability: 1 as obedient as real images, 0 deaf", rows, 1)
    return Section({"controllability": lines}, scores, {"controllability.png": picture}, notes)


def _line(
    probes: Probes, field: str, cases: Sequence[Case], made: Any, real: Any, seed: int
) -> tuple[dict[str, Any], np.ndarray]:
    asked = [case.metadata for case in cases]
    others = [asked[i] for i in cycle(len(cases), seed)]
    own, true, shuffled = (
        ERRORS[field](probes, seen, wanted) for seen, wanted in ((made, asked), (real, asked), (made, others))
    )
    return obedience(own, true, shuffled, [case.place for case in cases]), own
