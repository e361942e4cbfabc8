"""What a report says of images that answer to true ones: the model beside what takes no model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from math import isfinite
from typing import Any

import numpy as np
import torch

from diffusionsat.evaluation import figures, geography
from diffusionsat.evaluation.evidence import network_of
from diffusionsat.evaluation.paired import DISTANCE, MODEL, UNIT, Paired, name_of, spread
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.section import Line, Section
from diffusionsat.evaluation.trials import WHOLE, Given, Trial
from diffusionsat.evaluation.units import Arrays, Kept
from diffusionsat.metrics.bootstrap import bootstrap
from diffusionsat.metrics.catalogue import METRICS
from diffusionsat.metrics.pairs import decibels
from diffusionsat.metrics.uncertainty import rank_unevenness, spread_skill

SHOWN = 8
DISAGREES = 3  # times the sensor's noise, that are worth a note
CHECKED = 8  # images that the figures are tried on
DRAWN = 8  # samples that figures of samples are tried on
_NO_ORDER = {"synthesis", "omission"}  # a spoiled image need not be worse in these


def measure(
    task: Paired, request: EvaluateRequest, asked: Given, made: Kept, scores: Kept, networks: Sequence[str]
) -> Section:
    """Tables, scores, the sheet and notes of a task.

    Args:
        task: The task.
        request: What is measured.
        asked: Its cases.
        made: Images, by unit.
        scores: What `Paired.score` gave, by unit.
        networks: Names of the feature networks.
    """
    names = [network_of(name).name for name in networks]
    places = np.array([case.place for case in asked.cases])
    columns = _columns(scores)
    tables: dict[str, list[Line]] = {"pairs": [], f"{DISTANCE}s": [], "against baselines": []}
    for about, rows in groups(task, columns, len(asked)):
        means = _Means(columns, places, rows, request.seed)
        for kind in task.sets(request):
            for part in task.parts:
                said = {**about, "set": kind, "part": part}
                line = means.line(said, {n: n for n in METRICS if n != DISTANCE})
                if "n" in line:
                    errors = columns[name_of(kind, part, "mse")]
                    tables["pairs"].append(line | {"psnr_pooled": means.interval(_pooled, errors)})
                for name in names:
                    line = means.line({**said, "features": name}, {DISTANCE: f"{DISTANCE}/{name}"})
                    tables[f"{DISTANCE}s"] += [line] if DISTANCE in line else []
        for part in task.parts:
            tables["against baselines"] += _against(task, means, about, part, names)
    if "frames" in task.by:
        tables["more frames"] = _more_frames(columns, asked, places, request.seed, task.parts, names)
    if name_of("samples", task.parts[0], "crps") in columns:
        tables["samples"] = [
            line
            for about, rows in groups(task, columns, len(asked))
            for part in task.parts
            for line in _samples(columns, places, rows, about, part, request)
        ]
    tables["self-check"] = self_check(task, request, asked, networks)
    notes = [
        f"{line['figure']} of {line['part']} does not get worse when the images do: do not trust it."
        for line in tables["self-check"]
        if line["answer"] != "right"
    ]
    for line in tables["pairs"]:
        residual = line.get("noise_residual")
        own = line["set"] == MODEL and request.given is None  # of another's image the sensor is not known
        if own and isinstance(residual, dict) and residual["low"] > DISAGREES:
            said = f"{residual['value']:.1f} times the noise"
            notes.append(
                f"What was made disagrees with its measurement by {said}: colours or light are wrong."
            )
    notes += [
        f"{np.isinf(values).sum()} images of {kind} are the true ones to the last bit, {part}: their PSNR is "
        "infinite, and so is a mean with it, which report.json leaves empty; psnr_pooled is not."
        for kind in task.sets(request)
        for part in task.parts
        if np.isinf(values := columns[name_of(kind, part, "psnr")]).any()
    ]
    drawn = {"ranks.png": figures.ranks(tables["samples"])} if "samples" in tables else {}
    world = _geography(task, columns, asked, request.seed)
    kept = {key: value for key, value in columns.items() if value.dtype.kind == "f" and value.ndim == 1}
    return Section(
        {title: lines for title, lines in tables.items() if lines} | world.tables,
        kept,
        {"sheet.png": sheet(task, request, asked, made)} | drawn | world.files,
        notes,
    )


def groups(task: Paired, columns: Arrays, count: int) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """All cases, and those of each value of what a task is split by: what they have in common, and rows."""
    if not task.by:
        yield {}, np.arange(count)
    for key in task.by:
        for value in sorted(set(columns[key].tolist())):
            yield {key: value}, np.flatnonzero(columns[key] == value)


class _Means:
    """Means of scores over some rows, with their intervals over places.

    Args:
        columns: All scores.
        places: Of all rows.
        rows: Those that count.
        seed: Of the draws.
    """

    def __init__(self, columns: Arrays, places: np.ndarray, rows: np.ndarray, seed: int) -> None:
        self.columns, self.places, self.rows, self.seed = columns, places, rows, seed

    def line(self, said: Line, wanted: dict[str, str]) -> Line:
        """A line with the means of some columns, by the figures' names; figures without any score lack."""
        line: Line = dict(said)
        for figure, column in wanted.items():
            values = self.columns.get(name_of(said["set"], said["part"], column))
            if values is None or np.isnan(values[self.rows]).all():
                continue
            line.setdefault("n", int((~np.isnan(values[self.rows])).sum()))
            line[figure] = self.interval(lambda x: float(x[0].mean()), values)
        return line

    def pair(self, figure: str, part: str, baseline: str) -> list[np.ndarray] | None:
        """A figure of the model and of a baseline; None if no row has both."""
        names = [name_of(kind, part, figure) for kind in (MODEL, baseline)]
        if not all(name in self.columns for name in names):
            return None
        both = [self.columns[name] for name in names]
        return None if np.isnan(np.array(both)[:, self.rows]).any(0).all() else both

    def interval(self, statistic: Callable[[Sequence[np.ndarray]], float], *values: np.ndarray) -> Any:
        """A statistic of columns where all have a score, with its interval if there are two places."""
        rows = self.rows[~np.isnan([v[self.rows] for v in values]).any(0)]
        there = [v[rows] for v in values]
        whole = statistic(there)
        if not isfinite(whole) or len(set(self.places[rows])) < 2:
            return whole
        return asdict(
            bootstrap(lambda i: statistic([v[i] for v in there]), self.places[rows], seed=self.seed)
        )


