"""The compact family in training."""

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusionsat.checkpoints.compact import open_compact
from diffusionsat.checkpoints.layout import FORMAT, FORMAT_VERSION, read_config, write_checkpoint
from diffusionsat.checkpoints.opening import Opened
from diffusionsat.checkpoints.shipped import find
from diffusionsat.checkpoints.tensors import load_strictly, read_tensors
from diffusionsat.diffusion.schedules import Flow
from diffusionsat.errors import ConfigError
from diffusionsat.model import DiffusionSat
from diffusionsat.models.compact.autoencoder import CompactAutoencoder
from diffusionsat.models.compact.denoiser import CompactDenoiser
from diffusionsat.models.compact.networks import CompactNetworks
from diffusionsat.models.encodings import Bandwidth
from diffusionsat.training.batches import Batch
from diffusionsat.training.families import Captions, lora
from diffusionsat.training.precision import attending, drawn_from
from diffusionsat.training.recipe import Recipe

_ATTENTION = ["qkv", "q", "kv", "out_self", "out_cross"]  # where LoRA's adapters sit, as is usual


class Compact:
    """A compact denoiser with the frozen autoencoder and text encoder of a checkpoint.

    Args:
        recipe: Its model's ``start`` is a whole checkpoint, or its ``parts`` the one with the frozen parts.

    Raises:
        CheckpointError: If that is absent or does not fit.
        ConfigError: If the sizes or the task are not possible.
        MissingExtraError: If peft is wanted for LoRA and is not installed.
    """

    timesteps = False

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, options = recipe, recipe.model
        opened = open_compact(find(options.start or options.parts))
        frozen = opened.networks
        assert isinstance(frozen, CompactNetworks)
        self.config, denoiser = opened.config, frozen.denoiser
        if options.start and opened.config.prediction != recipe.objective.prediction:
            raise ConfigError(
                f"{options.start} predicts {opened.config.prediction}, but objective.prediction is "
                f"{recipe.objective.prediction}. Give the same, or model.parts instead of model.start."
            )
        if not options.start:
            denoiser = build(CompactDenoiser, options.sizes, recipe.run.seed)
            sizes = {"denoiser": dict(options.sizes), "prediction": recipe.objective.prediction}
            self.config = dataclasses.replace(self.config, **sizes)
        if options.autoencoder:
            folder = find(options.autoencoder)
            sizes, frozen.autoencoder = read_autoencoder(folder)
            self.config = dataclasses.replace(self.config, autoencoder=sizes)
        self.networks = CompactNetworks(denoiser, frozen.autoencoder, frozen.prompter)
        self.networks.to(torch.device("cpu"), torch.float32)
        self.network = denoiser.train()
        if options.lora_rank:
            _add_lora(denoiser, recipe)
        self.captions = Captions(self.networks.text)
        for frozen_part in (self.networks.autoencoder, self.networks.prompter.encoder):
            frozen_part.requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """See `Family.to`."""
        self.networks.to(device, torch.float32)
        self.network.train()
        self.captions.alone = device.type == "cpu"

    def text(self, captions: list[str]) -> tuple[Tensor, ...]:
        """Token states and their mask."""
        return self.captions(captions)

    @torch.no_grad()
    def encode(self, images: Tensor, rngs: list[np.random.Generator]) -> Tensor:
        """The mean of the posterior."""
        return self.networks.encode(images)

    def predict(self, network: nn.Module, latents: Tensor, time: Tensor, batch: Batch) -> Tensor:
        """See `Family.predict`."""
        return predict(network, latents, time, batch)

    def model(self, device: torch.device) -> DiffusionSat:
        """See `Family.model`."""
        schedule = Flow.of(self.config.prediction, self.config.defaults.shift)
        opened = Opened(config=self.config, networks=self.networks, schedule=schedule, digest="in training")
        return DiffusionSat(opened, device=device, precision="fp32")

    def write(self, folder: Path, seen: int) -> None:
        """See `Family.write`."""
        from diffusionsat.tasks.selftest import statistics

        options, sizes = self.recipe.model, self.recipe.data.sizes
        _merge_lora(self.network)
        config = dataclasses.replace(
            self.config,
            defaults=dataclasses.replace(self.config.defaults, layout=max(sizes, key=sizes.__getitem__)),
            format=FORMAT,
            format_version=FORMAT_VERSION,
            name=options.name,
            version=str(seen),
            licence=options.licence,
            images_seen=seen,
            known_answer=(),
            controls={},  # which belong to another denoiser
        )
        networks = {
            "denoiser": self.network,
            "autoencoder": self.networks.autoencoder,
            "text_encoder": self.networks.prompter.encoder,
        }
        storage = {
            "denoiser": options.storage,
            "autoencoder": "bf16" if options.storage == "int8" else options.storage,
            "text_encoder": options.storage,
        }
        write_checkpoint(
            folder,
            config,
            {name: network.state_dict() for name, network in networks.items()},
            self.networks.prompter.tokenizer.to_str(),
            card(self.recipe, seen),
            storage,
        )
        sat = DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")
        config = dataclasses.replace(config, known_answer=tuple(statistics(sat)))
        (folder / "config.json").write_text(config.to_json(), encoding="utf-8")


