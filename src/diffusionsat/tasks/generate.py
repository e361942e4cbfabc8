"""Generate: from words and numbers to a georeferenced image."""

import datetime
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from diffusionsat.diffusion.denoisers import input_scale
from diffusionsat.diffusion.guidance import Guidance
from diffusionsat.diffusion.solvers import SOLVERS, OnStep
from diffusionsat.errors import ConfigError
from diffusionsat.geo.grids import Grid
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.noise_keys import check_seed, normal
from diffusionsat.tasks.scene import Scene

log = logging.getLogger(__name__)

MOST_STEPS = 1000
MOST_PIXELS = 2048 * 2048  # beyond this, attention over the whole image takes hours
_BATCH_PIXELS = 4 * 256 * 256  # what one batch holds, whatever the number of images


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One image, or several of the same words and numbers.

    Args:
        prompt: What is to be seen; may be empty.
        metadata: Place, gsd, cloud cover and date, each of which may be unknown.
        size: Width and height in pixels; None is the model's default.
        n: Images of consecutive index.
        seed: 0 to 2**63 - 1.
        steps: Steps of the solver; None is the model's default.
        solver: Name of the solver; None is the model's default.
        guidance: Strength, or strengths; None is the model's default.
        negative: What is not to be seen.
        strict: Refuse a prompt that is too long instead of cutting it with a warning.
    """

    prompt: str = ""
    metadata: Metadata = field(default_factory=Metadata)
    size: tuple[int, int] | None = None
    n: int = 1
    seed: int = 0
    steps: int | None = None
    solver: str | None = None
    guidance: float | Guidance | None = None
    negative: str = ""
    strict: bool = False

    def resolved(self, sat: DiffusionSat) -> "Resolved":
        """The request with the model's defaults filled in, checked.

        Raises:
            ConfigError: If a value is not possible; the message names what is.
        """
        defaults = sat.config.defaults
        metadata = self.metadata
        if metadata.lon is not None and metadata.lat is not None and metadata.gsd is None:
            metadata = metadata.replace(gsd=defaults.gsd)
            log.info("gsd is not given; %g m per pixel is taken", defaults.gsd)
        guidance = self.guidance
        if not isinstance(guidance, Guidance):
            strength = defaults.guidance if guidance is None else guidance
            guidance = Guidance(text=strength, interval=defaults.interval, rescale=defaults.rescale)
        width, height = self.size or defaults.size
        for name, side in (("width", width), ("height", height)):
            _check_side(name, side, sat.multiple)
        if width * height > MOST_PIXELS:
            raise ConfigError(
                f"size is {width}x{height}; at most {MOST_PIXELS:,} pixels can be made at once."
            )
        for name, text in (("prompt", self.prompt), ("negative", self.negative)):
            _check_text(name, text, sat, self.strict)
        return Resolved(
            prompt=self.prompt,
            metadata=metadata,
            size=(width, height),
            n=_check_count("n", self.n, 2**32 - 1),
            seed=check_seed(self.seed),
            steps=_check_count("steps", defaults.steps if self.steps is None else self.steps, MOST_STEPS),
            solver=_check_solver(defaults.solver if self.solver is None else self.solver),
            guidance=guidance,
            negative=self.negative,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A request in which nothing is left open; the fields are those of `GenerateRequest`."""

    prompt: str
    metadata: Metadata
    size: tuple[int, int]
    n: int
    seed: int
    steps: int
    solver: str
    guidance: Guidance
    negative: str


def generate(sat: DiffusionSat, request: GenerateRequest, on_step: OnStep | None = None) -> list[Scene]:
    """Make the images of a request.

    Args:
        sat: The model.
        request: What to make.
        on_step: Called after each step with a `StepInfo`; returning False stops and raises `Cancelled`.

    Returns:
        ``n`` scenes.

    Raises:
        ConfigError: If an option is not possible.
        RasterError: If the extent cannot be mapped.
        Cancelled: If ``on_step`` returned False.
    """
    resolved = request.resolved(sat)
    images = [(resolved, i) for i in range(resolved.n)]
    return [scene for batch in batches(images) for scene in make_batch(sat, batch, on_step)]


