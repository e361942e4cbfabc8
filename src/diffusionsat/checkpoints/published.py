"""Opening released checkpoints of the published model, and plain Stable Diffusion 2.1.

Everything is decided by each part's own config.json and by the tensors that are there, all from local disk.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from diffusionsat.checkpoints.archives import unpack
from diffusionsat.checkpoints.layout import Config, Defaults
from diffusionsat.checkpoints.opening import Opened
from diffusionsat.checkpoints.released import CONTROLNETS, Release, locate, read_json, release_in
from diffusionsat.checkpoints.shipped import unpacked_folder
from diffusionsat.checkpoints.tensors import load_strictly
from diffusionsat.checkpoints.weights import read_weights, weight_files
from diffusionsat.diffusion.schedules import Discrete
from diffusionsat.errors import CheckpointError, ConfigError
from diffusionsat.models.published import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ControlNetModel,
    ControlNetModel3D,
    PublishedControl,
    PublishedNetworks,
    SatUNet,
)

log = logging.getLogger(__name__)

LICENCE = "CreativeML Open RAIL++-M"  # of Stable Diffusion 2.1, from which the released weights derive
MOST_BYTES, MOST_FILES = 100_000_000_000, 10_000  # a release with the optimiser's state stays below
NOTES = "_diffusionsat"  # in model_index.json
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def open_published(path: Path, controlnets: Mapping[str, Path] = MappingProxyType({})) -> Opened:
    """Open a released folder, one checkpoint or U-Net in it, its zip, or a folder that `convert` made.

    Args:
        path: The release of the U-Net.
        controlnets: Releases of ControlNets that steer it, by the names that they are to have.

    Raises:
        CheckpointError: If a part is absent, damaged, mismatched or unsafe.
    """
    release = locate(unpacked(path))
    if release.unet is None:
        raise CheckpointError(
            f"{path} holds a ControlNet but no U-Net. Open the single-image release that it steers, with "
            "from_pretrained(..., controlnets={NAME: FOLDER})."
        )
    steering = {name: locate(unpacked(folder)).controlnet for name, folder in controlnets.items()}
    if (own := release.controlnet) is not None:
        steering["controlnet"] = own
    prediction, schedule = _schedule(release)
    networks = PublishedNetworks(
        read_unet(release.unet),
        read_vae(release.shared("vae")),
        read_text_encoder(release.shared("text_encoder")),
        read_tokenizer(release.shared("tokenizer")),
    )
    name, version, side = identity(release)
    config = Config(
        format="published",
        format_version=1,
        name=name,
        version=version,
        licence=LICENCE,
        prediction=prediction,
        max_tokens=networks.max_tokens,
        # The published pipeline's own steps and guidance; fMoW's usual metres per pixel after resizing.
        defaults=Defaults(size=(side, side), steps=50, solver="euler", guidance=7.5, gsd=1.0),
    )
    return Opened(
        config=config,
        networks=networks,
        schedule=schedule,
        digest=_digest(release, steering),
        controls={name: partial(_control, name, folder) for name, folder in steering.items()},
    )


def _control(name: str, folder: Path | None) -> PublishedControl:
    if folder is None:
        raise CheckpointError(f"What was given as the ControlNet {name} holds none.")
    return PublishedControl(read_controlnet(folder))


def unpacked(path: Path) -> Path:
    """The folder of a release; a zip is unpacked into the cache the first time, whole or not at all.

    Raises:
        CheckpointError: If the archive is damaged or refused, or the disk is full.
    """
    if path.is_dir():
        return path
    about = path.stat()
    folder = unpacked_folder() / f"{about.st_size:x}-{about.st_mtime_ns:x}" / path.stem
    if not folder.is_dir():
        log.info("%s is unpacked to %s", path, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            unpack(path, folder, most_bytes=MOST_BYTES, most_files=MOST_FILES)
        except CheckpointError:
            with contextlib.suppress(OSError):  # others' files are there
                folder.parent.rmdir()
            raise
        log.warning("%s was unpacked to %s; `diffusionsat convert` keeps less", path, folder)
    return release_in(folder)


def _schedule(release: Release) -> tuple[str, Discrete]:
    """What the network predicts, and its noise levels."""
    file = release.shared("scheduler") / "scheduler_config.json"
    values = read_json(file)
    kind, betas = values.get("prediction_type", "epsilon"), values.get("beta_schedule", "linear")
    if kind not in _PREDICTIONS or betas not in ("linear", "scaled_linear"):
        raise CheckpointError(
            f"{file} has prediction_type {kind!r} and beta_schedule {betas!r}; known are "
            f"{', '.join(_PREDICTIONS)}, and linear, scaled_linear."
        )
    for key in ("trained_betas", "rescale_betas_zero_snr", "set_alpha_to_one"):
        if values.get(key):
            raise CheckpointError(f"{file}: {key} is {values[key]!r}, which no released model has.")
    power = 2 if betas == "scaled_linear" else 1
    try:
        first, last = (float(values.get(f"beta_{end}", d)) for end, d in (("start", 1e-4), ("end", 0.02)))
        count = int(values.get("num_train_timesteps", 1000))
        levels = torch.linspace(first ** (1 / power), last ** (1 / power), count, dtype=torch.float64)
        offset = int(values.get("steps_offset", 1))
        schedule = Discrete(levels**power, values.get("timestep_spacing", "leading"), offset)
    except (TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{file} describes no schedule: {error}.") from None
    return _PREDICTIONS[kind], schedule


def identity(release: Release) -> tuple[str, str, int]:
    """Name, version and usual side in pixels of a release.

    `convert` notes them in ``model_index.json``; the authors' folders tell them by their names alone.
    """
    index = release.root / "model_index.json"
    noted = read_json(index).get(NOTES) if index.is_file() else None
    if isinstance(noted, dict) and isinstance(noted.get("side"), int):
        return str(noted.get("name")), str(noted.get("version")), noted["side"]
    part = release.unet or release.controlnet
    inside = part.relative_to(release.root).parts if part and part.is_relative_to(release.root) else ()
    version = "-".join(p.removeprefix("checkpoint-") for p in inside if p not in ("unet", "controlnet"))
    side = 256 if re.search(r"(?<![a-z\d])256(?!\d)", release.root.name) else 512
    return release.root.name, version or "1", side


def read_unet(folder: Path) -> SatUNet:
    """The U-Net of a folder, float32 or as stored; without metadata if it is plain Stable Diffusion.

    Raises:
        CheckpointError: If it is no U-Net, damaged or mismatched.
    """
    config, tensors = read_json(folder / "config.json"), read_weights(folder)
    if config.get("_class_name") in CONTROLNETS or any(n.startswith("controlnet_") for n in tensors):
        raise CheckpointError(f"{folder} holds a ControlNet where a U-Net is due.")
    if config.get("_class_name") == "UNet2DConditionModel" and not _has(tensors, "metadata_embedding."):
        config = config | {"use_metadata": False}
    return _built(SatUNet, config, tensors, folder)


def read_controlnet(folder: Path) -> ControlNetModel:
    """The ControlNet of a folder: 2D, or a `ControlNetModel3D`, as its tensors say.

    Raises:
        CheckpointError: If it is no ControlNet, damaged or mismatched.
    """
    config, tensors = read_json(folder / "config.json"), read_weights(folder)
    first = tensors.get("controlnet_cond_embedding.conv_in.weight")
    if first is None:
        raise CheckpointError(f"{folder} holds no ControlNet: controlnet_cond_embedding is missing.")
    kind = ControlNetModel3D if first.ndim == 5 else ControlNetModel
    named = config.get("_class_name", kind.__name__)
    if named != kind.__name__:
        raise CheckpointError(
            f"{folder} holds the weights of a {kind.__name__}, but its config.json says {named}. "
            "The two do not belong together."
        )
    return _built(kind, config, tensors, folder)


def read_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder of a folder, also under the names that old versions gave its attention.

    Raises:
        CheckpointError: If it is damaged or mismatched.
    """
    tensors = {}
    for name, tensor in read_weights(folder).items():
        head, _, tail = name.rpartition(".mid_block.attentions.0.")
        old, _, kind = tail.partition(".")
        if head and old in _OLD_ATTENTION:
            name = f"{head}.mid_block.attentions.0.{_OLD_ATTENTION[old]}.{kind}"
            tensor = tensor.flatten(1) if kind == "weight" else tensor  # some are 1x1 convolutions
        tensors[name] = tensor
    config = {"scaling_factor": 0.18215} | read_json(folder / "config.json")
    return _built(AutoencoderKL, config, tensors, folder)