def _add_lora(denoiser: CompactDenoiser, recipe: Recipe) -> None:
    """Freeze a denoiser, and give its attention adapters that are trained."""
    config = lora(recipe.model.lora_rank, _ATTENTION)
    from peft import inject_adapter_in_model

    with drawn_from(recipe.run.seed):
        inject_adapter_in_model(config, denoiser)


def _merge_lora(network: nn.Module) -> None:
    """Add adapters, where there are any, to the weights that they adapt."""
    for name, module in list(network.named_modules()):
        if hasattr(module, "lora_A"):
            adapter: Any = module
            adapter.merge()
            network.set_submodule(name, adapter.get_base_layer())


def predict(network: nn.Module, latents: Tensor, time: Tensor, batch: Batch) -> Tensor:
    """The prediction of a compact denoiser."""
    latents = latents.contiguous(memory_format=torch.channels_last)
    with attending(latents.device, few=True):
        return network(latents, time, *batch.text, batch.numbers)


def build(kind: Any, sizes: dict[str, Any], seed: int) -> Any:
    """A network whose random weights, if it has any, are drawn from a seed.

    Raises:
        ConfigError: If it cannot have these sizes.
    """
    sizes = dict(sizes)
    try:
        if "bandwidth" in sizes:
            sizes["bandwidth"] = Bandwidth(**sizes["bandwidth"])
        with drawn_from(seed):
            return kind(**sizes)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(f"model.sizes are not possible: {error}.") from None


def read_autoencoder(folder: Path) -> tuple[dict[str, Any], CompactAutoencoder]:
    """Sizes and network of the autoencoder in a checkpoint, or in what task ``autoencoder`` wrote."""
    config = read_config(folder)
    network = build(CompactAutoencoder, config.autoencoder, 0)
    file = folder / "autoencoder.safetensors"
    load_strictly(network, {name: t.float() for name, t in read_tensors(file).items()}, file)
    return config.autoencoder, network.eval()


def card(recipe: Recipe, seen: int) -> str:
    """A model card that says how the checkpoint came about."""
    from diffusionsat.config import to_toml

    sources = ", ".join(source.name for source in recipe.data.sources) or "drawn by the package itself"
    return f"""# {recipe.model.name}

A checkpoint of the {recipe.model.family} family, trained by diffusionsat \
{importlib.metadata.version("diffusionsat")} ({recipe.run.task}) on {seen} images.

- Data: {sources}.
- Licence: {recipe.model.licence}.
- Images made with it are synthetic.

The recipe (`diffusionsat train` takes it as a file):

```toml
{to_toml(recipe)}```
"""
