"""The protocol of a report: what must be equal for two reports' figures to be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diffusionsat.evaluation.cases import FITS, Cases
from diffusionsat.evaluation.clip import weights_of
from diffusionsat.evaluation.features import FeatureNetwork, perceptual_network, sha256_of
from diffusionsat.evaluation.units import digest
from diffusionsat.tasks.sampling import Settings

METRICS_VERSION = 2  # to be raised when the same images would get other figures

EDIT, FEATURES = "edit", "features"  # tasks that measure models alone
_SAMPLED = {"steps", "solver", "guidance", "metadata_guidance", "negative", "strict", "schedule", "fit"}
_SAMPLED |= {"split"}  # features learn from train rows and are tried on test rows
_ANSWERED = _SAMPLED | {"images", "control", "frames_guidance", "samples", "lpips"}
_HEEDED: dict[str, set[str]] = {  # fields of a request that mean something to a task
    "generate": _SAMPLED | {"images", "trained", "clip", "vary", "most_steps"},
    "upscale": _ANSWERED | {"factor", "consistency", "direction", "given", "references"},
    "predict": _ANSWERED | {"dates", "direction"},
    "inpaint": _ANSWERED,
    "declouds": _ANSWERED,
    EDIT: _SAMPLED | {"strength"},
    FEATURES: set(),
}
_BY_ALL = {"task", "data", "model", "device", "precision", "n", "size", "seed"}
_BY_ALL |= {"features", "classifier"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """What is to be measured.

    Args:
        task: One of `diffusionsat.evaluation.run.TASKS`.
        data: Folders of data sets, prepared shards or Parquet files; or one of several such folders.
        model: Name or folder of the model; None if ``images`` are given.
        images: Folder of images from elsewhere.
        split: Whose rows are asked for and compared with.
        n: How many images; None is half of the split's, at most 10,000.
        size: Side of the images in pixels; None is the model's default.
        seed: Of the choice of rows, of the noise and of random subsets.
        steps: As in `SamplingRequest`, and so the next two.
        solver: None is the model's.
        guidance: None is the model's.
        metadata_guidance: Strength of the metadata; None is that of the prompt.
        frames_guidance: Strength of the frames; None is what the ControlNet does best with.
        negative: As in `SamplingRequest`.
        strict: As in `SamplingRequest`.
        features: Names of feature networks, or paths; none are those that are installed.
        trained: Training images that copies are looked for in, at most; 0 looks for none.
        classifier: Folder of a classifier that reads classes and metadata; None is the shipped one, if any.
        clip: CLIP model for text alignment: a folder of transformers, or a file of OpenCLIP's weights.
        lpips: TorchScript file of a network as `pairs.lpips` takes it.
        device: Of the model.
        precision: Of the model.
        factor: Pixels that come of one along each side, for `upscale`.
        samples: Images that are made of each case by tasks that answer to a true image; their mean is the
            result, and from four on their spread is judged.
        consistency: As in `UpscaleRequest`.
        control: Name of the ControlNet; None is the model's for the task, ``""`` is none.
        vary: Of `diffusionsat.evaluation.run.VARIATIONS`, what images are made for in other ways too.
        most_steps: Arms of more steps are left out when sampling is varied.
        schedule: Of `diffusionsat.evaluation.solving.SCHEDULES`; None is the model's.
        fit: How images become squares, one of `diffusionsat.evaluation.cases.FITS`. With ``"whole"`` all
            images of a record are taken to show the same ground from edge to edge.
        dates: How many other dates are given, a case each where there are so many; for `predict`.
        direction: Other dates than the true image's that are given: of ``"any"`` time, ``"earlier"`` or
            ``"later"``.
        given: For `upscale`, the part in a record (as ``"sentinel"``) of the image that is given; None gives
            what a coarser sensor would see of the true one.
        references: How many sharp images of other dates are given beside, for `upscale`.
        strength: As in `EditRequest`.
    """

    task: str
    data: tuple[str, ...]
    model: str | None = None
    images: Path | None = None
    split: str = "test"
    n: int | None = None
    size: int | None = None
    seed: int = 0
    steps: int | None = None
    solver: str | None = None
    guidance: float | None = None
    metadata_guidance: float | None = None
    frames_guidance: float | None = None
    negative: str = ""
    strict: bool = False
    features: tuple[str, ...] = ()
    trained: int = 100_000
    classifier: Path | None = None
    clip: Path | None = None
    lpips: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    factor: int = 4
    samples: int = 1
    consistency: str = "soft"
    control: str | None = None
    vary: tuple[str, ...] = ()
    most_steps: int = 100
    schedule: str | None = None
    fit: str = "central"
    dates: tuple[int, ...] = (1, 2, 4, 8)
    direction: str = "any"
    given: str | None = None
    references: int = 0
    strength: float = 0.6


def unheeded(request: EvaluateRequest) -> list[str]:
    """Options that are given and mean nothing to the task."""
    said = {one.name for one in fields(request) if getattr(request, one.name) != one.default}
    return sorted(said - _BY_ALL - _HEEDED[request.task])


def protocol(
    request: EvaluateRequest,
    asked: Cases,
    others: Cases | None,
    networks: Sequence[FeatureNetwork],
    settings: Settings | None,
    learned: Sequence[Cases | None],
    conditions: Mapping[str, Any],
) -> dict[str, Any]:
    """The protocol as JSON can hold it, with its own ``hash``.

    Args:
        request: What is measured.
        asked: Cases that are asked for.
        others: Cases that are compared with; None if each image answers to its own.
        networks: Feature networks.
        settings: How was sampled; None for images from elsewhere.
        learned: Training cases, that copies are looked for in and that probes learn from.
        conditions: What else the task says of how it is measured.
    """
    sampled = None
    if settings is not None:
        sampled = {"solver": settings.solver, "steps": settings.steps, "negative": settings.negative}
        sampled["guidance"] = settings.guidance.to_dict()
        if request.schedule is not None:
            sampled["schedule"] = request.schedule
    said = {
        "task": request.task,
        "split": request.split,
        "sources": sorted({source.name for source in asked.sources}),
        "data_hash": digest([cases and cases.digest for cases in (asked, others, *learned)]),
        "n": len(asked),
        "size": asked.size,
        "crop": FITS[asked.fit],
        "resize": "feature networks: bilinear with antialias, float",
        "seed": request.seed,
        "features": {network.name: network.digest for network in networks},
        "features_size": {network.name: network.input.size for network in networks},
        "sampling": sampled,
        "clip": None if request.clip is None else _weights(request.clip),
        "lpips": None if request.lpips is None else perceptual_network(request.lpips)[1],
        **conditions,
        **versions(),
    }
    return said | {"hash": digest(said)}


def versions() -> dict[str, Any]:
    """Of the metrics, and of the package."""
    return {"metrics_version": METRICS_VERSION, "software": f"diffusionsat {version('diffusionsat')}"}


def _weights(path: Path) -> dict[str, str]:
    """SHA-256 of a file of weights, or of those in a folder."""
    return {file.name: sha256_of(file).hex() for file in weights_of(path)}
