"""Do images show the words that they were asked for with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusionsat.evaluation import alignment, figures
from diffusionsat.evaluation.evidence import Evidence
from diffusionsat.evaluation.probes import fit_classifier
from diffusionsat.evaluation.section import Line, Section, over_places

LEAST = 20  # images with a label of one set
LEARNED = 10_000  # images that a classifier learns from, and is tried on, at most
SHARES = (0.01, 0.1, 1.0)  # of the real images that a classifier learns from


def measure(evidence: Evidence) -> Section:
    """The share of images whose class is read as asked, by every probe, beside real images and by chance.

    Shares of images, 0 to 1, higher is better. Chance is the share of matches between what is read and
    another case's class: a model that makes good images of any class scores no more. With a CLIP-like model
    text alignment is added; see `alignment`. Source: the project's definition.
    """
    lines: list[Line] = []
    scores: dict[str, np.ndarray] = {}
    classes: dict[str, dict[str, float]] = {}
    cases = evidence.asked.cases
    for probes in evidence.probes:
        for label_set, known in probes.classes.items():
            rows = [i for i, c in enumerate(cases) if c.source == label_set and c.label in known]
            if len(rows) < LEAST:
                continue
            wanted = np.array([cases[i].label for i in rows])
            said, real = (
                probes.labels(seen.features(probes.network), label_set, rows)
                for seen in (evidence.made, evidence.real)
            )
            right, places = (said == wanted).astype(float), [cases[i].place for i in rows]
            line: Line = {"labels": label_set, "probe": probes.name, "n": len(rows)}
            line["read"] = over_places(right, places)
            line["read_real"] = float((real == wanted).mean())
            shares = {label: float((wanted == label).mean()) for label in sorted(set(wanted.tolist()))}
            line["read_by_chance"] = float(
                sum(share * (said == label).mean() for label, share in shares.items())
            )
            lines.append(line)
            column = np.full(len(cases), np.nan)
            column[rows] = right
            scores[f"read {probes.name}"] = np.fmax(scores.get(f"read {probes.name}", column), column)
            of_class = {label: float(right[wanted == label].mean()) for label in shares}
            classes[f"{label_set} by {probes.name}"] = of_class
    tables = {"words": lines} if lines else {}
    files = {"words.png": figures.classes(classes)} if classes else {}
    aligned = alignment.measure(evidence)
    return Section(tables | aligned.tables, scores | aligned.scores, files, aligned.notes)


def usefulness(evidence: Evidence) -> Section:
    """Train on generated, test on real; and what generated images add to 1, 10 and 100 % of the real ones.

    Linear classifiers on the features of each network whose own classes these are not; they learn from the
    cases that were asked for, and are tried on the reference.
    """
    lines: list[Line] = []
    notes: list[str] = []
    own = {p.network for p in evidence.probes if not p.family and p.classes}
    asked, others = evidence.asked.cases, evidence.others.cases
    for network in evidence.networks:
        if network.name in own:
            continue
        for source in sorted({c.source for c in asked}):
            rows = np.array([i for i, c in enumerate(asked) if c.source == source and c.label][:LEARNED])
            test = np.array([i for i, c in enumerate(others) if c.source == source and c.label][:LEARNED])
            if min(len(rows), len(test)) < LEAST or len({asked[i].label for i in rows}) < 2:
                continue
            labels, truth = (np.array([c[i].label for i in r]) for c, r in ((asked, rows), (others, test)))
            made, real, seen = (
                s.features(network.name)[r]
                for s, r in ((evidence.made, rows), (evidence.real, rows), (evidence.reference, test))
            )
            order = np.random.Generator(np.random.Philox(evidence.seed)).permutation(len(rows))
            tried = seen, truth, [others[i].place for i in test]
            by_generated = _read(made, labels, *tried)
            for share in SHARES:
                some = np.sort(order[: round(share * len(rows))])
                if len(set(labels[some].tolist())) < 2:
                    notes.append(f"{share:.0%} of {len(rows)} images of {source} teach no classes: too few.")
                    continue
                both = torch.cat([real[some], made]), np.concatenate([labels[some], labels])
                line: Line = {"labels": source, "features": network.name, "real": f"{share:.0%}"}
                line |= {"n_real": len(some), "n_generated": len(made), "n_test": len(test)}
                line["by_real"] = _read(real[some], labels[some], *tried)
                line["by_generated"] = by_generated
                line["by_both"] = _read(*both, *tried)
                lines.append(line)
    return Section({"usefulness": lines} if lines else {}, notes=list(dict.fromkeys(notes)))


def _read(learned: Tensor, labels: np.ndarray, seen: Tensor, truth: np.ndarray, places: Sequence[str]) -> Any:
    """The share of images that a classifier reads rightly that learned from others, with its interval."""
    right = fit_classifier(learned, labels)(seen) == truth
    return over_places(right.astype(float), places)