def _columns(scores: Kept) -> Arrays:
    return {name: np.asarray(scores.whole(name)) for name in scores.names()}


def _pooled(errors: Sequence[np.ndarray]) -> float:
    return float(decibels(torch.tensor(errors[0].mean()), 1))


def _against(task: Paired, means: _Means, about: Line, part: str, networks: Sequence[str]) -> Iterator[Line]:
    """How much better the model is than each baseline, on the same images."""
    for baseline in task.baselines:
        line: Line = {**about, "part": part, "baseline": baseline}
        pair = means.pair("psnr", part, baseline)
        if pair is None:
            continue
        line["psnr_gain"] = means.interval(lambda x: float((x[0] - x[1]).mean()), *pair)
        pairs = {name: means.pair(f"{DISTANCE}/{name}", part, baseline) for name in networks}
        found = {name: means.interval(_share, *pair) for name, pair in pairs.items() if pair is not None}
        yield from ({**line, "features": n, "feature_distance_gain": gain} for n, gain in found.items())
        if not found:
            yield line


def _share(pair: Sequence[np.ndarray]) -> float:
    """How much smaller the first mean is, as a share of the second; NaN if that is 0."""
    mean = float(pair[1].mean())
    return 1 - float(pair[0].mean()) / mean if mean else float("nan")


def _more_frames(
    columns: Arrays,
    asked: Given,
    places: np.ndarray,
    seed: int,
    parts: Sequence[str],
    networks: Sequence[str],
) -> list[Line]:
    """What more dates add to one, on the same true images."""
    lines: list[Line] = []
    images = list(map(tuple, asked.picked.tolist()))
    alone = {image: row for row, image in enumerate(images) if asked.counts[row] == 1}
    if not alone:
        return []
    base = np.array([alone[image] for image in images])
    for count in sorted({int(c) for c in asked.counts} - {1}):
        means = _Means(columns, places, np.flatnonzero(asked.counts == count), seed)
        for part in parts:
            psnr = columns[name_of(MODEL, part, "psnr")]
            there = ~np.isnan((psnr - psnr[base])[means.rows])
            if not there.any():
                continue
            line: Line = {"frames": f"{count} against 1", "part": part, "n": int(there.sum())}
            line["psnr_gain"] = means.interval(lambda x: float((x[0] - x[1]).mean()), psnr, psnr[base])
            lines.append(line)
            for name in networks:
                values = columns.get(name_of(MODEL, part, f"{DISTANCE}/{name}"))
                if values is not None:
                    gain = means.interval(_share, values, values[base])
                    lines.append(
                        {"frames": line["frames"], "part": part, "features": name}
                        | {"feature_distance_gain": gain}
                    )
    return lines


def _samples(
    columns: Arrays,
    places: np.ndarray,
    rows: np.ndarray,
    about: Line,
    part: str,
    request: EvaluateRequest,
) -> Iterator[Line]:
    """Whether the spread of the samples is the size of their error."""
    means = _Means(columns, places, rows, request.seed)
    said = {**about, "set": "samples", "part": part}
    line = means.line(said, {n: n for n in ("crps", "interval_coverage", "interval_width", "ause")})
    if "n" not in line:
        return
    pair = [columns[name_of("samples", part, name)] for name in ("variance", "squared_error")]
    line["spread_skill"] = means.interval(
        lambda x: spread_skill(torch.from_numpy(x[0]), torch.from_numpy(x[1]), request.samples), *pair
    )
    ranks = torch.from_numpy(columns[name_of("samples", part, "ranks")][rows].sum(0))
    line["rank_unevenness"] = rank_unevenness(ranks)
    shares = (ranks / ranks.sum()).tolist()
    yield line | {f"rank {i}": share for i, share in enumerate(shares)}


