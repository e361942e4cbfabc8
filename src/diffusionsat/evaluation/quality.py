"""Image quality: how far the set of generated images is from real ones, beside real ones from real ones."""

import contextlib
import functools
import operator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusionsat.errors import ConfigError
from diffusionsat.evaluation import figures
from diffusionsat.evaluation.evidence import Evidence
from diffusionsat.evaluation.features import FeatureNetwork
from diffusionsat.evaluation.section import Line, Section, over_places
from diffusionsat.metrics.catalogue import METRICS
from diffusionsat.metrics.coverage import manifold_scores
from diffusionsat.metrics.distributions import (
    ROWS,
    Extrapolation,
    Moments,
    cmmd,
    frechet_distance,
    frechet_infinity,
    inception_score,
    kernel_distance,
)
from diffusionsat.metrics.neighbours import nearest

CHECKED = 2_000  # images that the figures are tried on
COMPARED = 10_000  # images that are compared one by one with as many others
SHIFT = 4  # of 255, of a colour's mean, that is worth a note
BRIEF = ("n", "frechet_distance", "kernel_distance", "coverage")
SETS = ("generated", "real")  # "real" is the floor: the real images of the cases that were asked for


def measure(evidence: Evidence) -> Section:
    """Distances and shares on every feature network, each with its floor at the same number of images."""
    lines: list[Line] = []
    checks: list[Line] = []
    files, notes = {}, []
    for network in evidence.networks:
        name, sets = network.name, (evidence.made, evidence.real, evidence.reference)
        made, real, reference = (seen.features(network.name) for seen in sets)
        curves = {}
        for kind, features in zip(SETS, (made, real), strict=True):
            line, curves[kind] = distances(name, features, reference, evidence.seed)
            lines.append({"features": name, "set": kind, **line, **class_score(network, features)})
        if any(curve is not None for curve in curves.values()):
            files[f"frechet-{name}.png"] = figures.extrapolation(name, curves)
        if reference.shape[1] >= len(reference):
            notes.append(
                f"{name} has {reference.shape[1]} features and the sets {len(reference)} images: the "
                "covariance is singular, and Fréchet distances mean something only beside their floor."
            )
        checked = self_check(network, real, reference, evidence.seed)
        checks += checked
        notes += [
            f"{line['figure']} on {name} does not get worse when the images do: do not trust it."
            for line in checked
            if line["answer"] != "right"
        ]
    shift, scores = _colours(evidence)
    for colour in ("red", "green", "blue"):
        found = shift[0][colour]
        if isinstance(found, dict) and (found["low"] > SHIFT or found["high"] < -SHIFT):
            off, more = abs(found["value"]), "more" if found["value"] > 0 else "less"
            notes.append(f"Images are {off:.1f} of 255 {more} {colour} than the real ones.")
    tables = {"quality": lines, "colours": shift, "self-check": checks}
    return Section(tables, scores, files, notes)


def self_check(network: FeatureNetwork, real: Tensor, reference: Tensor, seed: int) -> list[Line]:
    """Whether every figure gets worse, by what the catalogue says of it, when features are spoiled.

    The real images' features, at most 2,000, are moved by three standard deviations of the reference's; for
    the score of classes all are one image. A figure whose sign is turned is seen so, whatever the model.
    """
    real, reference = real[:CHECKED], reference[:CHECKED]
    spoiled = real + 3 * reference.std(0)
    good, bad = (distances(network.name, features, reference, seed)[0] for features in (real, spoiled))
    good |= class_score(network, real)
    bad |= class_score(network, real[:1].expand_as(real))
    lines: list[Line] = []
    for figure in good.keys() & bad.keys() & METRICS.keys():
        before, after = (v["value"] if isinstance(v := line[figure], dict) else v for line in (good, bad))
        worse = METRICS[figure].worse(after, before)
        line = {"features": network.name, "figure": figure, "real": before, "spoiled": after}
        lines.append(line | {"answer": "right" if worse else "WRONG"})
    return sorted(lines, key=lambda line: line["figure"])


def distances(
    network: str, features: Tensor, reference: Tensor, seed: int
) -> tuple[Line, Extrapolation | None]:
    """All distances of a set to the reference, and the line that the extrapolation was read from."""
    moments, curve = moments_of(reference), None
    line = _distances(features, reference, moments, seed)
    with contextlib.suppress(ConfigError):
        curve = frechet_infinity(features, moments, seed=seed)
        line["frechet_infinity"] = curve.value
    if "clip" in network.lower():
        line["cmmd"] = _cmmd(some(features, seed), some(reference, seed))
    return line, curve


def briefly(features: Tensor, reference: Tensor, moments: Moments, seed: int) -> Line:
    """Some of the distances of one set of many to a reference whose moments are known."""
    found = _distances(features, reference, moments, seed)
    return {key: found[key] for key in BRIEF if key in found}


def _distances(features: Tensor, reference: Tensor, moments: Moments, seed: int) -> Line:
    line: Line = {"n": len(features), "frechet_distance": frechet_distance(moments_of(features), moments)}
    with contextlib.suppress(ConfigError):  # too few images for these; the line lacks them
        line["kernel_distance"] = asdict(kernel_distance(features, reference, seed=seed))
        line |= asdict(manifold_scores(some(features, seed), some(reference, seed)))
    return line


@torch.inference_mode()
def class_score(network: FeatureNetwork, features: Tensor) -> Line:
    """The inception score of a set, if the network has classes and the set is large enough."""
    line: Line = {}
    if network.classify is not None:
        with contextlib.suppress(ConfigError):
            line["inception_score"] = inception_score(
                torch.cat([network.classify(part) for part in features.split(ROWS)])
            )
    return line


def moments_of(features: Tensor) -> Moments:
    """Moments of features that may be mapped from a file, a block at a time."""
    return functools.reduce(operator.add, map(Moments.of, features.split(ROWS)))


def some(features: Tensor, seed: int) -> Tensor:
    """At most `COMPARED` of the rows: comparing all with all takes time with the square of their number."""
    if len(features) <= COMPARED:
        return features
    rows = np.random.Generator(np.random.Philox(seed)).permutation(len(features))[:COMPARED]
    return features[torch.from_numpy(np.sort(rows))]


def _cmmd(*sets: Tensor) -> float:
    a, b = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in sets)
    return cmmd(a, b)


def _colours(evidence: Evidence) -> tuple[list[Line], dict[str, np.ndarray]]:
    """How much redder, greener and bluer the images are than the real ones of their cases, of 255."""
    names = ("red", "green", "blue")
    made, real = evidence.made.colours, evidence.real.colours
    line: dict[str, Any] = {"n": len(made)}
    if not evidence.matched:
        return [
            line | {name: float(made[:, i].mean() - real[:, i].mean()) for i, name in enumerate(names)}
        ], {}
    places = [case.place for case in evidence.asked.cases]
    difference = made - real
    for i, name in enumerate(names):
        line[name] = over_places(difference[:, i], places)
    return [line], {f"{name}_difference": difference[:, i] for i, name in enumerate(names)}


def realism(features: Tensor, real: Tensor, reference: Tensor) -> np.ndarray:
    """How much farther from its nearest reference image each image lies than its own real image does, (N,).

    min |x - r| - min |x₀ - r| over the reference r, of an image x and the real image x₀ of its case. Any
    number, lower is better, 0 is as real as real; it takes away how hard a place is. In units of the
    features. Source: the project's definition.
    """
    reference = some(reference, 0)
    made, own = (nearest(x, reference)[0][:, 0] for x in (features, real))
    return (made - own).numpy()
