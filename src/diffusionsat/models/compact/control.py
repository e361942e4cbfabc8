"""ControlNet of the compact family: a set of frames, of any number and in any order, steers the denoiser.

Frames are encoded one by one and once an image, since their encoder does not see the noise. At every step a
copy of the denoiser's encoder looks at them: where it enters a level, each place attends to the same place in
all frames. So cost grows linearly with the number of frames, and nothing tells them apart but their pixels
and their metadata. What a frame shows can also be taken over as it is: see `_Guess`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionsat.errors import ConfigError
from diffusionsat.models.compact.autoencoder import CompactAutoencoder, PixelNorm, ResidualBlock
from diffusionsat.models.compact.denoiser import (
    CompactDenoiser,
    Encoder,
    add_fields,
    fields_and_nulls,
    skip_widths,
)
from diffusionsat.models.encodings import Bandwidth, extended, relative
from diffusionsat.models.networks import BANDS, Frames, Residuals

Encode = Callable[[Tensor], Tensor]

_CHUNK = 8  # frames that are encoded at once


class CompactControlNet(Encoder):
    """Frames, and all that the denoiser sees, to residuals of the denoiser's skips and of its middle.

    Residuals are zero at the start, and always zero for an image without frames. Giving every frame several
    times changes nothing: frames are weighed, not summed.

    Args:
        target_channels: Widths of the denoiser's levels; None if they are the same as those of this network.
        frame_channels: Widths of the frames' encoder at half and at a quarter of the image's size.
        frame_blocks: Its residual blocks at each of these sizes.
        fusion_channels: Width of the attention to the frames.
        fusion_heads: Its heads.
        guess: Whether frames are also taken over as they are, place by place.
        **sizes: See `Encoder`.
    """

    def __init__(
        self,
        *,
        target_channels: Sequence[int] | None = None,
        frame_channels: tuple[int, int] = (64, 96),
        frame_blocks: tuple[int, int] = (1, 2),
        fusion_channels: int = 64,
        fusion_heads: int = 8,
        guess: bool = False,
        **sizes: Any,
    ) -> None:
        super().__init__(**sizes)
        own, embedding, bandwidth = (self.sizes[k] for k in ("channels", "embedding", "bandwidth"))
        target_channels = tuple(target_channels or own)
        if len(target_channels) != len(own):
            raise ValueError(f"target_channels has {len(target_channels)} entries for {len(own)} levels.")
        self.sizes |= {
            "target_channels": target_channels,
            "frame_channels": tuple(frame_channels),
            "frame_blocks": tuple(frame_blocks),
            "fusion_channels": fusion_channels,
            "fusion_heads": fusion_heads,
            "guess": guess,
        }
        half, quarter = frame_channels
        # The autoencoder's encoder, with other channels in, so that it can start from that one's weights.
        self.frame_encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * 2 * len(BANDS), half, 3, padding=1),
            nn.Sequential(*(ResidualBlock(half) for _ in range(frame_blocks[0]))),
            nn.Conv2d(half, quarter, 4, stride=2, padding=1),
            nn.Sequential(*(ResidualBlock(quarter) for _ in range(frame_blocks[1]))),
            PixelNorm(quarter),
        )
        self.frame_embed = _FrameEmbedding(embedding, bandwidth)
        self.to_keys_values = nn.ModuleList(
            nn.Conv2d(quarter, 2 * fusion_channels, 1, bias=False) for _ in own
        )
        self.fusions = nn.ModuleList(
            _Fusion(width, fusion_channels, fusion_heads, embedding) for width in (own[0], *own[:-1])
        )
        latent_channels = self.sizes["latent_channels"]
        self.guess = _Guess(own[0], quarter, fusion_channels, embedding, latent_channels) if guess else None
        self.targets = skip_widths(target_channels, self.sizes["blocks"])  # the denoiser's skips
        self.to_skips = nn.ModuleList(map(_zero_convolution, self.skips, self.targets))
        self.to_middle = _zero_convolution(own[-1], target_channels[-1])

    @classmethod
    def from_denoiser(
        cls, denoiser: CompactDenoiser, autoencoder: CompactAutoencoder | None = None, **sizes: Any
    ) -> Self:
        """A ControlNet of a denoiser that starts from its weights where they fit.

        Args:
            denoiser: What is to be steered.
            autoencoder: If given, frames are seen at the start as its encoder sees RGB.
            **sizes: What differs: arguments of this class, ``channels`` for a narrower network.
        """
        network = cls(**denoiser.sizes | {"target_channels": denoiser.sizes["channels"]} | sizes)
        copy_fitting(denoiser, network)
        if autoencoder is not None:
            copy_fitting(autoencoder.encoder, network.frame_encoder)
            _copy_first(autoencoder.encoder[1], network.frame_encoder[1])
        return network

    def encode_frames(
        self, frames: Frames, size: tuple[int, int], chunk: int = _CHUNK, encode: Encode | None = None
    ) -> tuple[Tensor, ...]:
        """Keys and values of every level, each (B, T, heads, channels, h, w), and who is there, (B, T).

        With a guess there come in between the frames' keys (B, T, channels, h, w), their latents
        (B, T, C, h, w), and which of them have these, (B, T).

        Coarser frames are brought to the images' grid by bilinear interpolation of what is valid; a pixel is
        valid there if the one that it lies in is.

        Args:
            frames: H and W a whole number of times smaller than the images.
            size: Width and height of the images, multiples of four times `factor`.
            chunk: Frames that are encoded at once.
            encode: The autoencoder's, images (N, 3, H, W) in [-1, 1] to latents; wanted for a guess.

        Raises:
            ConfigError: If the frames' shapes or size do not fit.
        """
        batch, count = check_frames(frames, size)
        if count == 0:  # layers do not take an empty batch
            absent = Frames(*(part.new_zeros(batch, 1, *part.shape[2:]) for part in frames))
            return tuple(part[:, :0] for part in self.encode_frames(absent, size, chunk, encode))
        flat = (part.flatten(0, 1).split(chunk) for part in (frames.values, frames.bands, frames.valid))
        parts = [self._encode_some(v, b, m, size, encode) for v, b, m in zip(*flat, strict=True)]
        joined = (torch.cat(same) for same in zip(*parts, strict=True))
        return tuple(part.unflatten(0, (batch, count)) for part in joined)

    def _encode_some(
        self, values: Tensor, bands: Tensor, valid: Tensor, size: tuple[int, int], encode: Encode | None
    ) -> tuple[Tensor, ...]:
        """As `encode_frames`, of frames (N, ...)."""
        given = bands[:, :, None, None] & valid[:, None] & values.isfinite()
        present = given.flatten(1).any(1)
        dtype = self.conv_in.weight.dtype
        pixels = on_grid(torch.where(given, values, 0).to(dtype), given.to(dtype), size)
        maps = self.frame_encoder(torch.cat(pixels, dim=1))
        found = []
        for level, conv in enumerate(self.to_keys_values):
            pair = conv(F.avg_pool2d(maps, 2**level)).unflatten(1, (2, self.sizes["fusion_heads"], -1))
            found += [part.contiguous() for part in pair.unbind(1)]
        if self.guess is not None:
            assert encode is not None, "a guess is of the autoencoder's latents"
            colours = slice(3)  # of `BANDS`
            latents = encode(2 * pixels[0][:, colours] - pixels[1][:, colours])  # 0 where nothing was seen
            found += [self.guess.keys(maps), latents, present & bands[:, colours].all(1)]
        return *found, present

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
        """What is to be added to the denoiser's skips and to its middle.

        Args:
            latents: Noisy latents, (B, C, h, w).
            time: As in `CompactDenoiser.forward`, and so the next two.
            text: (B, T, text_width).
            text_mask: (B, T).
            numbers: Metadata of the image, (B, 7), NaN unknown.
            features: What `encode_frames` gave.
            frame_numbers: Metadata of the frames, (B, T, 7), NaN unknown.
        """
        dtype = self.conv_in.weight.dtype
        *maps, present = features
        embedded = F.silu(self.embed(time, text, text_mask, numbers)).to(dtype)
        of_frames = F.silu(self.frame_embed(numbers, frame_numbers)).to(dtype)

        def enter(level: int, x: Tensor) -> Tensor:
            keys, values = maps[2 * level : 2 * level + 2]
            return self.fusions[level](x, embedded, of_frames, keys, values, present)

        x = self.conv_in(latents)
        skips, middle = self.encode(x, embedded, text.to(latents.dtype), text_mask, enter)
        some = present.any(1)[:, None, None, None].to(dtype)
        to_skips = [some * conv(skip) for conv, skip in zip(self.to_skips, skips, strict=True)]
        to_middle = some * self.to_middle(middle)
        if self.guess is None:
            return Residuals(to_skips, to_middle)
        fine = skips[self.sizes["blocks"]]  # the last of the finest level
        return Residuals(to_skips, to_middle, *self.guess(fine, embedded, of_frames, *maps[-3:]))


class _FrameEmbedding(nn.Module):
    """Embedding of a frame's metadata and of its difference to that of the image, each with its null."""

    def __init__(self, width: int, bandwidth: Bandwidth) -> None:
        super().__init__()
        self.bandwidth, self.width = bandwidth, width
        example = self._features(torch.zeros(1, 7), torch.zeros(1, 7))
        self.fields, self.nulls = fields_and_nulls(example, width)

    def forward(self, numbers: Tensor, frames: Tensor) -> Tensor:
        """(B, T, width) of the images' numbers (B, 7) and the frames' (B, T, 7)."""
        batch, count, _ = frames.shape
        features = self._features(numbers.repeat_interleave(count, 0), frames.flatten(0, 1))
        total = self.nulls["days"].new_zeros(batch * count, self.width)
        return add_fields(total, features, self.fields, self.nulls).view(batch, count, self.width)

    def _features(self, image: Tensor, frame: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        return extended(frame, self.bandwidth) | relative(image, frame, self.bandwidth)


class _Fusion(nn.Module):
    """Each place of the features attends to the same place in all frames; what it finds is added."""

    def __init__(self, width: int, channels: int, heads: int, embedding: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"fusion_channels is {channels}, which is no multiple of {heads} heads.")
        self.heads = heads
        self.norm = PixelNorm(width)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.q = nn.Conv2d(width, channels, 1, bias=False)
        self.of_frame = nn.Linear(embedding, 2 * channels + heads)
        # Not zero at the start: the residuals are, and one more zero would keep the frames out for longer.
        self.out = nn.Conv2d(channels, width, 1)

    def forward(
        self, x: Tensor, embedded: Tensor, of_frames: Tensor, keys: Tensor, values: Tensor, present: Tensor
    ) -> Tensor:
        """Features (B, width, h, w).

        Args:
            x: Features (B, width, h, w).
            embedded: Embedding of time, text and the image's metadata, (B, embedding).
            of_frames: Embedding of each frame's metadata, (B, T, embedding).
            keys: Of the frames' pixels, (B, T, heads, channels / heads, h, w).
            values: Likewise.
            present: Which frames there are, (B, T).
        """
        scale, shift = self.modulation(embedded)[:, :, None, None].chunk(2, dim=1)
        q = self.q(self.norm(x) * (1 + scale) + shift).unflatten(1, (self.heads, -1))
        # A frame's metadata is a part of its key and of its value, and scales what it shows, so that this can
        # count for more, or with the other sign, by how far away the date is.
        channels = self.q.out_channels
        key, value, gain = self.of_frame(of_frames).split([channels, channels, self.heads], dim=-1)
        key, value = (part.unflatten(-1, (self.heads, -1)) for part in (key, value))
        logits = (q[:, None] * keys).sum(3) + torch.einsum("bnchw,btnc->btnhw", q, key)
        logits = logits.float() / q.shape[2] ** 0.5
        absent = ~present[:, :, None, None, None]
        weights = logits.masked_fill(absent, torch.finfo(logits.dtype).min).softmax(1).to(x.dtype)
        found = (weights * (1 + gain[..., None, None]))[:, :, :, None] * values
        found = found.sum(1) + torch.einsum("btnhw,btnc->bnchw", weights, value)
        return x + self.out(found.flatten(1, 2))


class _Guess(nn.Module):
    """Each place takes a frame's latents over as they are, or none's: a softmax over the frames and nothing.

    Without it what did not change between two dates has to be drawn again, through the frozen way up, which
    takes far longer to learn than to leave it.
    """

    def __init__(self, width: int, quarter: int, channels: int, embedding: int, latent_channels: int) -> None:
        super().__init__()
        self.norm = PixelNorm(width)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.q = nn.Conv2d(width, channels, 1)
        self.keys = nn.Conv2d(quarter, channels, 1)
        # At the start nothing is taken over, and a frame's metadata changes nothing.
        self.nothing = nn.Conv2d(width, 1, 1)
        self.of_frame = nn.Linear(embedding, channels + 2 * latent_channels)
        for part in (self.nothing, self.of_frame):
            for parameter in part.parameters():
                nn.init.zeros_(parameter)
        assert self.nothing.bias is not None
        nn.init.constant_(self.nothing.bias, 3.0)

    def forward(
        self, x: Tensor, embedded: Tensor, of_frames: Tensor, keys: Tensor, latents: Tensor, shown: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The guess and its share of `Residuals`, both float32.

        Args:
            x: Features of the noisy latents, (B, width, h, w).
            embedded: As in `_Fusion.forward`, and so the next.
            of_frames: (B, T, embedding).
            keys: Of the frames' pixels, (B, T, channels, h, w).
            latents: Of the frames, (B, T, C, h, w).
            shown: Which frames have them, (B, T).
        """
        scale, shift = self.modulation(embedded)[:, :, None, None].chunk(2, dim=1)
        x = self.norm(x) * (1 + scale) + shift
        q, channels = self.q(x), latents.shape[2]
        key, gain, more = self.of_frame(of_frames)[..., None, None].split([q.shape[1], channels, channels], 2)
        logits = (q[:, None] * (keys + key)).sum(2).float() / q.shape[1] ** 0.5
        # A frame given twice weighs no more than once, against nothing too.
        logits = logits - shown.sum(1).clamp(min=1).log()[:, None, None, None]
        logits = logits.masked_fill(~shown[:, :, None, None], torch.finfo(logits.dtype).min)
        weights = torch.cat([logits, self.nothing(x).float()], dim=1).softmax(1)[:, :-1, None]
        latents = latents.float() * (1 + gain.float()) + more.float()
        return (weights * latents).sum(1), weights.sum(1)


def _zero_convolution(width_in: int, width: int) -> nn.Conv2d:
    conv = nn.Conv2d(width_in, width, 1)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


def check_frames(frames: Frames, size: tuple[int, int]) -> tuple[int, int]:
    """Batch and number of frames, if everything fits."""
    shapes = [tuple(part.shape) for part in frames]
    batch, count, _, height, width = shapes[0] if len(shapes[0]) == 5 else (0,) * 5
    per_frame = ((len(BANDS), height, width), (len(BANDS),), (height, width), (7,))
    if shapes != [(batch, count, *shape) for shape in per_frame]:
        raise ConfigError(
            f"frames have values, bands, valid and numbers of shapes {shapes}. "
            f"Give (B, T, {len(BANDS)}, H, W), (B, T, {len(BANDS)}), (B, T, H, W) and (B, T, 7)."
        )
    if size[0] % width or size[1] % height or size[0] // width != size[1] // height:
        raise ConfigError(
            f"frames are {width}x{height} pixels for images of {size[0]}x{size[1]}. Bring them to a grid "
            "that is the same whole number of times coarser along both sides."
        )
    return batch, count


def on_grid(values: Tensor, given: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Values, 0 where not given, and where they are given (both (N, C, H, W)) on a finer grid."""
    shape = (size[1], size[0])
    if values.shape[2:] == shape:
        return values, given
    weight = F.interpolate(given, shape, mode="bilinear")
    values = F.interpolate(values, shape, mode="bilinear") / weight.clamp_min(1e-3)
    given = F.interpolate(given, shape, mode="nearest")
    return values * given, given


@torch.no_grad()
def copy_fitting(source: nn.Module, target: nn.Module) -> None:
    """Copy the tensors that have the same name and shape in both."""
    theirs = source.state_dict()
    for name, tensor in target.state_dict().items():
        if name in theirs and theirs[name].shape == tensor.shape:
            tensor.copy_(theirs[name])


@torch.no_grad()
def _copy_first(source: Any, target: Any) -> None:
    """Let a convolution see frames' RGB as the autoencoder's sees an image in [-1, 1].

    With v a value in [0, 1] and m its mask the image is 2 v - m, which is 0, the padding, where m is 0.
    """
    if source.out_channels != target.out_channels:
        return
    rgb, masks = 4 * 3, 4 * len(BANDS)  # channels after the pixels are folded two by two
    target.weight[:, :rgb] = 2 * source.weight
    target.weight[:, masks : masks + rgb] = -source.weight
    target.bias.copy_(source.bias)
