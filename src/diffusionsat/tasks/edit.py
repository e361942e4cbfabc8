"""Edit: change a real image by words and numbers; and the noise that gives an image back."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch

from diffusionsat.diffusion.inversion import invert as invert_latents
from diffusionsat.diffusion.solvers import SOLVERS, OnStep
from diffusionsat.diffusion.windows import windowed
from diffusionsat.errors import ConfigError
from diffusionsat.geo.masks import MaskSource, open_mask
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.inputs import Source, Subject, alone, files_of, hashes, known
from diffusionsat.tasks.repainting import Repainting, check_feather
from diffusionsat.tasks.restoring import restore
from diffusionsat.tasks.sampling import MOST_SAMPLES, SamplingRequest, check_count
from diffusionsat.tasks.scene import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest(SamplingRequest):
    """An image changed by words; see `SamplingRequest` too.

    Args:
        image: The image; see `diffusionsat.data.frames.open_frame`.
        strength: How much is changed, above 0 and at most 1: the share of the steps that are done.
        mask: Where it is changed; see `diffusionsat.geo.masks.open_mask`. None is everywhere.
        metadata: What the result's is to be, where it is not the image's.
        feather: Pixels around the mask over which new fades into old, 0 to 64.
        samples: Images that are made; the result is their mean.
    """

    image: Source = None
    strength: float = 0.6
    mask: MaskSource | None = None
    metadata: Metadata | None = None
    feather: int = 4
    samples: int = 1

    def job(self, sat: DiffusionSat, latents: torch.Tensor | None = None) -> Repainting:
        """The job, ready to be done.

        Args:
            sat: The model.
            latents: Noise to begin from instead of the seed's, (1, C, h, w), as `invert` gives it for this
                image, ``steps`` and ``solver``; for ``strength`` 1 and one sample.

        Raises:
            ConfigError: If an option is not possible.
            RasterError: If an input cannot be read or used.
        """
        subject = Subject.of(alone(self.image, "edit"))
        frame, raster = subject.frame, subject.frame.raster
        hole = None if self.mask is None else open_mask(self.mask, raster)
        feather = check_feather(self.feather)
        begin = None if latents is None else self._begin(latents)
        job = Repainting(
            sat,
            self.settings(sat),
            known(frame.metadata, self.metadata),
            (raster.width, raster.height),
            grid=raster.grid,
            task="edit",
            output=subject.output(),
            samples=check_count("samples", self.samples, MOST_SAMPLES),
            said=subject.frame.tags(),
            inputs=hashes([frame]),
            files=[*files_of([frame]), *([] if hole is None else hole.files)],
            more={
                "strength": self.strength,
                "feather": feather,
                "bands_copied": subject.copied,
                **({} if begin is None else {"latents": hashlib.sha256(begin.tobytes()).hexdigest()}),
            },
            frame=frame,
            hole=hole,
            feather=0 if hole is None else feather,
            strength=self.strength,
            fills=False,
            begin=begin,
        )
        assert len(job.sigmas) >= 2  # asked for here, so that a strength that cannot be is refused at once
        wanted = (sat.latent_channels, job.plan.rows.length, job.plan.columns.length)
        if begin is not None and begin.shape != wanted:
            raise ConfigError(
                f"latents are {begin.shape}, but the image needs {wanted}. `invert` gives them."
            )
        return job

    def _begin(self, latents: torch.Tensor) -> np.ndarray:
        """The noise to begin from, float32 (C, h, w)."""
        if self.strength != 1 or self.samples != 1:
            raise ConfigError(
                f"latents are the noise of one image from its first step on, but strength is {self.strength} "
                f"and samples is {self.samples}. Give strength=1 and samples=1."
            )
        if latents.ndim != 4 or len(latents) != 1 or not latents.isfinite().all():
            raise ConfigError(f"latents are {tuple(latents.shape)}. Give finite ones, (1, C, h, w).")
        return latents[0].float().cpu().numpy()


def edit(
    sat: DiffusionSat,
    request: EditRequest,
    on_step: OnStep | None = None,
    latents: torch.Tensor | None = None,
) -> Scene:
    """Change an image in memory; `restore_to` writes one of any size.

    Args:
        sat: The model.
        request: What is changed, and how.
        on_step: As for jobs.
        latents: See `EditRequest.job`.

    Raises:
        ConfigError: If an option is not possible.
        RasterError: If an input cannot be read or used.
        Cancelled: If ``on_step`` returned False.
    """
    return restore(request.job(sat, latents), on_step)


@torch.inference_mode()
def invert(sat: DiffusionSat, request: EditRequest, on_step: OnStep | None = None) -> torch.Tensor:
    """The noise that gives an image back, (1, C, h, w): DDIM inversion.

    Solved again under the same prompt and metadata, without guidance, it is the image, up to the
    autoencoder and the steps' errors: ``sat.edit(image, prompt, latents=noise, strength=1, guidance=1)``.
    An image whose sides are no multiples of what the model makes is filled up at its right and lower edge.

    Args:
        sat: The model.
        request: Image, prompt, metadata, steps and solver; ``guidance`` is 1 unless it is given.
        on_step: As for jobs.

    Raises:
        ConfigError: If an option is not possible.
        RasterError: If the image cannot be read or used.
    """
    job = replace(request, guidance=1.0 if request.guidance is None else request.guidance, strength=1.0).job(
        sat
    )
    whole = range(job.plan.rows.length), range(job.plan.columns.length)
    clean = torch.from_numpy(job.clean(*whole))[None]
    denoise = windowed(job.denoise, job.plan, job.batch)
    return invert_latents(denoise, clean, job.sigmas, SOLVERS[job.settings.solver], on_step)
