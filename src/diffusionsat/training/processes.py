"""Training in one process, or in many by accelerate: the same few verbs for both."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from diffusionsat.errors import ConfigError, MissingExtraError
from diffusionsat.training.recipe import Run


class Alone:
    """One process.

    Args:
        device: Where it computes.
    """

    rank, count, sharded = 0, 1, False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wrap(self, learner: nn.Module) -> nn.Module:
        """The learner with its gradients averaged over the processes."""
        return learner.to(self.device)

    @contextlib.contextmanager
    def accumulating(self, learner: nn.Module, last: bool) -> Iterator[None]:
        """One part of a batch; gradients are averaged after the last only."""
        yield

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def wait(self) -> None:
        """Wait until every process is here."""

    def whole(self, tensors: Any) -> Any:
        """A (nested) state with its shards put together; every process must ask."""
        return tensors


class Many(Alone):
    """One of several processes that torchrun, accelerate or SLURM started.

    Args:
        run: Device and sharding.

    Raises:
        MissingExtraError: If accelerate is not installed.
    """

    def __init__(self, run: Run) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise MissingExtraError("Training in several processes", "train") from error
        self.accelerator = Accelerator(cpu=run.device == "cpu")
        super().__init__(self.accelerator.device)
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.sharded = run.sharding == "fsdp"

    def wrap(self, learner: nn.Module) -> nn.Module:
        """See `Alone.wrap`; sharded, each block of the network is a unit of its own."""
        if not self.sharded:
            return self.accelerator.prepare(learner)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.count,))
        learner = learner.to(self.device)
        for parameter in learner.parameters():
            parameter.data = parameter.data.contiguous()  # shards know no channels-last
        for blocks in [m for m in learner.modules() if isinstance(m, nn.ModuleList)]:
            for block in blocks:
                fully_shard(block, mesh=mesh)
        fully_shard(learner, mesh=mesh)  # in place
        return learner

    @contextlib.contextmanager
    def accumulating(self, learner: nn.Module, last: bool) -> Iterator[None]:
        """See `Alone.accumulating`."""
        with contextlib.nullcontext() if last else self.accelerator.no_sync(learner):
            yield

    def mean(self, values: Tensor) -> Tensor:
        """See `Alone.mean`."""
        return self.accelerator.reduce(values, "mean")  # pyright: ignore[reportReturnType]

    def any(self, flag: bool) -> bool:
        """See `Alone.any`."""
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def wait(self) -> None:
        """See `Alone.wait`."""
        self.accelerator.wait_for_everyone()

    def whole(self, tensors: Any) -> Any:
        """See `Alone.whole`."""
        if isinstance(tensors, dict):
            return {key: self.whole(value) for key, value in tensors.items()}
        if isinstance(tensors, (list, tuple)):
            return type(tensors)(self.whole(value) for value in tensors)
        return tensors.full_tensor() if hasattr(tensors, "full_tensor") else tensors


def start(run: Run) -> Alone:
    """The processes of a run: many if a launcher said so by WORLD_SIZE.

    Raises:
        ConfigError: If the device is not there, or weights are to be sharded over one process.
        MissingExtraError: If accelerate is wanted and not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Many(run)
    if run.sharding == "fsdp":
        raise ConfigError("run.sharding fsdp needs several processes. Start the command by torchrun.")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = next(kind for kind, yes in there.items() if yes) if run.device == "auto" else run.device
    if not there[device]:
        raise ConfigError(f"run.device is {device}, which this machine or this torch does not have.")
    return Alone(torch.device(device))
