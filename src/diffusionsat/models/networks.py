"""What every family of networks offers, so that jobs and solvers need not know which one they have."""

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What a condition frame may show, by STAC's common names; the order of `Frames.values`.
BANDS = (
    *("red", "green", "blue", "nir", "rededge071", "rededge075", "rededge078"),
    *("nir08", "swir16", "swir22", "coastal", "nir09", "cirrus"),
)


class Residuals(NamedTuple):
    """What a ControlNet adds in a denoising network.

    Attributes:
        skips: Added to the features of every skip.
        middle: Added to those of the middle.
        guess: Clean latents that the ControlNet holds for likely, (B, C, h, w), times the share that they are
            to have in the network's own estimate of these; None without.
        share: That share, 0 to 1, (B, 1, h, w).
    """

    skips: list[Tensor]
    middle: Tensor
    guess: Tensor | None = None
    share: Tensor | None = None

    def scaled(self, strength: float) -> "Residuals":
        """All of them times a number."""
        guess, share = (None if part is None else strength * part for part in (self.guess, self.share))
        return Residuals([strength * skip for skip in self.skips], strength * self.middle, guess, share)

    def among(self, rows: Tensor) -> "Residuals":
        """All of them in a larger batch, zero for its other images.

        Args:
            rows: True where one of them belongs, in order, (B,).
        """

        def spread(part: Tensor) -> Tensor:
            whole = part.new_zeros(len(rows), *part.shape[1:])
            whole[rows] = part
            return whole

        guess, share = (None if part is None else spread(part) for part in (self.guess, self.share))
        return Residuals([spread(skip) for skip in self.skips], spread(self.middle), guess, share)


class Frames(NamedTuple):
    """Condition frames of a batch of images; their order means nothing, and any of them may be absent.

    Attributes:
        values: (B, T, 13, H, W), of the bands in `BANDS`, 0 to 1; anything, NaN too, where there is none.
        bands: (B, T, 13), True where a frame has a band; a frame without any is absent.
        valid: (B, T, H, W), True where there is a measurement.
        numbers: Metadata of each as `models.encodings.numbers` gives it, (B, T, 7), NaN unknown.
    """

    values: Tensor
    bands: Tensor
    valid: Tensor
    numbers: Tensor

    def to(self, device: torch.device) -> "Frames":
        """The frames on a device."""
        return Frames(*(part.to(device) for part in self))


class Networks(Protocol):
    """A denoising network with its autoencoder and text encoder.

    Attributes:
        factor: Pixels of the image per pixel of the latents, along a side.
        multiple: Width and height of an image are multiples of this, in pixels.
        latent_channels: Channels of the latents.
        halo: Latent pixels around a tile on which its pixels depend, and its latents; None if all do.
    """

    factor: int
    multiple: int
    latent_channels: int
    halo: int | None

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move everything to a device and a precision, ready to predict."""
        ...

    def lost(self, prompt: str) -> str | None:
        """The first word of a prompt that does not fit; None if all of it does."""
        ...

    def text(self, prompts: list[str]) -> tuple[Tensor, ...]:
        """What `predict` wants to know of some prompts: tensors with a row a prompt."""
        ...

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        text: tuple[Tensor, ...],
        numbers: Tensor,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """The network's prediction.

        Args:
            latents: As the network knows them, (B, C, h, w).
            time: The network's times, (B,).
            text: Rows of what `text` gave.
            numbers: Metadata as `models.encodings.numbers` gives it, (B, 7), NaN unknown.
            residuals: What a `Control` gave.
        """
        ...

    def encode(self, image: Tensor) -> Tensor:
        """Latents, scaled for the network, float32, of an image (B, 3, H, W) in [-1, 1]; always the same."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Image (B, 3, H, W), about [-1, 1], float32, of latents as `encode` gives them."""
        ...


class Control(Protocol):
    """A ControlNet: frames steer a denoising network; they are looked at once, and used at every step.

    Attributes:
        ranges: Reflectance that it is shown as 0 and 1, by the place of a band in `BANDS`; None if it is
            shown frames as people are.
    """

    ranges: dict[int, tuple[float, float]] | None

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move everything to a device and a precision, ready to steer."""
        ...

    def frames(self, frames: Frames, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """What `residuals` wants to know of the pixels: tensors with a row an image.

        Args:
            frames: H and W a whole number of times smaller than the images.
            size: Width and height of the images, in pixels.

        Raises:
            ConfigError: If the frames do not fit.
        """
        ...

    def residuals(
        self,
        latents: Tensor,
        time: Tensor,
        text: tuple[Tensor, ...],
        numbers: Tensor,
        frames: tuple[Tensor, ...],
        frame_numbers: Tensor,
    ) -> Residuals:
        """What is to be added in the denoising network.

        Args:
            latents: As in `Networks.predict`, and so the next three.
            time: (B,).
            text: Rows of what `Networks.text` gave.
            numbers: Metadata of the images, (B, 7), NaN unknown.
            frames: Rows of what `frames` gave.
            frame_numbers: Metadata of the frames, (B, T, 7), NaN unknown.
        """
        ...


def lost_word(tokenizer: "Tokenizer", prompt: str, most: int) -> str | None:
    """The first word beyond ``most`` tokens, those of begin and end included; None if all fit."""
    encoding = tokenizer.encode(prompt)
    if len(encoding.ids) <= most:
        return None
    start, _ = encoding.offsets[most - 1]
    return next(word.group() for word in re.finditer(r"\S+", prompt) if word.end() > start)
