"""`DiffusionSat`: the networks of a checkpoint, ready for every job."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, TypeVar, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from diffusionsat.checkpoints.layout import Config, content_hash, read_config
from diffusionsat.checkpoints.shipped import find
from diffusionsat.checkpoints.tensors import load_strictly
from diffusionsat.diffusion.denoisers import PREDICTIONS, Denoiser, denoiser
from diffusionsat.diffusion.guidance import Guidance, guided
from diffusionsat.diffusion.schedules import flow_time
from diffusionsat.diffusion.solvers import SOLVERS, OnStep
from diffusionsat.errors import CheckpointError, ConfigError
from diffusionsat.metadata import Metadata
from diffusionsat.models.compact.autoencoder import FACTOR, CompactAutoencoder
from diffusionsat.models.compact.denoiser import CompactDenoiser
from diffusionsat.models.compact.text import Prompter, TextEncoder
from diffusionsat.models.encodings import Bandwidth, numbers

if TYPE_CHECKING:
    from diffusionsat.tasks.scene import Scene

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


class DiffusionSat:
    """A checkpoint's networks with what is needed to use them.

    Made by `from_pretrained`; the jobs are its methods.

    Args:
        config: The checkpoint's configuration.
        network: Denoising network.
        autoencoder: Images to latents and back.
        prompter: Words to token states.
        checkpoint: Hash of the checkpoint, 64 hexadecimal digits.
        device: Where the networks are.
        precision: ``"fp32"`` or ``"bf16"``.
    """

    def __init__(
        self,
        config: Config,
        network: CompactDenoiser,
        autoencoder: CompactAutoencoder,
        prompter: Prompter,
        *,
        checkpoint: str,
        device: torch.device,
        precision: str,
    ) -> None:
        self.config, self.checkpoint, self.device, self.precision = config, checkpoint, device, precision
        dtype = PRECISIONS[precision]
        self.network = _channels_last(network.to(device)).eval()
        for name, part in self.network.named_children():
            part.to(torch.float32 if name == "embed" else dtype)  # metadata stays exact until it is embedded
        self.autoencoder = _channels_last(autoencoder.to(device, dtype)).eval()
        self.prompter = prompter
        self.prompter.encoder.to(device, torch.float32).eval()

    @classmethod
    def from_pretrained(
        cls, path_or_name: str | Path = "compact", *, device: str = "auto", precision: str = "auto"
    ) -> Self:
        """Load a checkpoint.

        Args:
            path_or_name: A folder, or a name that `diffusionsat models` shows.
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
            precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the device is fast at it.

        Raises:
            CheckpointError: If it is absent, damaged, foreign, mismatched or unsafe.
            ConfigError: If the device or precision is unknown or not there.
        """
        folder = find(path_or_name)
        config = read_config(folder)
        where = _device(device)
        # Initial weights are drawn in vain, but the meta device would import for over a second.
        with torch.random.fork_rng(devices=[]):
            network = _build(CompactDenoiser, config.denoiser, folder)
            autoencoder = _build(CompactAutoencoder, config.autoencoder, folder)
            encoder = _build(TextEncoder, config.text_encoder, folder)
        load_strictly(network, folder / "denoiser.safetensors")
        load_strictly(autoencoder, folder / "autoencoder.safetensors")
        load_strictly(encoder, folder / "text_encoder.safetensors")
        prompter = _prompter(folder, encoder, config.max_tokens)
        _check_fit(folder / "config.json", config, network, autoencoder, prompter)
        return cls(
            config,
            network,
            autoencoder,
            prompter,
            checkpoint=content_hash(folder),
            device=where,
            precision=_precision(precision, where),
        )

    @property
    def multiple(self) -> int:
        """Width and height of an image are multiples of this, in pixels."""
        return FACTOR * self.network.factor

    @property
    def factor(self) -> int:
        """Pixels of the image per pixel of the latents."""
        return FACTOR

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.network.conv_in.in_channels

    def conditioned(
        self, prompts: Sequence[str], metadata: Sequence[Metadata], negative: str, guidance: Guidance
    ) -> Denoiser:
        """A denoiser of a batch under its prompts and metadata, guided.

        Args:
            prompts: One an image.
            metadata: One an image.
            negative: What the estimate without text is given instead of nothing.
            guidance: Strengths.
        """
        states, mask = self.prompter([*prompts, negative])
        known = numbers(metadata).to(self.device)
        unknown = torch.full_like(known, torch.nan)
        count = len(prompts)

        def conditions(given: tuple[bool, bool]) -> tuple[Tensor, Tensor, Tensor]:
            text, meta = given
            rows = slice(0, count) if text else torch.full((count,), count)
            return states[rows], mask[rows], known if meta else unknown

        def estimates(x: Tensor, sigma: float, given: list[tuple[bool, bool]]) -> list[Tensor]:
            parts = zip(*(conditions(g) for g in given), strict=True)
            text, text_mask, meta = (torch.cat(part) for part in parts)

            def network(latents: Tensor, time: Tensor) -> Tensor:
                latents = latents.to(PRECISIONS[self.precision], memory_format=torch.channels_last)
                return self.network(latents, time, text, text_mask, meta)

            together = denoiser(network, self.config.prediction, flow_time)
            return list(together(x.repeat(len(given), 1, 1, 1), sigma).chunk(len(given)))

        return guided(estimates, guidance)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Pixels, uint8 (B, H, W, 3), of latents (B, C, H/4, W/4)."""
        image = self.autoencoder.decode(
            latents.to(PRECISIONS[self.precision], memory_format=torch.channels_last)
        )
        pixels = ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray) -> Tensor:
        """Latents, float32 (B, C, H/4, W/4), of pixels, uint8 (B, H, W, 3)."""
        image = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.autoencoder.encode(
            image.to(PRECISIONS[self.precision], memory_format=torch.channels_last)
        ).float()

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


