"""Is the model worse somewhere: figures by cells of equal area, latitude, continent and class, with tests."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from diffusionsat.errors import ConfigError
from diffusionsat.evaluation import figures
from diffusionsat.evaluation.cases import Case
from diffusionsat.evaluation.continents import continent
from diffusionsat.evaluation.evidence import Evidence
from diffusionsat.evaluation.quality import realism
from diffusionsat.evaluation.section import Line, Section, over_places
from diffusionsat.metrics.bootstrap import label_p_value
from diffusionsat.metrics.distributions import kernel_distance

COLUMNS, ROWS = 12, 6  # of the Earth: 72 cells of 7.1 million km² each
GAIN = "psnr_gain"
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
    network = evidence.networks[0].name
    made, real, reference = (s.features(network) for s in (evidence.made, evidence.real, evidence.reference))
    scores = realism(made, real, reference)
    tables = _by_part(cases, {"realism": scores})
    asked, others = ([_cell(case) for case in of.cases] for of in (evidence.asked, evidence.others))
    cells: list[Line] = []
    for name, (mine, theirs) in _at_equal_n((asked, others), evidence.seed).items():
        line: Line = {"cell": name, "n": len(mine)}
        for kind, seen in (("generated", made), ("real", real)):
            distance = kernel_distance(seen[mine], reference[theirs], seed=evidence.seed)
            line[f"kernel_distance_{kind}"] = asdict(distance)
        cells.append(line)
    title = f"excess distance to real images on {network} (0: as real as real)"
    files = _maps(cases, cells, "realism", scores, title)
    return Section(_there(tables | {"cells at equal N": cells}), {f"realism {network}": scores}, files)


def of_pairs(
    cases: Sequence[Case], psnr: np.ndarray, baseline_psnr: np.ndarray, baseline: str, seed: int
) -> Section:
    """PSNR, and its gain over a baseline, by cell, latitude, continent and class; tests; cells at equal N.

    The gain takes away how hard a place is, as far as the baseline tells it.

    Args:
        cases: What was asked for.
        psnr: Of each image, dB, (N,); not finite where there is none.
        baseline_psnr: Of what the baseline says.
        baseline: Its name.
        seed: Of the choice of images where there are more than in the cell that has fewest.
    """
    rows = np.flatnonzero(np.isfinite(psnr) & np.isfinite(baseline_psnr))
    cases = [cases[i] for i in rows.tolist()]
    scores = {"psnr": psnr[rows], GAIN: psnr[rows] - baseline_psnr[rows]}
    cells: list[Line] = []
    for name, (mine,) in _at_equal_n(([_cell(case) for case in cases],), seed).items():
        places = [cases[i].place for i in mine]
        line: Line = {"cell": name, "n": len(mine)}
        cells.append(line | {figure: over_places(values[mine], places) for figure, values in scores.items()})
    title = f"PSNR over that of the {baseline}, dB"
    files = _maps(cases, cells, GAIN, scores[GAIN], title)
    return Section(_there(_by_part(cases, scores) | {"cells at equal N": cells}), files=files)


def _there(tables: dict[str, list[Line]]) -> dict[str, list[Line]]:
    return {title: lines for title, lines in tables.items() if lines}


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


GROUPINGS: dict[str, Callable[[Case], str | None]] = {
    "cell": _cell,
    "latitude": _band,
    "continent": _continent,
    "class": _label,
}


def _by_part(cases: Sequence[Case], scores: Mapping[str, np.ndarray]) -> dict[str, list[Line]]:
    """Means of scores by part of the Earth and by class, and whether they differ among parts."""
    parts: list[Line] = []
    tests: list[Line] = []
    for kind, of in GROUPINGS.items():
        names = [of(case) for case in cases]
        parts += _parts(kind, names, scores, cases)
        tests += [line for figure in scores for line in _test(kind, names, figure, scores[figure], cases)]
    return {"geography": parts, "no particular bias": tests}


def _parts(
    kind: str, names: Sequence[str | None], scores: Mapping[str, np.ndarray], cases: Sequence[Case]
) -> list[Line]:
    lines: list[Line] = []
    for name in sorted({n for n in names if n is not None}):
        rows = np.array([i for i, n in enumerate(names) if n == name])
        if len(rows) < LEAST:
            continue
        places = [cases[i].place for i in rows]
        line: Line = {"by": kind, "part": name, "n": len(rows), "places": len(set(places))}
        lines.append(line | {figure: over_places(values[rows], places) for figure, values in scores.items()})
    return lines


def _test(
    kind: str, names: Sequence[str | None], figure: str, scores: np.ndarray, cases: Sequence[Case]
) -> list[Line]:
    """p-value that a score does not depend on the part, with places permuted among parts."""
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
    line: Line = {"by": kind, "score": figure, "n": len(rows), "parts": len(large)}
    return [line | {"places": len(set(groups)), "p_value": p}]


def _at_equal_n(sets: Sequence[Sequence[str | None]], seed: int) -> dict[str, list[np.ndarray]]:
    """Rows of every cell that has enough images in each set; the same number of each cell and set."""
    counts = {
        name: min(names.count(name) for names in sets)
        for name in sorted({n for n in sets[0] if n is not None})
    }
    enough = {name: count for name, count in counts.items() if count >= LEAST}
    return {name: [_some(names, name, min(enough.values()), seed) for names in sets] for name in enough}


def _maps(
    cases: Sequence[Case], cells: Sequence[Line], figure: str, scores: np.ndarray, title: str
) -> dict[str, bytes]:
    """Cells as GeoJSON, and on a map with the mean of a score over all their images."""
    features: list[dict[str, Any]] = []
    of = [_cell(case) for case in cases]
    for line in cells:
        every = [i for i, name in enumerate(of) if name == line["cell"]]
        m = cases[every[0]].metadata
        assert m.lon is not None
        assert m.lat is not None
        west, south, east, north = edges(*cell(m.lon, m.lat))
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        properties = line | {"images": len(every), figure: float(scores[every].mean())}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    geojson = json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n"
    files = {"geography.geojson": geojson.encode()}
    if features:
        placed = [(c.metadata.lon or 0, c.metadata.lat or 0) for c in cases if _cell(c) is not None]
        files["geography.png"] = figures.world(features, placed, figure, title, higher=figure == GAIN)
    return files


def _some(names: Sequence[str | None], name: str, n: int, seed: int) -> np.ndarray:
    rows = np.array([i for i, other in enumerate(names) if other == name])
    return np.sort(np.random.Generator(np.random.Philox(seed)).permutation(rows)[:n])
