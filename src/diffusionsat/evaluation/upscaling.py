"""The task `upscale` in an evaluation: images as a coarser sensor sees them, made sharp again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusionsat.data.sources import Source
from diffusionsat.diffusion.sensors import Sensor
from diffusionsat.errors import ConfigError
from diffusionsat.evaluation.cases import cut
from diffusionsat.evaluation.paired import Paired, tensor
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.trials import Given, Trial, choose, framed, generator, plain, sampled
from diffusionsat.metadata import Metadata
from diffusionsat.metrics import consistency as agreement
from diffusionsat.tasks.inputs import Subject
from diffusionsat.tasks.measuring import Measurement
from diffusionsat.tasks.predict import days_apart
from diffusionsat.tasks.upscale import CONSISTENCY, UpscaleRequest

BICUBIC, COLOUR, COPY = "bicubic", "mean colour", "copy of the nearest date"
FACTORS = range(2, 11)
_BORDER = 16  # pixels that opensr-test leaves out at each side, of images that are large enough


class Upscale(Paired):
    """See `Paired`."""

    verb = "given, bicubic, made sharp, true"
    baselines = (BICUBIC, COLOUR, COPY)
    steered_by = "super-resolution"

    def choose(self, sources: Sequence[Source], request: EvaluateRequest, size: int) -> Given:
        """Any images; if sharp ones of other dates, or images to be given, are asked for, those with them."""
        wanted = request.references

        def count(there: int) -> list[int]:
            return [wanted] if there >= wanted else []

        return choose(
            sources,
            n=request.n,
            size=size,
            seed=request.seed,
            counts=count if wanted else None,
            fit=request.fit,
            direction=request.direction,
            given=request.given,
        )

    def conditions(self, request: EvaluateRequest, size: int) -> dict[str, Any]:
        """Factor, sensor and way of the measurement."""
        factor = request.factor
        if factor not in FACTORS or size % factor or size // factor < 8:
            raise ConfigError(
                f"factor is {factor!r} for images of {size} px. Give a whole number from 2 to 10 that "
                "divides the size and leaves at least 8 px, or another --size."
            )
        if request.consistency not in CONSISTENCY:
            raise ConfigError(f"consistency is {request.consistency!r}. Give {', '.join(CONSISTENCY)}.")
        if request.references < 0:
            raise ConfigError(f"references is {request.references}. Give a number of images from 0.")
        sensor = "unknown: modulation 0.3, signal to noise 100 at 0.2; 8 bit"
        return {
            "factor": factor,
            "samples": request.samples,
            "consistency": request.consistency,
            "sensor": sensor if request.given is None else f"the record's {request.given}, in its colours",
            "border": _border(size, factor),
            "references": f"{request.references} of {request.direction} time",
        }

    def trial(self, request: EvaluateRequest, asked: Given, row: int) -> Trial:
        """The image as the sensor sees it, with noise; or what the record has of a coarser one."""
        (case,), (truth,) = asked.part(range(row, row + 1)), asked.pixels(range(row, row + 1))
        gsd = None if case.metadata.gsd is None else case.metadata.gsd * request.factor
        seen, coarse = _given(request, asked, row, case.metadata)
        if seen is None:
            seen = _seen(truth, request.factor, generator(request, row))
        coarse, references = coarse.replace(gsd=gsd), asked.frames(row)
        smooth = Image.fromarray(seen).resize((asked.size, asked.size), Image.Resampling.BICUBIC)
        return Trial(
            truth=truth,
            request=UpscaleRequest(
                frames=[framed(seen, coarse)],
                references=[framed(*reference) for reference in references],
                factor=request.factor,
                consistency=request.consistency,
                **sampled(request, case),
            ),
            baselines={BICUBIC: np.asarray(smooth), COLOUR: plain(seen.mean((0, 1)), asked.size)}
            | ({COPY: references[0][0]} if references else {}),
            parts={},
            given=[(seen, coarse), *references],
        )

    def ratio(self, request: EvaluateRequest) -> int:
        """The factor."""
        return request.factor

    def more(self, request: EvaluateRequest, image: Tensor, trials: Sequence[Trial]) -> dict[str, Tensor]:
        """opensr-test's questions, and the disagreement with the measurement in units of its noise."""
        if not trials:
            return dict.fromkeys(FIGURES, torch.zeros(0))
        coarse, truth = (tensor([getattr(t, name) for t in trials]) for name in ("shown", "truth"))
        sensor = _sensor(trials[0].shown, request.factor)
        noise = sensor.variance(coarse).sqrt()
        residual = agreement.noise_residual(sensor.operator(image.float()), coarse, noise)
        fine = _border(image.shape[-1], request.factor)
        small = fine // request.factor
        image, truth = (x[..., fine : x.shape[2] - fine, fine : x.shape[3] - fine] for x in (image, truth))
        coarse = coarse[..., small : coarse.shape[2] - small, small : coarse.shape[3] - small]
        agreed, matched = agreement.consistency(coarse, image), agreement.harmonised(image, truth)
        shares = agreement.correctness(coarse, matched, truth)
        values = (
            agreed.reflectance,
            agreed.angle_deg,
            agreed.shift_px,
            residual,
            agreement.synthesis(coarse, matched),
            shares.improvement,
            shares.omission,
            shares.hallucination,
        )
        return dict(zip(FIGURES, values, strict=True))


FIGURES = (
    "reflectance",
    "angle_deg",
    "shift_px",
    "noise_residual",
    "synthesis",
    "improvement",
    "omission",
    "hallucination",
)


def _border(size: int, factor: int) -> int:
    """Pixels that opensr-test's figures leave out at each side: its 16, or an eighth of small images."""
    return min(_BORDER, size // 8) // factor * factor


def _sensor(seen: np.ndarray, factor: int) -> Sensor:
    """What the task takes to have measured an image, uint8 (h, w, 3)."""
    subject = Subject.of(framed(seen, Metadata()))
    measurement = Measurement(
        frame=subject.frame, colours=subject.colours, radiometry=subject.radiometry, factor=factor
    )
    return measurement.sensor(len(seen) * factor, seen.shape[1] * factor)


def _given(
    request: EvaluateRequest, asked: Given, row: int, true: Metadata
) -> tuple[np.ndarray | None, Metadata]:
    """The coarse image of a case's record that is nearest in time, uint8 (h, w, 3), if one is to be given."""
    if request.given is None:
        return None, true
    record, number = asked.record(row)
    coarse = [frame for frame in record.frames if frame.role == request.given]
    nearest = min(coarse, key=lambda frame: days_apart(frame.metadata, record.frames[number].metadata))
    return cut(nearest.rgb(), asked.size // request.factor, asked.fit), nearest.metadata


def _seen(truth: np.ndarray, factor: int, rng: np.random.Generator) -> np.ndarray:
    """An image through the sensor, with its noise, uint8 (h, w, 3)."""
    height, width = (length // factor for length in truth.shape[:2])
    sensor = _sensor(np.ones((height, width, 3), np.uint8), factor)
    noise = torch.from_numpy(rng.standard_normal((1, 3, height, width), np.float32))
    light = sensor.observe(tensor([truth]).float(), noise)[0]
    return np.rint(255 * light.clamp(0, 1).permute(1, 2, 0).numpy()).astype(np.uint8)