def read_text_encoder(folder: Path) -> CLIPTextModel:
    """The CLIP text encoder of a folder, of any version of transformers.

    Raises:
        CheckpointError: If it is damaged or mismatched.
    """
    config = read_json(folder / "config.json")
    tensors = {
        name.removeprefix("text_model."): tensor
        for name, tensor in read_weights(folder).items()
        if not name.endswith("position_ids")  # a constant that old versions stored
    }
    return _loaded(lambda: CLIPTextModel(CLIPTextConfig.from_dict(config)), tensors, folder)


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a folder.

    Raises:
        CheckpointError: If its files are absent or damaged.
    """
    for names in (("tokenizer.json",), ("vocab.json", "merges.txt")):
        if all((folder / name).is_file() for name in names):
            break
    else:
        raise CheckpointError(f"{folder} holds no tokenizer: vocab.json and merges.txt are wanted.")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare exceptions
        raise CheckpointError(f"{folder} holds no tokenizer of CLIP: {error}.") from None


def _built(kind: Any, config: Mapping[str, Any], tensors: dict[str, Tensor], folder: Path) -> Any:
    known = {n: v for n, v in config.items() if n in kind._get_init_keys(kind)}
    return _loaded(lambda: kind(**known), tensors, folder)


def _loaded(build: Callable[[], nn.Module], tensors: dict[str, Tensor], folder: Path) -> Any:
    """A network built without drawing weights, with its tensors in it."""
    try:
        with torch.device("meta"):
            network = build()
    except Exception as error:  # a config can be wrong in any way
        raise CheckpointError(f"{folder / 'config.json'} describes no such network: {error}.") from None
    load_strictly(network, tensors, folder)
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:  # CLIP's constant positions, which no file holds
                setattr(module, name, torch.arange(buffer.shape[-1]).expand(buffer.shape))
    return network.eval()


def _has(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


def _digest(release: Release, steering: Mapping[str, Path | None]) -> str:
    """SHA-256 over the configurations and weights that decide the pixels."""
    digest = hashlib.sha256()
    parts = {"unet": release.unet, **{n: release.shared(n) for n in ("vae", "text_encoder")}, **steering}
    for name, folder in parts.items():
        for file in (folder / "config.json", *weight_files(folder)) if folder else ():
            digest.update(f"{name}/{file.name}".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    for folder in (release.shared("tokenizer"), release.shared("scheduler")):
        for file in sorted(folder.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                digest.update(f"{folder.name}/{file.name}".encode() + file.read_bytes())
    return digest.hexdigest()
