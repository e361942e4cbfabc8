"""The published 3D ControlNet: a sequence of condition images, each with its own metadata."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.controlnets.controlnet import zero_module
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn

from diffusionsat.errors import ConfigError
from diffusionsat.models.published.controlnet import ControlNetModel, check_condition


class ConditionEmbedding3D(nn.Module):
    """Condition frames (B, C, T, H, W) to features an eighth of the size; here their order matters."""

    def __init__(self, out_channels: int, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.conv_in = nn.Conv3d(in_channels, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for narrow, wide in pairwise(channels):
            self.blocks.append(nn.Conv3d(narrow, narrow, 3, padding=1))
            self.blocks.append(nn.Conv3d(narrow, wide, (1, 3, 3), padding=(0, 1, 1), stride=(1, 2, 2)))
        self.conv_out = zero_module(nn.Conv3d(channels[-1], out_channels, 3, padding=1))

    def forward(self, condition: Tensor) -> Tensor:
        """Features (B, out_channels, T, H / 8, W / 8)."""
        frames = condition.shape[2]
        if frames == 1:
            # A frame of zeros, as the padding has it: of a single one with an odd number of channels oneDNN's
            # bfloat16 convolution reads memory that nobody wrote (torch 2.13).
            condition = F.pad(condition, (0, 0, 0, 0, 0, 1))
        x = F.silu(self.conv_in(condition)[:, :, :frames])
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


class _ClampStraightThrough(torch.autograd.Function):
    """clamp(x, 0, 1) whose gradient passes as if it were not there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(0, 1)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> Tensor:
        return gradient


