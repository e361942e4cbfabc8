"""Tasks whose every image answers to a true one: how they are made and scored, case by case.

Scores are kept by set (``model``, with several samples their mean; ``one sample``; and the baselines), by
part of the image and by metric, a number a case, NaN where there is none.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusionsat.data.sources import Source
from diffusionsat.errors import ConfigError
from diffusionsat.evaluation.features import FeatureNetwork, perceptual_network
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.trials import WHOLE, Given, Trial
from diffusionsat.evaluation.units import Arrays
from diffusionsat.metrics import pairs, uncertainty
from diffusionsat.metrics.bootstrap import student
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.restoring import restore
from diffusionsat.tasks.sampling import (
    MOST_SAMPLES,
    UNGUIDED,
    SamplingRequest,
    Settings,
    check_count,
    guidance_by,
    guidance_of,
)

MODEL, ONE = "model", "one sample"
UNIT = 8  # cases that are made, and scored, together
SIZE = 64  # pixels of a side, where nothing else is asked for
LEVEL, FEWEST = 0.9, 4  # of intervals, and samples that they need
DISTANCE, LPIPS = "feature_distance", "lpips"


def name_of(kind: str, part: str, figure: str) -> str:
    """What a column of scores is called."""
    return "/".join((kind, part, figure)).replace(" ", "_")


class Paired(ABC):
    """A task; a subclass says what is given and compared. See `diffusionsat.evaluation.working.Task`."""

    verb: ClassVar[str]  # what the sheet's title says is done
    baselines: ClassVar[tuple[str, ...]]
    parts: ClassVar[tuple[str, ...]] = (WHOLE,)
    by: ClassVar[tuple[str, ...]] = ()  # keys of `Trial.about`
    steered_by: ClassVar[str] = "temporal"  # the ControlNet, where none is asked for

    @abstractmethod
    def choose(self, sources: Sequence[Source], request: EvaluateRequest, size: int) -> Given:
        """The cases.

        Raises:
            ConfigError: If there are not so many.
            DatasetError: If one cannot be read.
        """

    @abstractmethod
    def conditions(self, request: EvaluateRequest, size: int) -> dict[str, Any]:
        """What the protocol says of the task; refuses options that are not possible.

        Raises:
            ConfigError: If one is not.
        """

    @abstractmethod
    def trial(self, request: EvaluateRequest, asked: Given, row: int) -> Trial:
        """One case, a function of the request and the row."""

    def ratio(self, request: EvaluateRequest) -> int:
        """Of the pixels of what was made to those of what was given, along a side; for ERGAS."""
        return 1

    def more(self, request: EvaluateRequest, image: Tensor, trials: Sequence[Trial]) -> dict[str, Tensor]:
        """Other scores of images (B, 3, H, W) from 0 to 1, each (B,), by name."""
        return {}

    def settings(self, sat: DiffusionSat, request: EvaluateRequest) -> Settings:
        """How every image is sampled.

        Raises:
            ConfigError: If an option is not possible.
        """
        check_count("samples", request.samples, MOST_SAMPLES)
        if request.control and request.control not in sat.controls:
            raise ConfigError(f"control is {request.control!r}; the model has {', '.join(sat.controls)}.")
        guidance = guidance_of(
            sat,
            request.guidance,
            request.metadata_guidance,
            request.frames_guidance,
            strength=UNGUIDED,
        )
        control = self.steered_by if request.control is None else request.control
        return SamplingRequest(
            negative=request.negative,
            seed=request.seed,
            steps=request.steps,
            solver=request.solver,
            guidance=guidance_by(sat, guidance, control),
            strict=request.strict,
        ).settings(sat)

    def make(self, sat: DiffusionSat, request: EvaluateRequest, asked: Given, rows: range) -> Arrays:
        """``pixels`` of some cases, the mean of their ``samples``, uint8 (N, K, H, W, 3)."""
        guidance, samples = self.settings(sat, request).guidance, []
        for row in rows:
            wanted: Any = self.trial(request, asked, row).request
            job = replace(wanted, guidance=guidance).job(sat)
            first = row * request.samples
            samples.append([restore(job.sample(first + k)).pixels for k in range(request.samples)])
        made = np.array(samples)
        return {"pixels": np.rint(made.mean(1)).astype(np.uint8), "samples": made}

    def score(
        self,
        request: EvaluateRequest,
        asked: Given,
        rows: range,
        made: Mapping[str, np.ndarray],
        networks: Sequence[FeatureNetwork],
    ) -> Arrays:
        """All scores of some cases, each (N,), and what they are split by.

        Args:
            request: What is measured.
            asked: All cases.
            rows: Which of them.
            made: What `make` gave; without ``samples`` for images from elsewhere.
            networks: Feature networks.
        """
        trials = [self.trial(request, asked, row) for row in rows]
        found: Arrays = {key: np.array([t.about[key] for t in trials], "U32") for key in self.by}
        for kind in self.sets(request):
            images = self._images(kind, trials, made)
            there = [i for i, image in enumerate(images) if image is not None]
            scores = self.compare(request, [images[i] for i in there], [trials[i] for i in there], networks)
            for (part, figure), values in scores.items():
                column = np.full(len(trials), np.nan)
                column[there] = values
                found[name_of(kind, part, figure)] = column
        samples = made.get("samples")
        if samples is not None and samples.shape[1] > 1:
            found |= spread(samples, trials, self.parts)
        return found

    def sets(self, request: EvaluateRequest) -> list[str]:
        """Names of what is compared with the truth."""
        return [MODEL, *([ONE] if request.samples > 1 and request.images is None else []), *self.baselines]

    def compare(
        self,
        request: EvaluateRequest,
        images: Sequence[Any],
        trials: Sequence[Trial],
        networks: Sequence[FeatureNetwork],
    ) -> dict[tuple[str, str], np.ndarray]:
        """Scores of images, uint8 (H, W, 3), by part and figure, each (N,)."""
        # Features without maps are of the whole image, and know of no part.
        judges = {p: [n for n in networks if p == WHOLE or n.maps is not None] for p in self.parts}
        if not images:  # the same columns nevertheless, since units are joined
            names = [
                (part, figure)
                for part in self.parts
                for figure in (*_PAIRS, *(f"{DISTANCE}/{n.name}" for n in judges[part]))
            ]
            names += [(part, LPIPS) for part in self.parts if request.lpips is not None]
            names += [(WHOLE, figure) for figure in self.more(request, torch.zeros(0, 3, 1, 1), [])]
            return dict.fromkeys(names, np.zeros(0))
        image, truth = tensor(images), tensor([trial.truth for trial in trials])
        found = {}
        for part in self.parts:
            mask = mask_of(trials, part)
            for figure, metric in _PAIRS.items():
                found[part, figure] = metric(image, truth, self.ratio(request), mask).numpy()
            for network in judges[part]:
                distance = pairs.feature_distance(image, truth, network.layers, mask=mask)
                found[part, f"{DISTANCE}/{network.name}"] = distance.numpy()
            if request.lpips is not None:
                judge, _ = perceptual_network(request.lpips)
                found[part, LPIPS] = pairs.lpips(image, truth, judge, mask=mask).numpy()
        more = self.more(request, image, trials)
        return found | {(WHOLE, figure): values.numpy() for figure, values in more.items()}

    def _images(
        self, kind: str, trials: Sequence[Trial], made: Mapping[str, np.ndarray]
    ) -> list[np.ndarray | None]:
        if kind == MODEL:
            return list(made["pixels"])
        if kind == ONE:
            return list(made["samples"][:, 0])
        return [trial.baselines.get(kind) for trial in trials]


def tensor(images: Sequence[np.ndarray]) -> Tensor:
    """Images, uint8 (H, W, 3), as float64 (N, 3, H, W) from 0 to 1.

    Of one layout in memory, on which the last bits of a score depend.
    """
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().double() / 255


def mask_of(trials: Sequence[Trial], part: str) -> Tensor | None:
    """Where a part is in each, bool (N, 1, H, W); None for all of it."""
    return None if part == WHOLE else torch.from_numpy(np.stack([t.parts[part] for t in trials]))[:, None]


# Figures of an image (B, 3, H, W) against the true one, both from 0 to 1; the ratio is for ERGAS alone.
_PAIRS: dict[str, Any] = {
    "psnr": lambda x, y, _, mask: pairs.psnr(x, y, data_range=1, mask=mask),
    "ssim": lambda x, y, _, mask: pairs.ssim(x, y, data_range=1, mask=mask),
    "mse": lambda x, y, _, mask: pairs.mse(x, y, mask=mask),
    "spectral_angle": lambda x, y, _, mask: pairs.spectral_angle(x, y, mask=mask),
    "ergas": lambda x, y, ratio, mask: pairs.ergas(x, y, factor=ratio, mask=mask),
    "uqi": lambda x, y, _, mask: pairs.uqi(x, y, mask=mask),
}


def spread(samples: np.ndarray, trials: Sequence[Trial], parts: Sequence[str]) -> Arrays:
    """Whether the samples' spread is the size of the error of their mean, by part."""
    ensemble = torch.stack([tensor(list(samples[:, k])) for k in range(samples.shape[1])])
    truth, found = tensor([trial.truth for trial in trials]), {}
    mean, deviation, count = ensemble.mean(0), ensemble.std(0), len(ensemble)
    half = student((1 + LEVEL) / 2, count - 1) * deviation * (1 + 1 / count) ** 0.5
    for part in parts:
        mask = mask_of(trials, part)
        variance, error = uncertainty.spread_and_error(ensemble, truth, mask=mask)
        scores = {"variance": variance, "squared_error": error}
        crps = uncertainty.crps(ensemble, truth)
        weights = torch.ones_like(crps[:, :1]) if mask is None else mask.double()
        scores["crps"] = (crps * weights).sum((1, 2, 3)) / (3 * weights.sum((1, 2, 3)))
        if count >= FEWEST:
            ends = (mean - half, mean + half)
            scores["interval_coverage"] = uncertainty.interval_coverage(*ends, truth, mask=mask)
            scores["interval_width"] = uncertainty.interval_width(*ends, mask=mask)
            scores["ause"] = _ranked(deviation.mean(1), (mean - truth).abs().mean(1), mask)
        for figure, values in scores.items():
            found[name_of("samples", part, figure)] = values.numpy()
        found[name_of("samples", part, "ranks")] = np.stack(
            [
                uncertainty.rank_histogram(
                    ensemble[:, i : i + 1], truth[i : i + 1], mask=None if mask is None else mask[i : i + 1]
                ).numpy()
                for i in range(len(trials))
            ]
        )
    return found


def _ranked(deviation: Tensor, error: Tensor, mask: Tensor | None) -> Tensor:
    """`uncertainty.ause` of each image's pixels, (N,); NaN where there are none, or all are right."""
    found = []
    for i in range(len(error)):
        counted = slice(None) if mask is None else mask[i, 0]
        spread, off = deviation[i][counted], error[i][counted]
        found.append(uncertainty.ause(spread, off) if bool(off.any()) else float("nan"))
    return torch.tensor(found, dtype=torch.float64)
