"""In-paint: make a hole in an image anew, in the manner of what lies around it and of other dates."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusionsat.diffusion.solvers import OnStep
from diffusionsat.errors import RasterError
from diffusionsat.geo.masks import Gaps, MaskSource, marks_any, open_mask
from diffusionsat.geo.rasters import Raster
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.inputs import (
    Source,
    Subject,
    alone,
    control_of,
    files_of,
    hashes,
    known,
    opened,
    placed,
    ranges_of,
)
from diffusionsat.tasks.repainting import Repainting, check_feather
from diffusionsat.tasks.restoring import restore
from diffusionsat.tasks.sampling import MOST_SAMPLES, UNGUIDED, SamplingRequest, check_count
from diffusionsat.tasks.scene import Scene
from diffusionsat.tasks.views import view_of, without


@dataclass(frozen=True, slots=True, kw_only=True)
class InpaintRequest(SamplingRequest):
    """A hole made anew; see `SamplingRequest` too.

    Args:
        image: The image; see `diffusionsat.data.frames.open_frame`.
        mask: Where it is made anew; see `diffusionsat.geo.masks.open_mask`. None is where it has no data.
        references: Images of the same ground at other dates.
        metadata: What is known better than the file says.
        feather: Pixels around the hole over which new fades into old, 0 to 64.
        samples: Images that are made; the hole is filled with their mean.
        control: Name of a ControlNet; None is the model's for this job, ``""`` is none.
    """

    image: Source = None
    mask: MaskSource | None = None
    references: Sequence[Source] = ()
    metadata: Metadata | None = None
    feather: int = 4
    samples: int = 1
    control: str | None = None

    def job(self, sat: DiffusionSat) -> Repainting:
        """The job, ready to be done.

        Raises:
            ConfigError: If an option is not possible.
            RasterError: If an input cannot be read or used.
        """
        subject = Subject.of(alone(self.image, "inpaint"))
        raster = subject.frame.raster
        hole = Gaps(raster, subject.colours) if self.mask is None else open_mask(self.mask, raster)
        if self.mask is None and not marks_any(hole):
            raise RasterError(f"{raster.name} has no gap to fill: every pixel is valid. Give a mask.")
        return repainting(self, sat, "inpaint", subject, hole, known(subject.frame.metadata, self.metadata))


def repainting(
    request: InpaintRequest,
    sat: DiffusionSat,
    task: str,
    subject: Subject,
    hole: Raster,
    metadata: Metadata,
) -> Repainting:
    """The job of a hole that is known."""
    feather = check_feather(request.feather)
    frame = subject.frame
    references = opened(request.references, task) if request.references else []
    control = control_of(sat, request.control, "temporal")
    ranges = ranges_of(sat, control)
    around = without(view_of(frame, frame.raster, metadata=metadata, ranges=ranges), hole)
    return Repainting(
        sat,
        request.settings(sat, UNGUIDED),
        metadata,
        (frame.raster.width, frame.raster.height),
        grid=frame.raster.grid,
        views=[
            around,
            *(view_of(f, frame.raster, metadata=placed(f, metadata), ranges=ranges) for f in references),
        ],
        control=control,
        task=task,
        output=subject.output(),
        samples=check_count("samples", request.samples, MOST_SAMPLES),
        said=subject.frame.tags(),
        inputs=hashes([frame, *references]),
        files=[*files_of([frame, *references]), *hole.files],
        more={"feather": feather, "bands_copied": subject.copied},
        frame=frame,
        hole=hole,
        feather=feather,
    )


def inpaint(sat: DiffusionSat, request: InpaintRequest, on_step: OnStep | None = None) -> Scene:
    """Fill a hole in memory; `restore_to` writes an image of any size.

    Raises:
        ConfigError: If an option is not possible.
        RasterError: If an input cannot be read or used.
        Cancelled: If ``on_step`` returned False.
    """
    return restore(request.job(sat), on_step)