class ControlNetModel3D(ControlNetModel):
    """ControlNet of a sequence (Khanna et al. 2024, section 3.2): frames share the encoder, mixed at the end.

    At the first skip and at each downsampler's, a temporal transformer mixes the frames, by a learned share;
    then frames are summed, so that residuals grow with their number. Any number of frames works with the same
    weights.

    Args:
        conditioning_in_channels: Bands of a frame.
        use_temporal_transformer: Whether there are temporal transformers.
        use_metadata: Whether there is metadata.
        num_metadata: Numbers of metadata.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: tuple[str, ...] = (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        only_cross_attention: bool | tuple[bool, ...] = False,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1,
        act_fn: str = "silu",
        norm_num_groups: int | None = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 1280,
        attention_head_dim: int | tuple[int, ...] = 8,
        use_linear_projection: bool = False,
        class_embed_type: str | None = None,
        num_class_embeds: int | None = None,
        upcast_attention: bool = False,
        resnet_time_scale_shift: str = "default",
        projection_class_embeddings_input_dim: int | None = None,
        controlnet_conditioning_channel_order: str = "rgb",
        conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256),
        global_pool_conditions: bool = False,
        conditioning_in_channels: int = 3,
        use_temporal_transformer: bool = False,
        use_metadata: bool = True,
        num_metadata: int = 7,
    ) -> None:
        given = dict(locals())
        for name in ("self", "__class__", "use_temporal_transformer"):
            given.pop(name)
        super().__init__(**given)
        self.controlnet_cond_embedding = ConditionEmbedding3D(
            block_out_channels[0], conditioning_in_channels, conditioning_embedding_out_channels
        )
        self.controlnet_down_blocks = nn.ModuleList(
            zero_module(nn.Conv3d(conv.in_channels, conv.out_channels, 1))
            for conv in self.controlnet_down_blocks
        )
        middle = block_out_channels[-1]
        self.controlnet_mid_block = zero_module(nn.Conv3d(middle, middle, 1))
        if use_temporal_transformer:
            self._add_temporal_blocks(
                block_out_channels, layers_per_block, attention_head_dim, norm_num_groups
            )

    def _add_temporal_blocks(
        self, channels: tuple[int, ...], layers: int, head_dim: int | tuple[int, ...], groups: int | None
    ) -> None:
        widths = (head_dim,) * len(channels) if isinstance(head_dim, int) else head_dim
        # The first block's heads and groups are fixed; in the others `attention_head_dim` is the width of a
        # head, though in the U-Net it is their number. Released weights depend on both.
        blocks: list[nn.Module] = [
            TransformerTemporalModel(8, 64, in_channels=channels[0], norm_num_groups=32)
        ]
        for level, (channel, width) in enumerate(zip(channels, widths, strict=True)):
            blocks += [nn.Identity() for _ in range(layers)]
            if level < len(channels) - 1:
                heads = channel // width
                blocks.append(
                    TransformerTemporalModel(heads, width, in_channels=channel, norm_num_groups=groups or 32)
                )
        self.temporal_blocks = nn.ModuleList(blocks)
        self.mixing_attns = nn.ParameterList(
            nn.Parameter(torch.zeros(()), requires_grad=not isinstance(b, nn.Identity)) for b in blocks
        )

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: float = 1.0,
        metadata: Tensor | None = None,
        cond_metadata: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guess_mode: bool = False,
        return_dict: bool = True,
    ) -> Any:
        """Residuals for a U-Net, with the published call.

        Args:
            sample: Noisy latents, (B, 4, h, w).
            timestep: (B,) or one for all.
            encoder_hidden_states: Token states, (B, L, cross_attention_dim).
            controlnet_cond: Frames (B, C, T, H, W) in [0, 1], at the size of the output.
            conditioning_scale: Factor of the residuals.
            metadata: The target's normalised numbers, as in `SatUNet.forward`.
            cond_metadata: The frames': (B, 7, T), or (B, 7) for the same in every frame; None adds nothing.
            attention_mask: (B, L), 1 on tokens, 0 on padding.
            cross_attention_kwargs: For diffusers' attention.
            guess_mode: Let the residuals grow from a tenth to the whole towards the middle.
            return_dict: Return an object, not a tuple.

        Returns:
            ``down_block_res_samples``, a list, and ``mid_block_res_sample``.

        Raises:
            ConfigError: If the frames have another number of bands or another size.
        """
        if controlnet_cond.ndim != 5:
            raise ConfigError(
                f"controlnet_cond has shape {tuple(controlnet_cond.shape)}; "
                "a 3D ControlNet takes (B, C, T, H, W)."
            )
        check_condition(controlnet_cond, self.controlnet_cond_embedding.conv_in.in_channels, channel_axis=1)
        batch, frames = len(sample), controlnet_cond.shape[2]
        embedding = self.embedding(batch, timestep, metadata, sample.device)[:, None]
        embedding = embedding + self.frames_embedding(cond_metadata, batch, frames, sample.device)
        if self.config["controlnet_conditioning_channel_order"] == "bgr":
            controlnet_cond = controlnet_cond.flip(1)
        features = self.controlnet_cond_embedding(controlnet_cond)
        if features.shape[3:] != sample.shape[2:]:
            raise ConfigError(
                f"the frames of {tuple(controlnet_cond.shape[3:])} pixels become features of "
                f"{tuple(features.shape[3:])}, but the latents are {tuple(sample.shape[2:])}."
            )
        # From here to the residuals every frame is an image of its own, frames fastest.
        x = self.conv_in(sample).repeat_interleave(frames, 0) + features.transpose(1, 2).flatten(0, 1)
        text = encoder_hidden_states.repeat_interleave(frames, 0)
        if attention_mask is not None:
            attention_mask = attention_mask.repeat_interleave(frames, 0)
        skips, middle = self.encode(x, embedding.flatten(0, 1), text, attention_mask, cross_attention_kwargs)
        residuals = [
            self._mixed(i, conv(_by_sequence(skip, frames)), frames).sum(2)
            for i, (conv, skip) in enumerate(zip(self.controlnet_down_blocks, skips, strict=True))
        ]
        middle = self.controlnet_mid_block(_by_sequence(middle, frames)).sum(2)
        return self.residuals(residuals, middle, conditioning_scale, guess_mode, return_dict)

    def _mixed(self, i: int, residual: Tensor, frames: int) -> Tensor:
        """Residual i, (B, c, T, h, w), with its share of temporal mixing."""
        if not self.config["use_temporal_transformer"] or isinstance(self.temporal_blocks[i], nn.Identity):
            return residual
        images = residual.transpose(1, 2).flatten(0, 1)
        temporal = self.temporal_blocks[i](images, num_frames=frames, return_dict=False)[0]
        share = _ClampStraightThrough.apply(self.mixing_attns[i])
        return _by_sequence(share * temporal + (1 - share) * images, frames)


def _by_sequence(images: Tensor, frames: int) -> Tensor:
    """(B * T, c, h, w) as (B, c, T, h, w)."""
    return images.unflatten(0, (-1, frames)).transpose(1, 2)
