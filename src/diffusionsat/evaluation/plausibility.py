"""Which metadata does the model find plausible for an image: denoising errors over candidates.

An image is noised at fixed levels with fixed noises, and the model estimates the noise under each candidate.
Up to a constant the mean squared error is a bound of the negative logarithm of the likelihood of the image
under the candidate, so that the errors of two candidates, with the same noises, can be compared. It is the
model's opinion and no measurement. Source: Li et al. 2023 (Diffusion Classifier); Clark & Jaini 2023.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from diffusionsat.data.frames import open_frame
from diffusionsat.diffusion.denoisers import denoiser
from diffusionsat.errors import ConfigError, RasterError
from diffusionsat.evaluation.geography import COLUMNS, ROWS, edges
from diffusionsat.evaluation.section import Line
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.models.encodings import numbers
from diffusionsat.noise_keys import check_seed, normal
from diffusionsat.tasks.inputs import Subject
from diffusionsat.tasks.views import in_colour

log = logging.getLogger(__name__)

UNLIKELY = 2.0  # standard errors by which a claim must be worse than no claim
GSDS = (0.3, 0.6, 1.2, 2.5, 5, 10, 20, 30, 60, 150, 300, 1000, 3000, 7500)
_BATCH_PIXELS = 4 * 256 * 256
_SIDE = 512
_MOST_PIXELS = _SIDE * _SIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """What is claimed about an image, and how it is looked at.

    Args:
        prompt: Words that describe it; may be empty.
        metadata: What is claimed; candidates replace one field of it at a time.
        fields: Of `CANDIDATES`, those to try.
        sigma: Noise levels, above 0, for data of scale 1.
        noises: At each level, at least 2; more tell finer differences.
        seed: Of the noises.
    """

    prompt: str = ""
    metadata: Metadata = field(default_factory=Metadata)
    fields: tuple[str, ...] = ("season", "gsd", "place")
    sigma: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    noises: int = 8
    seed: int = 0


def _seasons(claimed: Metadata) -> Iterable[Metadata]:
    year = claimed.year or 2020
    return (claimed.replace(date=f"{year:04d}-{month:02d}") for month in range(1, 13))


def _gsds(claimed: Metadata) -> Iterable[Metadata]:
    return (claimed.replace(gsd=gsd) for gsd in GSDS)


def _places(claimed: Metadata) -> Iterable[Metadata]:
    for row in range(ROWS):
        for column in range(COLUMNS):
            west, south, east, north = edges(row, column)
            yield claimed.replace(lon=(west + east) / 2, lat=(south + north) / 2)


# Field -> candidates, what makes it unknown, and how it is called.
CANDIDATES: dict[
    str, tuple[Callable[[Metadata], Iterable[Metadata]], dict[str, None], Callable[[Metadata], str]]
] = {
    "season": (_seasons, {"date": None}, lambda m: m.date or ""),
    "gsd": (_gsds, {"gsd": None}, lambda m: "" if m.gsd is None else f"{m.gsd:g} m"),
    "place": (
        _places,
        {"lon": None, "lat": None},
        lambda m: "" if m.lon is None else f"{m.lon:.1f},{m.lat:.1f}",
    ),
}


def seen(source: Any) -> tuple[np.ndarray, Metadata]:
    """What `audit` looks at of an image, uint8 (H, W, 3), at most 512 x 512 pixels in its middle.

    Args:
        source: See `diffusionsat.data.frames.open_frame`.

    Returns:
        Red, green and blue as they are shown, gaps filled by what lies around, and what the file says.

    Raises:
        RasterError: If it cannot be read, lacks a colour, or holds nothing.
    """
    subject = Subject.of(open_frame(source))
    raster = subject.frame.raster.take(subject.colours)
    rows, columns = (_middle(side) for side in (raster.height, raster.width))
    if (len(rows), len(columns)) != (raster.height, raster.width):
        log.warning("%s: its middle, %d x %d pixels, is looked at", raster.name, len(columns), len(rows))
    pixels, valid = in_colour(raster, subject.radiometry, rows, columns)
    if not valid.any():
        raise RasterError(f"{raster.name} has no value in its middle. Give a part that has some.")
    if not valid.all():
        gaps = 100 * (1 - valid.mean())
        log.warning("%s: %.1f %% of it has no value; there its surroundings go on", raster.name, gaps)
    return pixels, subject.frame.metadata


def _middle(length: int) -> range:
    side = min(length, _SIDE)
    start = (length - side) // 2
    return range(start, start + side)


def audit(
    sat: DiffusionSat,
    image: np.ndarray,
    request: AuditRequest,
    on_candidate: Callable[[int, int], None] | None = None,
) -> list[Line]:
    """How plausible candidates are for an image, a line each, the claimed ones and the unknown included.

    A line has ``field``, ``candidate``, ``claimed``, ``error`` (mean squared error of the noise; lower is
    more plausible), ``excess`` over the unknown field, and ``t``, the excess in standard errors over the
    noises. ``unlikely`` is true of a claim that is worse than claiming nothing by more than 2 of them.

    Args:
        sat: The model.
        image: uint8 (H, W, 3); its central part whose sides are multiples of the model's is looked at.
        request: What is claimed.
        on_candidate: Called with candidates tried and candidates in all.

    Raises:
        ConfigError: If an option is not possible, or the image is none, too small or too large.
    """
    _check(request)
    errors_of = functools.cache(_Look(sat, _central(image, sat.multiple), request).errors)
    wanted: list[tuple[str, str, bool, Metadata]] = []
    for name in request.fields:
        candidates, nothing, call = CANDIDATES[name]
        claimed, unknown = request.metadata, request.metadata.replace(**nothing)
        tried: dict[Metadata, None] = dict.fromkeys([unknown, claimed, *candidates(claimed)])
        wanted += [(name, call(m), m == claimed and m != unknown, m) for m in tried]
    lines: list[Line] = []
    baseline = np.zeros(0)
    for done, (name, called, claimed, metadata) in enumerate(wanted, 1):
        errors = errors_of(metadata)
        if not called:
            baseline = errors
        excess = errors - baseline
        t = _standard_errors(excess)
        line: Line = {"field": name, "candidate": called or "unknown", "claimed": claimed}
        line |= {"error": float(errors.mean()), "excess": float(excess.mean()), "t": t}
        lines.append(line | {"unlikely": claimed and t > UNLIKELY})
        if on_candidate:
            on_candidate(done, len(wanted))
    return lines


def verdicts(lines: Sequence[Line]) -> list[Line]:
    """A line a field: what the model finds most plausible, and how the claim stands among the candidates."""
    found = []
    for name in dict.fromkeys(line["field"] for line in lines):
        mine = sorted((line for line in lines if line["field"] == name), key=lambda line: line["error"])
        best = next(line for line in mine if line["candidate"] != "unknown")
        said: Line = {"field": name, "most_plausible": best["candidate"], "candidates": len(mine) - 1}
        for rank, line in enumerate((x for x in mine if x["candidate"] != "unknown"), 1):
            if line["claimed"]:
                said |= {
                    "claimed": line["candidate"],
                    "rank": rank,
                    "t": line["t"],
                    "unlikely": line["unlikely"],
                }
        found.append(said)
    return found


def alarms(
    sat: DiffusionSat,
    images: Sequence[np.ndarray],
    metadata: Sequence[Metadata],
    request: AuditRequest,
    on_image: Callable[[int, int], None] | None = None,
) -> list[Line]:
    """How often a claim is called unlikely: a true one, and that of another image; a line a field.

    ``true_preferred`` is the share of images for which the true claim is more plausible than the false one.

    Args:
        sat: The model.
        images: Real ones that it was not trained on, each as `audit` takes it.
        metadata: What is true of each.
        request: Fields, noise levels and noises; its claims count nothing.
        on_image: Called with images done and images in all.

    Raises:
        ConfigError: As `audit`.
    """
    _check(request)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in request.fields}
    for number, (image, true) in enumerate(zip(images, metadata, strict=True)):
        errors_of = functools.cache(_Look(sat, _central(image, sat.multiple), request).errors)
        for name in request.fields:
            nothing = CANDIDATES[name][1]
            own, others = _claims(true, nothing), (*metadata[number + 1 :], *metadata[:number])
            false = next((c for m in others if (c := _claims(m, nothing)) and c != own), None)
            if not own or false is None:
                continue
            asked = (true, true.replace(**false), true.replace(**nothing))
            right, wrong, unknown = map(errors_of, asked)
            ts = (_standard_errors(right - unknown), _standard_errors(wrong - unknown))
            found[name].append((*ts, float((right - wrong).mean())))
        if on_image:
            on_image(number + 1, len(images))
    lines: list[Line] = []
    for name, values in found.items():
        if values:
            right, wrong, apart = np.array(values).T
            line: Line = {"field": name, "n": len(values), "false_alarms": float((right > UNLIKELY).mean())}
            line["found_lies"] = float((wrong > UNLIKELY).mean())
            lines.append(line | {"true_preferred": float((apart < 0).mean())})
    return lines


def _claims(metadata: Metadata, names: Iterable[str]) -> dict[str, Any]:
    """The fields of a claim; none if one is unknown."""
    values = {name: getattr(metadata, name) for name in names}
    return {} if None in values.values() else values


def _standard_errors(excess: np.ndarray) -> float:
    """A mean over the noises in its standard errors."""
    spread = excess.std(ddof=1) / math.sqrt(len(excess))
    return float(excess.mean() / spread) if spread > 0 else 0.0


class _Look:
    """Errors of the noise under candidates, all with the same noises."""

    def __init__(self, sat: DiffusionSat, pixels: np.ndarray, request: AuditRequest) -> None:
        self.sat, self.levels = sat, request.sigma
        self.x0 = sat.encode(pixels[None])
        self.text = sat.networks.text([request.prompt])
        rows, columns = (range(side) for side in self.x0.shape[2:])
        noise = [
            normal(request.seed, i, "initial", 0, channels=self.x0.shape[1], rows=rows, columns=columns)
            for i in range(request.noises)
        ]
        self.noise = torch.from_numpy(np.stack(noise)).to(sat.device)
        self.batch = max(1, _BATCH_PIXELS // (pixels.shape[0] * pixels.shape[1]))

    @torch.inference_mode()
    def errors(self, metadata: Metadata) -> np.ndarray:
        """Mean squared error of each noise, over the levels, (noises,)."""
        known = numbers(metadata).to(self.sat.device)
        total = np.zeros(len(self.noise))
        for start in range(0, len(self.noise), self.batch):
            noise = self.noise[start : start + self.batch]
            words = tuple(part.expand(len(noise), *part.shape[1:]) for part in self.text)

            def network(latents: torch.Tensor, time: torch.Tensor, words: Any = words) -> torch.Tensor:
                return self.sat.networks.predict(latents, time, words, known.expand(len(latents), -1))

            estimate = denoiser(network, self.sat.config.prediction, self.sat.schedule.time)
            for sigma in self.levels:
                away = (estimate(self.x0 + sigma * noise, sigma) - self.x0) / sigma
                total[start : start + len(noise)] += away.square().mean((1, 2, 3)).double().cpu().numpy()
        return total / len(self.levels)


def _check(request: AuditRequest) -> None:
    check_seed(request.seed)
    unknown = [name for name in request.fields if name not in CANDIDATES]
    if unknown or not request.fields:
        raise ConfigError(f"fields are {', '.join(request.fields)}. Give some of {', '.join(CANDIDATES)}.")
    if not request.sigma or not all(0 < sigma <= 1000 for sigma in request.sigma):
        raise ConfigError(f"sigma is {list(request.sigma)}. Give noise levels above 0, at most 1000.")
    if not 2 <= request.noises <= 1000:
        raise ConfigError(f"noises is {request.noises}. Give 2 to 1000.")


def _central(image: np.ndarray, multiple: int) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ConfigError(f"The image is {pixels.dtype} {pixels.shape}. Give uint8 (height, width, 3).")
    height, width = (side // multiple * multiple for side in pixels.shape[:2])
    if not height * width or height * width > _MOST_PIXELS:
        raise ConfigError(
            f"The image is {pixels.shape[1]}x{pixels.shape[0]} pixels. Give sides of at least {multiple} and "
            f"at most {_MOST_PIXELS:,} pixels."
        )
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width].copy()  # torch wants to be able to write
