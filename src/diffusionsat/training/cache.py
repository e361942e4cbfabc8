"""Examples encoded once: a part of the mixture, as latents on disk, in place of the endless whole.

    FOLDER/SIZE/000000.safetensors   latents (n, C, h, w) in bfloat16; captions and metadata in the header
    FOLDER/index.json                what they were made of

A chunk is complete or absent, so that encoding goes on where it was stopped.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from diffusionsat.checkpoints.tensors import save
from diffusionsat.data.conditions import Conditions
from diffusionsat.data.reading import Example
from diffusionsat.errors import ConfigError
from diffusionsat.files import write_bytes
from diffusionsat.metadata import Metadata
from diffusionsat.training.batches import Examples, generator
from diffusionsat.training.families import Family
from diffusionsat.training.precision import autocast
from diffusionsat.training.processes import Alone
from diffusionsat.training.recipe import Recipe

_CHUNK = 256


@dataclass(frozen=True)
class _Rows:
    latents: Tensor
    captions: list[str]
    metadata: list[Metadata]


class Cached:
    """The first ``data.cache`` examples as latents; see `batches.Examples`.

    Of larger sizes there are as many as fill the same room on disk. They come in another order each time that
    all have been seen, and a ControlNet is given other frames then.

    Args:
        recipe: Of the run.
        family: Encodes them.
        examples: The mixture.
        folder: Of the run.
        processes: Each encodes its share.

    Raises:
        ConfigError: If the folder holds latents of other data or of another autoencoder.
    """

    def __init__(
        self, recipe: Recipe, family: Family, examples: Examples, folder: Path, processes: Alone
    ) -> None:
        self.steered = recipe.data.frames is not None
        if recipe.run.task != "text-to-image" and not self.steered:
            raise ConfigError(
                f"data.cache is for text-to-image and compact ControlNets; run.task is {recipe.run.task}. "
                "Give 0."
            )
        self.recipe, self.examples = recipe, examples
        self.family, self.processes = family, processes
        self.folder = Path(recipe.data.cache_folder or folder / "cache")
        self._check_index()
        self.rows = {size: self._rows(size) for size in recipe.data.sizes}
        self.orders: dict[tuple[int, int], np.ndarray] = {}

    def size(self, batch: int) -> int:
        """See `Examples.size`."""
        return self.examples.size(batch)

    def example(self, position: int, size: int, again: int = 0) -> Example:
        """The position-th example; its pixels are latents."""
        rows = self.rows[size]
        epoch, index = divmod(position, len(rows.captions))
        if (size, epoch) not in self.orders:
            rng = np.random.Generator(np.random.Philox([self.recipe.run.seed, epoch]))
            order = rng.permutation(len(rows.captions))
            recent = {k: o for k, o in self.orders.items() if k[0] != size or k[1] >= epoch - 1}
            self.orders = {**recent, (size, epoch): order}
        row = int(self.orders[size, epoch][index])
        return Example(
            key=str(row),
            source="cache",
            pixels=rows.latents[row].float().numpy(),
            metadata=rows.metadata[row],
            caption=rows.captions[row],
            frames=self.examples.example(row, size, epoch + again).frames if self.steered else (),
        )

    def _check_index(self) -> None:
        """Write down what the latents are of, or refuse those of something else."""
        one = self.family.encode(torch.zeros(1, 3, 64, 64), [generator(0, 0)]).flatten()
        made_of = {
            "data": {k: asdict(self.recipe.data)[k] for k in ("procedural", "sources", "cache")},
            **({"frames": _without_masks(frames)} if (frames := self.recipe.data.frames) else {}),
            **({"unplaced": unplaced} if (unplaced := self.recipe.data.unplaced) else {}),
            "seed": self.recipe.run.seed,
            "autoencoder": hashlib.sha256(one.double().mul(1e3).round().numpy().tobytes()).hexdigest(),
        }
        text, file = json.dumps(made_of, indent=2) + "\n", self.folder / "index.json"
        if not file.exists() and self.processes.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(file, text.encode())
        self.processes.wait()
        if file.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{self.folder} holds latents of other data, of another seed or of another autoencoder "
                "(index.json says which). Remove it, or give another data.cache_folder."
            )

    def _rows(self, size: int) -> _Rows:
        """All rows of a size, encoded where they are not there yet."""
        count = max(1, self.recipe.data.cache * min(self.recipe.data.sizes) ** 2 // size**2)
        starts = range(0, count, _CHUNK)
        files = [self.folder / str(size) / f"{start // _CHUNK:06d}.safetensors" for start in starts]
        files[0].parent.mkdir(parents=True, exist_ok=True)
        mine = slice(self.processes.rank, None, self.processes.count)
        for start, file in list(zip(starts, files, strict=True))[mine]:
            if not file.exists():
                self._encode(range(start, min(start + _CHUNK, count)), size, file)
        self.processes.wait()
        latents, captions, metadata = [], [], []
        for file in files:
            with safe_open(file, "pt") as chunk:
                latents.append(chunk.get_tensor("latents"))
                known = json.loads(chunk.metadata()["rows"])
            captions += [caption for caption, _ in known]
            metadata += [Metadata(**fields) for _, fields in known]
        return _Rows(torch.cat(latents), captions, metadata)

    def _encode(self, positions: range, size: int, file: Path) -> None:
        examples = [self.examples.example(p, size) for p in positions]
        rngs = [generator(self.recipe.run.seed, p) for p in positions]
        device, encoded = self.processes.device, []
        for start in range(0, len(examples), 64):
            pixels = np.stack([e.pixels for e in examples[start : start + 64]])
            images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            with autocast(self.recipe.run.precision, device):
                encoded.append(self.family.encode(images, rngs[start : start + 64]).bfloat16().cpu())
        known = json.dumps([(e.caption, e.metadata.to_dict()) for e in examples])
        save(file, {"latents": torch.cat(encoded)}, {"rows": known})


def _without_masks(frames: Conditions) -> dict[str, Any]:
    """What the latents depend on: where holes come from changes no image."""
    return {name: value for name, value in asdict(frames).items() if name != "holes_from"}
