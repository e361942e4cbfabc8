"""The report of an evaluation: how it is written, read, and set beside others."""

import json
import math
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from diffusionsat.errors import ConfigError, DatasetError, RasterError
from diffusionsat.evaluation.cases import Case
from diffusionsat.evaluation.section import Line, Section
from diffusionsat.files import write_bytes, writing
from diffusionsat.metrics.catalogue import METRICS

REPORT, READABLE, SCORES, CASES = "report.json", "report.md", "scores.parquet", "cases.geojsonl"
FORMAT = "diffusionsat evaluation"
FORMAT_VERSION = 1
COMPARED = ("table", "of", "figure", "better")  # what a line of `compare` says beside the reports' figures


def check(folder: Path, parts: str, *, overwrite: bool) -> set[str]:
    """Refuse a folder that holds a report or something else.

    Args:
        folder: Where the report is to go.
        parts: Name of the folder in it of work that was stopped.
        overwrite: Whether what is there may be replaced.

    Returns:
        Names of what it holds.

    Raises:
        RasterError: If it is a file, or holds something and that may not be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise RasterError(f"{folder} is a file. Give a folder for the report.")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held and not overwrite and (REPORT in held or parts not in held):
        what = "a report" if REPORT in held else "other files"
        raise RasterError(f"{folder} holds {what}. Give another folder, or --overwrite.")
    return held


def prepare(folder: Path, parts: str, *, overwrite: bool) -> None:
    """Make a folder for a report; to overwrite, remove the old report and what is kept of stopped work.

    Raises:
        RasterError: As `check`.
    """
    held = check(folder, parts, overwrite=overwrite)
    if overwrite and held:
        try:
            own = json.loads((folder / REPORT).read_text())["files"] if REPORT in held else []
        except (ValueError, KeyError, TypeError, OSError):
            own = []
        for name in {REPORT, READABLE, SCORES, CASES, *map(str, own)} & held:
            (folder / name).unlink()
        shutil.rmtree(folder / parts, ignore_errors=True)
    (folder / parts).mkdir(parents=True, exist_ok=True)


def write(
    folder: Path,
    protocol: Mapping[str, Any],
    made_by: Mapping[str, Any],
    cases: Sequence[Case],
    sections: Sequence[Section],
    *,
    matched: bool,
) -> dict[str, Any]:
    """Write a report's files, ``report.json`` last; the same figures give the same bytes.

    Args:
        folder: Where.
        protocol: What decides whether figures can be compared.
        made_by: What made the images.
        cases: What was asked for, an image each.
        sections: What was found.
        matched: Whether image i answers case i.

    Returns:
        What ``report.json`` says.
    """
    files = {name: content for section in sections for name, content in section.files.items()}
    lines = (json.dumps(case.feature(i)) + "\n" for i, case in enumerate(cases))
    files[CASES] = "".join(lines).encode()
    told = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "protocol": dict(protocol),
        "made_by": dict(made_by),
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "numpy": version("numpy"),
        },
        "matched": matched,
        "tables": _joined(sections),
        "notes": [note for section in sections for note in section.notes],
        "files": sorted([*files, SCORES, READABLE]),
    }
    _write_scores(folder / SCORES, cases, sections, matched=matched)
    for name, content in files.items():
        write_bytes(folder / name, content, overwrite=True)
    write_bytes(folder / READABLE, readable(told).encode(), overwrite=True)
    content = json.dumps(_jsonable(told), indent=1, allow_nan=False) + "\n"
    write_bytes(folder / REPORT, content.encode(), overwrite=True)
    return told


def _joined(sections: Sequence[Section]) -> dict[str, list[Line]]:
    """All tables; what sections say under one title stands in one."""
    tables: dict[str, list[Line]] = {}
    for section in sections:
        for title, lines in section.tables.items():
            tables.setdefault(title, []).extend(lines)
    return tables


def _write_scores(path: Path, cases: Sequence[Case], sections: Sequence[Section], *, matched: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns: dict[str, Any] = {"image": list(range(len(cases)))}
    if matched:
        for name in ("source", "key", "frame", "label", "prompt", "place"):
            columns[name] = [getattr(case, name) for case in cases]
        for name in ("lon", "lat", "gsd", "cloud_cover", "date"):
            columns[name] = [getattr(case.metadata, name) for case in cases]
    for section in sections:
        for name, values in section.scores.items():
            columns[name] = pa.array(np.asarray(values, np.float64), from_pandas=True)  # NaN is null
    with writing(path, overwrite=True) as partial:
        parquet.write_table(pa.table(columns), partial)


def read(path: Path) -> dict[str, Any]:
    """A report, from its folder or its ``report.json``.

    Raises:
        DatasetError: If there is none, or it is of another kind.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["format"] != FORMAT or told["version"] != FORMAT_VERSION:
            raise ValueError(f"it is {told['format']} of version {told['version']}")
        if not isinstance(told["protocol"]["hash"], str) or not isinstance(told["tables"], dict):
            raise TypeError("its protocol or its tables are damaged")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{file} is no report that can be read: {error}. Make one with: diffusionsat evaluate."
        ) from None
    return told


