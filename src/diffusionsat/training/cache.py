"""Examples encoded once: a part of the mixture, as latents on disk, in place of the endless whole.

    FOLDER/SIZE/000000.safetensors   latents (n, C, h, w) in bfloat16; captions and metadata in the header

A chunk is complete or absent, so that encoding goes on where it was stopped.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffusionsat.checkpoints.tensors import save
from diffusionsat.data.reading import Example
from diffusionsat.errors import ConfigError
from diffusionsat.metadata import Metadata
from diffusionsat.training.batches import Examples, generator
from diffusionsat.training.families import Family
from diffusionsat.training.precision import autocast
from diffusionsat.training.processes import Alone
from diffusionsat.training.recipe import Recipe

log = logging.getLogger(__name__)

_CHUNK = 256
_MANY = 16  # chunks that take so long that it is told
_COMPARED = 8  # rows that are made anew to see whether a folder holds what it should
_CLOSE = 0.01  # of latents' power: far above the rounding of another device or precision


@dataclass(frozen=True)
class _Rows:
    latents: Tensor
    captions: list[str]
    metadata: list[Metadata]


class Cached:
    """The first ``data.cache`` examples as latents, or as many as the run sees; see `batches.Examples`.

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

    def __getstate__(self) -> dict[str, Any]:
        """What reading takes, without what encoding took."""
        return {name: v for name, v in self.__dict__.items() if name not in ("family", "processes")}

    def _rows(self, size: int) -> _Rows:
        """All rows of a size, encoded where they are not there yet."""
        wanted = min(self.recipe.data.cache, self.recipe.run.images)
        count = max(1, wanted * min(self.recipe.data.sizes) ** 2 // size**2)
        chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
        files = [self.folder / str(size) / f"{i:06d}.safetensors" for i in range(len(chunks))]
        files[0].parent.mkdir(parents=True, exist_ok=True)
        counts = [_count(file) for file in files]
        if counts[0]:
            self._check(size, _read(files[0]))
        self.processes.wait()
        mine = slice(self.processes.rank, None, self.processes.count)
        lacking = [
            (positions, file)
            for positions, file, there in list(zip(chunks, files, counts, strict=True))[mine]
            if there < len(positions)
        ]
        if len(lacking) >= _MANY:
            images = sum(len(positions) for positions, _ in lacking)
            log.warning("%d images of %d px are encoded first, into %s", images, size, self.folder)
        for positions, file in lacking:
            self._encode(positions, size, file)
        self.processes.wait()
        parts = [_read(file) for file in files]
        return _Rows(
            torch.cat([part.latents for part in parts])[:count],
            [caption for part in parts for caption in part.captions][:count],
            [metadata for part in parts for metadata in part.metadata][:count],
        )

    def _check(self, size: int, there: _Rows) -> None:
        """Make some rows anew, and refuse a folder that has others."""
        some = range(0, len(there.captions), max(1, len(there.captions) // _COMPARED))
        rows = self._make(some, size)
        latents = there.latents[list(some)].float()
        if (
            rows.captions != [there.captions[p] for p in some]
            or rows.metadata != [there.metadata[p] for p in some]
            or rows.latents.shape != latents.shape
            or (rows.latents.float() - latents).square().mean() > _CLOSE * latents.square().mean()
        ):
            raise ConfigError(
                f"{self.folder} holds latents of other data or settings, of another seed or of "
                "another autoencoder. Remove it, or give another data.cache_folder."
            )

    def _make(self, positions: Sequence[int], size: int) -> _Rows:
        examples = [self.examples.example(p, size) for p in positions]
        rngs = [generator(self.recipe.run.seed, p) for p in positions]
        device, encoded = self.processes.device, []
        for start in range(0, len(examples), 64):
            pixels = np.stack([e.pixels for e in examples[start : start + 64]])
            images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            with autocast(self.recipe.run.precision, device):
                encoded.append(self.family.encode(images, rngs[start : start + 64]).bfloat16().cpu())
        return _Rows(torch.cat(encoded), [e.caption for e in examples], [e.metadata for e in examples])

    def _encode(self, positions: range, size: int, file: Path) -> None:
        rows = self._make(positions, size)
        known = [(c, m.to_dict()) for c, m in zip(rows.captions, rows.metadata, strict=True)]
        save(file, {"latents": rows.latents}, {"rows": json.dumps(known)})


def _count(file: Path) -> int:
    """Rows of a chunk; none where it is absent, or damaged and to be made anew."""
    try:
        with safe_open(file, "pt") as chunk:
            return chunk.get_slice("latents").get_shape()[0]
    except FileNotFoundError:
        return 0
    except (SafetensorError, OSError) as error:
        log.warning("%s is damaged (%s); its images are encoded anew", file, error)
        return 0


def _read(file: Path) -> _Rows:
    with safe_open(file, "pt") as chunk:
        known = json.loads(chunk.metadata()["rows"])
        captions, metadata = [caption for caption, _ in known], [Metadata(**fields) for _, fields in known]
        return _Rows(chunk.get_tensor("latents"), captions, metadata)
