"""Training examples as a function of the seed and of how many were seen.

No state is kept: the example at a position is the same whatever came before, on any rank, in any worker,
after any restart. Each source is gone through in epochs, in each of which every image comes once: row groups
in a random order, images shuffled within windows of 8 of them, so that few row groups are read at a time.
"""

import logging
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffusionsat.data import captions, conditions, crops
from diffusionsat.data.conditions import Condition, Conditions
from diffusionsat.data.holes import cloud_masks
from diffusionsat.data.records import Frame, Record
from diffusionsat.data.sensors import Scaling, stretch
from diffusionsat.data.series import Series
from diffusionsat.data.sources import WINDOW, Images, Source
from diffusionsat.errors import ConfigError, DatasetError
from diffusionsat.metadata import Metadata
from diffusionsat.noise_keys import PURPOSES, check_seed

log = logging.getLogger(__name__)

BLOCK = 4096  # positions in which every source has exactly its share
_GROUPS, _WINDOW, _SHARES, _SIZE, _EXAMPLE, _AGAIN = range(6)  # what a stream of random numbers is for


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training example, already cropped and with its caption chosen.

    Args:
        key: Of its record, unique within the source, and the number of the frame.
        source: Name of the data set.
        pixels: uint8 (size, size, 3).
        metadata: Of these pixels; None is unknown.
        caption: May be empty.
        frames: What a ControlNet is given, by date.
    """

    key: str
    source: str
    pixels: np.ndarray
    metadata: Metadata
    caption: str
    frames: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """Which frames of a record condition which: the task of a published ControlNet.

    Args:
        most: At most so many conditions; 1 to this many are drawn for each example.
        targets: Roles that are predicted; None is all that have colours.
        conditions: Roles that are given; None is all.
    """

    most: int = 1
    targets: Collection[str] | None = None
    conditions: Collection[str] | None = None


class Mixture:
    """An endless, deterministic mixture of sources.

    A source whose images are all smaller than a size gives none of that size, and its share goes to the
    others in proportion; a size for which no source has an image is refused.

    Args:
        sources: With names of their own.
        weights: Share of each source by its name, to the nearest 4096th; None is by their numbers of images.
        seed: Of order, crops, captions.
        sizes: Share of the batches by the side of their images in pixels.
        drop_pieces: Rate at which each piece of a caption is left out.
        phrasings: Whether captions are said in other words at times, and with the month.
        unplaced: Rate at which the place of a single image is withheld, so that it may be turned any way.
            Source: the augmentation of Karras et al. 2022 (EDM), section 5, whose network is told of it.
        companions: What is given for conditional tasks; None gives single images, every frame of a sequence
            being one.
        held_out: Give the tenth of the places that is kept for validation instead of the rest.

    Raises:
        ConfigError: If names, weights or sizes cannot be.
        DatasetError: If no source has an image of a size.
    """

    def __init__(
        self,
        sources: Sequence[Source | Series],
        *,
        seed: int,
        sizes: Mapping[int, float],
        weights: Mapping[str, float] | None = None,
        drop_pieces: float = 0.1,
        phrasings: bool = True,
        unplaced: float = 0.0,
        companions: Companions | Conditions | None = None,
        held_out: bool = False,
    ) -> None:
        self.sources, self.seed, self.companions = tuple(sources), check_seed(seed), companions
        self.weights, self.unplaced = weights, unplaced
        self.drop_pieces, self.phrasings = drop_pieces, phrasings
        self.sizes = {size: share for size, share in sizes.items() if share > 0}
        _check(self.sources, weights, self.sizes)
        self._masks = _masks(self.sources, companions)
        self._streams = {size: self._stream(size, held_out) for size in sorted(self.sizes)}

    def size(self, batch: int) -> int:
        """Side in pixels of the images of a batch, counted from 0."""
        sizes = sorted(self.sizes)
        shares = np.array([self.sizes[size] for size in sizes])
        return int(_rng(self.seed, _SIZE, batch).choice(sizes, p=shares / shares.sum()))

    def example(self, position: int, size: int, again: int = 0) -> Example:
        """The example that is the ``position``-th image of the run, counted from 0.

        Args:
            position: From 0.
            size: Side in pixels.
            again: Another number draws other `Conditions` for the same pixels.

        Raises:
            DatasetError: If it cannot be read.
        """
        source, image = self._streams[size].draw(position)
        rng = _rng(self.seed, _EXAMPLE, position, size)
        record = source.record(image)
        number = int(source.images.frame[image])
        frame = record.frames[number]
        known = frame.metadata
        if self.unplaced and rng.random() < self.unplaced:
            known = known.replace(lon=None, lat=None)
        pixels = frame.rgb()
        height, width = pixels.shape[:2]
        drawn = crops.draw(known, height, width, size, rng)
        pixels = np.ascontiguousarray(drawn.cut(pixels))
        caption = self._caption(record, frame, rng)
        frames: tuple[Condition, ...] = ()
        if isinstance(self.companions, Companions):
            frames = _companions(self.companions, record, number, drawn, rng)
        elif self.companions is not None:
            if again:
                rng = _rng(self.seed, _AGAIN, position, size, again)
            frames = conditions.draw(self.companions, record, number, drawn, pixels, rng, self._masks)
        return Example(
            key=record.key if len(record.frames) == 1 else f"{record.key}/{number}",
            source=source.name,
            pixels=pixels,
            metadata=drawn.metadata(known),
            caption=caption,
            frames=frames,
        )

    def validation(self) -> "Mixture | None":
        """What is held out of this mixture, at its smallest size, by the same weights; positions start at 0.

        None if nothing of that size is, as where all images show one place.
        """
        size = min(self.sizes)
        if not any((self._usable(s.images, size) & s.images.held_out).any() for s in self.sources):
            return None
        return Mixture(
            self.sources,
            seed=self.seed,
            sizes={size: 1.0},
            weights=self.weights,
            drop_pieces=self.drop_pieces,
            phrasings=self.phrasings,
            companions=self.companions,
            held_out=True,
        )

    def _stream(self, size: int, held_out: bool) -> "_Stream":
        parts = []
        for source in self.sources:
            rows = self._usable(source.images, size) & (source.images.held_out == held_out)
            share = rows.sum() if self.weights is None else self.weights[source.name]
            if rows.any() and share > 0:
                parts.append((_Order(source, np.flatnonzero(rows), self.seed), float(share)))
            elif share > 0 or self.weights is None:
                log.info(
                    "%s has no image of %d px for this task in these places; the others get its share",
                    source.name,
                    size,
                )
        if not parts:
            sides = [source.images.side[self._usable(source.images, 1)] for source in self.sources]
            largest = max(int(side.max(initial=0)) for side in sides)
            if not largest:
                raise DatasetError(
                    "No source has images for this task: it needs red, green and blue, and of conditional "
                    "tasks what is given beside it."
                )
            raise DatasetError(
                f"No source has images of {size} px for this task; the largest has a side of {largest}. "
                "Leave the size out or add a source."
            )
        return _Stream(parts, self.seed)

    def _usable(self, images: Images, size: int) -> np.ndarray:
        usable = images.colour & (images.side >= size)
        if self.companions is None:
            return usable
        if isinstance(self.companions, Conditions):
            return usable if self.companions.coarse + self.companions.holes else usable & (images.frames > 1)
        if self.companions.targets is not None:
            usable &= np.isin(images.role, list(self.companions.targets))
        given = np.ones(len(images.role), bool)
        if self.companions.conditions is not None:
            given = np.isin(images.role, list(self.companions.conditions))
        # Conditions of a row, less the image itself.
        first = np.cumsum(images.frame == 0) - 1
        there = np.bincount(first, given, minlength=1)[first] - given
        return usable & (there >= 1)

    def _caption(self, record: Record, frame: Frame, rng: np.random.Generator) -> str:
        sentence = captions.some_pieces(record.pieces + frame.pieces, self.drop_pieces, rng)
        if not self.phrasings:
            return sentence
        return captions.caption(
            sentence, rng, source=record.source, label=record.label, month=frame.metadata.month
        )


def _check(
    sources: Sequence[Source | Series], weights: Mapping[str, float] | None, sizes: Mapping[int, float]
) -> None:
    names = [source.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"sources are named {', '.join(names) or 'nothing'}. Give some, with different names."
        )
    if weights is not None and (set(weights) != set(names) or not min(weights.values()) >= 0):
        raise ConfigError(
            f"weights are given for {', '.join(weights)}; the sources are {', '.join(names)}. "
            "Give each a number from 0."
        )
    if not sizes or not all(size >= 1 for size in sizes):
        raise ConfigError(f"sizes are {dict(sizes)}. Give sides in pixels with their shares of the batches.")


def _masks(
    sources: Sequence[Source | Series], given: Companions | Conditions | None
) -> tuple[np.ndarray, ...]:
    """Masks of the sources that real holes come from.

    Raises:
        ConfigError: If one of them is none of the sources, or has no mask.
    """
    names = given.holes_from if isinstance(given, Conditions) else ()
    held = {source.name: source for source in sources if isinstance(source, Source)}
    masks = {name: cloud_masks(held[name].masks()) if name in held else [] for name in names}
    for name, those in masks.items():
        if not those:
            raise ConfigError(
                f"holes_from has {name!r}, which has no masks with clouds. Name sources with a column mask."
            )
    return tuple(mask for those in masks.values() for mask in those)


def _companions(
    companions: Companions, record: Record, target: int, drawn: crops.Crop, rng: np.random.Generator
) -> tuple[Condition, ...]:
    roles = companions.conditions
    others = [i for i, f in enumerate(record.frames) if i != target and (roles is None or f.role in roles)]
    count = int(rng.integers(1, min(companions.most, len(others)) + 1))
    chosen = [record.frames[others[i]] for i in sorted(rng.permutation(len(others))[:count])]
    chosen.sort(key=lambda frame: frame.metadata.date or "")
    return tuple(_condition(frame, drawn) for frame in chosen)


def _condition(frame: Frame, drawn: crops.Crop) -> Condition:
    if frame.scaling is not None and frame.scaling.gain is not None:
        values, known = frame.reflectance()
    else:
        stored = frame.pixels()
        known = (frame.scaling or Scaling()).valid(stored)
        values = (stored if stored.dtype == np.uint8 else stretch(stored, known)) / np.float32(255)
    everywhere = np.all(known, axis=2)
    values, valid, metadata = drawn.cut_other(np.clip(values, 0, 1), everywhere, frame.metadata)
    return Condition(
        values=np.ascontiguousarray(np.moveaxis(values, 2, 0)),
        valid=np.ascontiguousarray(valid),
        bands=frame.bands,
        metadata=metadata,
        role=frame.role,
    )


class _Stream:
    """Which image of which source a position has, at one size.

    Sizes that the same sources serve by the same shares have one and the same order.
    """

    def __init__(self, parts: Sequence[tuple["_Order", float]], seed: int) -> None:
        self.orders, self.seed = [order for order, _ in parts], seed
        shares = np.array([share for _, share in parts])
        self.counts = _apportion(shares / shares.sum(), BLOCK)
        self.block = (-1, np.empty(0), np.empty(0))

    def draw(self, position: int) -> tuple[Source | Series, int]:
        """The source and the entry of its `images`."""
        block, place = divmod(position, BLOCK)
        held = self.block  # one object, since other threads may put another block there meanwhile
        if held[0] != block:
            which = np.repeat(np.arange(len(self.counts)), self.counts)
            which = _rng(self.seed, _SHARES, block).permutation(which)
            rank = np.empty(BLOCK, np.int64)
            for i, count in enumerate(self.counts):
                rank[which == i] = block * int(count) + np.arange(count)
            held = self.block = (block, which, rank)
        _, which, rank = held
        order = self.orders[which[place]]
        return order.source, order.image(int(rank[place]))


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to a total, as near to the shares as can be, none of them 0."""
    counts = np.maximum(1, np.floor(shares * total)).astype(np.int64)
    while (left := total - int(counts.sum())) != 0:
        wanted = shares * total - counts
        counts[np.argmax(wanted) if left > 0 else np.argmin(wanted)] += np.sign(left)
    return counts