def compare(reports: Mapping[str, Mapping[str, Any]], *, anyway: bool = False) -> list[Line]:
    """The figures of reports side by side.

    Args:
        reports: At least two, by their names, none of which is of `COMPARED`.
        anyway: Also those of different protocols.

    Returns:
        A line a figure: ``table``, ``of`` (what it is about), ``figure``, ``better`` (lower, higher, one,
        level or empty), and by the reports' names their values, None where one has none.

    Raises:
        ConfigError: If there are fewer than two, or their protocols differ.
    """
    if len(reports) < 2:
        raise ConfigError("One report is given. Give at least two to compare.")
    protocols = {name: told["protocol"] for name, told in reports.items()}
    differ = differences(protocols)
    if differ and not anyway:
        said = "; ".join(f"{key}: {' | '.join(values)}" for key, values in differ.items())
        raise ConfigError(
            f"The reports' protocols differ, so that their figures mean different things: {said}. "
            "Run them alike, or give --anyway."
        )
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for name, told in reports.items():
        for table, rows in told["tables"].items():
            for row in rows:
                about, values = _parted(row)
                for figure, value in values.items():
                    found.setdefault((table, about, figure), {})[name] = value
    return [
        {"table": table, "of": about, "figure": figure, "better": _better(figure)}
        | {name: values.get(name) for name in reports}
        for (table, about, figure), values in found.items()
    ]


def differences(protocols: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Keys in which protocols differ, with each one's value.

    The hashes are left out, and how was sampled where images are from elsewhere: nobody knows.
    """
    if len({told["hash"] for told in protocols.values()}) == 1:
        return {}
    keys = dict.fromkeys(key for told in protocols.values() for key in told if key != "hash")
    texts = {key: [json.dumps(told.get(key)) for told in protocols.values()] for key in keys}
    if "null" in texts.get("sampling", ()):
        del texts["sampling"]
    return {key: values for key, values in texts.items() if len(set(values)) > 1}


def side_by_side(lines: Sequence[Line], names: Sequence[str]) -> str:
    """Lines of `compare` as Markdown, the best of a row in bold."""
    out = []
    for table in dict.fromkeys(line["table"] for line in lines):
        rows = []
        for line in lines:
            if line["table"] == table:
                best = _best(line["better"], [line[name] for name in names])
                shown = [
                    f"**{_shown(line[n])}**" if line[n] is not None and line[n] == best else _shown(line[n])
                    for n in names
                ]
                rows.append([line["of"], line["figure"], _ARROWS[line["better"]], *shown])
        out.append(f"## {table}\n\n{_markdown(['', '', '', *names], rows)}")
    return "\n\n".join(out) + "\n"


def readable(told: Mapping[str, Any]) -> str:
    """A report as Markdown."""
    said, made = told["protocol"], told["made_by"]
    name = made.get("model", made.get("images"))
    out = [f"# {said['task']}: {name} on {', '.join(said['sources'])} ({said['split']})"]
    out.append(f"Protocol `{said['hash'][:16]}`; figures of another protocol cannot be compared with these.")
    rows = [
        [key, _plain(value)] for key, value in [*said.items(), *made.items(), *told["environment"].items()]
    ]
    pictures = [file for file in told["files"] if file.endswith(".png")]
    out += [f"- {note}" for note in told["notes"]]
    out += [f"![{file}]({file})" for file in pictures if file == "sheet.png"]
    for title, lines in told["tables"].items():
        out.append(f"## {title}\n\n{table(lines)}")
    out += [f"![{file}]({file})" for file in pictures if file != "sheet.png"]
    out.append("## Protocol\n\n" + _markdown(["", ""], rows))
    return "\n\n".join(out) + "\n"


def table(lines: Sequence[Line]) -> str:
    """Lines as a Markdown table, what they are about first."""
    texts = [key for line in lines for key, value in line.items() if isinstance(value, str)]
    keys = list(dict.fromkeys([*texts, *(key for line in lines for key in line)]))
    heads = [f"{key} {arrow}" if (arrow := _ARROWS[_better(key)]) else key for key in keys]
    return _markdown(heads, [[_shown(line.get(key)) for key in keys] for line in lines])


_ARROWS = {"lower": "↓", "higher": "↑", "one": "→1", "level": "", "": ""}
_BETTER = {  # of figures that are no metrics of the catalogue
    "read": "higher",
    "alignment": "higher",
    "by_generated": "higher",
    "by_both": "higher",
    "error": "lower",
    "exact_copies": "lower",
    "near_copies": "lower",
    "realism": "lower",
    "correlation": "higher",
    "excess": "lower",
    "order": "higher",
    "kernel_distance_generated": "lower",
    "psnr_gain": "higher",
    "feature_distance_gain": "higher",
}


def _better(figure: str) -> str:
    if figure in _BETTER:
        return _BETTER[figure]
    return METRICS[figure].better if figure in METRICS else ""


def _best(better: str, values: Iterable[Any]) -> float | None:
    known = [value for value in values if value is not None]
    choose = {"lower": min, "higher": max, "one": lambda v: min(v, key=lambda x: abs(x - 1))}.get(better)
    return choose(known) if choose and known and len(set(known)) > 1 else None


def _parted(row: Line) -> tuple[str, dict[str, float]]:
    """What a line is about, and its figures."""
    texts = [str(value) for value in row.values() if isinstance(value, str)]
    values = {
        key: v["value"] if isinstance(v, dict) else v for key, v in row.items() if not isinstance(v, str)
    }
    return " ".join(texts), {key: value for key, value in values.items() if value is not None}


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        interval = f"{_shown(value['value'])} [{_shown(value['low'])}, {_shown(value['high'])}]"
        return f"{interval}, p {value['p']:.2g}" if "p" in value else interval
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _jsonable(value: Any) -> Any:
    """The same with numbers that are not finite as null, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: _jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
