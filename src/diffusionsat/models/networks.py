"""What every family of networks offers, so that jobs and solvers need not know which one they have."""

import re
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Networks(Protocol):
    """A denoising network with its autoencoder and text encoder.

    Attributes:
        factor: Pixels of the image per pixel of the latents, along a side.
        multiple: Width and height of an image are multiples of this, in pixels.
        latent_channels: Channels of the latents.
    """

    factor: int
    multiple: int
    latent_channels: int

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move everything to a device and a precision, ready to predict."""
        ...

    def lost(self, prompt: str) -> str | None:
        """The first word of a prompt that does not fit; None if all of it does."""
        ...

    def text(self, prompts: list[str]) -> tuple[Tensor, ...]:
        """What `predict` wants to know of some prompts: tensors with a row a prompt."""
        ...

    def predict(self, latents: Tensor, time: Tensor, text: tuple[Tensor, ...], numbers: Tensor) -> Tensor:
        """The network's prediction.

        Args:
            latents: As the network knows them, (B, C, h, w).
            time: The network's times, (B,).
            text: Rows of what `text` gave.
            numbers: Metadata as `models.encodings.numbers` gives it, (B, 7), NaN unknown.
        """
        ...

    def encode(self, image: Tensor) -> Tensor:
        """Latents, scaled for the network, float32, of an image (B, 3, H, W) in [-1, 1]; always the same."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Image (B, 3, H, W), about [-1, 1], float32, of latents as `encode` gives them."""
        ...


def lost_word(tokenizer: "Tokenizer", prompt: str, most: int) -> str | None:
    """The first word beyond ``most`` tokens, those of begin and end included; None if all fit."""
    encoding = tokenizer.encode(prompt)
    if len(encoding.ids) <= most:
        return None
    start, _ = encoding.offsets[most - 1]
    return next(word.group() for word in re.finditer(r"\S+", prompt) if word.end() > start)
