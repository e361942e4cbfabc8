"""SatUNet: the U-Net of Stable Diffusion 2.1 that also takes seven numbers of metadata."""

from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from diffusionsat.models.published.loading import FromFolder
from diffusionsat.models.published.metadata import embed, metadata_perceptrons, rows


class SatUNet(FromFolder, UNet2DConditionModel):  # pyright: ignore[reportIncompatibleMethodOverride]
    """U-Net whose embedding of the timestep has the metadata's added (Khanna et al. 2024, section 3.1).

    Every argument but the last two is diffusers', under its published name and default.

    Args:
        use_metadata: Whether there is metadata; without it the network is Stable Diffusion's.
        num_metadata: Numbers of metadata.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        center_input_sample: bool = False,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: tuple[str, ...] = (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        mid_block_type: str | None = "UNetMidBlock2DCrossAttn",
        up_block_types: tuple[str, ...] = (
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
        ),
        only_cross_attention: bool | tuple[bool, ...] = False,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int | tuple[int, ...] = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1,
        act_fn: str = "silu",
        norm_num_groups: int | None = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 1280,
        attention_head_dim: int | tuple[int, ...] = 8,
        dual_cross_attention: bool = False,
        use_linear_projection: bool = False,
        class_embed_type: str | None = None,
        num_class_embeds: int | None = None,
        upcast_attention: bool = False,
        resnet_time_scale_shift: str = "default",
        time_embedding_type: str = "positional",
        timestep_post_act: str | None = None,
        time_cond_proj_dim: int | None = None,
        conv_in_kernel: int = 3,
        conv_out_kernel: int = 3,
        projection_class_embeddings_input_dim: int | None = None,
        use_metadata: bool = True,
        num_metadata: int = 7,
    ) -> None:
        given = dict(locals())
        for name in ("self", "__class__", "use_metadata", "num_metadata"):
            given.pop(name)
        super().__init__(**given)
        # The numbers pass through the same sinusoid as the timestep.
        self.metadata_embedding = None
        if use_metadata:
            width = block_out_channels[0]
            self.metadata_embedding = metadata_perceptrons(num_metadata, width, 4 * width, act_fn)

    def get_class_embed(self, sample: Tensor, class_labels: Tensor | None) -> Tensor | None:
        """What diffusers adds to the timestep's embedding: here that of the metadata."""
        if self.metadata_embedding is None:
            return super().get_class_embed(sample, class_labels)
        known = rows(class_labels, len(sample), len(self.metadata_embedding), sample.device)
        return embed(self.time_proj, self.metadata_embedding, known, sample.dtype)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride], the published order
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        metadata: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Predict, with the published call.

        Args:
            sample: Noisy latents, (B, 4, h, w).
            timestep: (B,) or one for all; any number.
            encoder_hidden_states: Token states, (B, T, cross_attention_dim).
            metadata: Normalised numbers (B, 7), (1, 7) or (7,), NaN unknown; None is all unknown. Keep
                them in float32.
            **options: diffusers' further arguments: ``down_block_additional_residuals``,
                ``mid_block_additional_residual``, ``return_dict`` and so on.

        Returns:
            As diffusers: an object whose ``sample`` is the prediction, or a tuple with ``return_dict=False``.
        """
        return super().forward(sample, timestep, encoder_hidden_states, class_labels=metadata, **options)
