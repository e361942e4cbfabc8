"""Whether a report's images score differently from another's, image by image.

Two reports on the same cases share how hard each case is, so that the differences of their scores tell apart
what means of each hide.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffusionsat.errors import DatasetError
from diffusionsat.evaluation.report import SCORES
from diffusionsat.evaluation.section import Line, over_places
from diffusionsat.metrics.bootstrap import sign_flip_p_value

FLIPS = 1_999
_CASE = (
    "image",
    "source",
    "key",
    "frame",
    "label",
    "prompt",
    "place",
    "lon",
    "lat",
    "gsd",
    "cloud_cover",
    "date",
)


def paired(folders: Mapping[str, Path]) -> list[Line]:
    """Mean differences of the images' scores from those of the first report.

    Args:
        folders: Reports' folders, by their names; the first is what others are compared with.

    Returns:
        A line a score in which one differs, as `report.compare` has them; by the others' names the mean
        difference with its interval over places and the p-value that it is 0. None of reports whose images
        answer no cases, or other ones.
    """
    first, *others = folders
    columns = {name: _columns(path) for name, path in folders.items()}
    base = columns[first]
    cases = base.get("place")
    if cases is None or len(set(cases.tolist())) < 2:
        return []
    others = [name for name in others if _same_cases(base, columns[name])]
    lines: list[Line] = []
    for score in base.keys() - set(_CASE):
        found = {
            name: _difference(columns[name][score] - base[score], cases)
            for name in others
            if score in columns[name]
        }
        if any(found.values()):
            about = {"table": f"differences from {first}", "of": score, "figure": "mean difference"}
            lines.append({**about, "better": ""} | {name: found.get(name) for name in folders})
    return sorted(lines, key=lambda line: line["of"])


def _columns(folder: Path) -> dict[str, np.ndarray]:
    """The scores of a report, by column; none where only its ``report.json`` is there.

    Raises:
        DatasetError: If they cannot be read.
    """
    import pyarrow.parquet as parquet

    file = (folder if folder.is_dir() else folder.parent) / SCORES
    if not file.exists():
        return {}
    try:
        table = parquet.read_table(file)
    except (OSError, ValueError) as error:  # pyarrow's are of these
        raise DatasetError(f"{file} cannot be read: {error}. Make the report again.") from None
    return {name: table[name].to_numpy() for name in table.column_names}


def _same_cases(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[key], other.get(key, ())) for key in ("source", "key", "frame"))


def _difference(values: np.ndarray, places: np.ndarray) -> dict[str, float] | None:
    """Mean, interval and p-value of differences, (N,), NaN where there is none; None if all are 0."""
    known = np.isfinite(values)
    values, places = values[known], places[known]
    if not values.any() or len(set(places.tolist())) < 2:
        return None
    interval = over_places(values, places.tolist())
    assert isinstance(interval, dict)  # of two places or more
    return interval | {"p": sign_flip_p_value(values, places, count=FLIPS)}
