"""Images drawn from noise: small ones at once, larger ones layout first.

A denoiser knows the layout of images of the size it mostly learnt from; of larger ones it makes one texture.
So where the checkpoint's ``defaults.layout`` says that size, a larger image is drawn as a coarser one of the
same ground, doubled, covered with part of the noise and drawn again, until it has its size: what relay
diffusion (Teng et al. 2023, arXiv 2309.03350) does with a network for each size, done with one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffusionsat.diffusion.denoisers import input_scale
from diffusionsat.diffusion.inversion import left
from diffusionsat.diffusion.solvers import SOLVERS, Cancelled, OnStep, StepInfo
from diffusionsat.geo.grids import Grid
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.noise_keys import normal
from diffusionsat.tasks.job import Job
from diffusionsat.tasks.sampling import Settings

_WHOLE_PIXELS = 512 * 512  # larger images are made in windows: networks are used to smaller ones
_STRIP = 256  # rows that are encoded and decoded at once
_COARSEST = 1e6  # metres per pixel that metadata can say

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """One of the sizes in which images are drawn.

    Args:
        number: From 0.
        size: Width and height.
        metadata: Of each image, with the metres per pixel of this size.
        given: The images to draw again, float32 (height, width, 3) from 0 to 255; None is none.
        last: Whether images are rounded to uint8. In between they are not, or the last bits of a computation,
            which depend on the batch, would be seen.
        on_step: Hears of the steps of all stages as of one.
    """

    number: int
    size: Size
    metadata: Sequence[Metadata]
    given: Sequence[np.ndarray] | None
    last: bool
    on_step: OnStep | None

    def finished(self, shown: np.ndarray) -> np.ndarray:
        """Grey levels as the stage gives them on."""
        return np.rint(shown).astype(np.uint8) if self.last else shown.astype(np.float32)


@torch.inference_mode()
def draw(
    sat: DiffusionSat,
    settings: Sequence[Settings],
    metadata: Sequence[Metadata],
    indices: Sequence[int],
    size: Size,
    on_step: OnStep | None = None,
) -> list[np.ndarray]:
    """Images of one size, uint8 (height, width, 3) each.

    Args:
        sat: The model.
        settings: Of each image; steps, solver, guidance and negative must be those of the first.
        metadata: Of each.
        indices: Of each among those of its seed.
        size: Width and height in pixels.
        on_step: Called after each step with a `StepInfo`, whose latents are of the size then drawn.

    Raises:
        Cancelled: If ``on_step`` returned False.
    """
    sizes = stages(size, sat.config.defaults.layout, sat.multiple)
    drawn: list[np.ndarray] | None = None
    steps = [len(_levels(sat, settings[0], s, stage)) - 1 for stage, s in enumerate(sizes)]
    for stage, now in enumerate(sizes):
        coarser = 2 ** (len(sizes) - 1 - stage)
        at = _Stage(
            number=stage,
            size=now,
            metadata=[
                m if m.gsd is None else m.replace(gsd=min(m.gsd * coarser, _COARSEST)) for m in metadata
            ],
            given=None if drawn is None else [_doubled(image, now) for image in drawn],
            last=coarser == 1,
            on_step=None if on_step is None else _counted(on_step, sum(steps[:stage]), sum(steps)),
        )
        if now[0] * now[1] <= _WHOLE_PIXELS:
            drawn = _at_once(sat, settings, indices, at)
        else:
            drawn = [
                _in_windows(sat, s, i, at, n) for n, (s, i) in enumerate(zip(settings, indices, strict=True))
            ]
    assert drawn is not None
    return drawn


def stages(size: Size, layout: int, multiple: int) -> list[Size]:
    """Sizes in which an image is drawn, the last its own, each at least half of the next.

    >>> stages((256, 192), 64, 16)
    [(128, 96), (256, 192)]
    """
    sizes = [size]
    while layout and min(sizes[0]) >= 2 * layout:
        width, height = (-(-side // (2 * multiple)) * multiple for side in sizes[0])
        sizes.insert(0, (width, height))
    return sizes


def grid_of(metadata: Metadata, size: Size) -> Grid | None:
    """Where an image's pixels lie; None if place or gsd is unknown."""
    m = metadata
    if m.lon is None or m.lat is None or m.gsd is None:
        return None
    return Grid.around(m.lon, m.lat, m.gsd, *size)


