"""Images that the package draws itself, with captions and metadata that are true of them.

They are for tests, first tries and crash trials, and teach nothing about the Earth: a river, fields, forest,
a town or the sea; the day of the year decides the colour of plants, latitude their darkness, gsd the scale.
"""

import numpy as np
from PIL import Image

from diffusionsat.data.reading import Condition, Example
from diffusionsat.metadata import Metadata

KINDS = ("river", "fields", "forest", "town", "sea")
_PHRASES = {
    "river": ("a river", "a winding river"),
    "fields": ("fields", "fields of crops"),
    "forest": ("a forest", "trees"),
    "town": ("a town", "houses and streets"),
    "sea": ("the sea", "open water"),
}
_SPRING, _AUTUMN = np.array([96, 140, 60.0]), np.array([150, 124, 70.0])
_WATER = np.array([40, 78, 120.0])


class Procedural:
    """An endless mixture of drawn images; see `diffusionsat.training.batches.Examples`.

    Args:
        seed: Another one draws other images.
        sizes: Share of the batches of each side in pixels.
        frames: Condition frames of each image: the same place in other months, at a quarter of the detail.
        bands: Their bands.
    """

    def __init__(
        self,
        seed: int,
        sizes: dict[int, float],
        *,
        frames: int = 0,
        bands: tuple[str, ...] = ("red", "green", "blue"),
    ) -> None:
        self.seed, self.frames, self.bands = seed, frames, bands
        self.sizes = list(sizes)
        total = sum(sizes.values())
        self.shares = [share / total for share in sizes.values()]

    def size(self, batch: int) -> int:
        """Side in pixels of the batch-th batch."""
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, 1 << 63 | batch], np.uint64)))
        return int(rng.choice(self.sizes, p=self.shares))

    def example(self, position: int, size: int, again: int = 0) -> Example:
        """The position-th image; its conditions are always the same."""
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, position], np.uint64)))
        kind = KINDS[rng.integers(len(KINDS))]
        metadata = Metadata(
            lon=round(rng.uniform(-180, 180), 4),
            lat=round(rng.uniform(-60, 70), 4),
            gsd=float(rng.choice([5, 10, 20])),
            cloud_cover=0,
            date=f"{rng.integers(2015, 2025)}-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}",
        )
        phrases = _PHRASES[kind]
        caption = f"{('', 'satellite image of ')[rng.integers(2)]}{phrases[rng.integers(len(phrases))]}"
        shape = int(rng.integers(2**32))
        frames = []
        for _ in range(self.frames):
            other = metadata.replace(date=f"{metadata.year}-{rng.integers(1, 13):02d}", gsd=40.0)
            frames.append(self._frame(kind, other, shape, size, gsd=metadata.gsd or 10.0))
        return Example(
            key=str(position),
            source="procedural",
            pixels=draw(kind, metadata, shape, size),
            metadata=metadata,
            caption=caption,
            frames=tuple(frames),
        )

    def _frame(self, kind: str, metadata: Metadata, shape: int, size: int, gsd: float) -> Condition:
        image = Image.fromarray(draw(kind, metadata.replace(gsd=gsd), shape, size))
        coarse = np.asarray(image.reduce(4).resize((size, size), Image.Resampling.BILINEAR))
        values = np.stack([coarse[..., i % 3] for i in range(len(self.bands))]).astype(np.float32) / 255
        known = np.ones((size, size), bool)
        return Condition(values=values, valid=known, bands=self.bands, metadata=metadata, role="rgb")


def draw(kind: str, metadata: Metadata, shape: int, size: int) -> np.ndarray:
    """An image of a kind, uint8 (size, size, 3); the same ``shape`` is the same place."""
    rng = np.random.Generator(np.random.Philox(shape))
    y, x = np.mgrid[:size, :size] * ((metadata.gsd or 10.0) / 10) * (64 / size)
    turn = rng.uniform(0, np.pi)
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    summer = 0.5 - 0.5 * np.cos(2 * np.pi * (metadata.month or 6) / 12)
    plants = (_AUTUMN + summer * (_SPRING - _AUTUMN)) * (1 - abs(metadata.lat or 0) / 200)
    image = np.broadcast_to(plants, (size, size, 3)).copy()
    if kind == "fields":
        parcel = np.floor(along / 16) * 7 + np.floor(across / 10) * 13
        image *= (0.7 + 0.6 * ((parcel * 0.618) % 1))[..., None]
    elif kind == "forest":
        image *= (0.55 + 0.15 * np.sin(along * 1.3) * np.sin(across * 1.1))[..., None]
    elif kind == "town":
        street = (along % 12 < 2) | (across % 9 < 2)
        image = np.where(street[..., None], 110.0, np.array([170, 120, 105.0]))
    else:
        bend = 10 * np.sin(along / 11 + rng.uniform(0, 6)) + rng.uniform(-10, 10)
        centre = (np.cos(turn) - np.sin(turn)) * 32 * (metadata.gsd or 10.0) / 10
        water = np.abs(across - centre - bend) < 4 if kind == "river" else across - centre - bend > -24
        image[water] = _WATER
    image += rng.normal(0, 6, (size, size, 1))
    return image.clip(0, 255).astype(np.uint8)
