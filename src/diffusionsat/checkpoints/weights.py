"""Weights of one part of a released folder: safetensors or pickles, whole or in shards, of any precision."""

import json
import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from diffusionsat.checkpoints.tensors import read_tensors
from diffusionsat.errors import CheckpointError

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # as diffusers and transformers name them
_VARIANTS = ("", ".fp16", ".bf16", ".non_ema")


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a part's weights; safetensors before pickles, full before half precision.

    Raises:
        CheckpointError: If there are none, or a shard is missing.
    """
    for suffix in (".safetensors", ".bin"):
        for variant in _VARIANTS:
            for stem in STEMS:
                whole = folder / f"{stem}{variant}{suffix}"
                if whole.is_file():
                    return [whole]
                for index in (f"{stem}{suffix}.index{variant}.json", f"{stem}{variant}{suffix}.index.json"):
                    if (folder / index).is_file():
                        return _shards(folder / index)
    raise CheckpointError(
        f"{folder} holds no weights. Wanted is {STEMS[0]}.safetensors or .bin, or model.safetensors or "
        "pytorch_model.bin of a text encoder."
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [index.parent / name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error!r}.") from None
    for file in files:
        if file.parent != index.parent:
            raise CheckpointError(f"{index} names {file.name} outside its folder; it is refused.")
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; {index.name} names it. Copy it again.")
    return files


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A part's weights by name, in the precision that they are stored in.

    Pickles are read with torch's weights-only reader, which runs no code.

    Raises:
        CheckpointError: If files are missing or damaged, hold code, or hold an adapter (LoRA) instead.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= read_tensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    adapter = next((name for name in tensors if "lora_" in name or ".lora." in name), None)
    if adapter:
        raise CheckpointError(
            f"{folder} holds {adapter}: a LoRA adapter, not a model. Load the model that it adapts, then the "
            "adapter with the pipeline's load_lora_weights."
        )
    return tensors


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > 2 * file.stat().st_size + 1_000_000:
                raise CheckpointError(f"{file} unpacks to far more than its size; torch writes no such file.")
        with warnings.catch_warnings(action="ignore"):  # of pickles that torch did not write; they fail below
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{file} is damaged, or a pickle that wants to run code: {reason}") from None
    except Exception as error:  # a damaged file can end torch's reader in any way
        raise CheckpointError(f"{file} is damaged or no weights of torch: {error}.") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{file} holds no flat table of tensors, so it is not a model's weights.")
    return tensors
