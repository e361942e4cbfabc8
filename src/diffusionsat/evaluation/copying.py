"""Does the model copy what it learned from, and does the split leak: the nearest training images.

Copies are looked for among the central squares of the training images, by thumbnails, in which near copies
meet, and by exact pixels. A copy of another crop of a training image is not found so. How near the places
that are asked for lie to those that were trained on stands beside.
"""

from collections.abc import Sequence

import numpy as np
import torch

from diffusionsat.errors import ConfigError
from diffusionsat.evaluation import figures
from diffusionsat.evaluation.cases import Case
from diffusionsat.evaluation.evidence import THUMBNAILS, Evidence, Seen
from diffusionsat.evaluation.section import Line, Section
from diffusionsat.metrics.memorisation import distance_ratio, share_below
from diffusionsat.metrics.neighbours import nearest
from diffusionsat.metrics.probes import EARTH_RADIUS_KM

NEAR = 0.25  # of thumbnails: a correlation of 0.97
COPIES = 0.02  # share of the images, above that of real ones, that is worth a note
SHOWN = 8


def measure(evidence: Evidence) -> Section:
    """Distances to the nearest training image, of generated images and of real ones that were not seen."""
    if evidence.train is None or evidence.trained is None:
        note = "No training images were looked at: nothing is said of memorisation."
        return Section({}, notes=[note])
    train = evidence.train.features(THUMBNAILS)
    trained = set(evidence.train.digests)
    found = {
        name: nearest(seen.features(THUMBNAILS), train)
        for name, seen in (("generated", evidence.made), ("real", evidence.real))
    }
    made, real = (found[name][0][:, 0] for name in ("generated", "real"))
    lines: list[Line] = []
    for name, seen in (("generated", evidence.made), ("real", evidence.real)):
        distances = found[name][0][:, 0]
        line: Line = {"set": name, "n": len(distances), "n_train": len(train)}
        line["median_distance"] = float(distances.median())
        line["exact_copies"] = sum(digest in trained for digest in seen.digests)
        line["near_copies"] = int((distances <= NEAR).sum())
        lines.append(line)
    lines[1] |= _apart(evidence.asked.cases, evidence.trained.cases)
    notes = []
    try:
        lines[0]["distance_ratio"] = distance_ratio(made, real)
        lines[0]["share_below"] = share_below(made, real, quantile=0.05)
    except ConfigError as error:
        notes.append(f"memorisation: {error}")
    copies = [line["near_copies"] for line in lines]
    if copies[0] - copies[1] > COPIES * len(made):
        said = (
            f"{copies[0]} of {len(made)} images are near copies of training images, of real ones {copies[1]}"
        )
        notes.append(f"The model copies: {said}.")
    if lines[1]["exact_copies"]:
        notes.append("Test images are exact copies of training images: the split leaks.")
    files = {"nearest.png": _sheet(evidence.made, evidence.train, made, found["generated"][1][:, 0])}
    return Section({"memorisation": lines}, {"train_distance": made.numpy()}, files, notes)


def _apart(asked: Sequence[Case], trained: Sequence[Case]) -> Line:
    """Kilometres from places that are asked for to the nearest that was trained on; to a tenth or so."""
    here, there = (_points(cases) for cases in (asked, trained))
    if not len(here) or not len(there):
        return {}
    kilometres = 2 * EARTH_RADIUS_KM * (nearest(here, there)[0][:, 0] / 2).clamp_max(1).asin()
    return {"nearest_place_km": float(kilometres.min()), "median_place_km": float(kilometres.median())}


def _points(cases: Sequence[Case]) -> torch.Tensor:
    """Places of the cases that know theirs, on the unit sphere, (K, 3)."""
    known = [(m.lon, m.lat) for m in (case.metadata for case in cases) if None not in (m.lon, m.lat)]
    lon, lat = np.radians(np.array(known, np.float64).reshape(-1, 2)).T
    return torch.from_numpy(np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1))


def _sheet(made: Seen, train: Seen, distances: torch.Tensor, rows: torch.Tensor) -> bytes:
    order = np.argsort(distances.numpy(), kind="stable")[:SHOWN].tolist()
    pairs = zip(made.images(order), train.images(rows[order].tolist()), strict=True)
    images = [image for pair in pairs for image in pair]
    captions = [text for i in order for text in (f"made, {float(distances[i]):.3f}", "its nearest")]
    return figures.sheet(images, captions, 4, "generated images beside the training image nearest to each")
