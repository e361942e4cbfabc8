"""The loop that every training shares: counted in images, stopped at will, resumed to the bit."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffusionsat.training import optimisers
from diffusionsat.training.batches import Batch
from diffusionsat.training.interruption import Interruption
from diffusionsat.training.journal import Journal
from diffusionsat.training.processes import Alone
from diffusionsat.training.recipe import Recipe
from diffusionsat.training.states import State


class Job(Protocol):
    """What is learned, and from what.

    Attributes:
        learner: A module from a `Batch` to the loss of each image, (B,).
    """

    learner: nn.Module

    def batch(self, seen: int, step: int) -> Batch:
        """This process's part of the batch after ``seen`` images and ``step`` steps: a function of these."""
        ...

    def figures(self) -> dict[str, Any]:
        """Validation, with the weights that the network has now."""
        ...

    def sheet(self, seen: int) -> None:
        """Write a sheet of samples, with the weights that the network has now."""
        ...


def train(
    job: Job,
    state: State,
    recipe: Recipe,
    folder: Path,
    processes: Alone,
    tell: Callable[[dict[str, Any]], None] = lambda line: None,
    show: Callable[[int], None] = lambda seen: None,
) -> bool:
    """Train until the recipe's images are seen, or until SIGTERM or Ctrl-C; save the state and return.

    Args:
        job: What is learned.
        state: Changed in place; where it stands is where the training goes on.
        recipe: How.
        folder: Of the run.
        processes: One or many.
        tell: Called with each line of the log.
        show: Called with the images seen, after every step.

    Returns:
        Whether all images have been seen.

    Raises:
        Diverged: If the loss is not finite; nothing is saved then.
        CheckpointError: If the state cannot be saved; the one before stays.
        DatasetError: If an image cannot be read.
    """
    run, averages = recipe.run, list(state.averages.values())
    journal = Journal(folder, state.seen, processes, tell)
    with Interruption() as interruption:
        while state.seen < run.images and not processes.any(bool(interruption)):
            before, batch = state.seen, job.batch(state.seen, state.step)
            optimisers.set_rate(state.optimiser, optimisers.rate(recipe.schedule, before, run.images))
            journal.add(*step(job.learner, batch, state, recipe, processes))
            state.seen, state.step = before + len(batch) * processes.count, state.step + 1
            for average in averages:
                average.update(state.network, state.step)
            due = {
                name: every and before // every != state.seen // every
                for name, every in (
                    ("log", run.log_every),
                    ("validate", run.validate_every),
                    ("sheet", run.sheet_every),
                    ("save", run.save_every),
                    ("snapshot", run.images // max(recipe.average.snapshots, 1)),
                )
            }
            if any(due.values()):
                journal.check(state.seen)
                figures = _look(job, state, due) if due["validate"] or due["sheet"] else {}
                if due["log"] or figures:
                    journal.write(state.seen, figures)
                if due["save"]:
                    state.save(folder, processes)
                if due["snapshot"] and recipe.average.snapshots:
                    state.snapshot(folder, processes)
            show(state.seen)
    journal.check(state.seen)
    state.save(folder, processes)
    processes.wait()
    return state.seen >= run.images


def step(
    learner: nn.Module, batch: Batch, state: State, recipe: Recipe, processes: Alone
) -> tuple[Tensor, Tensor]:
    """One step of the optimiser; returns the loss and the norm of the gradient."""
    parts, options = batch.parts(recipe.optimiser.accumulation), recipe.optimiser
    total = torch.zeros((), device=processes.device)
    state.optimiser.zero_grad(set_to_none=True)
    for i, part in enumerate(parts):
        with processes.accumulating(learner, last=i == len(parts) - 1):
            loss = learner(part.to(processes.device)).mean() * (len(part) / len(batch))
            state.scaler.scale(loss).backward()
            total += loss.detach()
    state.scaler.unscale_(state.optimiser)
    trained = [p for group in state.optimiser.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    norm = processes.whole(norm)
    if options.clip:
        nn.utils.clip_grads_with_norm_(trained, options.clip, norm)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    # Too large a scale makes infinite gradients in fp16; the step is left out and the scale falls.
    return total, norm.nan_to_num(0, 0, 0) if state.scaler.is_enabled() else norm


def _look(job: Job, state: State, due: dict[str, Any]) -> dict[str, Any]:
    """Validation and samples of the averaged weights."""
    average = next(iter(state.averages.values()), None)
    with average.applied_to(state.network) if average else contextlib.nullcontext():
        figures = job.figures() if due["validate"] else {}
        if due["sheet"]:
            job.sheet(state.seen)
    return figures
