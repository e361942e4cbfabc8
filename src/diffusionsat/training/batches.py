"""Examples as batches of tensors: the batch after so many images is a function of these alone.

Every random number that an image needs comes from a generator of its own, keyed by the run's seed and by the
image's position in the run, so that neither the number of processes nor a restart changes it.
"""

import functools
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.data.captions import in_words
from diffusionsat.data.dropout import draw_whole, drop
from diffusionsat.data.reading import Example
from diffusionsat.errors import ConfigError, DatasetError
from diffusionsat.execution import processes
from diffusionsat.models.networks import BANDS, Frames
from diffusionsat.training.recipe import Data

_AHEAD = 2  # batches that are read before they are wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One process's part of a batch.

    Args:
        images: (B, 3, H, W) in [-1, 1], or their latents (B, C, h, w).
        noise: Standard normal, in the shape of the latents.
        level: A number in (0, 1) for each image, which decides its noise level, (B,).
        numbers: Metadata as `models.encodings.numbers`, some of it dropped, (B, 7).
        text: What the networks know of the captions, a row each.
        frames: Empty without condition frames. Of the published family these, (B, T, C, h, w) in [0, 1], and
            their numbers (B, T, 7); of the compact one the parts of `models.networks.Frames`.
    """

    images: Tensor
    noise: Tensor
    level: Tensor
    numbers: Tensor
    text: tuple[Tensor, ...] = ()
    frames: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.level)

    def parts(self, count: int) -> "list[Batch]":
        """The batch in equal parts, one after another."""
        size = len(self) // count
        return [self._each(lambda t, i=i: t[i * size : (i + 1) * size]) for i in range(count)]

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return self._each(lambda t: t.to(device, non_blocking=True))

    def _each(self, function: Any) -> "Batch":
        changed: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            changed[name] = tuple(map(function, value)) if isinstance(value, tuple) else function(value)
        return Batch(**changed)


class Examples(Protocol):
    """An endless, deterministic mixture; see `diffusionsat.data.reading.Mixture`."""

    def size(self, batch: int) -> int:
        """Side in pixels of the batch-th batch."""
        ...

    def example(self, position: int, size: int, again: int = 0) -> Example:
        """The position-th image of the run; another ``again`` may draw other conditions for it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What the processor's threads make of examples, before any network sees them.

    Args:
        images: (B, 3, size, size) in [-1, 1]; latents where they were cached.
        encoded: Whether these are latents.
        captions: Empty where dropped.
        numbers: (B, 7), NaN where unknown or dropped.
        rngs: One generator an image, after the numbers above were drawn.
        level: As in `Batch`.
        frames: As in `Batch`, but of the compact family what `steering` gives.
    """

    images: Tensor
    encoded: bool
    captions: list[str]
    numbers: Tensor
    rngs: list[np.random.Generator]
    level: Tensor
    frames: tuple[Tensor, ...]


class Reader:
    """Reads the examples of this process's batches, in threads or other processes and ahead of time.

    Args:
        examples: What is read.
        data: Sizes, batch size, dropping, form of conditions.
        seed: Of the run.
        rank: Of this process.
        ranks: Processes in all.
        parts: Parts that a batch is computed in; it is a multiple of ranks times parts.
        conditions: Whether condition frames are wanted.
    """

    def __init__(
        self,
        examples: Examples,
        data: Data,
        seed: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        parts: int = 1,
        conditions: bool = False,
    ) -> None:
        if data.batch_size % (ranks * parts):
            raise ConfigError(
                f"data.batch_size is {data.batch_size}; it must be a multiple of {ranks} processes times "
                f"{parts} parts (optimiser.accumulation)."
            )
        self.examples, self.data = examples, data
        self.rank, self.ranks, self.grain = rank, ranks, ranks * parts
        self.pool = ThreadPoolExecutor(data.workers)
        self.make = functools.partial(make, examples, data, seed, conditions)
        self.lead = max(_AHEAD, 2 * data.processes)
        self.ahead: Executor = ThreadPoolExecutor(1)  # of its own, since it waits for the others
        if data.processes:
            self.ahead = processes(data.processes, _begin, (self.make,))
        self.coming: dict[tuple[int, int], Future[Read]] = {}

    def count(self, step: int) -> int:
        """Images of a step over all processes: fewer of larger sizes, so that the area stays about equal."""
        smallest = min(self.data.sizes)
        wanted = self.data.batch_size * smallest**2 / self.examples.size(step) ** 2
        return max(1, round(wanted / self.grain)) * self.grain

    def __call__(self, seen: int, step: int) -> Read:
        """This process's part of the batch after ``seen`` images and ``step`` steps.

        Raises:
            DatasetError: If an image cannot be read, or a process that reads has died.
        """
        try:
            now = self.coming.pop((seen, step), None) or self._begin(seen, step)
            for _ in range(self.lead):
                seen, step = seen + self.count(step), step + 1
                if (seen, step) not in self.coming:
                    self.coming[seen, step] = self._begin(seen, step)
            return now.result()
        except BrokenProcessPool:
            raise DatasetError(
                "A process that reads images died, mostly for want of memory. Give fewer data.processes; the "
                "same command goes on from the last state."
            ) from None

    def close(self) -> None:
        """Stop reading."""
        self.ahead.shutdown(cancel_futures=True)
        self.pool.shutdown(cancel_futures=True)

    def _begin(self, seen: int, step: int) -> Future[Read]:
        size = self.examples.size(step)
        positions = range(seen + self.rank, seen + self.count(step), self.ranks)
        if self.data.processes:
            return self.ahead.submit(_make_here, positions, size)
        return self.ahead.submit(self.make, positions, size, self.pool.map)


def make(
    examples: Examples,
    data: Data,
    seed: int,
    conditions: bool,
    positions: range,
    size: int,
    each: Callable[..., Iterable[Example]] = map,
) -> Read:
    """The examples at some positions of a run, of one size, as tensors."""
    found = list(each(functools.partial(examples.example, size=size), positions))
    return collate(found, [generator(seed, position) for position in positions], data, conditions)


_made: Callable[[range, int], Read]  # of a process that reads


def _begin(function: Callable[[range, int], Read]) -> None:
    global _made
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which saves what these still read
    torch.set_num_threads(1)
    _made = function


def _make_here(positions: range, size: int) -> Read:
    return _made(positions, size)


def generator(seed: int, position: int) -> np.random.Generator:
    """Random numbers of the position-th image of a run."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, position], np.uint64)))


