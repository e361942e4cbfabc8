"""The published pipelines (Khanna et al. 2024) on released diffusers, with the published calls.

They are diffusers' Stable Diffusion pipelines, which bring the order of operations, schedulers, LoRA and
off-loading; added are metadata, multispectral and temporal conditions, and loading.
"""

from typing import Any

import torch
from torch import Tensor

from diffusionsat.compat.conditions import condition, conditioned, image_tensor
from diffusionsat.compat.legacy import (
    Callback,
    OldMethods,
    check_options,
    count_prompts,
    each,
    with_callback,
)
from diffusionsat.errors import ConfigError, MetadataError, MissingExtraError

try:
    from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
    from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.utils.torch_utils import randn_tensor
except ImportError as error:
    raise MissingExtraError("The published pipelines", "published") from error

from diffusionsat.compat.loading import FromReleasedFolder


class DiffusionSatPipeline(FromReleasedFolder, OldMethods, StableDiffusionPipeline):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Text and metadata to images: the published single-image pipeline.

    Unlike in the published code, metadata stays in float32 whatever the precision of the text encoder (half
    precision cannot hold a longitude), may be unknown wholly or partly, and serves several images a prompt.
    """

    def prepare_metadata(
        self, batch_size: int, metadata: Any, do_classifier_free_guidance: bool, device: Any, dtype: Any
    ) -> Tensor | None:
        """Metadata as the U-Net takes it, (B, 7), or (2 B, 7) with zeros first for guidance.

        Args:
            batch_size: Number of prompts, B.
            metadata: Normalised numbers (7,), (1, 7) or (B, 7); NaN or None is unknown.
            do_classifier_free_guidance: Whether there is an unconditional half.
            device: Of the result.
            dtype: Ignored: the result is float32.

        Raises:
            MetadataError: If it is no such table of numbers.
        """
        return self._rows((self.unet,), metadata, batch_size, do_classifier_free_guidance, device, False)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride], the published order
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callback | None = None,
        callback_steps: int = 1,
        cross_attention_kwargs: dict[str, Any] | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        """Make images, with the published call.

        The unconditional half of guidance has the negative prompt and all metadata unknown.

        Args:
            prompt: One or several; or ``prompt_embeds``.
            height: In pixels, a multiple of 8; None is eight times the U-Net's ``sample_size``.
            width: Likewise.
            num_inference_steps: Steps of the scheduler.
            guidance_scale: Strength of guidance, which is on above 1.
            negative_prompt: What is not to be seen.
            num_images_per_prompt: Images of each prompt and its metadata.
            eta: Of DDIM.
            generator: Source of noise; one, or one an image.
            latents: Initial noise, (B * n, 4, height / 8, width / 8).
            prompt_embeds: Token states instead of the prompt.
            negative_prompt_embeds: Token states instead of the negative prompt.
            output_type: ``"pil"``, ``"np"``, ``"pt"`` or ``"latent"``.
            return_dict: Return an object with ``images``, not a tuple.
            callback: Called with step, timestep and latents after every ``callback_steps`` steps.
            callback_steps: See ``callback``.
            cross_attention_kwargs: For diffusers' attention.
            metadata: Normalised numbers as `prepare_metadata` takes them; None is unknown.
            **options: diffusers' further arguments: ``clip_skip``, ``guidance_rescale`` and so on.

        Raises:
            ConfigError: If an argument is none of the pipeline's.
            MetadataError: If the metadata is no such table of numbers.
        """
        check_options(options, StableDiffusionPipeline.__call__)
        batch = count_prompts(prompt, prompt_embeds)
        device = self._execution_device
        rows = each(self.prepare_metadata(batch, metadata, False, device, None), num_images_per_prompt)
        with conditioned(self.unet, metadata=rows):
            return super().__call__(
                prompt=prompt,  # pyright: ignore[reportArgumentType], its stub lacks None, here and below
                height=height or self._side(0),
                width=width or self._side(1),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                negative_prompt=negative_prompt,
                num_images_per_prompt=num_images_per_prompt,
                eta=eta,
                generator=generator,
                latents=latents,
                prompt_embeds=prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds,
                output_type=output_type,
                return_dict=return_dict,
                cross_attention_kwargs=cross_attention_kwargs,
                **with_callback(options, callback, callback_steps),
            )

    def _side(self, axis: int) -> int:
        side = self.unet.config.sample_size
        return (side if isinstance(side, int) else side[axis]) * self.vae_scale_factor


class DiffusionSatControlNetPipeline(FromReleasedFolder, OldMethods, StableDiffusionControlNetPipeline):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Text, metadata and condition images to images: the published ControlNet pipeline.

    The condition is not dropped in guidance's unconditional half, its metadata is. Unlike in the published
    code, metadata stays in float32 and may be unknown, there may be several images a prompt, and guess mode
    works with guidance.
    """

    def prepare_metadata(
        self,
        batch_size: int,
        metadata: Any,
        ndims: int,
        do_classifier_free_guidance: bool,
        device: Any,
        dtype: Any,
    ) -> Tensor | None:
        """Metadata of the target, (B, 7), or of a condition, (B, 7) or (B, 7, T); twice that for guidance.

        Args:
            batch_size: Number of prompts, B.
            metadata: Normalised numbers (7,), (1, 7) or (B, 7); NaN or None is unknown.
            ndims: 2, or 3 where also (7, T), (1, 7, T) and (B, 7, T) may be given.
            do_classifier_free_guidance: Whether there is an unconditional half, of zeros.
            device: Of the result.
            dtype: Ignored: the result is float32.

        Raises:
            MetadataError: If it is no such table of numbers.
        """
        networks = (self.unet, self.controlnet)
        return self._rows(networks, metadata, batch_size, do_classifier_free_guidance, device, ndims == 3)

    def check_inputs(self, prompt: Any, image: Any, *rest: Any, **named: Any) -> None:
        """Refuse arguments that do not go together.

        Args:
            prompt: As in the call.
            image: As in the call.
            *rest: height, width, callback_steps, negative_prompt, prompt_embeds, negative_prompt_embeds and
                controlnet_conditioning_scale, as published; or as diffusers has them, without the sizes.
            **named: The same by name.
        """
        if len(rest) > 1 and isinstance(rest[1], int):
            rest = rest[2:]
        named = {name: value for name, value in named.items() if name not in ("height", "width")}
        super().check_inputs(prompt, image, *(rest or (named.pop("callback_steps", None),)), **named)

    def check_image(self, image: Any, prompt: Any, prompt_embeds: Any) -> None:
        """Refuse another number of conditions than of prompts.

        Raises:
            ConfigError: With both numbers.
        """
        many = isinstance(image, (list, tuple)) or (isinstance(image, Tensor) and image.ndim > 3)
        count = len(image) if many else 1
        prompts = count_prompts(prompt, prompt_embeds)
        if count not in (1, prompts):
            raise ConfigError(
                f"image holds {count} conditions for {prompts} prompt(s). Give one for all, or one a prompt; "
                "the frames of a sequence go into a list of their own: image=[[first, second]]."
            )

    def prepare_image(  # pyright: ignore[reportIncompatibleMethodOverride], diffusers has no types
        self,
        image: Any,
        width: int,
        height: int,
        batch_size: int,
        num_images_per_prompt: int,
        device: Any,
        dtype: torch.dtype,
        do_classifier_free_guidance: bool = False,
        guess_mode: bool = False,
    ) -> Tensor:
        """Condition images of a batch, (batch_size, bands, ...), twice for guidance outside guess mode.

        Args:
            image: A tensor, a PIL image, a list of either, or a list of lists, see `image_tensor`.
            width: What PIL images are resized to.
            height: Likewise.
            batch_size: Images to be made.
            num_images_per_prompt: How many of them a prompt has.
            device: Of the result.
            dtype: Of the result.
            do_classifier_free_guidance: Whether there is an unconditional half; it has the same conditions.
            guess_mode: Whether the ControlNet sees only the conditional half.
        """
        image = image_tensor(image, (width, height))
        image = image.repeat_interleave(batch_size if len(image) == 1 else num_images_per_prompt, 0)
        image = image.to(device=device, dtype=dtype)
        return torch.cat([image] * 2) if do_classifier_free_guidance and not guess_mode else image

    def _default_height_width(self, height: int | None, width: int | None, image: Any) -> tuple[int, int]:
        """Size of the output: what is given, or that for which the first condition is."""
        first = image
        while isinstance(first, (list, tuple)) and first:
            first = first[0]
        shape = image_tensor(first, getattr(first, "size", (0, 0))).shape[-2:]
        scale = self.controlnet.config.get("conditioning_scale", 1) if isinstance(first, Tensor) else 1
        return height or shape[0] * scale // 8 * 8, width or shape[1] * scale // 8 * 8

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride], the published order
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callback | None = None,
        callback_steps: int = 1,
        cross_attention_kwargs: dict[str, Any] | None = None,
        controlnet_conditioning_scale: float = 1.0,
        guess_mode: bool = False,
        metadata: Any = None,
        cond_metadata: Any = None,
        is_temporal: bool = False,
        conditioning_downsample: bool = True,
        **options: Any,
    ) -> Any:
        """Make images under conditions, with the published call; what is not said here is as without them.

        Args:
            prompt: One or several; or ``prompt_embeds``.
            image: Conditions in [0, 1]: a tensor (B, C, h, w), whose channels are the frames' bands one after
                another, or (B, C, T, h, w); a PIL image, read as RGB and resized; a list of either, one a
                prompt; or a list of lists, the frames of each prompt. Many bands need a tensor.
            height: None is the first condition's, times the net's scale, rounded down to a multiple of 8.
            width: Likewise.
            num_inference_steps: Steps of the scheduler.
            guidance_scale: Strength of guidance, which is on above 1.
            negative_prompt: What is not to be seen.
            num_images_per_prompt: Images of each prompt.
            eta: Of DDIM.
            generator: Source of noise; one, or one an image.
            latents: Initial noise.
            prompt_embeds: Token states instead of the prompt.
            negative_prompt_embeds: Token states instead of the negative prompt.
            output_type: ``"pil"``, ``"np"``, ``"pt"`` or ``"latent"``.
            return_dict: Return an object with ``images``, not a tuple.
            callback: Called with step, timestep and latents after every ``callback_steps`` steps.
            callback_steps: See ``callback``.
            cross_attention_kwargs: For diffusers' attention.
            controlnet_conditioning_scale: Factor of the ControlNet's residuals.
            guess_mode: Weaken the first residuals, and in guidance leave the unconditional half without.
            metadata: Normalised numbers of the target, see `prepare_metadata`; None is unknown.
            cond_metadata: The condition's: (7,) or (B, 7); (7, T) or (B, 7, T) of frames; None adds nothing.
            is_temporal: Whether the ControlNet is a 3D one; that it is one is seen without.
            conditioning_downsample: False resizes PIL images to the latents' size.
            **options: diffusers' further arguments.

        Raises:
            ConfigError: If the condition does not fit the ControlNet, the prompts or the size.
            MetadataError: If metadata is no such table of numbers.
        """
        check_options(options, StableDiffusionControlNetPipeline.__call__)
        if isinstance(self.controlnet, MultiControlNetModel):
            raise ConfigError(
                "There are several ControlNets; this takes one. For frames give a 3D ControlNet."
            )
        net = self.controlnet.config
        frames = "use_temporal_transformer" in net
        if is_temporal and not frames:
            raise ConfigError(
                "is_temporal=True is for a ControlNetModel3D, but this is a 2D ControlNet, which takes one "
                f"tensor (B, {net['conditioning_in_channels']}, H, W). Leave is_temporal out."
            )
        batch, device = count_prompts(prompt, prompt_embeds), self._execution_device
        self.check_image(image, prompt, prompt_embeds)
        height, width = self._default_height_width(height, width, image)
        if height % 8 or width % 8:
            raise ConfigError(f"height and width are {height} and {width}. Give multiples of 8.")
        scale = net.get("conditioning_scale", 1) if conditioning_downsample else 8
        image = image_tensor(image, (width // scale, height // scale))
        image = condition(image, net["conditioning_in_channels"], frames)
        if latents is None:  # diffusers would take its size from the condition
            latents = self._noise(batch * num_images_per_prompt, height, width, generator)
        rows = each(self.prepare_metadata(batch, metadata, 2, False, device, None), num_images_per_prompt)
        of_condition = self.prepare_metadata(batch, cond_metadata, 3, False, device, None)
        columns = of_condition.shape[2:] if of_condition is not None else ()
        if frames and columns and columns[0] != image.shape[2]:
            raise MetadataError(
                f"cond_metadata is of {columns[0]} frames, but image has {image.shape[2]}. Give one column a "
                "frame, or (7,) for all."
            )
        of_condition = each(of_condition, num_images_per_prompt)
        with (
            conditioned(self.unet, metadata=rows),
            conditioned(self.controlnet, metadata=rows, cond_metadata=of_condition),
        ):
            return super().__call__(
                prompt=prompt,  # pyright: ignore[reportArgumentType], its stub lacks None, here and below
                image=image,
                height=height,
                width=width,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                negative_prompt=negative_prompt,
                num_images_per_prompt=num_images_per_prompt,
                eta=eta,
                generator=generator,
                latents=latents,
                prompt_embeds=prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds,
                output_type=output_type,
                return_dict=return_dict,
                cross_attention_kwargs=cross_attention_kwargs,
                controlnet_conditioning_scale=float(controlnet_conditioning_scale),
                guess_mode=guess_mode,
                **with_callback(options, callback, callback_steps),
            )

    def _noise(self, count: int, height: int, width: int, generator: Any) -> Tensor:
        if isinstance(generator, list) and len(generator) != count:
            raise ConfigError(f"There are {len(generator)} generators for {count} images. Give one an image.")
        shape = (count, self.unet.config.in_channels, height // 8, width // 8)
        dtype = (self.text_encoder or self.unet).dtype
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=dtype)
