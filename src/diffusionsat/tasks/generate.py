"""Generate: from words and numbers to a georeferenced image."""

import datetime
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from diffusionsat.diffusion.guidance import Guidance
from diffusionsat.diffusion.schedules import flow
from diffusionsat.diffusion.solvers import SOLVERS, OnStep
from diffusionsat.errors import ConfigError
from diffusionsat.geo.grids import Grid
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.noise_keys import check_seed, normal
from diffusionsat.tasks.scene import Scene

log = logging.getLogger(__name__)

MOST_STEPS = 1000
MOST_PIXELS = 4096 * 4096
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

    def resolved(self, sat: DiffusionSat) -> "GenerateRequest":
        """The request with the model's defaults filled in, checked.

        Raises:
            ConfigError: If a value is not possible; the message names what is.
        """
        from dataclasses import replace

        defaults = sat.config.defaults
        metadata = self.metadata
        if metadata.lon is not None and metadata.lat is not None and metadata.gsd is None:
            metadata = metadata.replace(gsd=defaults.gsd)
            log.info("gsd is not given; %g m per pixel is taken", defaults.gsd)
        guidance = self.guidance
        if not isinstance(guidance, Guidance):
            strength = defaults.guidance if guidance is None else guidance
            guidance = Guidance(text=strength, interval=defaults.interval, rescale=defaults.rescale)
        request = replace(
            self,
            metadata=metadata,
            size=tuple(self.size or defaults.size),
            steps=defaults.steps if self.steps is None else self.steps,
            solver=defaults.solver if self.solver is None else self.solver,
            guidance=guidance,
        )
        request._check(sat)
        return request

    def _check(self, sat: DiffusionSat) -> None:
        for name, side in zip(("width", "height"), self.size, strict=True):
            _check_side(name, side, sat.multiple)
        if self.size[0] * self.size[1] > MOST_PIXELS:
            raise ConfigError(
                f"size is {self.size[0]}x{self.size[1]}; at most {MOST_PIXELS:,} pixels can be made at once."
            )
        if self.solver not in SOLVERS:
            raise ConfigError(f"solver is {self.solver!r}. Known are: {', '.join(SOLVERS)}.")
        for name, value, most in (("steps", self.steps, MOST_STEPS), ("n", self.n, 2**32 - 1)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{name} is {value!r}. Give a whole number from 1 to {most}.")
        check_seed(self.seed)
        for name, text in (("prompt", self.prompt), ("negative", self.negative)):
            if not isinstance(text, str):
                raise ConfigError(f"{name} is {text!r}. Give text; it may be empty.")
            lost = sat.prompter.lost(text)
            if lost is not None:
                most = sat.config.max_tokens
                message = f"the {name} is longer than the model's {most} tokens; it is cut before {lost!r}"
                if self.strict:
                    raise ConfigError(f"{message}, which --strict refuses. Shorten it.")
                log.warning("%s", message)


def generate(
    sat: DiffusionSat,
    prompt: str = "",
    metadata: Metadata | None = None,
    *,
    on_step: OnStep | None = None,
    **options: Any,
) -> Scene | list[Scene]:
    """Make one image, or ``n``, of a prompt and metadata.

    Args:
        sat: The model.
        prompt: What is to be seen; may be empty.
        metadata: What is known about the image; None is nothing.
        on_step: Called after each step with a `StepInfo`; returning False stops and raises `Cancelled`.
        **options: Other fields of `GenerateRequest`: size, n, seed, steps, solver, guidance, negative,
            strict.

    Returns:
        A `Scene`; a list of them if ``n`` is given and not 1.

    Raises:
        ConfigError: If an option is not possible.
        RasterError: If the extent cannot be mapped.
        Cancelled: If ``on_step`` returned False.
    """
    unknown = options.keys() - GenerateRequest.__dataclass_fields__.keys()
    if unknown:
        known = ", ".join(
            name for name in GenerateRequest.__dataclass_fields__ if name not in ("prompt", "metadata")
        )
        raise ConfigError(f"generate has no option {sorted(unknown)[0]!r}. Its options are: {known}.")
    request = GenerateRequest(prompt=prompt, metadata=metadata or Metadata(), **options).resolved(sat)
    images = [(request, i) for i in range(request.n)]
    count = batch_size(request)
    scenes = [
        s
        for start in range(0, len(images), count)
        for s in make_batch(sat, images[start : start + count], on_step)
    ]
    return scenes[0] if request.n == 1 else scenes


def batch_size(request: GenerateRequest) -> int:
    """Images of a request's size that are made at once."""
    width, height = request.size
    return max(1, _BATCH_PIXELS // (width * height))


@torch.inference_mode()
def make_batch(
    sat: DiffusionSat, images: Sequence[tuple[GenerateRequest, int]], on_step: OnStep | None = None
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
    sigmas = noise_levels(sat, first).tolist()
    denoise = sat.conditioned(
        [r.prompt for r, _ in images], [r.metadata for r, _ in images], first.negative, first.guidance
    )
    x = torch.from_numpy(noise).to(sat.device) * sigmas[0]
    latents = SOLVERS[first.solver](denoise, x, sigmas, on_step)
    pixels = sat.decode(latents)
    return [
        Scene(pixels=p, grid=g, metadata=r.metadata, provenance=_provenance(sat, r, i))
        for p, g, (r, i) in zip(pixels, grids, images, strict=True)
    ]


def noise_levels(sat: DiffusionSat, request: GenerateRequest) -> torch.Tensor:
    """Noise levels of a request: larger images start their decisions in more noise (as in training)."""
    width, height = request.size
    shift = sat.config.defaults.shift * max(1.0, (width * height) ** 0.5 / 64)
    return flow(request.steps, shift)


def grid_of(request: GenerateRequest) -> Grid | None:
    """Where a request's pixels lie; None if place or gsd is unknown."""
    m = request.metadata
    if m.lon is None or m.lat is None or m.gsd is None:
        return None
    return Grid.around(m.lon, m.lat, m.gsd, *request.size)


def _provenance(sat: DiffusionSat, request: GenerateRequest, index: int) -> dict[str, Any]:
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
    if isinstance(side, bool) or not isinstance(side, int) or side <= 0 or side % multiple:
        low = max(multiple, side // multiple * multiple) if isinstance(side, int) else multiple
        raise ConfigError(
            f"{name} is {side!r}; the model makes multiples of {multiple} pixels. "
            + (
                f"Give {low} or {low + multiple}."
                if isinstance(side, int) and side > 0
                else f"Give {multiple} or more."
            )
        )