def batches(images: Sequence[tuple[Resolved, int]]) -> list[Sequence[tuple[Resolved, int]]]:
    """Images of one size cut into what is made at once, by position."""
    count = batch_size(images[0][0])
    return [images[start : start + count] for start in range(0, len(images), count)]


def batch_size(request: Resolved) -> int:
    """Images of a request's size that are made at once."""
    width, height = request.size
    return max(1, _BATCH_PIXELS // (width * height))


@torch.inference_mode()
def make_batch(
    sat: DiffusionSat, images: Sequence[tuple[Resolved, int]], on_step: OnStep | None = None
) -> list[Scene]:
    """Make images together; each is a resolved request and the image's index.

    Size, steps, solver, guidance and negative must be those of the first.
    """
    first = images[0][0]
    width, height = first.size
    grids = [grid_of(request) for request, _ in images]
    rows, columns = height // sat.factor, width // sat.factor
    noise = np.stack(
        [
            normal(
                r.seed,
                i,
                "initial",
                0,
                channels=sat.latent_channels,
                rows=range(rows),
                columns=range(columns),
            )
            for r, i in images
        ]
    )
    sigmas = sat.schedule.levels(first.steps, first.size).tolist()
    denoise = sat.conditioned(
        [r.prompt for r, _ in images], [r.metadata for r, _ in images], first.negative, first.guidance
    )
    x = torch.from_numpy(noise).to(sat.device) * (1 + sigmas[0] ** 2) ** 0.5  # all that is seen at that level
    latents = SOLVERS[first.solver](denoise, x, sigmas, on_step)
    pixels = sat.decode(latents / input_scale(sat.config.prediction, sigmas[-1]))
    return [
        Scene(pixels=p, grid=g, metadata=r.metadata, provenance=provenance(sat, r, i))
        for p, g, (r, i) in zip(pixels, grids, images, strict=True)
    ]


def grid_of(request: Resolved) -> Grid | None:
    """Where a request's pixels lie; None if place or gsd is unknown."""
    m = request.metadata
    if m.lon is None or m.lat is None or m.gsd is None:
        return None
    return Grid.around(m.lon, m.lat, m.gsd, *request.size)


def provenance(sat: DiffusionSat, request: Resolved, index: int) -> dict[str, Any]:
    """How an image is made, as JSON can hold it; all but ``created`` is the same each time."""
    return {
        "task": "generate",
        "model": f"{sat.config.name}@{sat.config.version}",
        "model_hash": sat.checkpoint,
        "licence": sat.config.licence,
        "prompt": request.prompt,
        "negative": request.negative,
        "seed": request.seed,
        "index": index,
        "size": list(request.size),
        "steps": request.steps,
        "solver": request.solver,
        "guidance": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(request.guidance).items()},
        "precision": sat.precision,
        "device": sat.device.type,
        "software": f"diffusionsat {version('diffusionsat')}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def _check_side(name: str, side: int, multiple: int) -> None:
    if isinstance(side, bool) or not isinstance(side, int) or side < 1:
        raise ConfigError(
            f"{name} is {side!r}; multiples of {multiple} pixels are made. Give {multiple} or more."
        )
    if side % multiple:
        low = max(multiple, side // multiple * multiple)
        nearest = f"{low} or {low + multiple}"
        raise ConfigError(
            f"{name} is {side}; the model makes multiples of {multiple} pixels. Give {nearest}."
        )


def _check_count(name: str, value: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{name} is {value!r}. Give a whole number from 1 to {most}.")
    return value


def _check_solver(name: str) -> str:
    if name not in SOLVERS:
        raise ConfigError(f"solver is {name!r}. Known are: {', '.join(SOLVERS)}.")
    return name


def _check_text(name: str, text: str, sat: DiffusionSat, strict: bool) -> None:
    if not isinstance(text, str):
        raise ConfigError(f"{name} is {text!r}. Give text; it may be empty.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name} is {text!r}, which is no valid Unicode. Give UTF-8 text.") from None
    lost = sat.networks.lost(text)
    if lost is not None:
        most = sat.config.max_tokens
        message = f"the {name} is longer than the model's {most} tokens; it is cut before {lost!r}"
        if strict:
            raise ConfigError(f"{message}, which --strict refuses. Shorten it.")
        log.warning("%s", message)
