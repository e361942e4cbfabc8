"""Upscale: a sharper image of a coarser one, which gives the coarser one back when it is seen as coarsely."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.data.radiometry import rounded
from diffusionsat.data.sensors import band_of
from diffusionsat.diffusion.constraints import INVENTED, corrected, support
from diffusionsat.diffusion.denoisers import Denoiser
from diffusionsat.diffusion.sensors import Sensor
from diffusionsat.diffusion.solvers import OnStep
from diffusionsat.diffusion.windows import Window
from diffusionsat.errors import ConfigError
from diffusionsat.geo.rasters import Raster, open_raster, refined
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.inputs import (
    Source,
    Subject,
    control_of,
    files_of,
    finest,
    hashes,
    known,
    opened,
    placed,
    ranges_of,
)
from diffusionsat.tasks.measuring import (
    Measurement,
    Residual,
    bridged,
    explained,
    filled,
    optics,
    residual,
    respect,
)
from diffusionsat.tasks.restoring import BLOCK, Pixels, Restoration, restore
from diffusionsat.tasks.sampling import MOST_SAMPLES, UNGUIDED, SamplingRequest, check_count
from diffusionsat.tasks.scene import Scene
from diffusionsat.tasks.views import view_of

CONSISTENCY = ("off", "soft", "hard")
_SPREAD = 0.25  # standard deviation of light within images, about
_LEFT = 0.04  # of light: how far what was generated is off where it was measured, about
_WITHIN = 0.9  # of the noise: how far the result may be off softly, and then its numbers are rounded
_TURNS, _ENOUGH = 40, 1e-3  # of light
_LOOK = 2  # coarse pixels around one that the sensor sees with it
_REACH = 4  # coarse pixels around a block that its inverse looks at


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaleRequest(SamplingRequest):
    """A sharper image; see `SamplingRequest` too.

    Args:
        frames: Images of the ground, at least one; see `diffusionsat.data.frames.open_frame`. The finest of
            those with colours, and of these the latest, is sharpened; the others help. Their order means
            nothing; see `diffusionsat.data.frames.together` for files of one band each.
        factor: Pixels that come of one along each side, 2 to 10.
        references: Sharp images of other dates; without a CRS as large as the frame or as the result.
        metadata: What is known better than the files say; None is what they say.
        consistency: ``"soft"``: seen through the sensor the result is the input up to the sensor's noise;
            ``"hard"``: it is the input exactly, its noise made sharp too; ``"off"``.
        samples: Images that are made; the result is their mean.
        all_bands: Also write the other bands, resampled and not generated.
        control: Name of a ControlNet; None is the model's for this job, ``""`` is none.
    """

    frames: Sequence[Source] = ()
    factor: int = 4
    references: Sequence[Source] = ()
    metadata: Metadata | None = None
    consistency: str = "soft"
    samples: int = 1
    all_bands: bool = False
    control: str | None = None

    def job(self, sat: DiffusionSat) -> "Upscale":
        """The job, ready to be done.

        Raises:
            ConfigError: If an option is not possible.
            RasterError: If an input cannot be read or used.
        """
        if isinstance(self.factor, bool) or not isinstance(self.factor, int) or not 2 <= self.factor <= 10:
            raise ConfigError(f"factor is {self.factor!r}. Give a whole number from 2 to 10.")
        if self.consistency not in CONSISTENCY:
            raise ConfigError(f"consistency is {self.consistency!r}. Give {', '.join(CONSISTENCY)}.")
        settings, samples = self.settings(sat, UNGUIDED), check_count("samples", self.samples, MOST_SAMPLES)
        frames = opened(self.frames, "upscale")
        sharp = opened(self.references, "upscale") if self.references else []
        subject = Subject.of(finest(frames))
        frame, raster = subject.frame, subject.frame.raster
        places = list(subject.colours)
        if self.all_bands:
            places += [i for i in range(len(raster.bands)) if i not in places]
        spectral = [band_of(name, frame.sensor) is not None for name in raster.bands]
        repeated = [raster.bands[i] for i in places if not spectral[i]]  # of classes and flags no mean is one
        grid, transform = refined(raster, self.factor)
        coarse = known(frame.metadata, self.metadata)
        gsd = None if coarse.gsd is None else coarse.gsd / self.factor
        control = control_of(sat, self.control, "super-resolution")
        ranges = ranges_of(sat, control)
        given = [*frames, *sharp]
        told = [coarse if f is frame else placed(f, coarse) for f in given]
        views = [view_of(f, raster, self.factor, m, ranges) for f, m in zip(given, told, strict=True)]
        return Upscale(
            sat,
            settings,
            coarse.replace(gsd=gsd),
            (raster.width * self.factor, raster.height * self.factor),
            grid=grid,
            views=[replace(view, continued=f is frame) for f, view in zip(given, views, strict=True)],
            control=control,
            task="upscale",
            output=subject.output(places, transform),
            samples=samples,
            said=subject.frame.tags(),
            inputs=hashes(given),
            files=files_of(given),
            more={
                "factor": self.factor,
                "consistency": self.consistency,
                "not_generated": [raster.bands[i] for i in places[3:]],
                "bands_copied": repeated,
            },
            measurement=Measurement(
                frame=frame, colours=subject.colours, radiometry=subject.radiometry, factor=self.factor
            ),
            smooth=view_of(frame, raster, self.factor).raster,
            places=places,
            consistency=self.consistency,
        )


class Upscale(Restoration):
    """The job of an `UpscaleRequest`.

    Args:
        *args: See `Restoration`.
        measurement: What the sharpened frame tells.
        smooth: That frame interpolated on the result's grid.
        places: Positions of the output's bands in that frame.
        consistency: One of `CONSISTENCY`.
        **kwargs: See `Restoration`.
    """

    details = True

    def __init__(
        self,
        *args: Any,
        measurement: Measurement,
        smooth: Raster,
        places: Sequence[int],
        consistency: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.measurement, self.smooth, self.places = measurement, smooth, list(places)
        self.consistency = consistency
        self.margin = _REACH * measurement.coarse
        self.block = BLOCK // measurement.coarse * measurement.coarse

    @property
    def grain(self) -> int:
        """Windows begin with a pixel of the sensor."""
        return self.measurement.coarse // math.gcd(self.measurement.coarse, self.sat.factor)

    def constrained(self, denoise: Denoiser, windows: Sequence[Window]) -> Denoiser:
        """Estimates that explain the measurement."""
        if self.consistency == "off":
            return denoise
        places = [self.pixels_of(window) for window in windows]
        rows, columns = places[0]
        sensor = self.sensor(rows, columns)
        y, valid = (torch.cat(parts) for parts in zip(*(self.seen(*p) for p in places), strict=True))
        y, gap = filled(y, valid)
        valid |= gap
        for one, (down, across) in zip(valid, places, strict=True):
            _leave_out_rim(
                one, down.start > 0, across.start > 0, down.stop < self.height, across.stop < self.width
            )
        device, gamma = self.sat.device, self.output.radiometry.gamma
        y, valid, gap = torch.where(valid, y, 0).to(device), valid.to(device), gap.to(device)
        noise = sensor.variance(y.mean((0, 2, 3), keepdim=True))[0]

        def to_light(latents: Tensor) -> Tensor:
            return ((self.sat.networks.decode(latents) + 1) / 2).clamp(0, 1) ** gamma

        def to_latents(light: Tensor) -> Tensor:
            return self.sat.networks.encode(2 * light.clamp(0, 1) ** (1 / gamma) - 1)

        def respected(light: Tensor, sigma: float) -> Tensor:
            light = bridged(light, y, gap, self.measurement.coarse)
            if self.consistency == "hard":
                return respect(light, y, valid, sensor)
            variance = (sigma * _SPREAD) ** 2 / (1 + sigma**2)  # of the image, given what is seen at sigma
            return respect(light, y, valid, sensor, noise / max(variance, 1e-12))

        return corrected(denoise, respected, to_light, to_latents)

    def seen(self, rows: range, columns: range) -> tuple[Tensor, Tensor]:
        """Light measured in a rectangle, and where it is known, (1, 3, h, w)."""
        y, valid = self.measurement.read(rows, columns)
        return torch.from_numpy(y)[None], torch.from_numpy(valid)[None]

    def sensor(self, rows: range, columns: range) -> Sensor:
        """What measured a rectangle."""
        return self.measurement.sensor(len(rows), len(columns))

    def finish(self, light: np.ndarray, rows: range, columns: range) -> np.ndarray:
        """Light that explains the measurement, exactly or up to its noise, if it is to."""
        if self.consistency == "off":
            return light
        (y, valid), sensor = self.seen(rows, columns), self.sensor(rows, columns)
        y, gap = filled(y, valid)
        known, noise, within = valid | gap, sensor.variance(y), torch.zeros_like(y)
        low, high = (torch.from_numpy(side) for side in self.output.limits())
        found = bridged(torch.from_numpy(light), y, gap, self.measurement.coarse)
        if self.consistency == "soft":
            found = respect(found, y, known, sensor, noise.mean((0, 2, 3))[:, None, None] / _LEFT**2)
            within = _WITHIN * noise.sqrt()  # more is left where what was generated is off by more
        for _ in range(_TURNS):  # projections by turns onto what explains and onto what can be stored
            found = respect(found, y, known, sensor, within=within)
            beyond = ((low - found).clamp_min(0) + (found - high).clamp_min(0)).max()
            if beyond < _ENOUGH:
                break
            found = found.clamp(low, high)
        return found.numpy()

    def measured(self, rows: range, columns: range) -> np.ndarray:
        """The least image that explains the measurement; 0 where nothing was measured."""
        y, valid = self.seen(rows, columns)
        y, gap = filled(y, valid)
        light = explained(y, valid | gap, self.sensor(rows, columns))[0]
        least = self.output.radiometry.stored(light.numpy())
        return np.where(self._whole_blocks(rows, columns)[1][:3], least, 0)

    def support(self, rows: range, columns: range) -> np.ndarray:
        """Of the sensor; where nothing was measured all is invented."""
        high, wide = self.with_margin(rows, self.height), self.with_margin(columns, self.width)
        share = optics(self.sensor(high, wide)).determined
        place = (
            slice(rows.start - high.start, rows.stop - high.start),
            slice(columns.start - wide.start, columns.stop - wide.start),
        )
        _, valid = self._whole_blocks(rows, columns)
        return np.where(valid[:3].all(0), support(share[(slice(None), *place)]).numpy(), np.uint8(INVENTED))

    def _whole_blocks(self, rows: range, columns: range) -> Pixels:
        """Numbers of the frame's bands, each repeated over the pixels that come of it."""
        factor = self.measurement.factor
        down, across = (range(r.start // factor, -(-r.stop // factor)) for r in (rows, columns))
        repeated = [
            np.repeat(np.repeat(part[self.places], factor, 1), factor, 2)[:, : len(rows), : len(columns)]
            for part in self.measurement.frame.raster.read(down, across)
        ]
        return repeated[0], repeated[1]

    def others(self, rows: range, columns: range) -> Pixels:
        """The other bands, interpolated so that each of their pixels keeps its number as the mean.

        What is no band of a sensor, as classes and flags, is repeated.
        """
        values, valid = self._whole_blocks(rows, columns)
        if len(self.places) > 3:
            values = values.copy()
            smooth = self.smooth.read(rows, columns)[0][self.places]
            factor = self.measurement.factor
            for band, name in enumerate(self.output.bands):
                if band < 3 or name in self.more["bands_copied"]:
                    continue
                lack = values[band] - _block_means(smooth[band], factor)
                kept = rounded(smooth[band] + lack, self.output.dtype, self.output.nodata)
                values[band] = np.where(valid[band], kept, values[band])
        return values, valid


def _block_means(smooth: np.ndarray, factor: int) -> np.ndarray:
    """The mean of every block of a band (H, W), repeated over its pixels; borders may cut blocks."""
    height, width = smooth.shape
    padded = np.pad(smooth, ((0, -height % factor), (0, -width % factor)), "edge")
    means = padded.reshape(len(padded) // factor, factor, -1, factor).mean((1, 3))
    return np.repeat(np.repeat(means, factor, 0), factor, 1)[:height, :width]


def _leave_out_rim(known: Tensor, above: bool, left: bool, below: bool, right: bool) -> None:
    """Mark pixels of the sensor unknown along sides beyond which the image goes on: they look across."""
    for goes_on, side in (
        (above, known[:, :1]),
        (below, known[:, -1:]),
        (left, known[..., :1]),
        (right, known[..., -1:]),
    ):
        if goes_on:
            side[:] = False


def upscale(sat: DiffusionSat, request: UpscaleRequest, on_step: OnStep | None = None) -> Scene:
    """Sharpen an image in memory; `restore_to` writes one of any size.

    Raises:
        ConfigError: If an option is not possible.
        RasterError: If an input cannot be read or used.
        Cancelled: If ``on_step`` returned False.
    """
    return restore(request.job(sat), on_step)


def consistency_of(job: Upscale, path: Path) -> dict[str, Any]:
    """How well a result explains its input, as it was written.

    Args:
        job: What made it.
        path: The file.

    Returns:
        ``consistency``: the fields of `Residual`.
    """
    return {"consistency": asdict(consistency(job, open_raster(path)))}


def consistency(job: Upscale, made: Raster) -> Residual:
    """How well a result explains its input, block by block: `made` as it was written.

    Pixels beside a gap of the input are left out: the sensor sees into it, and nothing is written there.

    Args:
        job: What made it.
        made: The result.
    """
    seen = []
    for rows, columns in job.blocks():
        high, wide = job.with_margin(rows, job.height), job.with_margin(columns, job.width)
        values, _ = made.read(high, wide)
        light = job.output.radiometry.light(values[list(job.output.colours)])
        (y, valid), sensor = job.seen(high, wide), job.sensor(high, wide)
        valid = F.max_pool2d((~valid).float(), 2 * _LOOK + 1, 1, _LOOK) == 0
        given = sensor.operator(torch.from_numpy(light)[None])
        down, across = (
            slice(
                (r.start - m.start) // job.measurement.coarse,
                -(-(r.stop - m.start) // job.measurement.coarse),
            )
            for r, m in ((rows, high), (columns, wide))
        )
        seen.append((given[..., down, across], y[..., down, across], valid[..., down, across], sensor))
    return residual(seen, job.output.radiometry.white)
