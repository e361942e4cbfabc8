"""Rasters that jobs are given: opened, the one to work on chosen, all of them brought to its grid."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affine import Affine

from diffusionsat.data.frames import Frame, open_frame, together
from diffusionsat.data.radiometry import Radiometry
from diffusionsat.data.sensors import RGB
from diffusionsat.errors import ConfigError, RasterError
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.output import Output
from diffusionsat.tasks.views import Ranges, any_valid, radiometry

log = logging.getLogger(__name__)

_ALIKE = 1.01  # ground metres of one sensor's pixels differ by less within a projection's zone
Source = Any  # what `open_frame` opens


def opened(sources: Source | Sequence[Source], task: str) -> list[Frame]:
    """Frames of some sources, in an order that does not depend on that in which they are given.

    Raises:
        ConfigError: If there is none.
        RasterError: If one cannot be read.
    """
    several = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    if all(source is None for source in several):
        raise ConfigError(f"{task} has no image to work on. Give one.")
    frames = together([open_frame(source) for source in several])
    return sorted(frames, key=lambda f: (f.metadata.date or "", f.raster.name, f.raster.digest()))


def alone(source: Source, task: str) -> Frame:
    """The one frame of a source; see `opened`.

    Raises:
        ConfigError: If there is none, or more than one.
        RasterError: If it cannot be read.
    """
    frames = opened(source, task)
    if len(frames) > 1:
        names = ", ".join(frame.raster.name for frame in frames)
        raise ConfigError(f"{task} works on one image, and {len(frames)} are given: {names}. Give one.")
    return frames[0]


def coloured(frames: Sequence[Frame]) -> Sequence[Frame]:
    """The frames that have red, green and blue; all, if none has."""
    return [f for f in frames if set(RGB) <= set(f.common)] or frames


def finest(frames: Sequence[Frame]) -> Frame:
    """The frame of the smallest pixels, of those with colours; of about equal ones the latest."""
    frames = coloured(frames)
    gsd = min(f.metadata.gsd or math.inf for f in frames)
    return [f for f in frames if (f.metadata.gsd or math.inf) <= _ALIKE * gsd][-1]


def hashes(frames: Sequence[Frame]) -> dict[str, str]:
    """Digests by name, as provenance says them; a name that comes again is numbered."""
    found: dict[str, str] = {}
    for frame in frames:
        name = frame.raster.name
        again = sum(known == name or known.startswith(f"{name} (") for known in found)
        found[f"{name} ({again + 1})" if again else name] = frame.raster.digest()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The image that a job works on.

    Args:
        frame: The image.
        colours: Positions of its red, green and blue.
        radiometry: Of these three.
    """

    frame: Frame
    colours: tuple[int, int, int]
    radiometry: Radiometry

    @classmethod
    def of(cls, frame: Frame) -> "Subject":
        """A frame, if it has colours.

        Raises:
            RasterError: If it lacks one, is of 64-bit integers, or holds nothing.
        """
        absent = [name for name in RGB if name not in frame.common]
        if absent:
            raise RasterError(
                f"{frame.raster.name} has no {absent[0]} band; it has {', '.join(frame.raster.bands)}. "
                "Images are made in red, green and blue: give a raster that has them, or name its bands."
            )
        red, green, blue = (frame.common.index(name) for name in RGB)
        if frame.raster.dtype.kind in "iu" and frame.raster.dtype.itemsize > 4:
            raise RasterError(
                f"{frame.raster.name} has numbers of type {frame.raster.dtype}, of which floats cannot tell "
                "all apart. Give at most 32 bits: gdal_translate -ot Int32."
            )
        if not any_valid(frame.raster, (red, green, blue)):
            raise RasterError(
                f"{frame.raster.name} has no valid pixel: all is nodata. Give an image that has some."
            )
        return cls(
            frame=frame, colours=(red, green, blue), radiometry=radiometry(frame).take((red, green, blue))
        )

    @property
    def copied(self) -> list[str]:
        """Its other bands, which most jobs leave as they are."""
        return [name for i, name in enumerate(self.frame.raster.bands) if i not in self.colours]

    def output(self, places: Sequence[int] | None = None, transform: Affine | None = None) -> Output:
        """A raster of its form.

        Args:
            places: Positions of its bands; None is all.
            transform: None is its own.
        """
        raster = self.frame.raster
        places = range(len(raster.bands)) if places is None else places
        red, green, blue = (list(places).index(i) for i in self.colours)
        return Output(
            bands=tuple(raster.bands[i] for i in places),
            colours=(red, green, blue),
            dtype=raster.dtype,
            nodata=raster.nodata,
            scales=tuple(raster.scales[i] for i in places),
            crs=raster.crs,
            transform=transform or raster.transform,
            radiometry=self.radiometry,
        )


def known(said: Metadata, better: Metadata | None) -> Metadata:
    """What files say, where nothing better is known."""
    if better is None:
        return said
    return said.replace(**{k: v for k, v in better.to_dict().items() if v is not None})


def placed(frame: Frame, job: Metadata) -> Metadata:
    """What networks are told of a frame: of a raster without a CRS the place of its job, which is its own."""
    said = frame.metadata
    return said.replace(
        lon=job.lon if said.lon is None else said.lon, lat=job.lat if said.lat is None else said.lat
    )


def control_of(sat: DiffusionSat, wanted: str | None, name: str) -> str | None:
    """The ControlNet of a job.

    Args:
        sat: The model.
        wanted: What was asked for; None is by name, empty is none.
        name: What the model's would be called.

    Raises:
        ConfigError: If there is none of the name asked for.
    """
    if wanted == "":
        return None
    if wanted is not None and wanted not in sat.controls:
        there = ", ".join(sat.controls) or "none"
        raise ConfigError(f"control is {wanted!r}; the model {sat.config.name} has: {there}.")
    if wanted is None and name not in sat.controls:
        log.warning(
            "the model %s has no ControlNet %r; what was measured steers alone", sat.config.name, name
        )
        return None
    return wanted or name


def ranges_of(sat: DiffusionSat, control: str | None) -> Ranges | None:
    """How a ControlNet is shown frames; see `Control.ranges`."""
    return None if control is None else sat.control(control).ranges


def files_of(frames: Sequence[Frame]) -> list[Path]:
    """Files on this machine that frames are read from."""
    return [file for frame in frames for file in frame.raster.files]
