"""The published 2D ControlNet: one condition image of any number of bands, with metadata of its own."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.controlnets.controlnet import ControlNetModel as DiffusersControlNet
from diffusers.models.controlnets.controlnet import ControlNetOutput, zero_module
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from diffusionsat.errors import ConfigError, MetadataError
from diffusionsat.models.published.loading import FromFolder
from diffusionsat.models.published.metadata import embed, metadata_perceptrons, rows


class ConditionEmbedding(nn.Module):
    """Condition image (B, C, H, W) to features at the size of the latents.

    Args:
        out_channels: Channels of the features.
        in_channels: Bands of the condition.
        channels: Widths.
        scale: How many times smaller than the output the condition is: 1, 2, 4 or 8; strides bring it to 8.
    """

    def __init__(self, out_channels: int, in_channels: int, channels: tuple[int, ...], scale: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for narrow, wide in pairwise(channels):
            stride = 2 if scale < 8 else 1
            scale *= stride
            self.blocks.append(nn.Conv2d(narrow, narrow, 3, padding=1))
            self.blocks.append(nn.Conv2d(narrow, wide, 3, padding=1, stride=stride))
        self.conv_out = zero_module(nn.Conv2d(channels[-1], out_channels, 3, padding=1))

    def forward(self, condition: Tensor) -> Tensor:
        """Features (B, out_channels, H * scale / 8, W * scale / 8)."""
        x = F.silu(self.conv_in(condition))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


class ControlNetModel(FromFolder, DiffusersControlNet):  # pyright: ignore[reportIncompatibleMethodOverride]
    """ControlNet (Zhang et al. 2023) with the metadata of the target and of the condition.

    Both metadata pass through the same perceptrons and are summed: the network cannot tell them apart.

    Args:
        conditioning_in_channels: Bands of the condition.
        conditioning_scale: How many times smaller than the output the condition is: 1, 2, 4 or 8.
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
        conditioning_scale: int = 1,
        use_metadata: bool = True,
        num_metadata: int = 7,
    ) -> None:
        given = dict(locals())
        ours = ("conditioning_in_channels", "conditioning_scale", "use_metadata", "num_metadata")
        for name in ("self", "__class__", *ours):
            given.pop(name)
        super().__init__(**given)
        self.controlnet_cond_embedding = ConditionEmbedding(
            block_out_channels[0],
            conditioning_in_channels,
            conditioning_embedding_out_channels,
            conditioning_scale,
        )
        self.metadata_embedding = None
        if use_metadata:
            width = block_out_channels[0]
            self.metadata_embedding = metadata_perceptrons(num_metadata, width, 4 * width, act_fn)

    @classmethod
    def from_unet(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, unet: UNet2DConditionModel, *, load_weights_from_unet: bool = True, **ours: Any
    ) -> Any:
        """A ControlNet that starts from a U-Net's encoder; arguments that a U-Net lacks go by name."""
        known = cls._get_init_keys(cls)
        config = {name: value for name, value in unet.config.items() if name in known} | ours
        network = cls(**config)
        if load_weights_from_unet:
            parts = ["conv_in", "time_proj", "time_embedding", "down_blocks", "mid_block"]
            if (
                network.metadata_embedding is not None
                and getattr(unet, "metadata_embedding", None) is not None
            ):
                parts.append("metadata_embedding")
            for part in parts:
                getattr(network, part).load_state_dict(getattr(unet, part).state_dict())
        return network

    def _embed(self, metadata: Tensor) -> Tensor:
        return embed(self.time_proj, self.metadata_embedding or nn.ModuleList(), metadata, self.dtype)

    def embedding(
        self, batch: int, timestep: Tensor | float, metadata: Tensor | None, device: torch.device
    ) -> Tensor:
        """Embedding of the timestep and of the target's metadata, (batch, E)."""
        t = torch.as_tensor(timestep, device=device).reshape(-1).expand(batch)
        total = self.time_embedding(self.time_proj(t).to(self.dtype))
        if self.metadata_embedding is not None:
            total = total + self._embed(rows(metadata, batch, len(self.metadata_embedding), device))
        return total

    def frames_embedding(
        self, metadata: Tensor | None, batch: int, frames: int | None, device: torch.device
    ) -> Tensor:
        """Embedding of each condition frame's metadata, (batch, frames, E).

        Args:
            metadata: Normalised numbers (batch, 7, frames), or (batch, 7), the same in every frame; one row
                serves a whole batch; NaN is unknown. None adds nothing.
            batch: Of the images.
            frames: Number of frames; None takes it from the metadata.
            device: Of the result.

        Raises:
            MetadataError: If the shape is another.
        """
        if metadata is None or self.metadata_embedding is None:
            return torch.zeros(batch, frames or 1, 1, device=device, dtype=self.dtype)
        count = len(self.metadata_embedding)
        known = torch.as_tensor(metadata, dtype=torch.float32, device=device)
        if known.ndim < 3:
            known = rows(known, batch, count, device)[:, :, None].expand(batch, count, frames or 1)
        if (
            known.shape[1] != count
            or known.shape[0] not in (1, batch)
            or frames not in (None, known.shape[2])
        ):
            raise MetadataError(
                f"cond_metadata has shape {tuple(known.shape)}; the network takes ({batch}, {count}) or "
                f"({batch}, {count}, {frames or 'frames'}) normalised numbers."
            )
        known = known.expand(batch, *known.shape[1:]).nan_to_num(nan=0.0)
        return self._embed(known.movedim(1, 2))

    def encode(
        self,
        x: Tensor,
        embedding: Tensor,
        text: Tensor,
        attention_mask: Tensor | None,
        attention: dict | None,
    ) -> tuple[list[Tensor], Tensor]:
        """Features of the copied encoder: those of every skip, and of the middle block."""
        if attention_mask is not None:
            attention_mask = ((1 - attention_mask.to(x.dtype)) * -10_000.0)[:, None]
        known = {
            "encoder_hidden_states": text,
            "attention_mask": attention_mask,
            "cross_attention_kwargs": attention,
        }
        skips = [x]
        for block in self.down_blocks:
            crosses = getattr(block, "has_cross_attention", False)
            x, more = block(hidden_states=x, temb=embedding, **(known if crosses else {}))
            skips += more
        return skips, self.mid_block(x, embedding, **known)

    def residuals(
        self, skips: list[Tensor], middle: Tensor, scale: float, guess_mode: bool, return_dict: bool
    ) -> Any:
        """The scaled residuals as diffusers hands them to a U-Net."""
        scales = [scale] * (len(skips) + 1)
        if guess_mode and not self.config["global_pool_conditions"]:
            scales = (torch.logspace(-1, 0, len(skips) + 1) * scale).tolist()
        skips = [skip * s for skip, s in zip(skips, scales[:-1], strict=True)]
        middle = middle * scales[-1]
        if self.config["global_pool_conditions"]:
            skips, middle = [s.mean((2, 3), keepdim=True) for s in skips], middle.mean((2, 3), keepdim=True)
        if not return_dict:
            return skips, middle
        return ControlNetOutput(skips, middle)  # pyright: ignore[reportArgumentType], its stub says one tensor

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride], the published order
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
            encoder_hidden_states: Token states, (B, T, cross_attention_dim).
            controlnet_cond: Condition (B, C, H, W) in [0, 1], the config's ``conditioning_scale`` times
                smaller than the output.
            conditioning_scale: Factor of the residuals.
            metadata: The target's normalised numbers, as in `SatUNet.forward`.
            cond_metadata: The condition's: (B, 7), or (B, 7, K), whose embeddings are summed; None adds none.
            attention_mask: (B, T), 1 on tokens, 0 on padding.
            cross_attention_kwargs: For diffusers' attention.
            guess_mode: Let the residuals grow from a tenth to the whole towards the middle.
            return_dict: Return an object, not a tuple.

        Returns:
            ``down_block_res_samples``, a list, and ``mid_block_res_sample``.

        Raises:
            ConfigError: If the condition has another number of bands or another size.
        """
        embedding = self.embedding(len(sample), timestep, metadata, sample.device)
        embedding = embedding + self.frames_embedding(cond_metadata, len(sample), None, sample.device).sum(1)
        if self.config["controlnet_conditioning_channel_order"] == "bgr":
            controlnet_cond = controlnet_cond.flip(1)
        check_condition(controlnet_cond, self.controlnet_cond_embedding.conv_in.in_channels, channel_axis=1)
        features = self.controlnet_cond_embedding(controlnet_cond)
        if features.shape[2:] != sample.shape[2:]:
            raise ConfigError(
                f"the condition of {tuple(controlnet_cond.shape[2:])} pixels becomes features of "
                f"{tuple(features.shape[2:])}, but the latents are {tuple(sample.shape[2:])}."
            )
        x = self.conv_in(sample) + features
        skips, middle = self.encode(
            x, embedding, encoder_hidden_states, attention_mask, cross_attention_kwargs
        )
        skips = [conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        return self.residuals(
            skips, self.controlnet_mid_block(middle), conditioning_scale, guess_mode, return_dict
        )


def check_condition(condition: Tensor, channels: int, channel_axis: int) -> None:
    """Refuse a condition of another number of bands.

    Raises:
        ConfigError: With both numbers.
    """
    if condition.shape[channel_axis] != channels:
        raise ConfigError(
            f"controlnet_cond has shape {tuple(condition.shape)}, {condition.shape[channel_axis]} bands; "
            f"this ControlNet takes {channels}."
        )
