"""`DiffusionSat`: the networks of a checkpoint, ready for every job.

It is long because every job has a method here, with its options and errors told.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypedDict, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from diffusionsat.checkpoints.facts import Facts, read_facts
from diffusionsat.checkpoints.opening import Opened, open_checkpoint
from diffusionsat.checkpoints.shipped import find
from diffusionsat.diffusion.denoisers import Denoiser, denoiser
from diffusionsat.diffusion.guidance import Guidance, Told, guided
from diffusionsat.diffusion.solvers import OnStep
from diffusionsat.errors import CheckpointError, ConfigError
from diffusionsat.metadata import Metadata
from diffusionsat.models.encodings import numbers
from diffusionsat.models.networks import Control, Frames, Residuals

if TYPE_CHECKING:
    from diffusionsat.tasks.features import Features
    from diffusionsat.tasks.scene import Scene

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class SamplingOptions(TypedDict, total=False):
    """Options of `DiffusionSat.generate` that are fields of its request."""

    size: tuple[int, int] | None
    seed: int
    steps: int | None
    solver: str | None
    guidance: float | Guidance | None
    negative: str
    strict: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """Frames that steer a batch of images.

    Args:
        control: Name of a ControlNet, one of `DiffusionSat.controls`.
        frames: Condition frames, a row an image.
        size: Width and height of the images, in pixels.
        strength: Factor of what the ControlNet adds; 0 is without.
    """

    control: str
    frames: Frames
    size: tuple[int, int]
    strength: float = 1.0


class Address(NamedTuple):
    """Where a model lies.

    Attributes:
        path: Of its folder.
        controlnets: Names and folders of ControlNets of releases.
    """

    path: str
    controlnets: tuple[tuple[str, str], ...]


class DiffusionSat:
    """A checkpoint's networks with what is needed to use them.

    Made by `from_pretrained`; the jobs are its methods.

    Args:
        opened: The checkpoint.
        device: Where the networks are to be.
        precision: ``"fp32"`` or ``"bf16"``.
        address: What opens it again in another process; None for what lies nowhere.
    """

    def __init__(
        self, opened: Opened, *, device: torch.device, precision: str, address: Address | None = None
    ) -> None:
        self.address = address
        self.config, self.networks, self.schedule = opened.config, opened.networks, opened.schedule
        self.checkpoint, self.device, self.precision = opened.digest, device, precision
        self.networks.to(device, PRECISIONS[precision])
        self._openers, self._controls = opened.controls, dict[str, Control]()

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path = "compact",
        *,
        device: str = "auto",
        precision: str = "auto",
        controlnets: Mapping[str, str | Path] | None = None,
    ) -> Self:
        """Load a checkpoint: one of ours, or a released one of the published model.

        Args:
            path_or_name: A folder; a zip of a release; or a name that `diffusionsat models` shows.
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
            precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the device is fast at it.
            controlnets: Of a published checkpoint: releases of ControlNets that steer it, by the names that
                they are to have in `controls`.

        Raises:
            CheckpointError: If it is absent, damaged, foreign, mismatched or unsafe.
            ConfigError: If the device or precision is unknown or not there.
            MissingExtraError: If it is a published one and the extra ``[published]`` is not installed.
        """
        where = _device(device)
        precision = _precision(precision, where)
        steering = {name: find(folder) for name, folder in (controlnets or {}).items()}
        path = find(path_or_name)
        address = Address(str(path.resolve()), tuple((n, str(f.resolve())) for n, f in steering.items()))
        opened = open_checkpoint(path, steering)
        if "-NC" in opened.config.licence:
            log.warning("%s is not for commercial use: %s", path_or_name, opened.config.licence)
        return cls(opened, device=where, precision=precision, address=address)

    def __reduce__(self) -> Any:
        """Pickled as its address; another process opens it once."""
        if self.address is None:
            raise ConfigError(
                "This model lies in no folder, so that other processes cannot open it. Save it first."
            )
        return _reopened, (self.address, self.device.type, self.precision, self.checkpoint)

    @cached_property
    def facts(self) -> Facts:
        """What is known of the weights: what they have learnt from, and calibrations.

        Raises:
            CheckpointError: If the checkpoint's ``facts.json`` is damaged.
        """
        return Facts() if self.address is None else read_facts(Path(self.address.path))

    @property
    def multiple(self) -> int:
        """Width and height of an image are multiples of this, in pixels."""
        return self.networks.multiple

    @property
    def factor(self) -> int:
        """Pixels of the image per pixel of the latents."""
        return self.networks.factor

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.networks.latent_channels

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of the checkpoint's ControlNets."""
        return tuple(self._openers)

    def control(self, name: str) -> Control:
        """A ControlNet, loaded when it is first asked for.

        Raises:
            CheckpointError: If it is damaged, or does not fit the model.
            ConfigError: If there is none of this name.
        """
        if name not in self._openers:
            there = f"It has {', '.join(self.controls)}." if self.controls else "It has none."
            raise ConfigError(f"The model {self.config.name} has no ControlNet {name!r}. {there}")
        if name not in self._controls:
            control = self._openers[name]()
            control.to(self.device, PRECISIONS[self.precision])
            self._controls[name] = control
        return self._controls[name]

    def conditioned(
        self,
        prompts: Sequence[str],
        metadata: Sequence[Metadata],
        negative: str,
        guidance: Guidance,
        steering: Steering | None = None,
    ) -> Denoiser:
        """A denoiser of a batch under its prompts, metadata and frames, guided.

        An estimate without metadata is without that of the frames too; one without frames is that of the
        model without the ControlNet.

        Args:
            prompts: One an image.
            metadata: One an image.
            negative: What the estimate without text is given instead of nothing.
            guidance: Strengths; that of frames counts where there are some.
            steering: Frames, and the ControlNet that sees them.

        Raises:
            ConfigError: If there is no such ControlNet, or the frames do not fit it.
        """
        text = self.networks.text([*prompts, negative])
        known = numbers(metadata).to(self.device)
        unknown = torch.full_like(known, torch.nan)
        count = len(prompts)
        with_text, without = torch.arange(count), torch.full((count,), count)
        steer = None if steering is None else self._steer(steering)

        def estimates(x: Tensor, sigma: float, given: list[Told]) -> list[Tensor]:
            rows = torch.cat([with_text if g.text else without for g in given])
            words = tuple(part[rows] for part in text)
            meta = torch.cat([known if g.metadata else unknown for g in given])

            def network(latents: Tensor, time: Tensor) -> Tensor:
                residuals = steer and steer(latents, time, words, meta, given)
                return self.networks.predict(latents, time, words, meta, residuals)

            together = denoiser(network, self.config.prediction, self.schedule.time)
            return list(together(x.repeat(len(given), 1, 1, 1), sigma).chunk(len(given)))

        return guided(estimates, replace(guidance, frames=None) if steer is None else guidance)

    def _steer(
        self, steering: Steering
    ) -> Callable[[Tensor, Tensor, tuple[Tensor, ...], Tensor, list[Told]], Residuals | None]:
        """What gives the residuals of a batch repeated, each time with what is given."""
        control, frames = self.control(steering.control), steering.frames.to(self.device)
        with torch.no_grad():
            seen = control.frames(frames, steering.size)
        unknown = torch.full_like(frames.numbers, torch.nan)

        def residuals(
            latents: Tensor, time: Tensor, text: tuple[Tensor, ...], meta: Tensor, given: list[Told]
        ) -> Residuals | None:
            steered = [g for g in given if g.frames]
            if not steered:
                return None
            those = torch.tensor([g.frames for g in given]).repeat_interleave(len(frames.numbers))
            rows = tuple(torch.cat([part] * len(steered)) for part in seen)
            of_frames = torch.cat([frames.numbers if g.metadata else unknown for g in steered])
            told = latents[those], time[those], tuple(part[those] for part in text), meta[those]
            found = control.residuals(*told, rows, of_frames).scaled(steering.strength)
            return found if bool(those.all()) else found.among(those)

        return residuals

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Pixels, uint8 (B, H, W, 3), of latents (B, C, h, w)."""
        pixels = ((self.networks.decode(latents) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray) -> Tensor:
        """Latents, float32 (B, C, h, w), of pixels from 0 to 255, uint8 or float32 (B, H, W, 3)."""
        image = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.networks.encode(image)

    @overload
    def generate(
        self,
        prompt: str = "",
        metadata: Metadata | None = None,
        *,
        n: Literal[1] = 1,
        on_step: OnStep | None = None,
        **options: Unpack[SamplingOptions],
    ) -> "Scene": ...

    @overload
    def generate(
        self,
        prompt: str = "",
        metadata: Metadata | None = None,
        *,
        n: int,
        on_step: OnStep | None = None,
        **options: Unpack[SamplingOptions],
    ) -> "Scene | list[Scene]": ...

    def generate(
        self,
        prompt: str = "",
        metadata: Metadata | None = None,
        *,
        n: int = 1,
        on_step: OnStep | None = None,
        **options: Unpack[SamplingOptions],
    ) -> "Scene | list[Scene]":
        """Make an image of words and metadata.

        Args:
            prompt: What is to be seen; may be empty.
            metadata: What is known about the image; None is nothing.
            n: Images of the same words and numbers, of consecutive index.
            on_step: Called after each step with a `StepInfo`; returning False stops and raises `Cancelled`.
            **options: ``size`` (width, height) in pixels, multiples of `multiple`; ``seed``; ``steps``;
                ``solver``; ``guidance``, a strength or a `Guidance`; ``negative``, what is not to be seen;
                ``strict``, to refuse a prompt that is too long. What is left out is the model's default.

        Returns:
            A `Scene`; a list of them if ``n`` is not 1.

        Raises:
            ConfigError: If an option is not possible.
            RasterError: If the extent cannot be mapped.
            Cancelled: If ``on_step`` returned False.
        """
        from diffusionsat.tasks.generate import GenerateRequest, generate

        request = GenerateRequest(prompt=prompt, metadata=metadata or Metadata(), n=n, **options)
        scenes = generate(self, request, on_step)
        return scenes[0] if n == 1 else scenes

    def upscale(
        self, frames: Any, *, factor: int = 4, on_step: OnStep | None = None, **options: Any
    ) -> "Scene":
        """Sharpen an image, and keep what it measured.

        Args:
            frames: An image, or several of the same ground; see `diffusionsat.data.frames.open_frame`.
            factor: Pixels that come of one along each side, 2 to 10.
            on_step: As in `generate`.
            **options: Other fields of `diffusionsat.tasks.upscale.UpscaleRequest`.

        Raises:
            ConfigError: If an option is not possible.
            RasterError: If an input cannot be read or used.
            Cancelled: If ``on_step`` returned False.
        """
        from diffusionsat.tasks.upscale import UpscaleRequest, upscale

        return upscale(self, UpscaleRequest(frames=frames, factor=factor, **options), on_step)

    def predict(self, frames: Any, *, on: str, on_step: OnStep | None = None, **options: Any) -> "Scene":
        """Make the same ground at another date.

        Args:
            frames: Dated images of the ground; see `diffusionsat.data.frames.open_frame`.
            on: The date, ``YYYY[-MM[-DD]]``.
            on_step: As in `generate`.
            **options: Other fields of `diffusionsat.tasks.predict.PredictRequest`.

        Raises:
            ConfigError: If an option is not possible.
            MetadataError: If the date cannot be.
            RasterError: If an input cannot be read or used.
            Cancelled: If ``on_step`` returned False.
        """
        from diffusionsat.tasks.predict import PredictRequest, predict

        return predict(self, PredictRequest(frames=frames, on=on, **options), on_step)

    def inpaint(
        self, image: Any, mask: Any = None, *, on_step: OnStep | None = None, **options: Any
    ) -> "Scene":
        """Make a part of an image anew, and leave the rest as it is.

        Args:
            image: The image; see `diffusionsat.data.frames.open_frame`.
            mask: Which part; see `diffusionsat.geo.masks.open_mask`. None is where it has no data.
            on_step: As in `generate`.
            **options: Other fields of `diffusionsat.tasks.inpaint.InpaintRequest`.

        Raises:
            ConfigError: If an option is not possible.
            RasterError: If an input cannot be read or used.
            Cancelled: If ``on_step`` returned False.
        """
        from diffusionsat.tasks.inpaint import InpaintRequest, inpaint

        return inpaint(self, InpaintRequest(image=image, mask=mask, **options), on_step)

    def declouds(self, image: Any, *, on_step: OnStep | None = None, **options: Any) -> "Scene":
        """Make the ground under an image's clouds.

        Args:
            image: The image; see `diffusionsat.data.frames.open_frame`.
            on_step: As in `generate`.
            **options: Other fields of `diffusionsat.tasks.declouds.DecloudsRequest`.

        Raises:
            ConfigError: If an option is not possible.
            RasterError: If an input cannot be read or used, or nothing tells where its clouds are.
            MissingExtraError: If a detector is needed that is not installed.
            Cancelled: If ``on_step`` returned False.
        """
        from diffusionsat.tasks.declouds import DecloudsRequest, declouds

        return declouds(self, DecloudsRequest(image=image, **options), on_step)

    def edit(
        self,
        image: Any,
        prompt: str,
        *,
        strength: float = 0.6,
        latents: Tensor | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> "Scene":
        """Change an image by words.

        Args:
            image: The image; see `diffusionsat.data.frames.open_frame`.
            prompt: What is to be seen.
            strength: How much is changed, above 0 and at most 1.
            latents: Noise to begin from, as `invert` gives it for this image, steps and solver, instead of
                the seed's; (1, C, h, w), for strength 1.
            on_step: As in `generate`.
            **options: Other fields of `diffusionsat.tasks.edit.EditRequest`.

        Raises:
            ConfigError: If an option is not possible.
            RasterError: If an input cannot be read or used.
            Cancelled: If ``on_step`` returned False.
        """
        from diffusionsat.tasks.edit import EditRequest, edit

        request = EditRequest(image=image, prompt=prompt, strength=strength, **options)
        return edit(self, request, on_step, latents)

    def features(
        self, image: Any, metadata: Metadata | None = None, prompt: str = "", **options: Any
    ) -> "Features":
        """What the network sees in an image: dense maps and pooled vectors of its blocks.

        Args:
            image: uint8 (H, W, 3).
            metadata: What it is told about the image; None is nothing.
            prompt: What it is told is to be seen.
            **options: ``sigma``, noise levels; ``blocks``, names; ``seed``: see
                `diffusionsat.tasks.features.FeaturesRequest`.

        Raises:
            ConfigError: If an option is not possible.
        """
        from diffusionsat.tasks.features import FeaturesRequest, features

        request = FeaturesRequest(prompt=prompt, metadata=metadata or Metadata(), **options)
        return features(self, image, request)

    def invert(self, image: Any, *, on_step: OnStep | None = None, **options: Any) -> Tensor:
        """The noise that gives an image back, (1, C, h, w); see `diffusionsat.tasks.edit.invert`.

        Args:
            image: The image; see `diffusionsat.data.frames.open_frame`.
            on_step: As in `generate`.
            **options: Fields of `diffusionsat.tasks.edit.EditRequest`: prompt, metadata, steps, solver.

        Raises:
            ConfigError: If an option is not possible.
            RasterError: If the image cannot be read or used.
        """
        from diffusionsat.tasks.edit import EditRequest, invert

        return invert(self, EditRequest(image=image, **options), on_step)


@lru_cache(maxsize=2)
def _reopened(address: Address, device: str, precision: str, checkpoint: str) -> DiffusionSat:
    sat = DiffusionSat.from_pretrained(
        address.path, device=device, precision=precision, controlnets=dict(address.controlnets)
    )
    if sat.checkpoint != checkpoint:
        raise CheckpointError(
            f"{address.path} holds another model than where the work began. Give all workers one."
        )
    return sat


def _device(name: str) -> torch.device:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if name not in there:
        raise ConfigError(f"device is {name!r}. Give auto, cpu, cuda or mps.")
    if not there[name]:
        raise ConfigError(
            f"device is {name!r}, which this machine or this build of torch does not have. Give auto or cpu."
        )
    return torch.device(name)


def _precision(name: str, device: torch.device) -> str:
    if name == "auto":
        return "bf16" if fast_at_bf16(device) else "fp32"
    if name not in PRECISIONS:
        raise ConfigError(f"precision is {name!r}. Give auto, fp32 or bf16.")
    return name


def fast_at_bf16(device: torch.device) -> bool:
    """Whether a device computes faster in bfloat16 than in float32, as CPUs with instructions for it do."""
    cpu = getattr(torch.cpu, "get_capabilities", dict)()
    fast = {"cuda": True, "cpu": cpu.get("avx512_bf16") or cpu.get("amx_bf16")}
    return bool(fast.get(device.type))
