"""The state of a run on disk: complete or absent, and enough to go on as if nothing had happened."""

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusionsat.checkpoints.tensors import write_tensors
from diffusionsat.errors import CheckpointError, RasterError
from diffusionsat.files import writing
from diffusionsat.training import optimisers
from diffusionsat.training.averages import Average, trained_weights
from diffusionsat.training.processes import Alone

FILE, SNAPSHOTS = "last.pt", "snapshots"


@dataclass(kw_only=True)
class State:
    """All that changes in a run.

    Args:
        network: What is trained.
        optimiser: Of its parameters.
        averages: Of its weights, by name.
        scaler: Of fp16's gradients; does nothing in other precisions.
        seen: Images seen.
        step: Optimiser steps made.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    averages: dict[str, Average]
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))
    seen: int = 0
    step: int = 0

    def save(self, folder: Path, processes: Alone) -> None:
        """Write ``last.pt``; the one before stays until the new one is whole.

        Raises:
            CheckpointError: If the disk is full or fails.
        """
        values = processes.whole(
            {
                "network": trained_weights(self.network),
                "optimiser": self.optimiser.state_dict(),
                "averages": {name: average.weights for name, average in self.averages.items()},
                "scaler": self.scaler.state_dict(),
                "seen": self.seen,
                "step": self.step,
            }
        )
        if processes.rank != 0:
            return
        try:
            with writing(folder / FILE, overwrite=True) as partial, partial.open("wb") as file:
                try:
                    torch.save(values, file)
                except RuntimeError as error:  # what torch makes of a write that failed
                    reason = str(error).split("\n")[0]
                    raise OSError(f"the disk may be full ({reason})") from error
        except RasterError as error:
            before = "The state saved before is whole; m" if (folder / FILE).exists() else "M"
            raise CheckpointError(f"{error} {before}ake room and go on.") from error.__cause__

    def snapshot(self, folder: Path, processes: Alone) -> None:
        """Keep the averages as they are now, for `diffusionsat.training.averages.combination`."""
        for name, average in self.averages.items():
            weights = processes.whole(average.weights)
            if processes.rank == 0:
                (folder / SNAPSHOTS).mkdir(exist_ok=True)
                write_tensors(folder / SNAPSHOTS / f"{self.step:09d}-{name}.safetensors", weights, "bf16")

    def load(self, folder: Path) -> bool:
        """Take up ``last.pt`` if it is there.

        Returns:
            Whether it was.

        Raises:
            CheckpointError: If it is damaged, or of another network or optimiser.
        """
        file = folder / FILE
        if not file.exists():
            return False
        values = read_state(file)
        try:
            mine = trained_weights(self.network)
            if mine.keys() != values["network"].keys():
                raise ValueError("it has other weights")
            _copy(mine, values["network"])
            optimisers.resume(self.optimiser, values["optimiser"])
            _shard(self.optimiser)
            for name, average in self.averages.items():
                # An average that the run did not have begins with the present weights.
                _copy(average.weights, values["averages"].get(name, values["network"]))
            if values.get("scaler"):  # empty where the run was not in fp16 until now
                self.scaler.load_state_dict(values["scaler"])
        except (ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"{file} does not fit this run: {error}. Give another run.output, or the settings it had."
            ) from None
        self.seen, self.step = values["seen"], values["step"]
        return True


def read_state(file: Path) -> dict[str, Any]:
    """What a state file holds.

    Raises:
        CheckpointError: If it is damaged.
    """
    try:
        values = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{file} is damaged: {reason}. Remove it to begin anew.") from None
    return values


@torch.no_grad()
def _copy(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, tensor in mine.items():
        if tensor.shape != theirs[name].shape:
            raise ValueError(f"{name} has shape {tuple(theirs[name].shape)}, not {tuple(tensor.shape)}")
        tensor.copy_(_like(theirs[name].to(tensor.device, tensor.dtype), tensor))


def _shard(optimiser: torch.optim.Optimizer) -> None:
    """Shard a state that was loaded whole as its parameters are."""
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = _like(value, parameter)


def _like(value: Tensor, tensor: Any) -> Tensor:
    """A whole tensor, sharded if another one is."""
    if not hasattr(tensor, "full_tensor") or hasattr(value, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, tensor.device_mesh, tensor.placements)
