"""What the parts of a report look at: images of several sets, seen through feature networks once."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusionsat.evaluation.cases import Cases
from diffusionsat.evaluation.features import FeatureNetwork, feature_network
from diffusionsat.evaluation.probes import Probes
from diffusionsat.evaluation.units import Arrays, Kept
from diffusionsat.metrics.memorisation import thumbnails

LOOK = 256  # images that are looked at together
THUMBNAILS = "thumbnails"


@functools.lru_cache(8)
def network_of(name: str) -> FeatureNetwork:
    """A feature network, opened once in each process."""
    return feature_network(name)


@dataclass(frozen=True, slots=True)
class Look:
    """What is kept of each image: features, a thumbnail, its mean colour and a digest of its pixels.

    Args:
        pixels: Images of a unit, uint8 (N, H, W, 3).
        networks: Names or paths of feature networks.
    """

    pixels: Callable[[int], np.ndarray]
    networks: tuple[str, ...]

    def __call__(self, unit: int) -> Arrays:
        """What is kept of a unit."""
        pixels = self.pixels(unit)
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
        found = {_key(n.name): n(pixels).numpy() for n in map(network_of, self.networks)}
        # Without the mean of each colour, or all plain water would be one picture.
        found[_key(THUMBNAILS)] = thumbnails(image - image.mean((2, 3), keepdim=True)).float().numpy()
        found["colours"] = pixels.mean((1, 2), dtype=np.float64)
        found["digests"] = np.array([hashlib.sha256(x.tobytes()).hexdigest() for x in pixels])
        return found


@dataclass(frozen=True, slots=True)
class RealUnits:
    """Squares of real cases, by unit."""

    cases: Cases

    def __call__(self, unit: int) -> np.ndarray:
        """Images of a unit, uint8 (N, H, W, 3)."""
        return self.cases.pixels(range(unit * LOOK, min((unit + 1) * LOOK, len(self.cases))))


@dataclass(frozen=True, slots=True)
class MadeUnits:
    """Images that a model made, by the units that they were made in."""

    kept: Kept

    def __call__(self, unit: int) -> np.ndarray:
        """Images of a unit, uint8 (N, H, W, 3)."""
        return self.kept.part(unit, "pixels")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A set of images as the feature networks saw it.

    Args:
        kept: What `Look` kept.
        pixels: Images of a unit.
        size: Images a unit; the last one may have fewer.
    """

    kept: Kept
    pixels: Callable[[int], np.ndarray]
    size: int

    def features(self, name: str) -> Tensor:
        """Features of a network, or `THUMBNAILS`, float32 (N, D), mapped from a file."""
        return torch.from_numpy(self.kept.whole(_key(name)))

    @property
    def colours(self) -> np.ndarray:
        """Mean red, green and blue of each image, 0 to 255, (N, 3)."""
        return self.kept.whole("colours")

    @property
    def digests(self) -> list[str]:
        """SHA-256 of each image's pixels."""
        return self.kept.whole("digests").tolist()

    def images(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Some of the images, each uint8 (H, W, 3)."""
        units = {unit: self.pixels(unit) for unit in sorted({row // self.size for row in rows})}
        return [units[row // self.size][row % self.size] for row in rows]


def _key(network: str) -> str:
    return f"features of {network}"  # whatever a user calls a network


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Evidence:
    """All that a report is made of.

    Args:
        asked: What was asked for.
        made: The images that are judged, in the order of ``asked`` if they are ``matched``.
        real: The real images of ``asked``.
        others: Cases to compare with.
        reference: Their images.
        trained: Cases that a model may have been trained on; None if there are none.
        train: Their images.
        networks: Feature networks.
        probes: What reads metadata and classes from features of them.
        matched: Whether image i answers case i.
        seed: Of random choices.
        clip: CLIP model for text alignment; see `clip.open_clip`.
    """

    asked: Cases
    made: Seen
    real: Seen
    others: Cases
    reference: Seen
    trained: Cases | None
    train: Seen | None
    networks: Sequence[FeatureNetwork]
    probes: Sequence[Probes]
    matched: bool
    seed: int
    clip: Path | None = None