_Network = TypeVar("_Network", bound=torch.nn.Module)


def _channels_last(network: _Network) -> _Network:
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue], torch's stub lacks it


def _build(kind: Callable[..., Any], sizes: dict[str, Any], folder: Path) -> Any:
    try:
        sizes = dict(sizes)
        if "bandwidth" in sizes:
            sizes["bandwidth"] = Bandwidth(**sizes["bandwidth"])
        return kind(**sizes)
    except Exception as error:  # sizes come from a file and can be wrong in any way
        raise CheckpointError(
            f"{folder / 'config.json'}: {kind.__name__} cannot have these sizes: {error}."
        ) from None


def _check_fit(
    file: Path, config: Config, network: CompactDenoiser, autoencoder: CompactAutoencoder, prompter: Prompter
) -> None:
    """Refuse parts that load but do not fit together, and defaults that cannot be."""
    text, defaults = prompter.encoder, config.defaults
    multiple = FACTOR * network.factor
    problems = {
        "prediction": config.prediction not in PREDICTIONS,
        "max_tokens": not 3 <= config.max_tokens <= text.positions.num_embeddings,
        "denoiser.text_width": network.embed.text.in_features != text.tokens.embedding_dim,
        "denoiser.latent_channels": network.conv_in.in_channels != len(autoencoder.latent_scale),
        "text_encoder.vocabulary": prompter.tokenizer.get_vocab_size() > text.tokens.num_embeddings,
        "defaults.size": any(side < 1 or side % multiple for side in defaults.size),
        "defaults.solver": defaults.solver not in SOLVERS,
        "defaults.steps": defaults.steps < 1,
        "defaults.guidance": not 0 <= defaults.guidance <= 100,
        "defaults.gsd": not 1e-3 <= defaults.gsd <= 1e6,
        "defaults.shift": not 0 < defaults.shift < 1e6,
    }
    for key, wrong in problems.items():
        if wrong:
            raise CheckpointError(f"{file}: {key} does not fit the other parts of the checkpoint.")


def _prompter(folder: Path, encoder: TextEncoder, max_tokens: int) -> Prompter:
    file = folder / "tokenizer.json"
    try:
        return Prompter(file.read_text(encoding="utf-8"), encoder, max_tokens)
    except FileNotFoundError:
        raise CheckpointError(
            f"{file} is missing. The checkpoint is incomplete: copy or make it again."
        ) from None
    except Exception as error:  # tokenizers raises bare exceptions
        raise CheckpointError(f"{file} is no tokenizer: {error}.") from None


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
        cpu = getattr(torch.cpu, "get_capabilities", dict)()
        fast = {"cuda": True, "cpu": cpu.get("avx512_bf16") or cpu.get("amx_bf16")}
        return "bf16" if fast.get(device.type) else "fp32"
    if name not in PRECISIONS:
        raise ConfigError(f"precision is {name!r}. Give auto, fp32 or bf16.")
    return name
