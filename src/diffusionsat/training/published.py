"""The published family in training: SatUNet, its ControlNets, and LoRA."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusionsat.checkpoints.published import open_published, read_controlnet, unpacked
from diffusionsat.checkpoints.released import locate
from diffusionsat.checkpoints.shipped import find
from diffusionsat.checkpoints.tensors import write_tensors
from diffusionsat.errors import ConfigError
from diffusionsat.model import DiffusionSat
from diffusionsat.models.encodings import published
from diffusionsat.models.published import ControlNetModel, ControlNetModel3D, PublishedNetworks, SatUNet
from diffusionsat.training.batches import Batch, normal
from diffusionsat.training.compact import card
from diffusionsat.training.families import Captions, lora
from diffusionsat.training.precision import attending, drawn_from
from diffusionsat.training.recipe import Recipe

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]  # where LoRA's adapters sit, as is usual


class Published:
    """SatUNet, or a ControlNet that steers a frozen one, with the frozen parts of a release.

    Args:
        recipe: Its model's ``start`` is a release, or a Stable Diffusion 2.1, which gets fresh metadata
            perceptrons.

    Raises:
        CheckpointError: If the start is absent or damaged.
        ConfigError: If it predicts something else than the recipe asks for.
        MissingExtraError: If diffusers, or peft for LoRA, is not installed.
    """

    timesteps = True

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, options = recipe, recipe.model
        path = unpacked(find(options.start))
        self.release, opened = locate(path), open_published(path)
        assert isinstance(opened.networks, PublishedNetworks)
        self.opened, self.networks = opened, opened.networks
        if opened.config.prediction != recipe.objective.prediction:
            raise ConfigError(
                f"{options.start} predicts {opened.config.prediction}, but objective.prediction is "
                f"{recipe.objective.prediction}. Give the same."
            )
        unet: Any = nn.Module.float(self.networks.unet)
        if not unet.config["use_metadata"]:
            unet = _with_metadata(unet, recipe.run.seed)
        self.networks.unet = unet.requires_grad_(False)
        self.network: Any = self._trained()
        if options.checkpointing:
            self.network.enable_gradient_checkpointing()
        self.network.train()
        self.captions = Captions(self.networks.text)
        self.networks.vae.requires_grad_(False)
        self.networks.text_encoder.requires_grad_(False)

    def _trained(self) -> Any:
        """What the task trains."""
        unet, task = self.networks.unet, self.recipe.run.task
        if task == "text-to-image":
            return _with_lora(unet, self.recipe) if self.recipe.model.lora_rank else unet.requires_grad_(True)
        if self.release.controlnet is not None:
            return nn.Module.float(read_controlnet(self.release.controlnet))
        data, sizes = self.recipe.data, self.recipe.model.sizes
        channels = len(data.condition_bands)
        with drawn_from(self.recipe.run.seed):
            if task == "controlnet":
                return ControlNetModel.from_unet(
                    unet,
                    conditioning_in_channels=channels * data.condition_frames,
                    conditioning_scale=data.condition_scale,
                    **sizes,
                )
            return ControlNetModel3D.from_unet(
                unet,
                conditioning_in_channels=channels,
                use_temporal_transformer=self.recipe.model.temporal_attention,
                **sizes,
            )

    def to(self, device: torch.device) -> None:
        """See `Family.to`."""
        for part in (self.networks.vae, self.networks.text_encoder, self.networks.unet, self.network):
            nn.Module.to(part, device)
        self.captions.alone = device.type == "cpu"

    def text(self, captions: list[str]) -> tuple[Tensor, ...]:
        """Token states, padded and not masked, as published."""
        return self.captions(captions)

    @torch.no_grad()
    def encode(self, images: Tensor, rngs: list[np.random.Generator]) -> Tensor:
        """A sample of the posterior, as in the published training."""
        (posterior,) = self.networks.vae.encode(images, return_dict=False)
        noise = normal(rngs, tuple(posterior.mean.shape[1:])).to(images.device)
        latents = posterior.mean.float() + posterior.std.float() * noise
        return latents * self.networks.vae.config["scaling_factor"]

    def predict(self, network: nn.Module, latents: Tensor, time: Tensor, batch: Batch) -> Tensor:
        """See `Family.predict`."""
        with attending(latents.device):
            return self._predict(network, latents, time, batch)

    def _predict(self, network: nn.Module, latents: Tensor, time: Tensor, batch: Batch) -> Tensor:
        metadata, text = published(batch.numbers), batch.text[0]
        if self.recipe.run.task == "text-to-image":
            return network(latents, time, text, metadata=metadata).sample
        frames, numbers = batch.frames
        rows, count = len(latents), frames.shape[1]
        known = published(numbers.flatten(0, 1)).unflatten(0, (rows, count)).transpose(1, 2)
        flat = self.recipe.run.task == "controlnet"
        skips, middle = network(
            latents,
            time,
            text,
            frames.flatten(1, 2) if flat else frames.transpose(1, 2),
            metadata=metadata,
            cond_metadata=known,
            return_dict=False,
        )
        return self.networks.unet(
            latents,
            time,
            text,
            metadata=metadata,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
        ).sample

    def model(self, device: torch.device) -> DiffusionSat | None:
        """See `Family.model`; None for a ControlNet, which needs a condition."""
        if self.recipe.run.task != "text-to-image":
            return None
        return DiffusionSat(self.opened, device=device, precision="fp32")

    def write(self, folder: Path, seen: int) -> None:
        """Write a release: what was trained, and the parts that it shares with its start."""
        for name in ("vae", "text_encoder", "tokenizer", "scheduler"):
            shutil.copytree(self.release.shared(name), folder / name)
        name = "unet" if self.recipe.run.task == "text-to-image" else "controlnet"
        network = self.network
        if self.recipe.model.lora_rank:
            network = _merged(network, folder)
        network.save_config(folder / name)
        file = folder / name / "diffusion_pytorch_model.safetensors"
        write_tensors(file, dict(network.state_dict()), self.recipe.model.storage)
        (folder / "README.md").write_text(card(self.recipe, seen), encoding="utf-8")


def _with_metadata(unet: Any, seed: int) -> Any:
    """Plain Stable Diffusion with fresh perceptrons for the metadata."""
    known = {n: v for n, v in unet.config.items() if n in SatUNet._get_init_keys(SatUNet)}
    known["use_metadata"] = True
    with drawn_from(seed):
        fresh = SatUNet(**known)
    fresh.load_state_dict(fresh.state_dict() | unet.state_dict())
    return fresh


def _with_lora(unet: SatUNet, recipe: Recipe) -> SatUNet:
    """The frozen U-Net with adapters on its attention, which are trained."""
    config = lora(recipe.model.lora_rank, _ATTENTION)
    with drawn_from(recipe.run.seed):
        unet.add_adapter(config)
    return unet


def _merged(unet: Any, folder: Path) -> Any:
    """Write the adapter by itself, and return the U-Net with it merged."""
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
    from peft import get_peft_model_state_dict

    adapter: dict[str, Any] = {name: t.contiguous() for name, t in get_peft_model_state_dict(unet).items()}
    StableDiffusionLoraLoaderMixin.save_lora_weights(str(folder / "lora"), unet_lora_layers=adapter)
    unet.fuse_lora()
    unet.unload_lora()
    return unet
