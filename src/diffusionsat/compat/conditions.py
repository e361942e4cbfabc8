"""What scripts pass to the published pipelines as images and metadata, as tensors for the networks."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from diffusionsat.errors import ConfigError, MetadataError
from diffusionsat.metadata import NUMBERS, Metadata


@contextlib.contextmanager
def conditioned(network: nn.Module, **rows: Tensor | None) -> Iterator[None]:
    """Let a network be called with metadata beside what diffusers' pipelines pass to it.

    A call on more images than there are rows is guidance's, whose unconditional half comes first: there
    the metadata is zero.

    Args:
        network: One of the published networks; one without metadata is left alone.
        **rows: Arguments of its call, one row an image; None is not passed.
    """
    known = {name: value for name, value in rows.items() if value is not None}
    if not known or not has_metadata(network):
        yield
        return

    def add(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        count = len(args[0])
        return args, kwargs | {
            name: torch.cat([torch.zeros_like(value), value])[-count:] for name, value in known.items()
        }

    hook = network.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def has_metadata(network: nn.Module) -> bool:
    """Whether a network takes metadata."""
    return getattr(network, "metadata_embedding", None) is not None


def metadata_tensor(metadata: Any, batch: int, count: int, frames: bool = False) -> Tensor:
    """Normalised numbers as float32 (batch, count), or (batch, count, T) of frames; 0 where unknown.

    Args:
        metadata: Numbers (count,), (1, count) or (batch, count), as a tensor, array or list; NaN or None is
            unknown. With ``frames`` also (count, T), which for one prompt or
            T other than ``count`` is meant, and (batch, count, T).
        batch: Number of prompts.
        count: Numbers that the network takes.
        frames: Whether a sequence's metadata may be given.

    Raises:
        MetadataError: If it is not normalised numbers, not finite or of another shape.
    """
    known = _numbers(metadata)
    if frames and known.ndim == 2 and len(known) == count and (batch == 1 or known.shape[1] != count):
        known = known[None]
    if known.ndim == 1:
        known = known[None]
    fits = known.ndim == 2 or (frames and known.ndim == 3)
    if not fits or known.shape[1] != count or len(known) not in (1, batch):
        allowed = f"({count},) or ({batch}, {count})" + (f" or ({batch}, {count}, frames)" if frames else "")
        raise MetadataError(f"metadata has shape {tuple(known.shape)}. Give {allowed} normalised numbers.")
    if known.isinf().any():
        raise MetadataError("metadata holds an infinite number. Give finite ones, NaN or None if unknown.")
    return known.nan_to_num(nan=0.0).expand(batch, *known.shape[1:])


def _numbers(metadata: Any) -> Tensor:
    first = metadata[0] if isinstance(metadata, (list, tuple)) and metadata else metadata
    if isinstance(first, (Mapping, Metadata)):
        raise MetadataError(
            f"metadata is given as a {type(first).__name__}, but a pipeline takes normalised numbers in the "
            f"order {', '.join(NUMBERS)}. Make them with diffusionsat.metadata_normalize, which takes a "
            "mapping or a diffusionsat.Metadata."
        )
    if isinstance(metadata, Tensor):
        return metadata.float()
    try:
        return torch.from_numpy(np.asarray(metadata, dtype=np.float32))  # which makes None NaN
    except (TypeError, ValueError):
        raise MetadataError(
            f"metadata is {metadata!r:.200}, no table of numbers. Give the {len(NUMBERS)} normalised numbers "
            f"{', '.join(NUMBERS)}, one row a prompt; NaN or None is unknown."
        ) from None


def image_tensor(image: Any, size: tuple[int, int]) -> Tensor:
    """Condition images as one tensor (batch, bands, height, width), frames' bands one after another.

    Args:
        image: A tensor (B, C, h, w) or (B, C, T, h, w), taken as it is; a PIL image, read as RGB in [0, 1]
            and resized; a list of either, one a prompt; or a list of lists of them, the frames of a prompt.
        size: Width and height of what PIL images are resized to.

    Raises:
        ConfigError: If it is anything else.
    """
    if isinstance(image, Image.Image):
        pixels = np.array(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)[None]
    if isinstance(image, Tensor) and image.ndim in (3, 4, 5):
        return image[None] if image.ndim == 3 else image
    if isinstance(image, (list, tuple)) and image:
        rows = [
            torch.cat([image_tensor(frame, size) for frame in row], 1)
            if isinstance(row, (list, tuple)) and row
            else image_tensor(row, size)
            for row in image
        ]
        if len({row.shape[1:] for row in rows}) == 1:
            return torch.cat(rows)
        shapes = ", ".join(str(tuple(row.shape[1:])) for row in rows)
        raise ConfigError(f"image holds conditions of different shapes: {shapes}. Give equal ones.")
    raise ConfigError(
        f"image is {type(image).__name__}. Give a tensor (B, C, H, W) in [0, 1], a PIL image, a list of "
        "either, or a list of lists: the frames of each prompt."
    )


def condition(image: Tensor, bands: int, frames: bool) -> Tensor:
    """A condition as its ControlNet takes it: (B, bands, h, w), or (B, bands, T, h, w) of frames.

    Args:
        image: As `image_tensor` makes it.
        bands: Bands of the network's condition, of one frame.
        frames: Whether the network takes a sequence.

    Raises:
        ConfigError: With both numbers, if the bands do not fit.
    """
    fits = image.shape[1] == bands or (frames and image.ndim == 4 and image.shape[1] % bands == 0)
    if not fits or (image.ndim == 5 and not frames):
        raise ConfigError(
            f"image has {image.shape[1]} bands (shape {tuple(image.shape)}), but this ControlNet takes "
            f"{bands}{' a frame' if frames else ''}. Give a tensor with all of them, values in [0, 1]. "
            "No published network fills a masked part of an image."
        )
    return image.unflatten(1, (-1, bands)).transpose(1, 2) if frames and image.ndim == 4 else image
