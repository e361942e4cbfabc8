"""The compact family behind the protocol that jobs use."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffusionsat.models.compact.autoencoder import FACTOR, CompactAutoencoder
from diffusionsat.models.compact.denoiser import CompactDenoiser
from diffusionsat.models.compact.designs import ControlNet
from diffusionsat.models.compact.text import Prompter
from diffusionsat.models.networks import Frames, Residuals


class CompactNetworks:
    """The compact denoiser, autoencoder and text encoder; see `diffusionsat.models.networks.Networks`.

    Args:
        denoiser: Denoising network.
        autoencoder: Images to latents and back.
        prompter: Words to token states.
    """

    factor = FACTOR

    def __init__(
        self, denoiser: CompactDenoiser, autoencoder: CompactAutoencoder, prompter: Prompter
    ) -> None:
        self.denoiser, self.autoencoder, self.prompter = denoiser, autoencoder, prompter
        self.multiple = FACTOR * denoiser.factor
        self.latent_channels = denoiser.conv_in.in_channels
        self.halo: int | None = autoencoder.halo
        self.dtype = torch.float32

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move everything; metadata's and words' embeddings stay in float32."""
        self.dtype = dtype
        self.denoiser = _moved(self.denoiser, device, dtype)
        self.autoencoder = _channels_last(self.autoencoder.to(device, dtype)).eval()
        self.prompter.encoder.to(device, torch.float32).eval()

    def lost(self, prompt: str) -> str | None:
        """The first word of a prompt that does not fit; None if all of it does."""
        return self.prompter.lost(prompt)

    def text(self, prompts: list[str]) -> tuple[Tensor, ...]:
        """Token states (B, T, width) and their mask (B, T)."""
        return self.prompter(prompts)

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        text: tuple[Tensor, ...],
        numbers: Tensor,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """Velocity of flow matching."""
        states, mask = text
        latents = latents.to(self.dtype, memory_format=torch.channels_last)
        return self.denoiser(latents, time, states, mask, numbers, residuals)

    def encode(self, image: Tensor) -> Tensor:
        """Latents (B, C, H/4, W/4), float32, of an image (B, 3, H, W) in [-1, 1]."""
        return self.autoencoder.encode(image.to(self.dtype, memory_format=torch.channels_last)).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Image (B, 3, H, W), float32, of latents (B, C, H/4, W/4)."""
        return self.autoencoder.decode(latents.to(self.dtype, memory_format=torch.channels_last)).float()


class CompactControl:
    """A compact ControlNet; see `diffusionsat.models.networks.Control`.

    Args:
        network: What steers.
        encode: Images to latents; wanted by a network with a guess.
    """

    ranges: dict[int, tuple[float, float]] | None = None

    def __init__(self, network: ControlNet, encode: Callable[[Tensor], Tensor] | None = None) -> None:
        self.network, self.encode, self.dtype = network, encode, torch.float32

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the network; metadata's and words' embeddings stay in float32."""
        self.dtype = dtype
        self.network = _moved(self.network, device, dtype)

    def frames(self, frames: Frames, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See `CompactControlNet.encode_frames`."""
        return self.network.encode_frames(frames, size, encode=self.encode)

    def residuals(
        self,
        latents: Tensor,
        time: Tensor,
        text: tuple[Tensor, ...],
        numbers: Tensor,
        frames: tuple[Tensor, ...],
        frame_numbers: Tensor,
    ) -> Residuals:
        """See `CompactControlNet.residuals`."""
        states, mask = text
        latents = latents.to(self.dtype, memory_format=torch.channels_last)
        return self.network.residuals(latents, time, states, mask, numbers, frames, frame_numbers)


_Network = TypeVar("_Network", bound=nn.Module)


def _moved(network: _Network, device: torch.device, dtype: torch.dtype) -> _Network:
    """A network ready to predict, its metadata exact until it is embedded."""
    network = _channels_last(network.to(device)).eval()
    for name, part in network.named_children():
        part.to(torch.float32 if name in ("embed", "frame_embed") else dtype)
    return network


def _channels_last(network: _Network) -> _Network:
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue], torch's stub lacks it