def collate(examples: list[Example], rngs: list[np.random.Generator], data: Data, conditions: bool) -> Read:
    """Examples as tensors, with some of their conditions dropped."""
    images = torch.from_numpy(np.stack([e.pixels for e in examples]))
    encoded = images.dtype != torch.uint8
    captions, known, level = [], [], []
    for example, rng in zip(examples, rngs, strict=True):
        level.append(min(max(rng.random(), 1e-6), 1 - 1e-6))
        several = np.array([m.numbers for m in (example.metadata, *(f.metadata for f in example.frames))])
        no_text, no_metadata = draw_whole(1, rng, data.dropping)
        caption = "" if no_text[0] else example.caption
        several = drop(several, rng, data.dropping, no_metadata.repeat(len(several)))
        several[rng.random(several.shape) < data.no_number] = np.nan
        if data.numbers_in_words:
            caption = ", ".join(filter(None, (caption, in_words(several[0]))))
            several[0] = np.nan
        captions.append(caption)
        known.append(several)
    rows = torch.from_numpy(np.stack([k[0] for k in known])).float()
    frames: tuple[Tensor, ...] = ()
    if conditions and data.frames is not None:
        frames = steering(examples, [k[1:] for k in known])
    elif conditions:
        pairs = [_frames(e, k[1:], data) for e, k in zip(examples, known, strict=True)]
        frames = torch.stack([f for f, _ in pairs]), torch.stack([n for _, n in pairs])
    return Read(
        images=images if encoded else images.permute(0, 3, 1, 2).float() / 127.5 - 1,
        encoded=encoded,
        captions=captions,
        numbers=rows,
        rngs=rngs,
        level=torch.tensor(level, dtype=torch.float64).float(),
        frames=frames,
    )


def steering(examples: list[Example], known: list[np.ndarray]) -> tuple[Tensor, ...]:
    """Conditions of some examples with their numbers (T, 7), filled up with absent frames; at least one.

    Returns:
        The parts of `Frames`, but of the values only the bands that there are, one after another (n, H, W):
        most frames have three of thirteen, and this is what processes that read hand over.
    """
    count = max(1, *(len(example.frames) for example in examples))
    side = max((frame.values.shape[1] for example in examples for frame in example.frames), default=1)
    shape = (len(examples), count)
    planes = [np.zeros((0, side, side), np.float32)]
    bands = torch.zeros(*shape, len(BANDS), dtype=torch.bool)
    valid = torch.zeros(*shape, side, side, dtype=torch.bool)
    numbers = torch.full((*shape, 7), torch.nan)
    for i, (example, rows) in enumerate(zip(examples, known, strict=True)):
        numbers[i, : len(rows)] = torch.from_numpy(rows).float()
        for t, frame in enumerate(example.frames):
            places = [BANDS.index(band) for band in frame.bands]
            planes.append(frame.values[np.argsort(places)])
            bands[i, t, places] = True
            valid[i, t] = torch.from_numpy(frame.valid)
    return torch.from_numpy(np.concatenate(planes)), bands, valid, numbers


def all_bands(planes: Tensor, bands: Tensor, valid: Tensor, numbers: Tensor) -> Frames:
    """What `steering` gave, with 0 where there is no band."""
    values = planes.new_zeros(*bands.shape, *planes.shape[1:])
    values[bands] = planes
    return Frames(values, bands, valid, numbers)


def _frames(example: Example, known: np.ndarray, data: Data) -> tuple[Tensor, Tensor]:
    """Condition frames (T, C, h, w) of an example and their numbers (T, 7)."""
    if not example.frames:
        raise DatasetError(
            f"{example.source}/{example.key} has no frame to condition on. Give data.conditions that the "
            "data have, or data of sequences."
        )
    given = list(zip(example.frames, known, strict=True))
    chosen = [given[i % len(given)] for i in range(data.condition_frames)]
    side = example.pixels.shape[0] // data.condition_scale
    images = []
    for frame, _ in chosen:
        absent = [band for band in data.condition_bands if band not in frame.bands]
        if absent:
            raise DatasetError(
                f"{example.source}/{example.key} has no band {absent[0]!r}; its frame has "
                f"{', '.join(frame.bands)}. Change data.condition_bands."
            )
        bands = [frame.bands.index(band) for band in data.condition_bands]
        values = frame.values[bands]
        if data.condition_ranges:
            low, high = np.array(data.condition_ranges, np.float32).T[:, :, None, None]
            values = np.clip((values - low) / (high - low), 0, 1)
        values = torch.from_numpy(np.where(frame.valid, values, 0).astype(np.float32))
        if values.shape[1:] != (side, side):
            values = F.interpolate(
                values[None], (side, side), mode="bilinear", antialias=True, align_corners=False
            )[0]
        images.append(values)
    return torch.stack(images), torch.from_numpy(np.stack([row for _, row in chosen])).float()


def normal(rngs: list[np.random.Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers of each image from its own generator, (B, *shape)."""
    return torch.from_numpy(np.stack([rng.standard_normal(shape, np.float32) for rng in rngs]))
