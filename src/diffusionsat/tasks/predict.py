"""Predict: the same ground at another date, from images of other dates."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from diffusionsat.data.frames import Frame
from diffusionsat.diffusion.solvers import OnStep
from diffusionsat.errors import ConfigError
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.inputs import (
    Source,
    Subject,
    coloured,
    control_of,
    files_of,
    hashes,
    known,
    opened,
    placed,
    ranges_of,
)
from diffusionsat.tasks.restoring import Pixels, Restoration, restore
from diffusionsat.tasks.sampling import MOST_SAMPLES, UNGUIDED, SamplingRequest, check_count
from diffusionsat.tasks.scene import Scene
from diffusionsat.tasks.views import view_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest(SamplingRequest):
    """The ground at a date; see `SamplingRequest` too.

    Args:
        frames: Images of the same ground, at least one, each with its date; see
            `diffusionsat.data.frames.open_frame`. The result lies on the grid of the one nearest in time, of
            those with colours.
        on: The date to be seen, ``YYYY[-MM[-DD]]``.
        metadata: What else the result's is to be: gsd, cloud cover (0 where nothing is said).
        samples: Images that are made; the result is their mean.
        control: Name of a ControlNet; None is the model's for this job.
    """

    frames: Sequence[Source] = ()
    on: str = ""
    metadata: Metadata | None = None
    samples: int = 1
    control: str | None = None

    def job(self, sat: DiffusionSat) -> "Prediction":
        """The job, ready to be done.

        Raises:
            ConfigError: If an option is not possible.
            MetadataError: If the date cannot be.
            RasterError: If an input cannot be read or used.
        """
        target = Metadata(date=self.on or None)
        if target.date is None:
            raise ConfigError("predict has no date to predict. Give one: on='2020-07', --date 2020-07.")
        control = control_of(sat, self.control, "temporal")
        if control is None:
            raise ConfigError(
                f"predict needs a ControlNet that sees other dates; {sat.config.name} has "
                f"{', '.join(sat.controls) or 'none'}. Give another model, or control=NAME."
            )
        frames = opened(self.frames, "predict")
        undated = [frame.raster.name for frame in frames if frame.metadata.date is None]
        if undated:
            raise ConfigError(
                f"{undated[0]} has no date. Give it one: open_frame(..., date=...), or FILE@DATE."
            )
        subject = Subject.of(min(coloured(frames), key=lambda f: days_apart(f.metadata, target)))
        frame = subject.frame
        metadata = known(frame.metadata.replace(date=self.on, cloud_cover=0.0), self.metadata)
        return Prediction(
            sat,
            self.settings(sat, UNGUIDED),
            metadata,
            (frame.raster.width, frame.raster.height),
            grid=frame.raster.grid,
            views=[
                view_of(f, frame.raster, metadata=placed(f, metadata), ranges=ranges_of(sat, control))
                for f in frames
            ],
            control=control,
            task="predict",
            output=subject.output(),
            samples=check_count("samples", self.samples, MOST_SAMPLES),
            said=subject.frame.tags(),
            inputs=hashes(frames),
            files=files_of(frames),
            more={"bands_copied": subject.copied},
            frame=frame,
        )


def days_apart(one: Metadata, other: Metadata) -> float:
    """Days between two dates, the middle of each; infinite if one is unknown."""
    spans = (one.interval(), other.interval())
    middles = [(s[0].toordinal() + s[1].toordinal()) / 2 for s in spans if s is not None]
    return abs(middles[0] - middles[1]) if len(middles) == 2 else inf


class Prediction(Restoration):
    """The job of a `PredictRequest`.

    Args:
        *args: See `Restoration`.
        frame: The frame whose grid, and other bands, the result has.
        **kwargs: See `Restoration`.
    """

    def __init__(self, *args: Any, frame: Frame, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frame = frame

    def others(self, rows: range, columns: range) -> Pixels:
        """The frame's bands; what is made is valid where any frame shows something."""
        values, valid = (part.copy() for part in self.frame.raster.read(rows, columns))
        seen = valid[list(self.output.colours)].all(0)
        for view in self.views:
            if not seen.all():
                seen |= np.isfinite(view.read(rows, columns)[0]).any(0)
        valid[list(self.output.colours)] = seen
        return values, valid


def predict(sat: DiffusionSat, request: PredictRequest, on_step: OnStep | None = None) -> Scene:
    """Make the ground at a date in memory; `restore_to` writes one of any size.

    Raises:
        ConfigError: If an option is not possible.
        MetadataError: If the date cannot be.
        RasterError: If an input cannot be read or used.
        Cancelled: If ``on_step`` returned False.
    """
    return restore(request.job(sat), on_step)
