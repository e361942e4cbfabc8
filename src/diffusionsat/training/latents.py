"""A bank of latents on disk: every training image encoded once, so that the denoiser's steps do not.

A bank is one safetensors file: latents, the metadata's seven numbers, and for each row its source and a
caption; the captions' distinct texts stand in the header. It is a cache, made anew when the autoencoder or
the images change.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusionsat.data.captions import caption
from diffusionsat.data.crops import crop
from diffusionsat.data.parquet import read_samples
from diffusionsat.models.compact.autoencoder import CompactAutoencoder
from diffusionsat.models.encodings import numbers

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Latents with their conditioning.

    Args:
        latents: (N, C, h, w), bfloat16.
        numbers: Metadata, (N, 7), float32, NaN unknown.
        source: Index into ``sources``, (N,), int64.
        text: Index into ``texts``, (N,), int64.
        held_out: True where the place is kept for validation, (N,).
        sources: Names of the data sets.
        texts: Distinct captions.
    """

    latents: Tensor
    numbers: Tensor
    source: Tensor
    text: Tensor
    held_out: Tensor
    sources: tuple[str, ...]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.latents)

    def save(self, path: Path) -> None:
        """Write the bank to a file."""
        tensors = {name: getattr(self, name) for name in ("latents", "numbers", "source", "text", "held_out")}
        lists = {"sources": json.dumps(self.sources), "texts": json.dumps(self.texts)}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        save_file(tensors, partial, metadata=lists)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Bank":
        """Read a bank from a file."""
        with safe_open(path, "pt") as file:
            parts: dict[str, Any] = {name: tuple(json.loads(text)) for name, text in file.metadata().items()}
            parts |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(**parts)


@torch.inference_mode()
def build_bank(
    autoencoder: CompactAutoencoder,
    data: Path,
    crops: Mapping[str, int],
    *,
    size: int,
    seed: int,
    batch_size: int = 64,
) -> Bank:
    """Encode crops of the train rows of some data sets.

    Args:
        autoencoder: In evaluation mode.
        data: Folder with one folder a data set, ``NAME/train.parquet`` in each.
        crops: For each data set how many crops are made of each image.
        size: Side of a crop in pixels; images smaller than that are left out.
        seed: Of the crops and the captions.
        batch_size: Images encoded at once.
    """
    pixels, rows, latents = [], [], []
    sources, texts = tuple(crops), {}

    def encode() -> None:
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(images.device.type, torch.bfloat16):
            encoded = autoencoder.encode(images.contiguous(memory_format=torch.channels_last))
        latents.append(encoded.bfloat16().contiguous())
        pixels.clear()

    for index, source in enumerate(sources):
        before = len(rows)
        for i, sample in enumerate(read_samples(data / source / "train.parquet", source)):
            image = sample.pixels()
            if min(image.shape[:2]) < size:
                continue
            rng = np.random.Generator(np.random.Philox([seed, index << 32 | i]))
            for _ in range(crops[source]):
                square, metadata = crop(sample, image, size, rng)
                pixels.append(square)
                text = texts.setdefault(caption(sample, rng), len(texts))
                rows.append((metadata, index, text, sample.held_out))
                if len(pixels) == batch_size:
                    encode()
        log.info("%s: %d crops of %d px", source, len(rows) - before, size)
    if pixels:
        encode()
    metadata, source_of, text_of, held_out = zip(*rows, strict=True)
    return Bank(
        latents=torch.cat(latents),
        numbers=numbers(metadata),
        source=torch.tensor(source_of),
        text=torch.tensor(text_of),
        held_out=torch.tensor(held_out),
        sources=sources,
        texts=tuple(texts),
    )
