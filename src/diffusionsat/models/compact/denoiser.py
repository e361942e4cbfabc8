"""The compact denoiser: DiffusionSat's design (Khanna et al. 2024, figure 2) as a lean U-Net in plain torch.

Metadata is embedded like the timestep and added to it; text enters through cross attention, and its mean
through the same embedding. Attention stays off the finest level, where a CPU would spend most of its time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionsat.models.encodings import ENCODINGS, Bandwidth, timestep
from diffusionsat.models.networks import Residuals

GROUPS = 16
_TIME_FEATURES = 128


class Encoder(nn.Module):
    """The way down of the denoiser and its middle, which a ControlNet copies.

    Args:
        latent_channels: Channels of the latents.
        channels: Width of each level; each level is half the size of the one before.
        blocks: Residual blocks a level on the way down (one more on the way up).
        attention: For each level, whether its blocks are followed by attention.
        head_width: Channels an attention head.
        embedding: Width of the embedding of time, metadata and mean text.
        text_width: Width of the text's token states.
        bandwidth: How fine the metadata's features are.
        encoding: How metadata is encoded, one of `diffusionsat.models.encodings.ENCODINGS`.
    """

    def __init__(
        self,
        *,
        latent_channels: int = 4,
        channels: tuple[int, ...] = (64, 128, 256),
        blocks: int = 2,
        attention: tuple[bool, ...] = (False, True, True),
        head_width: int = 32,
        embedding: int = 384,
        text_width: int = 384,
        bandwidth: Bandwidth | None = None,
        encoding: str = "extended",
    ) -> None:
        super().__init__()
        if len(attention) != len(channels):
            raise ValueError(f"attention has {len(attention)} entries for {len(channels)} levels.")
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding is {encoding!r}; it can be {' or '.join(ENCODINGS)}.")
        bandwidth = bandwidth or Bandwidth()
        self.sizes: dict[str, Any] = {
            "latent_channels": latent_channels,
            "channels": tuple(channels),
            "blocks": blocks,
            "attention": tuple(attention),
            "head_width": head_width,
            "embedding": embedding,
            "text_width": text_width,
            "bandwidth": bandwidth,
            "encoding": encoding,
        }
        self.factor = 2 ** (len(channels) - 1)  # latents' sides must be multiples of this
        self.skips = skip_widths(channels, blocks)
        self.embed = Conditioning(embedding, text_width, bandwidth, encoding)
        self.conv_in = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        width = channels[0]
        for level, (wider, attend) in enumerate(zip(channels, attention, strict=True)):
            if level > 0:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
            for _ in range(blocks):
                self.down.append(self.block(width, wider, attend))
                width = wider
        self.middle = nn.ModuleList([self.block(width, width, True), self.block(width, width, False)])

    def block(self, width_in: int, width: int, attend: bool) -> "Block":
        """A block of this network's sizes."""
        head_width = self.sizes["head_width"] if attend else None
        return Block(width_in, width, self.sizes["embedding"], self.sizes["text_width"], head_width)

    def encode(
        self,
        x: Tensor,
        embedded: Tensor,
        text: Tensor,
        text_mask: Tensor,
        enter: Callable[[int, Tensor], Tensor] | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """What the way up takes: the features of every skip, of widths `skips`, and of the middle.

        Args:
            x: What ``conv_in`` made of the latents, (B, channels[0], h, w).
            embedded: Embedding after its nonlinearity, (B, embedding).
            text: Token states, (B, T, text_width).
            text_mask: (B, T), True on tokens.
            enter: Changes the features as they enter a level, whose number is the first argument.
        """
        enter = enter or (lambda _, x: x)
        x, level = enter(0, x), 0
        skips = [x]
        for layer in self.down:
            if isinstance(layer, Block):
                x = layer(x, embedded, text, text_mask)
            else:
                level += 1
                x = enter(level, layer(x))
            skips.append(x)
        for layer in self.middle:
            x = layer(x, embedded, text, text_mask)
        return skips, x


def skip_widths(channels: Sequence[int], blocks: int) -> list[int]:
    """Widths of the features that an `Encoder` of these levels hands over, in their order."""
    before = (channels[0], *channels)  # each level starts from the width of the one above
    return [width for i, wider in enumerate(channels) for width in (before[i], *[wider] * blocks)]


class CompactDenoiser(Encoder):
    """Noisy latents, a time, text and metadata to the prediction that the model was trained for.

    Args:
        **sizes: See `Encoder`.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        channels, blocks = self.sizes["channels"], self.sizes["blocks"]
        width, skips = channels[-1], list(self.skips)
        self.up = nn.ModuleList()
        for level, narrower in reversed(list(enumerate(channels))):
            for _ in range(blocks + 1):
                self.up.append(self.block(width + skips.pop(), narrower, self.sizes["attention"][level]))
                width = narrower
            if level > 0:
                self.up.append(_Upsample(width))
        self.norm_out = nn.GroupNorm(GROUPS, width)
        self.conv_out = nn.Conv2d(width, self.sizes["latent_channels"], 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        text: Tensor,
        text_mask: Tensor,
        metadata: Tensor,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """Predict, in the dtype of the latents.

        Args:
            latents: Noisy latents, (B, C, h, w); h and w multiples of `factor`.
            time: Time, (B,), 0 (clean) to 1 (noise).
            text: Token states, (B, T, text_width).
            text_mask: (B, T), True on tokens, False on padding.
            metadata: Numbers as `diffusionsat.models.encodings.numbers` gives them, (B, 7), NaN unknown.
            residuals: What a ControlNet adds. A guess is of what flow matching calls clean.

        Returns:
            Prediction, (B, C, h, w).
        """
        embedded = F.silu(self.embed(time, text, text_mask, metadata)).to(self.conv_in.weight.dtype)
        text = text.to(latents.dtype)
        skips, x = self.encode(self.conv_in(latents), embedded, text, text_mask)
        if residuals is not None:
            skips = [skip + more for skip, more in zip(skips, residuals.skips, strict=True)]
            x = x + residuals.middle
        for layer in self.up:
            if isinstance(layer, Block):
                x = layer(torch.cat([x, skips.pop()], dim=1), embedded, text, text_mask)
            else:
                x = layer(x)
        velocity = self.conv_out(F.silu(self.norm_out(x)))
        if residuals is None or residuals.guess is None or residuals.share is None:
            return velocity
        # The clean estimate, latents - time * velocity, moves towards the guess by time * share.
        clean = latents.float() - time.float()[:, None, None, None] * velocity.float()
        return (velocity.float() + residuals.share * clean - residuals.guess).to(velocity.dtype)


class Conditioning(nn.Module):
    """Sum of the embeddings of time, of each field of metadata (or its learned null) and of the mean text.

    The features are computed in float32, whatever the precision of the weights.
    """

    def __init__(self, width: int, text_width: int, bandwidth: Bandwidth, encoding: str) -> None:
        super().__init__()
        self.bandwidth, self.encode = bandwidth, ENCODINGS[encoding]
        self.time = _perceptron(_TIME_FEATURES, width)
        self.text = nn.Linear(text_width, width)
        self.fields, self.nulls = fields_and_nulls(self.encode(torch.zeros(1, 7), bandwidth), width)

    def forward(self, time: Tensor, text: Tensor, text_mask: Tensor, metadata: Tensor) -> Tensor:
        """Embedding (B, width); arguments as in `CompactDenoiser.forward`."""
        dtype = self.text.weight.dtype
        weights = text_mask.to(dtype)[:, :, None]
        mean_text = (text.to(dtype) * weights).sum(1) / weights.sum(1)
        total = self.time(timestep(1000 * time.float(), _TIME_FEATURES).to(dtype)) + self.text(mean_text)
        return add_fields(total, self.encode(metadata, self.bandwidth), self.fields, self.nulls)


Features = dict[str, tuple[Tensor, Tensor]]  # of each field, (N, F), and whether it is known, (N,)


def fields_and_nulls(example: Features, width: int) -> tuple[nn.ModuleDict, nn.ParameterDict]:
    """For each field a perceptron of its features, and what stands for it where it is unknown."""
    sizes = {name: features.shape[1] for name, (features, _) in example.items()}
    return (
        nn.ModuleDict({name: _perceptron(size, width) for name, size in sizes.items()}),
        nn.ParameterDict({name: nn.Parameter(0.1 * torch.randn(width)) for name in sizes}),
    )


def add_fields(total: Tensor, features: Features, fields: nn.ModuleDict, nulls: nn.ParameterDict) -> Tensor:
    """Add each field's embedding, or its null, to an embedding (N, width)."""
    for name, (values, known) in features.items():
        total = total + torch.where(known[:, None], fields[name](values.to(total.dtype)), nulls[name])
    return total


def _perceptron(size: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, 128), nn.SiLU(), nn.Linear(128, width))


