"""What the model makes of metadata that lack, lie or contradict each other, and of one field swept alone.

Every arm is made with the noise of the images that are judged, so that what differs is what was told.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from diffusionsat.evaluation import figures
from diffusionsat.evaluation.arms import Arm, Told, moved
from diffusionsat.evaluation.cases import Cases
from diffusionsat.evaluation.controllability import KNOWN, LEAST, cycle
from diffusionsat.evaluation.evidence import Evidence, Seen
from diffusionsat.evaluation.probes import Probes
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.quality import briefly, moments_of
from diffusionsat.evaluation.section import Line, Section, over_places
from diffusionsat.metadata import Metadata
from diffusionsat.metrics.probes import circular_error, great_circle_km, spearman

FIELDS: dict[str, tuple[str, ...]] = {
    "place": ("lon", "lat"),
    "gsd": ("gsd",),
    "date": ("date",),
    "cloud cover": ("cloud_cover",),
}
SWEEPS: dict[str, tuple[float, ...]] = {  # months; years; metres per pixel; degrees north; percent
    "month": (1, 3, 5, 7, 9, 11),
    "year": (1990, 2000, 2010, 2020),
    "gsd": (0.5, 2, 10, 30, 300),
    "place": (-60, -30, 0, 30, 60),
    "cloud cover": (0, 20, 40, 60, 80),
}
SWEPT = 64  # cases of a sweep
YEAR = 2020  # of a month that is asked of a case without a date
_TRUE = "what is true"


def arms(request: EvaluateRequest, asked: Cases) -> Iterator[Arm]:
    """Nothing told; each field unknown, and another case's; every field from a different case; and sweeps.

    A field is swept if the cases know more than one value of it: of another no probe is learned.
    """
    cases, true = asked.cases, [case.metadata for case in asked.cases]
    told, mixed = {"nothing": [Metadata()] * len(true)}, true
    rows = {field: _knowing(true, names) for field, names in FIELDS.items()}
    known = {field: FIELDS[field] for field, some in rows.items() if len(some) >= LEAST}
    for number, (field, names) in enumerate(known.items()):
        told[f"{field} unknown"] = [m.replace(**dict.fromkeys(names)) for m in true]
        if len({getattr(true[row], names[0]) for row in rows[field]}) > 1:
            told[f"{field} of another"] = _swapped(true, rows[field], names, request.seed)
            mixed = _swapped(mixed, rows[field], names, request.seed + number)
    if sum(name.endswith("another") for name in told) > 1:
        told["each field of a different one"] = mixed
    for name, metadata in told.items():
        yield Arm(request=request, asked=Told(asked, metadata), about={"told": name})
    for field, values in SWEEPS.items():
        for value in values if len({KNOWN[field](m) for m in true} - {None}) > 1 else ():
            metadata = [_at(case.metadata, field, value) for case in cases[:SWEPT]]
            yield Arm(request=request, asked=Told(asked, metadata), about={"swept": field, "value": value})


def _knowing(metadata: Sequence[Metadata], names: Sequence[str]) -> np.ndarray:
    """Rows in which fields are known."""
    return np.array([i for i, m in enumerate(metadata) if getattr(m, names[0]) is not None], int)


def _swapped(
    metadata: Sequence[Metadata], rows: np.ndarray, names: Sequence[str], seed: int
) -> list[Metadata]:
    """The same with some fields of each row another row's."""
    swapped = list(metadata)
    for row, other in zip(rows, rows[cycle(len(rows), seed)], strict=True):
        swapped[row] = swapped[row].replace(**{name: getattr(metadata[other], name) for name in names})
    return swapped


def _at(metadata: Metadata, field: str, value: float) -> Metadata:
    if field == "month":
        return metadata.replace(date=f"{metadata.year or YEAR:04d}-{int(value):02d}")
    if field == "year":
        return metadata.replace(date=f"{int(value):04d}" + (metadata.date or "")[4:7])
    if field == "gsd":
        return metadata.replace(gsd=value)
    if field == "cloud cover":
        return metadata.replace(cloud_cover=value)
    return metadata.replace(lon=metadata.lon or 0.0, lat=value)


