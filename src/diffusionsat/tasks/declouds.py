"""Declouds: find the clouds of an image and their shadows, and make the ground under them."""

from dataclasses import dataclass

from diffusionsat.data.clouds import cloud_mask
from diffusionsat.diffusion.solvers import OnStep
from diffusionsat.errors import ConfigError, RasterError
from diffusionsat.geo.masks import Grown, marks_any, open_mask
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.inpaint import InpaintRequest, repainting
from diffusionsat.tasks.inputs import Subject, alone, known
from diffusionsat.tasks.repainting import Repainting
from diffusionsat.tasks.restoring import restore
from diffusionsat.tasks.scene import Scene

MOST_GROWN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DecloudsRequest(InpaintRequest):
    """The ground under clouds; see `InpaintRequest` too.

    Args:
        mask: Where the clouds are; None is where the image's own band of classes or flags says so, or else
            a detector, if it is installed.
        grow: Pixels by which the clouds are made larger, 0 to 64: detectors miss their rims.
    """

    grow: int = 2

    def job(self, sat: DiffusionSat) -> Repainting:
        """The job, ready to be done.

        Raises:
            ConfigError: If an option is not possible.
            RasterError: If an input cannot be read or used, nothing tells where the clouds are, or there is
                none.
        """
        if isinstance(self.grow, bool) or self.grow not in range(MOST_GROWN + 1):
            raise ConfigError(f"grow is {self.grow!r}. Give pixels, 0 to {MOST_GROWN}.")
        subject = Subject.of(alone(self.image, "declouds"))
        frame = subject.frame
        mask = cloud_mask(frame) if self.mask is None else open_mask(self.mask, frame.raster)
        if not marks_any(mask):
            raise RasterError(f"{mask.name} marks no pixel: there is no cloud to be taken away. Give a mask.")
        metadata = known(frame.metadata.replace(cloud_cover=0.0), self.metadata)
        return repainting(self, sat, "declouds", subject, Grown(mask, self.grow), metadata)


def declouds(sat: DiffusionSat, request: DecloudsRequest, on_step: OnStep | None = None) -> Scene:
    """Fill in the ground under clouds in memory; `restore_to` writes an image of any size.

    Raises:
        ConfigError: If an option is not possible.
        RasterError: If an input cannot be read or used.
        Cancelled: If ``on_step`` returned False.
    """
    return restore(request.job(sat), on_step)
