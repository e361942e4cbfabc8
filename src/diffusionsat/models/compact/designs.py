"""The published designs of a ControlNet at compact size, which the compact one is compared with.

Both add an embedding of the condition's pixels to what the copied encoder makes of the latents; frames carry
no masks and are black where nothing was measured, and their metadata passes through the same perceptrons as
the image's and is added to it. All is computed anew at every step. Source: Khanna et al. 2024, section 3.2
and figure 3, and the released code; `diffusionsat.models.published` has the same at the published size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionsat.models.compact.autoencoder import CompactAutoencoder
from diffusionsat.models.compact.control import CompactControlNet, check_frames, copy_fitting, on_grid
from diffusionsat.models.compact.denoiser import GROUPS, CompactDenoiser, Encoder, add_fields
from diffusionsat.models.networks import BANDS, Frames, Residuals

_UNDATED = 1e9  # days; later than any date


class _Published(Encoder, ABC):
    """What both designs share; a subclass has the condition embedding, and `residuals`.

    Args:
        **sizes: See `Encoder`; they are the denoiser's.
    """

    design: ClassVar[str]

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.targets, middle = self.skips, self.sizes["channels"][-1]
        self.to_skips = nn.ModuleList(_zeroed(nn.Conv2d(width, width, 1)) for width in self.targets)
        self.to_middle = _zeroed(nn.Conv2d(middle, middle, 1))

    @classmethod
    def from_denoiser(
        cls, denoiser: CompactDenoiser, autoencoder: CompactAutoencoder | None = None, **sizes: Any
    ) -> Self:
        """A ControlNet of a denoiser that starts from its weights.

        Args:
            denoiser: What is to be steered.
            autoencoder: Not asked for.
            **sizes: What differs: arguments of this class.

        Raises:
            ValueError: If the levels are not the denoiser's.
        """
        network = cls(**denoiser.sizes | sizes)
        if network.skips != denoiser.skips:
            raise ValueError(f"the levels of {cls.design} must be those of the denoiser")
        copy_fitting(denoiser, network)
        return network

    def encode_frames(
        self,
        frames: Frames,
        size: tuple[int, int],
        chunk: int | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """What is seen of the frames, before any layer.

        Args:
            frames: As in `CompactControlNet.encode_frames`, and so the next.
            size: Width and height of the images.
            chunk: Not asked for, and neither is the next.
            encode: The autoencoder's.

        Returns:
            Pixels on the images' grid, (B, T, 13, H, W), 0 where there is none; dates in days, about, (B, T),
            NaN unknown; and who is there, (B, T).

        Raises:
            ConfigError: If the frames' shapes or size do not fit.
        """
        shape = check_frames(frames, size)
        given = frames.bands[..., None, None] & frames.valid[:, :, None] & frames.values.isfinite()
        dtype = self.conv_in.weight.dtype
        values = torch.where(given, frames.values, 0).to(dtype)
        pixels, _ = on_grid(values.flatten(0, 1), given.flatten(0, 1).to(dtype), size)
        year, month, day = frames.numbers[..., 4:].unbind(-1)
        date = 372 * year + 31 * month.nan_to_num(nan=6.5) + day.nan_to_num(nan=15.5)
        return pixels.unflatten(0, shape), date, given.flatten(2).any(2)

    @abstractmethod
    def residuals(
        self,
        latents: Tensor,
        time: Tensor,
        text: Tensor,
        text_mask: Tensor,
        numbers: Tensor,
        features: tuple[Tensor, ...],
        frame_numbers: Tensor,
    ) -> Residuals:
        """See `CompactControlNet.residuals`."""

    def embed_frames(self, numbers: Tensor) -> Tensor:
        """Embedding (N, width) of frames' metadata (N, 7) by the perceptrons of the image's."""
        total = self.embed.text.bias.new_zeros(len(numbers), self.sizes["embedding"])
        features = self.embed.encode(numbers, self.embed.bandwidth)
        return add_fields(total, features, self.embed.fields, self.embed.nulls)


class StackedControlNet(_Published):
    """The published 2D ControlNet: frames lie on each other along the channels, in the order of their dates.

    Which metadata is which frame's is lost: that of all frames is summed. Of more frames than there is room
    for, the first that are given are seen.

    Args:
        most_frames: What there is room for; where there are fewer the rest is 0.
        condition_channels: Widths of the condition embedding at the image's size, its half and its quarter.
        **sizes: See `Encoder`.
    """

    design = "published-2d"

    def __init__(
        self, *, most_frames: int = 8, condition_channels: tuple[int, ...] = (32, 96, 384), **sizes: Any
    ) -> None:
        super().__init__(**sizes)
        self.sizes |= {
            "design": self.design,
            "most_frames": most_frames,
            "condition_channels": tuple(condition_channels),
        }
        width = self.sizes["channels"][0]
        self.condition = _ConditionEmbedding(most_frames * len(BANDS), condition_channels, width, depth=1)

    def residuals(
        self,
        latents: Tensor,
        time: Tensor,
        text: Tensor,
        text_mask: Tensor,
        numbers: Tensor,
        features: tuple[Tensor, ...],
        frame_numbers: Tensor,
    ) -> Residuals:
        """See `CompactControlNet.residuals`."""
        pixels, date, present = features
        order = _by_date(date, present, self.sizes["most_frames"])
        image = torch.arange(len(order), device=order.device)[:, None]
        stacked = pixels[image, order].flatten(1, 2)
        lacking = self.condition.conv_in.in_channels - stacked.shape[1]
        stacked = F.pad(stacked, (0, 0, 0, 0, 0, lacking))
        known = self.embed_frames(frame_numbers[image, order].flatten(0, 1)).unflatten(0, order.shape)
        embedded = self.embed(time, text, text_mask, numbers) + (present[image, order, None] * known).sum(1)
        embedded = F.silu(embedded).to(self.conv_in.weight.dtype)
        x = self.conv_in(latents) + self.condition(stacked)
        skips, middle = self.encode(x, embedded, text.to(latents.dtype), text_mask)
        to_skips = [conv(skip) for conv, skip in zip(self.to_skips, skips, strict=True)]
        return Residuals(to_skips, self.to_middle(middle))


class SequenceControlNet(_Published):
    """The published 3D ControlNet: every frame passes the encoder as an image of its own, then all are added.

    Frames meet in the condition embedding, whose convolutions reach over time, and in temporal transformers
    at the first skip and where a level is left. Residuals grow with the number of frames.

    Args:
        condition_channels: Widths of the condition embedding at the image's size, its half and its quarter.
        **sizes: See `Encoder`.
    """

    design = "published-3d"

    def __init__(self, *, condition_channels: tuple[int, ...] = (16, 48, 256), **sizes: Any) -> None:
        super().__init__(**sizes)
        self.sizes |= {"design": self.design, "condition_channels": tuple(condition_channels)}
        channels, level = self.sizes["channels"], self.sizes["blocks"] + 1
        self.condition = _ConditionEmbedding(len(BANDS), condition_channels, channels[0], depth=3)
        self.temporal = nn.ModuleDict(
            {
                str(i): _Temporal(self.targets[i], self.sizes["head_width"])
                for i in range(0, len(self.targets), level)
            }
        )

    def residuals(
        self,
        latents: Tensor,
        time: Tensor,
        text: Tensor,
        text_mask: Tensor,
        numbers: Tensor,
        features: tuple[Tensor, ...],
        frame_numbers: Tensor,
    ) -> Residuals:
        """See `CompactControlNet.residuals`."""
        pixels, date, present = features
        order = _by_date(date, present)
        image, place = present.gather(1, order).nonzero(as_tuple=True)  # those of an image one after another
        frame = order[image, place]
        pixels, known, weight = pixels[image, frame], frame_numbers[image, frame], 1.0
        if not len(image):  # layers take no empty batch: a frame that is absent counts for nothing
            image, weight = image.new_zeros(1), 0.0
            pixels, known = pixels.new_zeros(1, *pixels.shape[1:]), known.new_zeros(1, 7)
        embedded = self.embed(time, text, text_mask, numbers)[image] + self.embed_frames(known)
        embedded = F.silu(embedded).to(self.conv_in.weight.dtype)
        x = self.conv_in(latents)[image] + self.condition(pixels, partial(_beside, image=image))
        skips, middle = self.encode(x, embedded, text.to(latents.dtype)[image], text_mask[image])

        def summed(x: Tensor) -> Tensor:
            return weight * x.new_zeros(len(latents), *x.shape[1:]).index_add(0, image, x)

        to_skips = [conv(skip) for conv, skip in zip(self.to_skips, skips, strict=True)]
        for i, temporal in self.temporal.items():
            to_skips[int(i)] = _by_sequence(temporal, to_skips[int(i)], image)
        return Residuals([summed(residual) for residual in to_skips], summed(self.to_middle(middle)))


DESIGNS = {
    "compact": CompactControlNet,
    StackedControlNet.design: StackedControlNet,
    SequenceControlNet.design: SequenceControlNet,
}
ControlNet = CompactControlNet | StackedControlNet | SequenceControlNet


class _ConditionEmbedding(nn.Module):
    """Pixels (N, bands, H, W) to features (N, width, H / 4, W / 4), zero at the start.

    Args:
        bands: Of a frame, or of a stack of them.
        channels: Widths at the image's size, at its half and its quarter.
        width: Of the features.
        depth: Frames that the convolutions without stride see: 3 is what a 3D convolution sees.
    """

    def __init__(self, bands: int, channels: tuple[int, ...], width: int, depth: int) -> None:
        super().__init__()
        if len(channels) != 3:
            raise ValueError(f"condition_channels has {len(channels)} entries; give 3")
        self.conv_in = nn.Conv2d(depth * bands, channels[0], 3, padding=1)
        self.mixing = nn.ModuleList(nn.Conv2d(depth * c, c, 3, padding=1) for c in channels[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels))
        self.conv_out = _zeroed(nn.Conv2d(depth * channels[-1], width, 3, padding=1))

    def forward(self, x: Tensor, beside: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        x = F.silu(self.conv_in(beside(x)))
        for mixing, down in zip(self.mixing, self.down, strict=True):
            x = F.silu(down(F.silu(mixing(beside(x)))))
        return self.conv_out(beside(x))


class _Temporal(nn.Module):
    """Each place attends to the same place in all frames of an image, by a learned share that is 0 at first.

    The same as `TransformerTemporalModel` of diffusers with two self-attentions.
    """

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.heads = max(1, width // head_width)
        self.share = nn.Parameter(torch.zeros(1))
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norm_hidden = nn.LayerNorm(width)
        self.up = nn.Linear(width, 8 * width)
        self.down = nn.Linear(4 * width, width)
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, T, c, h, w)."""
        b, t, c, h, w = x.shape
        normed = self.norm(x.transpose(1, 2))  # over all frames of an image at once
        tokens = self.proj_in(normed.permute(0, 3, 4, 2, 1).reshape(b * h * w, t, c))
        for norm, qkv, out in zip(self.norms, self.qkv, self.out, strict=True):
            q, k, v = qkv(norm(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            tokens = tokens + out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        hidden, gate = self.up(self.norm_hidden(tokens)).chunk(2, dim=-1)
        found = self.proj_out(tokens + self.down(hidden * F.gelu(gate)))
        share = self.share + (self.share.clamp(0, 1) - self.share).detach()  # whose gradient passes the clamp
        return x + share * found.view(b, h, w, t, c).permute(0, 3, 4, 1, 2)


def _zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


def _by_date(date: Tensor, present: Tensor, most: int | None = None) -> Tensor:
    """Places (B, T) of frames in the order of dates, the undated after these and absent ones last.

    Args:
        date: (B, T), NaN unknown.
        present: (B, T).
        most: Only the first so many that are there count.
    """
    there = (~present).int().argsort(dim=1, stable=True)[:, :most]
    key = torch.where(present, date.nan_to_num(nan=_UNDATED), torch.inf).gather(1, there)
    return there.gather(1, key.argsort(dim=1, stable=True))


def _beside(x: Tensor, image: Tensor) -> Tensor:
    """Each frame with those before and after it in its image, zeros where there is none, (N, 3 c, h, w).

    A convolution of this is one in three dimensions, with zeros beyond both ends of time.

    Args:
        x: Frames, those of an image one after another, (N, c, h, w).
        image: Whose they are, (N,).
    """
    follows = (image[1:] == image[:-1])[:, None, None, None]
    none = torch.zeros_like(x[:1])
    return torch.cat([torch.cat([none, x[:-1] * follows]), x, torch.cat([x[1:] * follows, none])], dim=1)


def _by_sequence(temporal: nn.Module, x: Tensor, image: Tensor) -> Tensor:
    """What a layer of sequences (B, T, ...) makes of frames (N, ...), those of images of as many together."""
    counts, mixed = (image[:, None] == image).sum(1), torch.empty_like(x)
    for count in counts.unique().tolist():
        rows = counts == count
        mixed[rows] = temporal(x[rows].unflatten(0, (-1, count))).flatten(0, 1).to(x.dtype)
    return mixed