def measure(evidence: Evidence, made: Sequence[tuple[Arm, Seen]]) -> Section:
    """How far quality and the words fall when metadata lack or lie; sweeps, their order and what they move.

    Args:
        evidence: The images that are judged, which were told what is true.
        made: The arms, in their order.
    """
    told = {arm.about["told"]: seen for arm, seen in made if "told" in arm.about}
    tables = {"metadata that lack or lie": _told(evidence, told)}
    swept: dict[str, dict[float, Seen]] = {}
    for arm, seen in made:
        if "swept" in arm.about:
            swept.setdefault(arm.about["swept"], {})[arm.about["value"]] = seen
    tables["sweeps"] = [line for probes in evidence.probes for line in _sweeps(evidence, probes, swept)]
    tables = {title: lines for title, lines in tables.items() if lines}
    silent = [field for field in SWEEPS if field not in {line["swept"] for line in tables.get("sweeps", [])}]
    said = f"Not swept: {', '.join(silent)}; the images know one value or none, or no probe reads it."
    notes = [said] if silent else []
    files = {"sweeps.png": figures.matrices(tables["sweeps"])} if "sweeps" in tables else {}
    return Section(tables, files=files, notes=notes)


def _told(evidence: Evidence, told: Mapping[str, Seen]) -> list[Line]:
    lines: list[Line] = []
    for network in evidence.networks:
        name = network.name
        reference, before = (seen.features(name) for seen in (evidence.reference, evidence.made))
        moments = moments_of(reference)
        for arm, seen in {_TRUE: evidence.made, **told}.items():
            features = seen.features(name)
            line: Line = {"told": arm, "features": name}
            line |= briefly(features, reference, moments, evidence.seed)
            line["moved"] = moved(features, before)
            lines.append(line | {"read": read_share(evidence, seen)})
    return lines


def read_share(evidence: Evidence, seen: Seen) -> float | None:
    """The share of images whose class is read as asked, by the first probes that know one; None without."""
    cases = evidence.asked.cases
    for probes in evidence.probes:
        right: list[bool] = []
        for label_set, known in probes.classes.items():
            rows = [i for i, c in enumerate(cases) if c.source == label_set and c.label in known]
            if rows:
                said = probes.labels(seen.features(probes.network), label_set, rows).tolist()
                right += [label == cases[i].label for label, i in zip(said, rows, strict=True)]
        if right:
            return float(np.mean(right))
    return None


def _sweeps(evidence: Evidence, probes: Probes, swept: Mapping[str, Mapping[float, Seen]]) -> Iterator[Line]:
    """Whether what is read follows what is asked, and how far every field's reading moves meanwhile.

    A reading moves by the mean distance of two images of a sweep, divided by that of two cases that are told
    what is true: 0 is not at all, 1 as far as from case to case. The swept field should move, the others not.
    """
    before = evidence.made.features(probes.network)[:SWEPT]
    places = [case.place for case in evidence.asked.cases[:SWEPT]]
    for field, by_value in swept.items():
        if field not in probes.fields:
            continue
        seen = {value: images.features(probes.network) for value, images in by_value.items()}
        order = _order(field, {value: _read(probes, field, x) for value, x in seen.items()})
        line: Line = {"swept": field, "probe": probes.name, "n": len(before), "values": len(seen)}
        line["order"] = over_places(order, places)
        for other in probes.fields:
            readings = [_read(probes, other, x) for x in seen.values()]
            along = [_apart(other, a, b).mean() for i, a in enumerate(readings) for b in readings[i + 1 :]]
            cases = _read(probes, other, before)
            across = _apart(other, cases, np.roll(cases, 1, 0)).mean()
            line[f"{other} moves"] = float(np.mean(along) / across) if across else 0.0
        yield line


def _read(probes: Probes, field: str, features: Any) -> np.ndarray:
    """What is read of a field, (N, K)."""
    if field == "month":
        return probes.months(features)[:, None]
    if field == "year":
        return probes.years(features)[:, None]
    if field == "gsd":
        return probes.log_gsds(features)[:, None]
    if field == "cloud cover":
        return probes.cloud_covers(features)[:, None]
    return np.stack(probes.places(features), 1)


def _apart(field: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far two readings of each image are apart, (N,), in the units of `ERRORS`."""
    if field == "month":
        return circular_error(a[:, 0], b[:, 0], period=12)
    if field == "place":
        return great_circle_km(*a.T, *b.T)
    return np.abs(a - b)[:, 0]


def _order(field: str, readings: Mapping[float, np.ndarray]) -> np.ndarray:
    """Of each case, 1 if what is read follows what is asked and 0 if it does not care, (N,).

    Of months the mean cosine of the angle on the circle of the year between the two; else `spearman`. -1 to
    1, higher is better, no unit. Source: the project's definition.
    """
    asked = np.array(list(readings))
    read = np.stack([x[:, -1] for x in readings.values()], 1)
    if field == "month":
        return np.cos(2 * np.pi * (read - (asked - 0.5)) / 12).mean(1)
    return np.array([spearman(asked, row) for row in read])
