"""Safetensors files of weights, read strictly; as stored in float32, bfloat16 or eight bits."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusionsat.errors import CheckpointError
from diffusionsat.files import writing

_SCALE = "::scale"  # marks the scales of a tensor stored in eight bits; no parameter's name has colons


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, eight-bit ones expanded to float32.

    Raises:
        CheckpointError: If the file is absent, cut short or no safetensors, or a scale is missing.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. The checkpoint is incomplete: copy or make it again.")
    try:
        with safe_open(path, "pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}.") from None
    tensors = {}
    for name, tensor in stored.items():
        owner = stored.get(name.removesuffix(_SCALE))
        if name.endswith(_SCALE) and owner is not None and owner.dtype == torch.int8:
            continue
        if tensor.dtype == torch.int8:
            scale = stored.get(name + _SCALE)
            if scale is None or scale.shape != tensor.shape[:1]:
                raise CheckpointError(f"{path}: {name} is stored in eight bits without a scale for each row.")
            tensor = tensor.float() * scale.view(-1, *[1] * (tensor.ndim - 1))
        tensors[name] = tensor
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor], storage: str) -> None:
    """Write weights.

    Args:
        path: File to write.
        tensors: By name.
        storage: ``"fp32"``; ``"bf16"``; or ``"int8"``: tensors of two or more dimensions in eight bits with
            one scale for each first index, the others in fp32.

    Raises:
        RasterError: If the disk is full or fails.
    """
    stored = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if storage == "int8" and tensor.ndim > 1 and tensor.is_floating_point():
            scale = tensor.float().flatten(1).abs().amax(1).clamp_min(1e-12) / 127
            rounded = (tensor.float() / scale.view(-1, *[1] * (tensor.ndim - 1))).round()
            stored[name], stored[name + _SCALE] = rounded.to(torch.int8), scale
        elif tensor.is_floating_point():
            stored[name] = tensor.to(torch.bfloat16 if storage == "bf16" else torch.float32)
        else:
            stored[name] = tensor
    save(path, stored)


def save(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Write tensors as they are, whole or not at all, with words about them.

    Raises:
        RasterError: If the disk is full or fails.
    """
    with writing(path, overwrite=True) as partial:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, about)
        except SafetensorError as error:  # what safetensors makes of a write that failed
            raise OSError(str(error).removeprefix("Error while serializing: ")) from error


def load_strictly(network: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Load weights into a network whose names and shapes must be the same.

    Args:
        network: Takes the tensors themselves, in the precision that they are in.
        tensors: By name.
        source: Where they are from, for messages.

    Raises:
        CheckpointError: If a key is missing, foreign, of another shape, or holds values that are not finite.
    """
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"{source}: {name} is missing; the file belongs to another kind of model.")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(tensors[name].shape)}; "
                f"the configuration says {tuple(tensor.shape)}."
            )
        if tensors[name].is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(f"{source}: {name} is of type {tensors[name].dtype}, not {tensor.dtype}.")
        if tensors[name].is_floating_point() and not tensors[name].isfinite().all():
            raise CheckpointError(f"{source}: {name} has values that are not finite.")
    foreign = next((name for name in tensors if name not in wanted), None)
    if foreign:
        raise CheckpointError(f"{source}: {foreign} belongs to no part of this model.")
    network.load_state_dict(tensors, assign=True)
