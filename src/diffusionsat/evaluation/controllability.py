"""Do images show the metadata that they were asked for with, as probes trained on real images read it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from diffusionsat.errors import ConfigError
from diffusionsat.evaluation import figures
from diffusionsat.evaluation.cases import Case
from diffusionsat.evaluation.evidence import Evidence
from diffusionsat.evaluation.probes import Probes, blocks
from diffusionsat.evaluation.section import Section
from diffusionsat.metadata import Metadata
from diffusionsat.metrics.catalogue import METRICS
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


def errors(
    field: str, reader: Any, features: Tensor, rows: Sequence[int], asked: Sequence[Metadata]
) -> np.ndarray:
    """Error of what is read of some rows of features against what each was asked for, (K,); see `ERRORS`.

    A block at a time, since features may be mapped from a file and larger than memory.
    """
    parts = zip(blocks(rows), blocks(asked), strict=True)
    return np.concatenate([ERRORS[field](reader, features[some], wanted) for some, wanted in parts])


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
    lines, notes, checks = [], [], []
    scores: dict[str, np.ndarray] = {}
    for probes in evidence.probes:
        made, real = (seen.features(probes.network) for seen in (evidence.made, evidence.real))
        for field in probes.fields:
            rows = [i for i, c in enumerate(evidence.asked.cases) if KNOWN[field](c.metadata) is not None]
            if len(rows) < LEAST or len({KNOWN[field](evidence.asked.cases[i].metadata) for i in rows}) < 2:
                continue
            try:
                line, own, check = _line(probes, field, evidence.asked.cases, rows, made, real, evidence.seed)
            except ConfigError as error:
                notes.append(f"{field} by {probes.name}: {error}")
                continue
            lines.append({"field": field, "probe": probes.name, **line})
            checks.append({"features": probes.name, "figure": f"controllability of {field}", **check})
            obeyed = line["controllability"]
            if obeyed["high"] < HEEDED:
                notes.append(
                    f"{field} is hardly heeded: controllability {obeyed['value']:.2f} by {probes.name}."
                )
            elif obeyed["low"] < 0 and obeyed["high"] > 1:
                notes.append(
                    f"Whether {field} is heeded cannot be told by {probes.name} from {len(rows)} images."
                )
            column = np.full(len(evidence.asked), np.nan)
            column[rows] = own
            scores[f"{field}_error {probes.name}"] = column
    silent = [field for field in ERRORS if field not in {line["field"] for line in lines}]
    if silent:
        notes.append(
            f"Nothing is said of {', '.join(silent)}: fewer than {LEAST} images know it, all know the same, "
            "or no probe does."
        )
    if not lines:
        return Section({}, notes=notes)
    rows = [(f"{line['field']}, {line['probe']}", line["controllability"]) for line in lines]
    picture = figures.intervals("controllability: 1 as obedient as real images, 0 deaf", rows, 1)
    tables = {"controllability": lines, "self-check": checks}
    return Section(tables, scores, {"controllability.png": picture}, notes)


def _line(
    probes: Probes,
    field: str,
    cases: Sequence[Case],
    rows: Sequence[int],
    made: Tensor,
    real: Tensor,
    seed: int,
) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
    """A line, errors on generated images, and whether real ones with the requests of others are caught."""
    asked = [cases[i].metadata for i in rows]
    others = [asked[i] for i in cycle(len(rows), seed)]
    own, true, shuffled, deaf = (
        errors(field, probes, seen, rows, wanted)
        for seen, wanted in ((made, asked), (real, asked), (made, others), (real, others))
    )
    places = [cases[i].place for i in rows]
    good, bad = (controllability(x, true, deaf, places).value for x in (true, deaf))
    worse = METRICS["controllability"].worse(bad, good)
    check = {"real": good, "spoiled": bad, "answer": "right" if worse else "WRONG"}
    return obedience(own, true, shuffled, places), own, check