class _Drawing(Job):
    """A `Job` of one stage.

    Args:
        stage: Its number, from 0.
        given: The image to draw again, float32 (height, width, 3) from 0 to 255; None is none.
        **kwargs: See `Job`.
    """

    def __init__(self, *args: Any, stage: int, given: np.ndarray | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage, self.given = stage, given

    @cached_property
    def sigmas(self) -> list[float]:
        """All, or those that draw again."""
        if self.given is None:
            return super().sigmas
        return _levels(self.sat, self.settings, (self.width, self.height), self.stage)

    def noise(self, rows: range, columns: range) -> np.ndarray:
        """Noise alone, or the image with noise."""
        if self.given is None:
            return super().noise(rows, columns)
        x = self.normal(rows, columns) * np.float32(self.sigmas[0])
        strip = _STRIP // self.sat.factor
        for top in range(0, len(rows), strip):
            part = rows[top : top + strip]
            x[:, top : top + len(part)] += self.renderer.encode(self._shown, part, columns)
        return x

    def _shown(self, rows: range, columns: range) -> np.ndarray:
        """A rectangle of the image, 0 to 1, float32 (3, rows, columns)."""
        assert self.given is not None
        image = self.given[rows.start : rows.stop, columns.start : columns.stop]
        return np.moveaxis(image, 2, 0) / 255


def _levels(sat: DiffusionSat, settings: Settings, size: Size, stage: int) -> list[float]:
    """Noise levels of a stage: all of the schedule's, or those that draw a doubled image again.

    The latter are those of the layout's size, whatever the image's: what is missing is finer than the layout,
    and larger images want more noise for their layout alone.
    """
    if not stage:
        return sat.schedule.levels(settings.steps, size).tolist()
    layout = sat.config.defaults.layout
    return left(sat.schedule.levels(settings.steps, (layout, layout)), sat.config.defaults.redraw)


def _doubled(image: np.ndarray, size: Size) -> np.ndarray:
    """An image of twice the size, of which the middle is kept, float32 (height, width, 3)."""
    height, width = (2 * side for side in image.shape[:2])
    down, across = (height - size[1]) // 2, (width - size[0]) // 2
    twice = np.stack([_enlarged(band, (width, height)) for band in np.moveaxis(image, 2, 0)], 2)
    return twice[down : down + size[1], across : across + size[0]]


def _enlarged(band: np.ndarray, size: Size) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(band)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture).clip(0, 255)


def _counted(on_step: OnStep, before: int, steps: int) -> OnStep:
    """What hears of the steps of all stages as of one."""

    def tell(info: StepInfo) -> None:
        if on_step(replace(info, step=before + info.step, steps=steps)) is False:
            raise Cancelled(f"stopped after step {before + info.step} of {steps}")

    return tell


def _at_once(
    sat: DiffusionSat,
    settings: Sequence[Settings],
    indices: Sequence[int],
    stage: _Stage,
) -> list[np.ndarray]:
    """Images of one stage, each seen by the networks as a whole."""
    first, size = settings[0], stage.size
    rows, columns = range(size[1] // sat.factor), range(size[0] // sat.factor)
    noise = torch.from_numpy(
        np.stack(
            [
                normal(
                    s.seed,
                    i,
                    "initial",
                    stage.number,
                    channels=sat.latent_channels,
                    rows=rows,
                    columns=columns,
                )
                for s, i in zip(settings, indices, strict=True)
            ]
        )
    ).to(sat.device)
    sigmas = _levels(sat, first, size, stage.number)
    scale = input_scale(sat.config.prediction, sigmas[-1])
    if stage.given is None:
        x = noise * (1 + sigmas[0] ** 2) ** 0.5  # all that is seen at that level
    else:
        x = sat.encode(np.stack(stage.given)) * scale + sigmas[0] * noise
    denoise = sat.conditioned([s.prompt for s in settings], stage.metadata, first.negative, first.guidance)
    shown = sat.networks.decode(SOLVERS[first.solver](denoise, x, sigmas, stage.on_step) / scale)
    return list(stage.finished(((shown + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).cpu().numpy()))


def _in_windows(
    sat: DiffusionSat,
    settings: Settings,
    index: int,
    stage: _Stage,
    n: int,
) -> np.ndarray:
    """Image ``n`` of one stage, however large, of windows that are fused at every step."""
    metadata, given = stage.metadata[n], None if stage.given is None else stage.given[n]
    grid = grid_of(metadata, stage.size)
    job = _Drawing(
        sat, settings, metadata, stage.size, grid=grid, index=index, stage=stage.number, given=given
    )
    latents, renderer = job.solve(stage.on_step), job.renderer
    width, height = stage.size
    pixels = np.empty((height, width, 3), np.uint8 if stage.last else np.float32)
    for top in range(0, height, _STRIP):
        rows = range(top, min(top + _STRIP, height))
        shown = renderer.decode(latents, rows, range(width))
        pixels[rows.start : rows.stop] = stage.finished(255 * np.moveaxis(shown, 0, 2))
    return pixels
