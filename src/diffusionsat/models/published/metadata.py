"""Metadata embedded like the timestep, as all three published networks do it."""

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from diffusionsat.errors import MetadataError


def metadata_perceptrons(count: int, width: int, embedding: int, act_fn: str) -> nn.ModuleList:
    """One perceptron a number; ``width`` is that of the sinusoidal projection."""
    return nn.ModuleList(TimestepEmbedding(width, embedding, act_fn=act_fn) for _ in range(count))


def rows(metadata: Tensor | None, batch: int, count: int, device: torch.device) -> Tensor:
    """Metadata as float32 (batch, count), 0 where unknown.

    Args:
        metadata: Normalised numbers (count,), (1, count) or (batch, count); NaN is unknown; None is all of
            them unknown.
        batch: Rows wanted.
        count: Numbers a row.
        device: Of the result.

    Raises:
        MetadataError: If the shape is another.
    """
    if metadata is None:
        return torch.zeros(batch, count, device=device)
    known = torch.as_tensor(metadata, dtype=torch.float32, device=device).nan_to_num(nan=0.0)
    if known.shape[-1:] != (count,) or known.ndim > 2 or known.numel() not in (count, batch * count):
        raise MetadataError(
            f"metadata has shape {tuple(known.shape)}; the network takes ({batch}, {count}) numbers: "
            "longitude, latitude, gsd, cloud cover, year, month, day, normalised."
        )
    return known.reshape(-1, count).expand(batch, count)


def embed(time_proj: nn.Module, perceptrons: nn.ModuleList, metadata: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over the numbers of perceptron(sinusoid(number)), (..., embedding), of metadata (..., count).

    The sinusoid is computed in float32 whatever the network's precision, and cast then. That of the weights
    would not do: quantised ones are stored in another than they compute in.

    Args:
        time_proj: The sinusoid, the same as the timestep's.
        perceptrons: One a number.
        metadata: Normalised numbers, float32.
        dtype: What the perceptrons compute in.
    """
    flat = metadata.float().reshape(-1, metadata.shape[-1])
    projected = time_proj(flat.flatten()).view(*flat.shape, -1).to(dtype)
    total = perceptrons[0](projected[:, 0])
    for i in range(1, len(perceptrons)):
        total = total + perceptrons[i](projected[:, i])
    return total.view(*metadata.shape[:-1], -1)
