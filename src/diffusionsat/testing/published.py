"""Tiny checkpoints of the published model, in the folders and files of its releases."""

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

_START, _END = "<|startoftext|>", "<|endoftext|>"
# Of the autoencoder's attention.
_OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def tiny_published(folder: Path) -> Path:
    """Write tiny networks of random weights as the releases come: pickles, old names, an index that lies.

        single/    the pipeline, its U-Net in checkpoint-9/unet and checkpoint-10/unet and unet_ema
        texas/     with a 3D ControlNet of RGB frames in checkpoint-50000/controlnet
        superres/  with a 2D ControlNet of ten bands at half the resolution in controlnet/

    Images are 64 pixels wide by default. Needs the extra ``[published]``.

    Args:
        folder: Made if absent.

    Returns:
        The folder.
    """
    from diffusionsat.models.published import ControlNetModel, ControlNetModel3D, SatUNet

    with torch.random.fork_rng(devices=[]):  # initial weights are drawn in vain
        unet = SatUNet(
            sample_size=8,
            block_out_channels=(32,) * 4,
            attention_head_dim=(2,) * 4,
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=32,
            use_linear_projection=True,
            upcast_attention=True,
        )
        sizes: dict[str, Any] = {"conditioning_embedding_out_channels": (4, 8, 8, 16)}
        texas = ControlNetModel3D.from_unet(unet, use_temporal_transformer=True, **sizes)
        superres = ControlNetModel.from_unet(unet, conditioning_in_channels=10, conditioning_scale=2, **sizes)
    for root, index in (
        ("single", {}),
        ("texas", {"controlnet": [None, "ControlNetModel3D"]}),
        ("superres", {"controlnet": [None, "ControlNetModel"]}),
    ):
        _write_root(folder / root, index)
    for place in ("checkpoint-9/unet", "checkpoint-10/unet", "checkpoint-10/unet_ema"):
        averaged = {"decay": 0.9999, "optimization_step": 0} if place.endswith("ema") else {}
        _write_network(folder / "single" / place, unet, seed=9 if "-9/" in place else 10, **averaged)
    _write_network(folder / "texas/checkpoint-50000/controlnet", texas, seed=11)
    _write_network(folder / "superres/controlnet", superres, seed=12)
    return folder


def _write_root(root: Path, index: dict[str, Any]) -> None:
    """All of a release but its U-Net and ControlNet."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = _write_tokenizer(root / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        sizes: dict[str, Any] = {"block_out_channels": (8,) * 4, "norm_num_groups": 4, "sample_size": 64}
        sizes |= {
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
        }
        vae = AutoencoderKL(**sizes)
        config = CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        )
        text_encoder = CLIPTextModel(config)
    _write_network(root / "vae", vae, seed=1, renamed=_OLD_NAMES)
    _fill(text_encoder, seed=2)
    states = {
        f"text_model.{name.removeprefix('text_model.')}": t for name, t in text_encoder.state_dict().items()
    }
    states["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    (root / "text_encoder").mkdir()
    torch.save(states, root / "text_encoder/pytorch_model.bin")
    described = {**config.to_dict(), "architectures": ["CLIPTextModel"], "transformers_version": "4.31.0"}
    _write_json(root / "text_encoder/config.json", described)
    scheduler = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    scheduler |= {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    DDIMScheduler(prediction_type="v_prediction", **scheduler).save_pretrained(root / "scheduler")
    index = {
        "_class_name": "StableDiffusionControlNetPipeline" if index else "StableDiffusionPipeline",
        "_diffusers_version": "0.17.0.dev0",
        **index,
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": [None, "SatUNet"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write_json(root / "model_index.json", index)


def _write_network(
    folder: Path, network: Any, seed: int, renamed: Mapping[str, str] | None = None, **more: Any
) -> None:
    """A network with random weights, as a pickle with the names of its time."""
    _fill(network, seed)
    folder.mkdir(parents=True)
    states = {}
    for name, tensor in network.state_dict().items():
        for new, old in (renamed or {}).items():
            name = name.replace(f".{new}.", f".{old}.")
        states[name] = tensor
    torch.save(states, folder / "diffusion_pytorch_model.bin")
    known = {"_class_name", *inspect.signature(type(network)).parameters}  # not what later diffusers adds
    config = {key: value for key, value in json.loads(network.to_json_string()).items() if key in known}
    _write_json(folder / "config.json", config | more | {"_diffusers_version": "0.17.0.dev0"})


def _fill(network: nn.Module, seed: int) -> None:
    """Weights that a seed decides, none of them such that a layer is dead."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
        else:
            parameter.data.uniform_(0.1, 1, generator=generator)


def _write_tokenizer(folder: Path) -> int:
    """A tokenizer that spells: one token a letter. Returns the size of its vocabulary."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), _START, _END]
    folder.mkdir(parents=True)
    _write_json(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    marks = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": "!"}
    described = {"tokenizer_class": CLIPTokenizer.__name__, "model_max_length": 77, **marks}
    _write_json(folder / "tokenizer_config.json", described)
    _write_json(folder / "special_tokens_map.json", marks)
    return len(words)


def _write_json(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