class _Order:
    """A permutation of some images of a source for every epoch.

    It depends on the seed, the source's name and the images, not on their size: sizes that the same images
    are large enough for go through one and the same epoch.
    """

    def __init__(self, source: Source | Series, images: np.ndarray, seed: int) -> None:
        self.source, self.seed, self.code = source, seed, zlib.crc32(source.name.encode())
        held = source.images
        new = (np.diff(held.shard[images]) != 0) | (np.diff(held.group[images]) != 0)
        self.groups = np.split(images, np.flatnonzero(new) + 1)
        self.count = len(images)
        self.epoch = (-1, np.empty(0, np.int64), np.empty(0, np.int64))
        self.window = (-1, -1, np.empty(0, np.int64))

    def image(self, n: int) -> int:
        """The n-th image of the endless order."""
        epoch, place = divmod(n, self.count)
        order, ends = self._epoch(epoch)
        window = int(np.searchsorted(ends, place, side="right"))
        held = self.window
        if held[:2] != (epoch, window):
            groups = order[window * WINDOW : (window + 1) * WINDOW]
            images = np.concatenate([self.groups[i] for i in groups])
            shuffled = _rng(self.seed, _WINDOW, epoch, self.code, window).permutation(images)
            held = self.window = (epoch, window, shuffled)
        shuffled = held[2]
        return int(shuffled[place - ends[window] + len(shuffled)])

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the row groups, and how many images there are to the end of each window."""
        held = self.epoch
        if held[0] != epoch:
            order = _rng(self.seed, _GROUPS, epoch, self.code).permutation(len(self.groups))
            lengths = np.array([len(self.groups[i]) for i in order])
            ends = np.cumsum(np.add.reduceat(lengths, np.arange(0, len(lengths), WINDOW)))
            held = self.epoch = (epoch, order, ends)
        return held[1:]


def _rng(seed: int, purpose: int, number: int, which: int = 0, part: int = 0) -> np.random.Generator:
    """Random numbers of a purpose; word 0 of the counter is left to the stream itself."""
    counter = np.array([0, purpose << 32 | part, number, which], np.uint64)
    return np.random.Generator(np.random.Philox(key=[seed, PURPOSES["order"]], counter=counter))
