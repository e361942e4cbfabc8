"""CLIP models that the user has: folders of transformers, and files of OpenCLIP, such as RemoteCLIP's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusionsat.checkpoints.tensors import read_tensors
from diffusionsat.errors import CheckpointError, MissingExtraError

_HEAD = 64  # channels of a head
_WIDER_HEADS = {1280: 80, 1408: 88, 1664: 104}  # of ViT-H, ViT-g and ViT-bigG, by the network's width
_PARTS = {  # of a layer, but for what is one tensor there and three here
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TOWERS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A CLIP model.

    Args:
        name: What a report calls it.
        model: A ``CLIPModel`` of transformers, in evaluation mode.
        processor: Its ``CLIPImageProcessor``.
    """

    name: str
    model: Any
    processor: Any


def open_clip(path: Path) -> Clip:
    """A CLIP model of a folder of transformers, or of a file of OpenCLIP's weights.

    A file does not say which activation its network has: GELU is taken, as OpenCLIP does unless it is told.

    Raises:
        CheckpointError: If there is none, it is damaged, or of another kind.
        MissingExtraError: If transformers is not installed.
    """
    try:
        from transformers import CLIPImageProcessor, CLIPModel
    except ImportError as error:
        raise MissingExtraError(f"The CLIP model {path.name}", "published") from error
    if path.is_file():
        model = _of_tensors(_read(path), path)
        side = model.config.vision_config.image_size
        square = {"height": side, "width": side}
        processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square)
        return Clip(path.stem, model, processor)
    try:
        local: dict[str, Any] = {"local_files_only": True}
        model = CLIPModel.from_pretrained(path, **local).eval()
        processor = CLIPImageProcessor.from_pretrained(path, **local)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds no CLIP model as transformers writes it: {str(error).splitlines()[0]}"
        ) from None
    return Clip(path.resolve().name, model, processor)


def weights_of(path: Path) -> list[Path]:
    """The files of weights in a folder; a file is its own."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.glob("*") if file.suffix in (".safetensors", ".bin"))


def open_tokenizer(path: Path) -> Any:
    """The tokenizer in a model's folder, or beside its file.

    Raises:
        CheckpointError: If there is none.
    """
    from transformers import AutoTokenizer, CLIPTokenizer

    folder, kind = (path.parent, CLIPTokenizer) if path.is_file() else (path, AutoTokenizer)
    two = [folder / name for name in ("vocab.json", "merges.txt")]
    if not (all(file.is_file() for file in two) or (folder / "tokenizer.json").is_file()):
        raise CheckpointError(
            f"{folder} holds no tokenizer. Put vocab.json and merges.txt of any CLIP model there, which are "
            "alike; those of a released model lie in its folder tokenizer."
        )
    return kind.from_pretrained(folder, local_files_only=True)


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return read_tensors(file)
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        stored = stored.get("state_dict", stored)
        return {name.removeprefix("module."): tensor for name, tensor in stored.items()}
    except Exception as error:  # of many kinds
        raise CheckpointError(f"{file} cannot be read as weights: {str(error).splitlines()[0]}") from None


def _of_tensors(stored: Mapping[str, Tensor], file: Path) -> Any:
    from transformers import CLIPConfig, CLIPModel

    if not {"visual.proj", "text_projection", *_TOWERS} <= stored.keys():
        raise CheckpointError(
            f"{file} holds no CLIP model of OpenCLIP's with a vision transformer. One with a ResNet is not "
            "read."
        )
    patches, width = stored["visual.positional_embedding"].shape
    patch = stored["visual.conv1.weight"].shape[-1]
    vocabulary, words = stored["token_embedding.weight"].shape
    config = CLIPConfig(
        projection_dim=stored["visual.proj"].shape[1],
        vision_config={
            **_layers(stored, "visual.transformer.resblocks", width),
            "patch_size": patch,
            "image_size": patch * round((patches - 1) ** 0.5),
        },
        text_config={
            **_layers(stored, "transformer.resblocks", words),
            "vocab_size": vocabulary,
            "max_position_embeddings": len(stored["positional_embedding"]),
            "eos_token_id": 2,  # has the largest token's state taken, as OpenCLIP does
        },
    )
    with torch.random.fork_rng(devices=[]):
        model = CLIPModel(config)
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in _renamed(stored)})
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not fit a CLIP model: {str(error).splitlines()[-1]}") from None
    return model.eval()


def _layers(stored: Mapping[str, Tensor], prefix: str, width: int) -> dict[str, Any]:
    first = f"{prefix}.0.mlp.c_fc.weight"
    return {
        "hidden_size": width,
        "intermediate_size": len(stored[first]) if first in stored else width,
        "num_attention_heads": width // _WIDER_HEADS.get(width, _HEAD),
        "num_hidden_layers": len(
            {n.removeprefix(prefix).split(".")[1] for n in stored if n.startswith(prefix)}
        ),
        "hidden_act": "gelu",
    }


def _renamed(stored: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors by transformers' names."""
    for name, tensor in stored.items():
        tower, inside, layer = name.partition("transformer.resblocks.")
        if inside:
            number, _, part = layer.partition(".")
            kind, _, suffix = part.rpartition(".")
            start = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}"
            if kind == "attn":  # in_proj_weight and in_proj_bias
                for which, third in zip("qkv", tensor.chunk(3), strict=True):
                    yield f"{start}.self_attn.{which}_proj.{suffix.removeprefix('in_proj_')}", third
            else:
                yield f"{start}.{_PARTS.get(kind, kind)}.{suffix}", tensor
        elif name == "visual.proj":
            yield "visual_projection.weight", tensor.T
        elif name == "text_projection":
            yield "text_projection.weight", tensor.T
        elif name != "attn_mask":  # causal, as everywhere
            yield _TOWERS.get(name, name), tensor
