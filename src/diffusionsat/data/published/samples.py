"""What training with a condition takes, and how several data sets are mixed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from diffusionsat.data.published.normalisation import metadata_normalize


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSample:
    """A target image and the condition images from which it is to be made.

    Args:
        pixel_values: Target, float32 (3, R, R) in [-1, 1].
        conditioning_pixel_values: Condition images one after another, float32 (T * C, r, r) in [0, 1].
        metadata: Normalised numbers of the target, (7,).
        conditioning_metadata: Normalised numbers of each condition image, (7, T).
        caption: Caption of the target.
    """

    pixel_values: Tensor
    conditioning_pixel_values: Tensor
    metadata: Tensor
    conditioning_metadata: Tensor
    caption: str

    @property
    def frames(self) -> Tensor:
        """The condition images as the 3D ControlNet takes them, (C, T, r, r)."""
        count = self.conditioning_metadata.shape[1]
        return self.conditioning_pixel_values.unflatten(0, (count, -1)).transpose(0, 1).contiguous()


def control_sample(
    target: Tensor, conditions: list[Tensor], numbers: list[Tensor], caption: str
) -> ControlSample:
    """A sample from its parts.

    Args:
        target: In [0, 1], (3, R, R).
        conditions: T images in [0, 1], (C, r, r) each.
        numbers: Shifted numbers (7,) of the target and of each condition, T + 1 of them.
        caption: Caption of the target.
    """
    metadata, *others = [metadata_normalize(shifted) for shifted in numbers]
    return ControlSample(
        pixel_values=target * 2 - 1,
        conditioning_pixel_values=torch.cat(conditions),
        metadata=metadata,
        conditioning_metadata=torch.stack(others, dim=1),
        caption=caption,
    )


class SampleEqually(IterableDataset):
    """One sample of each data set in turn, until the first of them ends.

    Args:
        datasets: The data sets.
    """

    def __init__(self, datasets: Iterable[Iterable[Any]]) -> None:
        super().__init__()
        self.datasets = list(datasets)

    def __iter__(self) -> Iterator[Any]:
        sources = [iter(dataset) for dataset in self.datasets]
        while sources:
            for source in sources:
                try:
                    sample = next(source)
                except StopIteration:
                    return
                yield sample