def _geography(task: Paired, columns: Arrays, asked: Given, seed: int) -> Section:
    """Where the model is better and worse, by the first case of every image and their first baseline."""
    part = task.parts[0]
    first = np.sort(np.unique(asked.picked, axis=0, return_index=True)[1])
    cases = [asked.cases[i] for i in first]
    psnr = {kind: columns[name_of(kind, part, "psnr")][first] for kind in (MODEL, *task.baselines)}
    baseline = next(kind for kind in task.baselines if not np.isnan(psnr[kind]).all())
    return geography.of_pairs(cases, psnr[MODEL], psnr[baseline], baseline, seed)


def self_check(task: Paired, request: EvaluateRequest, asked: Given, networks: Sequence[str]) -> list[Line]:
    """Whether every figure gets worse, by what the catalogue says of it, when images are spoiled.

    True images with a little noise are compared with the same with much of it and with red for blue, so that
    a figure whose sign is turned is seen, whatever the model.
    """
    trials = [task.trial(request, asked, row) for row in range(min(CHECKED, len(asked)))]
    rng = np.random.Generator(np.random.Philox(request.seed))
    noise = [rng.standard_normal(trial.truth.shape) for trial in trials]

    def spoiled(amount: float, order: int) -> list[np.ndarray]:
        pairs = zip(trials, noise, strict=True)
        return [np.rint(t.truth[..., ::order] + amount * n).clip(0, 255).astype(np.uint8) for t, n in pairs]

    opened = [network_of(name) for name in networks]
    good, bad = (task.compare(request, images, trials, opened) for images in (spoiled(2, 1), spoiled(40, -1)))
    lines: list[Line] = []
    for part, figure in good:
        values = [scores[part, figure] for scores in (good, bad)]
        if any(np.isnan(v).all() for v in values):
            continue
        before, after = (float(np.nanmean(v)) for v in values)
        name = figure.partition("/")[0]
        if name in _NO_ORDER:
            continue
        worse = METRICS[name].worse(after, before)
        line = {"figure": figure, "part": part, "real": before, "spoiled": after}
        lines.append(line | {"answer": "right" if worse else "WRONG"})
    return lines + (_spread_check(trials, rng) if request.samples > 1 else [])


def _spread_check(trials: Sequence[Trial], rng: np.random.Generator) -> list[Line]:
    """The same for figures of samples: a truth that is one draw of many, and samples drawn too narrowly.

    Of a grey image with noise, more of it to the right, the samples are draws of the same noise; or of a
    tenth of it, more of it to the left.
    """
    noise = np.linspace(5, 35, trials[0].truth.shape[1])[:, None]

    def drawn(deviation: np.ndarray) -> np.ndarray:
        grey = np.full((len(trials), *trials[0].truth.shape), 128.0)
        return np.rint(grey + deviation * rng.standard_normal(grey.shape)).clip(0, 255).astype(np.uint8)

    truths = [replace(trial, truth=truth) for trial, truth in zip(trials, drawn(noise), strict=True)]
    good, bad = (
        _of_samples(spread(np.stack([drawn(deviation) for _ in range(DRAWN)], 1), truths, (WHOLE,)))
        for deviation in (noise, noise[::-1] / 10)
    )
    return [
        {"figure": figure, "part": WHOLE, "real": before, "spoiled": bad[figure]}
        | {"answer": "right" if METRICS[figure].worse(bad[figure], before) else "WRONG"}
        for figure, before in good.items()
    ]


def _of_samples(columns: Arrays) -> dict[str, float]:
    """Figures of samples on whole images, of `spread`'s columns."""
    crps, coverage, ause, variance, error, ranks = (
        torch.from_numpy(columns[name_of("samples", WHOLE, name)])
        for name in ("crps", "interval_coverage", "ause", "variance", "squared_error", "ranks")
    )
    return {
        "crps": float(crps.mean()),
        "interval_coverage": float(coverage.mean()),
        "ause": float(ause.mean()),
        "spread_skill": float(spread_skill(variance, error, DRAWN)),
        "rank_unevenness": float(rank_unevenness(ranks.sum(0))),
    }


def sheet(task: Paired, request: EvaluateRequest, asked: Given, made: Kept) -> bytes:
    """A row a case: what is given, the first baseline, what was made, and what is true."""
    order = np.random.Generator(np.random.Philox(request.seed)).permutation(len(asked))
    images, captions = [], []
    for row in sorted(order[:SHOWN].tolist()):
        trial, case = task.trial(request, asked, row), asked.cases[row]
        times = asked.size // len(trial.shown)
        name, baseline = next(iter(trial.baselines.items()))
        pixels = made.part(row // UNIT, "pixels")[row % UNIT]
        images += [trial.shown.repeat(times, 0).repeat(times, 1), baseline, pixels, trial.truth]
        named = len(trial.about) == 1  # names of more do not fit; the title has them
        about = ", ".join(f"{key} {value}" if named else value for key, value in trial.about.items())
        captions += [about or "given", name, f"SYNTHETIC {case.metadata.date or ''}", "true"]
    return figures.sheet(images, captions, 4, task.verb)
