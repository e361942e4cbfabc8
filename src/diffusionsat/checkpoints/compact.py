"""Opening a checkpoint of ours: `diffusionsat.checkpoints.layout` says what lies in it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffusionsat.checkpoints.layout import Config, content_hash, control_file, read_config
from diffusionsat.checkpoints.opening import Opened
from diffusionsat.checkpoints.tensors import load_strictly, read_tensors
from diffusionsat.diffusion.denoisers import PREDICTIONS
from diffusionsat.diffusion.guidance import Guidance
from diffusionsat.diffusion.schedules import Flow
from diffusionsat.diffusion.solvers import SOLVERS
from diffusionsat.errors import CheckpointError, ConfigError
from diffusionsat.models.compact.autoencoder import CompactAutoencoder
from diffusionsat.models.compact.denoiser import CompactDenoiser
from diffusionsat.models.compact.designs import DESIGNS
from diffusionsat.models.compact.networks import CompactControl, CompactNetworks
from diffusionsat.models.compact.text import Prompter, TextEncoder
from diffusionsat.models.encodings import Bandwidth


def open_compact(folder: Path) -> Opened:
    """Open a folder as `write_checkpoint` writes it.

    Raises:
        CheckpointError: If it is absent, damaged, foreign, mismatched or unsafe.
    """
    config = read_config(folder)
    # Initial weights are drawn in vain, but the meta device would import for over a second.
    with torch.random.fork_rng(devices=[]):
        denoiser = _build(CompactDenoiser, config.denoiser, folder)
        autoencoder = _build(CompactAutoencoder, config.autoencoder, folder)
        encoder = _build(TextEncoder, config.text_encoder, folder)
    parts = {"denoiser": denoiser, "autoencoder": autoencoder, "text_encoder": encoder}
    for name, network in parts.items():
        file = folder / f"{name}.safetensors"
        load_strictly(network, read_tensors(file), file)
    networks = CompactNetworks(denoiser, autoencoder, _prompter(folder, encoder, config.max_tokens))
    _check_fit(folder / "config.json", config, networks)
    return Opened(
        config=config,
        networks=networks,
        schedule=Flow.of(config.prediction, config.defaults.shift),
        digest=content_hash(folder),
        controls={
            name: partial(_open_control, folder, name, sizes, networks)
            for name, sizes in config.controls.items()
        },
    )


def _open_control(
    folder: Path, name: str, sizes: dict[str, Any], networks: CompactNetworks
) -> CompactControl:
    """A ControlNet, once it is asked for: most jobs use none.

    Raises:
        CheckpointError: If it is damaged, of an unknown design, or does not fit the denoiser.
    """
    design = sizes.get("design", "compact")
    if design not in [*DESIGNS]:
        raise CheckpointError(
            f"{folder / 'config.json'}: controls.{name}.design is {design!r}; this package knows "
            f"{', '.join(DESIGNS)}. Update diffusionsat."
        )
    with torch.random.fork_rng(devices=[]):
        network = _build(DESIGNS[design], {k: v for k, v in sizes.items() if k != "design"}, folder)
    theirs = (network.sizes["latent_channels"], network.sizes["text_width"], network.targets)
    denoiser = networks.denoiser
    if theirs != (denoiser.sizes["latent_channels"], denoiser.sizes["text_width"], denoiser.skips):
        raise CheckpointError(
            f"{folder / 'config.json'}: controls.{name} does not fit the other parts of the checkpoint."
        )
    file = control_file(folder, name)
    load_strictly(network, read_tensors(file), file)
    return CompactControl(network, networks.encode)


def _build(kind: Callable[..., Any], sizes: dict[str, Any], folder: Path) -> Any:
    try:
        sizes = dict(sizes)
        if "bandwidth" in sizes:
            sizes["bandwidth"] = Bandwidth(**sizes["bandwidth"])
        return kind(**sizes)
    except Exception as error:  # sizes come from a file and can be wrong in any way
        raise CheckpointError(
            f"{folder / 'config.json'}: {kind.__name__} cannot have these sizes: {str(error).rstrip('.')}."
        ) from None


def _check_fit(file: Path, config: Config, networks: CompactNetworks) -> None:
    """Refuse parts that load but do not fit together, and defaults that cannot be."""
    denoiser, prompter, defaults = networks.denoiser, networks.prompter, config.defaults
    text = prompter.encoder
    problems = {
        "prediction": config.prediction not in PREDICTIONS,
        "max_tokens": not 3 <= config.max_tokens <= text.positions.num_embeddings,
        "denoiser.text_width": denoiser.embed.text.in_features != text.tokens.embedding_dim,
        "denoiser.latent_channels": networks.latent_channels != len(networks.autoencoder.latent_scale),
        "text_encoder.vocabulary": prompter.tokenizer.get_vocab_size() > text.tokens.num_embeddings,
        "defaults.size": any(side < 1 or side % networks.multiple for side in defaults.size),
        "defaults.solver": defaults.solver not in SOLVERS,
        "defaults.steps": defaults.steps < 1,
        "defaults.guidance": not 0 <= defaults.guidance <= 100,
        "defaults.interval": not _guides(interval=defaults.interval),
        "defaults.rescale": not _guides(rescale=defaults.rescale),
        "defaults.gsd": not 1e-3 <= defaults.gsd <= 1e6,
        "defaults.shift": not 0 < defaults.shift < 1e6,
        "defaults.layout": defaults.layout != 0 and not networks.multiple <= defaults.layout <= 4096,
        "defaults.redraw": not 0 < defaults.redraw <= 1,
    }
    for key, wrong in problems.items():
        if wrong:
            raise CheckpointError(f"{file}: {key} does not fit the other parts of the checkpoint.")


def _guides(**options: Any) -> bool:
    try:
        Guidance(**options)
    except ConfigError:
        return False
    return True


def _prompter(folder: Path, encoder: TextEncoder, max_tokens: int) -> Prompter:
    file = folder / "tokenizer.json"
    try:
        return Prompter(file.read_text(encoding="utf-8"), encoder, max_tokens)
    except FileNotFoundError:
        raise CheckpointError(
            f"{file} is missing. The checkpoint is incomplete: copy or make it again."
        ) from None
    except Exception as error:  # tokenizers raises bare exceptions
        raise CheckpointError(f"{file} is no tokenizer: {error}.") from None
