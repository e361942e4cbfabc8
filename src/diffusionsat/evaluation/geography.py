"""Is the model worse somewhere: figures by cells of equal area, latitude, continent and class, with tests."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from diffusionsat.errors import ConfigError
from diffusionsat.evaluation import figures
from diffusionsat.evaluation.cases import Case
from diffusionsat.evaluation.continents import continent
from diffusionsat.evaluation.evidence import Evidence
from diffusionsat.evaluation.quality import realism
from diffusionsat.evaluation.section import Line, Section
from diffusionsat.metrics.bootstrap import bootstrap, label_p_value
from diffusionsat.metrics.distributions import kernel_distance

COLUMNS, ROWS = 12, 6  # of the Earth: 72 cells of 7.1 million km² each
LEAST = 20  # images of a cell in each set, as a kernel distance needs
BANDS = ((-90, -60), (-60, -30), (-30, 0), (0, 30), (30, 60), (60, 90))


def cell(lon: float, lat: float) -> tuple[int, int]:
    """Row (from the south) and column (from 180° W) of the cell of equal area that a place lies in."""
    row = int((np.sin(np.radians(lat)) + 1) / 2 * ROWS)
    return min(row, ROWS - 1), min(int((lon + 180) / 360 * COLUMNS), COLUMNS - 1)


def edges(row: int, column: int) -> tuple[float, float, float, float]:
    """West, south, east and north of a cell, degrees."""
    south, north = (float(np.degrees(np.arcsin(2 * r / ROWS - 1))) for r in (row, row + 1))
    width = 360 / COLUMNS
    return column * width - 180, south, (column + 1) * width - 180, north


def measure(evidence: Evidence) -> Section:
    """Realism by cell, latitude, continent and class, with its test; kernel distances of cells at equal N.

    Realism is `quality.realism` on the first network: 0 is as real as real images of the same places.
    """
    cases = evidence.asked.cases
    if not evidence.matched:
        return Section({})
    network = evidence.networks[0].name
    made, real, reference = (s.features(network) for s in (evidence.made, evidence.real, evidence.reference))
    scores = realism(made, real, reference)
    groupings: dict[str, Callable[[Case], str | None]] = {
        "cell": _cell,
        "latitude": _band,
        "continent": _continent,
        "class": _label,
    }
    parts, tests = [], []
    for kind, of in groupings.items():
        names = [of(case) for case in cases]
        parts += _parts(kind, names, scores, cases)
        tests += _test(kind, names, scores, cases)
    cells, features = _cells(evidence, made, real, reference, scores)
    tables = {"geography": parts, "no particular bias": tests, "cells at equal N": cells}
    geojson = json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n"
    placed = [c.metadata for c in cases if _cell(c) is not None]
    files = {"geography.geojson": geojson.encode()}
    if features:
        files["geography.png"] = figures.world(features, [(m.lon or 0, m.lat or 0) for m in placed], network)
    tables = {title: lines for title, lines in tables.items() if lines}
    return Section(tables, {f"realism {network}": scores}, files)


def _cell(case: Case) -> str | None:
    m = case.metadata
    return None if m.lon is None or m.lat is None else _named(*cell(m.lon, m.lat))


def _named(row: int, column: int) -> str:
    west, south, east, north = edges(row, column)
    return f"lon {west:.0f}..{east:.0f} lat {south:.0f}..{north:.0f}"


def _band(case: Case) -> str | None:
    lat = case.metadata.lat
    if lat is None:
        return None
    south, north = next((s, n) for s, n in BANDS if lat < n or n == 90)
    return f"{south}..{north}"


def _continent(case: Case) -> str | None:
    lon, lat = case.metadata.lon, case.metadata.lat
    return None if lon is None or lat is None else continent(lon, lat)


def _label(case: Case) -> str | None:
    return f"{case.source}/{case.label}" if case.label else None


def _parts(kind: str, names: Sequence[str | None], scores: np.ndarray, cases: Sequence[Case]) -> list[Line]:
    lines: list[Line] = []
    for name in sorted({n for n in names if n is not None}):
        rows = np.array([i for i, n in enumerate(names) if n == name])
        if len(rows) < LEAST:
            continue
        places = [cases[i].place for i in rows]
        line: Line = {"by": kind, "part": name, "n": len(rows), "places": len(set(places))}
        some = scores[rows]
        line["realism"] = (
            asdict(bootstrap(lambda r, some=some: float(some[r].mean()), places))
            if len(set(places)) > 1
            else float(some.mean())
        )
        lines.append(line)
    return lines


def _test(kind: str, names: Sequence[str | None], scores: np.ndarray, cases: Sequence[Case]) -> list[Line]:
    """p-value that realism does not depend on the part, with places permuted among parts."""
    large = {n for n in names if n is not None and names.count(n) >= LEAST}
    rows = [i for i, n in enumerate(names) if n in large]
    # A place of two classes is two places here, since a label must be its group's.
    groups = [f"{cases[i].place} {names[i]}" for i in rows]
    if len(large) < 2:
        return []
    labels = [str(names[i]) for i in rows]
    try:
        p = label_p_value(scores[rows], labels, groups)
    except ConfigError:
        return []
    return [{"by": kind, "n": len(rows), "parts": len(large), "places": len(set(groups)), "p_value": p}]


def _cells(
    evidence: Evidence, made: Any, real: Any, reference: Any, scores: np.ndarray
) -> tuple[list[Line], list[dict[str, Any]]]:
    """Kernel distance of every cell that has enough images, at one number of images for all of them."""
    asked, others = ([_cell(c) for c in cases.cases] for cases in (evidence.asked, evidence.others))
    counts = {
        name: min(asked.count(name), others.count(name))
        for name in sorted({n for n in asked if n is not None})
    }
    counts = {name: count for name, count in counts.items() if count >= LEAST}
    lines: list[Line] = []
    features = []
    n = min(counts.values(), default=0)
    for name in counts:
        mine, theirs = (_some(names, name, n, evidence.seed) for names in (asked, others))
        line: Line = {"cell": name, "n": n}
        for kind, seen in (("generated", made), ("real", real)):
            line[f"kernel_distance_{kind}"] = asdict(
                kernel_distance(seen[mine], reference[theirs], seed=evidence.seed)
            )
        lines.append(line)
        every = [i for i, other in enumerate(asked) if other == name]
        m = evidence.asked.cases[every[0]].metadata
        assert m.lon is not None
        assert m.lat is not None
        west, south, east, north = edges(*cell(m.lon, m.lat))
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        properties = line | {"images": len(every), "realism": float(scores[every].mean())}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return lines, features


def _some(names: Sequence[str | None], name: str, n: int, seed: int) -> np.ndarray:
    rows = np.array([i for i, other in enumerate(names) if other == name])
    return np.sort(np.random.Generator(np.random.Philox(seed)).permutation(rows)[:n])
