"""Generate: from words and numbers to a georeferenced image."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from diffusionsat.diffusion.solvers import OnStep
from diffusionsat.errors import ConfigError
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.drawing import draw, grid_of
from diffusionsat.tasks.sampling import SamplingRequest, Settings, check_count, provenance
from diffusionsat.tasks.scene import Scene

log = logging.getLogger(__name__)

MOST_PIXELS = 8192 * 8192
_BATCH_PIXELS = 4 * 256 * 256  # what one batch holds, whatever the number of images


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest(SamplingRequest):
    """One image, or several of the same words and numbers; see `SamplingRequest` too.

    Args:
        metadata: Place, gsd, cloud cover and date, each of which may be unknown.
        size: Width and height in pixels; None is the model's default.
        n: Images of consecutive index.
    """

    metadata: Metadata = field(default_factory=Metadata)
    size: tuple[int, int] | None = None
    n: int = 1

    def resolved(self, sat: DiffusionSat) -> "Resolved":
        """The request with the model's defaults filled in, checked.

        Raises:
            ConfigError: If a value is not possible; the message names what is.
        """
        defaults, metadata = sat.config.defaults, self.metadata
        if not isinstance(metadata, Metadata):
            raise ConfigError(f"metadata is {metadata!r}. Give a Metadata.")
        if metadata.lon is not None and metadata.lat is not None and metadata.gsd is None:
            metadata = metadata.replace(gsd=defaults.gsd)
            log.info("gsd is not given; %g m per pixel is taken", defaults.gsd)
        if metadata.lon is None or metadata.lat is None:
            log.info("no place is given; the image has no georeference")
        width, height = _sides(self.size or defaults.size)
        for name, side in (("width", width), ("height", height)):
            _check_side(name, side, sat.multiple)
        if width * height > MOST_PIXELS:
            raise ConfigError(
                f"size is {width}x{height}; at most {MOST_PIXELS:,} pixels can be made at once."
            )
        settings = self.settings(sat)
        return Resolved(
            **{f.name: getattr(settings, f.name) for f in fields(settings)},
            metadata=metadata,
            size=(width, height),
            n=check_count("n", self.n, 2**32 - 1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved(Settings):
    """A `GenerateRequest` in which nothing is left open."""

    metadata: Metadata
    size: tuple[int, int]
    n: int


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


def make_batch(
    sat: DiffusionSat, images: Sequence[tuple[Resolved, int]], on_step: OnStep | None = None
) -> list[Scene]:
    """Make images together; each is a resolved request and the image's index.

    Size, steps, solver, guidance and negative must be those of the first.
    """
    requests = [request for request, _ in images]
    grids = [grid_of(request.metadata, request.size) for request in requests]
    drawn = draw(
        sat,
        requests,
        [request.metadata for request in requests],
        [index for _, index in images],
        requests[0].size,
        on_step,
    )
    return [
        Scene(pixels=p, grid=g, metadata=r.metadata, provenance=made(sat, r, i))
        for p, g, (r, i) in zip(drawn, grids, images, strict=True)
    ]


def made(sat: DiffusionSat, request: Resolved, index: int) -> dict[str, Any]:
    """How an image of a request is made: see `provenance`."""
    return provenance(sat, request, "generate", index=index, size=list(request.size))


def _sides(size: Any) -> tuple[Any, Any]:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ConfigError(f"size is {size!r}. Give (width, height) in pixels.")
    return size[0], size[1]


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