class Block(nn.Module):
    """A residual block modulated by the embedding, then attention if ``head_width`` is given."""

    def __init__(
        self, width_in: int, width: int, embedding: int, text_width: int, head_width: int | None
    ) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(GROUPS, width_in)
        self.conv_in = nn.Conv2d(width_in, width, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.norm = nn.GroupNorm(GROUPS, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)
        self.shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)
        self.attention = None if head_width is None else _Attention(width, text_width, head_width)

    def forward(self, x: Tensor, embedded: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Features (B, width, h, w) of x, (B, width_in, h, w)."""
        scale, shift = self.modulation(embedded)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv_in(F.silu(self.norm_in(x)))
        hidden = self.conv(F.silu(self.norm(hidden) * (1 + scale) + shift))
        x = self.shortcut(x) + hidden
        return x if self.attention is None else self.attention(x, text, text_mask)


class _Attention(nn.Module):
    """Self-attention, cross attention to the text and a feed-forward part, each added to its input."""

    def __init__(self, width: int, text_width: int, head_width: int) -> None:
        super().__init__()
        self.heads = width // head_width
        self.norm_self = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out_self = nn.Linear(width, width)
        self.norm_cross = nn.LayerNorm(width)
        self.norm_text = nn.LayerNorm(text_width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(text_width, 2 * width, bias=False)
        self.out_cross = nn.Linear(width, width)
        self.norm_hidden = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(2 * width, width)
        for last in (self.out_self, self.out_cross, self.down):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        q, k, v = self._heads(self.qkv(self.norm_self(x)), 3)
        x = x + self.out_self(_merge(F.scaled_dot_product_attention(q, k, v)))
        (q,) = self._heads(self.q(self.norm_cross(x)), 1)
        k, v = self._heads(self.kv(self.norm_text(text)), 2)
        x = x + self.out_cross(
            _merge(F.scaled_dot_product_attention(q, k, v, attn_mask=text_mask[:, None, None, :]))
        )
        hidden, gate = self.up(self.norm_hidden(x)).chunk(2, dim=-1)
        x = x + self.down(hidden * F.gelu(gate))
        return x.view(b, h, w, c).permute(0, 3, 1, 2)

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        b, t, _ = x.shape
        return x.view(b, t, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _merge(x: Tensor) -> Tensor:
    """(B, heads, T, width) to (B, T, heads * width)."""
    return x.transpose(1, 2).flatten(2)


class _Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
