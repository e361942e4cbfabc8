"""What scripts use of the published pipelines, and diffusers' have since dropped or changed."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusionsat.compat.conditions import has_metadata, metadata_tensor
from diffusionsat.errors import ConfigError

Callback = Callable[[int, int, Tensor], None]


class OldMethods:
    """Methods that scripts call on a pipeline."""

    encode_prompt: Callable[..., tuple[Tensor, Tensor | None]]
    vae: Any
    unet: Any

    def _encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: Any,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Token states (B * n, T, E); with guidance those of the negative prompts before them."""
        states, negative = self.encode_prompt(
            prompt,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            **options,
        )
        return states if negative is None else torch.cat([negative, states])

    def decode_latents(self, latents: Tensor) -> Any:
        """Images, a float32 array (B, H, W, 3) in [0, 1], of latents (B, 4, H / 8, W / 8)."""
        image = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()

    def enable_vae_slicing(self) -> None:
        """Decode images one after another."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Decode images together."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Decode large images in tiles."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Decode images whole."""
        self.vae.disable_tiling()

    def _rows(
        self, networks: tuple[Any, ...], metadata: Any, batch: int, guided: bool, device: Any, frames: bool
    ) -> Tensor | None:
        """Metadata for those networks that take any, in float32; of guidance, zeros before it."""
        count = next((len(n.metadata_embedding) for n in networks if has_metadata(n)), 0)
        if metadata is None or not count:
            return None
        known = metadata_tensor(metadata, batch, count, frames).to(device)
        return torch.cat([torch.zeros_like(known), known]) if guided else known


def count_prompts(prompt: Any, prompt_embeds: Any) -> int:
    """Number of prompts."""
    given = prompt if prompt is not None else prompt_embeds
    return 1 if given is None or isinstance(given, str) else len(given)


def each(rows: Tensor | None, count: int) -> Tensor | None:
    """Every row ``count`` times, as diffusers repeats the prompts."""
    return rows if rows is None else rows.repeat_interleave(count, 0)


def check_options(options: dict[str, Any], call: Callable[..., Any]) -> None:
    """Refuse arguments that diffusers would swallow unseen.

    Raises:
        ConfigError: Naming the first.
    """
    known = inspect.signature(call).parameters
    unknown = next((name for name in options if name not in known), None)
    if unknown in ("mask", "mask_image"):
        raise ConfigError(f"{unknown} is given, but no published network fills a masked part of an image.")
    if unknown:
        raise ConfigError(f"The pipeline has no argument {unknown!r}. It has: {', '.join(list(known)[1:])}.")


def with_callback(options: dict[str, Any], callback: Callback | None, every: int) -> dict[str, Any]:
    """Options of diffusers' call, with the published callback in its present form."""
    if callback is None:
        return options
    if every < 1:
        raise ConfigError(f"callback_steps is {every!r}. Give a whole number from 1.")
    if options.get("callback_on_step_end") is not None:
        raise ConfigError("callback and callback_on_step_end are both given. Give one.")

    def on_step_end(_: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step % every == 0:
            callback(step, timestep, tensors["latents"])
        return {}

    return options | {"callback_on_step_end": on_step_end}
