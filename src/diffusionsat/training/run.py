"""A training run from its recipe: networks, data, state, loop, and the checkpoint in the end."""

import contextlib
import copy
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffusionsat.checkpoints.tensors import read_tensors
from diffusionsat.config import read, to_toml
from diffusionsat.data.reading import Companions, Mixture
from diffusionsat.data.series import Series
from diffusionsat.data.sources import Source
from diffusionsat.errors import CheckpointError, ConfigError, RasterError
from diffusionsat.files import write_bytes
from diffusionsat.model import fast_at_bf16
from diffusionsat.training import averages as averaging
from diffusionsat.training.averages import Average
from diffusionsat.training.batches import Examples
from diffusionsat.training.families import make_family
from diffusionsat.training.loop import Job, step, train
from diffusionsat.training.optimisers import make_optimiser
from diffusionsat.training.procedural import Procedural
from diffusionsat.training.processes import Alone, start
from diffusionsat.training.recipe import Recipe
from diffusionsat.training.states import SNAPSHOTS, State
from diffusionsat.training.trackers import Trackers, check

log = logging.getLogger(__name__)

_MANY = 0.3  # of a source's images in held-out places, where a tenth is expected
MODEL = "model"  # the checkpoint's folder in a run's


def run(
    recipe: Recipe,
    tell: Callable[[dict[str, Any]], None] = lambda line: None,
    show: Callable[[int], None] = lambda seen: None,
) -> Path | None:
    """Train a recipe, from where its folder says that it was left.

    Args:
        recipe: All of it.
        tell: Called with each line of the log.
        show: Called with the images seen, after every step.

    Returns:
        The checkpoint's folder; None if the run was stopped before its end, its state saved.

    Raises:
        CheckpointError: If a checkpoint cannot be read, or the state not written.
        ConfigError: If the recipe fits no run.
        DatasetError: If data are absent or damaged.
        Diverged: If the loss is no finite number any more.
        MissingExtraError: If packages are missing.
    """
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    check(recipe)
    processes = start(recipe.run)
    recipe = _settled(recipe, processes.device)
    folder = _prepared(recipe, processes)
    family = make_family(recipe)
    family.to(processes.device)
    job = make_job(recipe, family, folder, processes)
    whole = copy.deepcopy(family.network) if processes.sharded else family.network
    try:
        job.learner = processes.wrap(job.learner)
        state = make_state(recipe, family.network, processes)
        if state.load(folder):
            log.info("taken up at %d images", state.seen)
        finished = _tracked(job, state, recipe, folder, processes, tell, show)
        if not finished:
            return None
        written = folder / MODEL
        _apply_average(recipe, state, folder)
        job.finish()
        if processes.sharded:
            whole.load_state_dict(processes.whole(dict(family.network.state_dict())))
            family.network = whole
        if processes.rank == 0:
            _write(written, lambda beside: family.write(beside, state.seen))
        processes.wait()
        return written
    finally:
        job.close()


def make_job(recipe: Recipe, family: Any, folder: Path, processes: Alone) -> Any:
    """The job of a recipe's task."""
    examples, held_out = make_examples(recipe)
    if recipe.run.task == "autoencoder":
        from diffusionsat.training.reconstruction import ReconstructionJob

        return ReconstructionJob(recipe, family, examples, held_out, processes)
    from diffusionsat.training.denoising import DenoisingJob

    if recipe.data.cache:
        from diffusionsat.training.cache import Cached

        examples = Cached(recipe, family, examples, folder, processes)
    return DenoisingJob(recipe, family, examples, held_out, folder, processes)


def make_examples(recipe: Recipe) -> tuple[Examples, Examples | None]:
    """The mixture that a recipe learns from, and that of its held-out places if it wants one.

    Raises:
        ConfigError: If sources, weights or sizes cannot be.
        DatasetError: If a source is absent, or has no image of a size.
    """
    data, controlled = recipe.data, recipe.run.task.startswith("controlnet")
    if data.procedural:
        frames = data.condition_frames if controlled else 0
        drawn = [
            Procedural(recipe.run.seed + other, data.sizes, frames=frames, bands=data.condition_bands)
            for other in (0, 1)
        ]
        return drawn[0], drawn[1]
    companions = data.frames or Companions(
        most=data.condition_frames, targets=data.targets or None, conditions=data.conditions or None
    )
    sources = [Source(source.path, name=source.name) for source in data.sources]
    if not data.held_out or all(source.images.held_out.all() for source in sources):
        if data.held_out:
            log.warning("all images are of places kept for validation; they are trained on all the same")
        for source in sources:
            source.images = replace(source.images, held_out=np.zeros_like(source.images.held_out))
    for source in sources:
        kept = source.images.held_out
        if kept.mean() > _MANY:
            log.warning(
                "%s: %d of %d images are of places kept for validation, and nothing is learned from them; "
                "data.held_out=0 keeps none",
                source.name,
                kept.sum(),
                len(kept),
            )
    series = data.frames.series if data.frames else ()
    mixture = Mixture(
        [Series(source) if source.name in series else source for source in sources],
        weights={source.name: source.weight for source in data.sources},
        seed=recipe.run.seed,
        sizes=data.sizes,
        drop_pieces=data.no_piece,
        phrasings=data.phrasings,
        unplaced=data.unplaced,
        companions=companions if controlled else None,
    )
    if not (data.held_out and (recipe.run.validate_every or recipe.run.sheet_every)):
        return mixture, None
    held_out = mixture.validation()
    if held_out is None:
        log.warning("no place is kept for validation, so there is neither a validation loss nor a sheet")
    return mixture, held_out


def make_state(recipe: Recipe, network: nn.Module, processes: Alone) -> State:
    """A run's state before its first image."""
    options = recipe.average
    averages = {}
    if options.kind == "power":
        averages = {f"{w:g}": Average(network, averaging.power(w)) for w in options.widths}
    elif options.kind == "published":
        averages = {"published": Average(network, averaging.published(options.decay))}
    fp16 = recipe.run.precision == "fp16"
    return State(
        network=network,
        optimiser=make_optimiser(network, recipe.optimiser),
        averages=averages,
        scaler=torch.amp.GradScaler(processes.device.type, enabled=fp16),
    )


def _settled(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with a precision: what its run has, if it is taken up, or what the device is fast at."""
    if recipe.run.precision != "auto":
        return recipe
    precision = "bf16" if fast_at_bf16(device) else "fp32"
    file = Path(recipe.run.output) / "config.toml"
    if file.exists():
        with contextlib.suppress(ConfigError):  # of a version with other keys, which is told later
            precision = read(Recipe, file).run.precision
    return replace(recipe, run=replace(recipe.run, precision=precision))


def _prepared(recipe: Recipe, processes: Alone) -> Path:
    """The run's folder with its recipe in it."""
    folder = Path(recipe.run.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be made: {error.strerror}. Give another run.output."
        ) from error
    text, file = to_toml(recipe), folder / "config.toml"
    if processes.rank == 0:
        if file.exists() and (changed := _changed(file, recipe)):
            log.warning("%s differs in %s; the run goes on with the new settings", file, ", ".join(changed))
        write_bytes(file, text.encode(), overwrite=True)
    processes.wait()
    return folder


def _changed(file: Path, recipe: Recipe) -> list[str]:
    """The keys in which a recipe is not what a file says."""

    def compared(before: Any, after: Any, key: str = "") -> list[str]:
        if before == after:
            return []
        if not is_dataclass(after) or type(before) is not type(after):
            return [key]
        parts = [(f"{key}.{f.name}" if key else f.name, f.name) for f in fields(after)]
        return [k for path, n in parts for k in compared(getattr(before, n), getattr(after, n), path)]

    try:
        return compared(read(Recipe, file), recipe)
    except ConfigError:  # of a version with other keys
        return ["its keys"]


def _tracked(
    job: Job,
    state: State,
    recipe: Recipe,
    folder: Path,
    processes: Alone,
    tell: Callable[[dict[str, Any]], None],
    show: Callable[[int], None],
) -> bool:
    """`loop.train`, whose lines and sheets go to the recipe's trackers too."""
    if processes.rank != 0 or not recipe.run.trackers:
        return train(job, state, recipe, folder, processes, tell, show)
    trackers = Trackers(recipe, folder, state.seen)

    def tell_all(line: dict[str, Any]) -> None:
        trackers.write(line)
        tell(line)

    try:
        return train(job, state, recipe, folder, processes, tell_all, show)
    finally:
        trackers.close(state.seen)


def _apply_average(recipe: Recipe, state: State, folder: Path) -> None:
    """Give the network the averaged weights that are to be written."""
    wanted = recipe.average.write
    average = next(iter(state.averages.values()), None)
    if average is None:
        return
    weights = state.averages[f"{wanted:g}"].weights if f"{wanted:g}" in state.averages else average.weights
    if wanted and f"{wanted:g}" not in state.averages:
        files = sorted((folder / SNAPSHOTS).glob("*.safetensors"))
        if not files:
            raise ConfigError(
                f"{folder} has no snapshots to make the average of width {wanted:g} of; it was trained "
                f"without average.snapshots. It has {', '.join(state.averages)}: give one of these."
            )
        about = [(float(t), float(w)) for t, w in (file.stem.split("-") for file in files)]
        factors = averaging.combination(about, (float(state.step), wanted))
        weights = averaging.combine([read_tensors(file) for file in files], factors)
    state.network.load_state_dict(weights, strict=False)


def _write(destination: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside its place, then put it there."""
    beside = destination.with_name(f".{destination.name}.{secrets.token_hex(8)}")
    try:
        beside.mkdir()
        write(beside)
        if destination.exists():
            shutil.rmtree(destination)
        beside.rename(destination)
    except (OSError, RasterError) as error:
        cause = error.__cause__ if isinstance(error, RasterError) else error
        raise CheckpointError(
            f"{destination} cannot be written: {cause}. The state is saved; make room and give the same "
            "command again."
        ) from cause
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def try_out(recipe: Recipe) -> dict[str, Any]:
    """Build all that a recipe needs and compute one step, without writing anything.

    Returns:
        Task, parameters (of all and of what is trained), images, steps, batch, sources, seconds a step and
        images/s where reading does not hold it up, and the bytes that weights, gradients, optimiser and
        averages take.

    Raises:
        DiffusionSatError: As `run`.
    """
    processes = start(recipe.run)
    recipe = _settled(recipe, processes.device)
    family = make_family(recipe)
    family.to(processes.device)
    with tempfile.TemporaryDirectory() as folder:
        uncached = replace(recipe, data=replace(recipe.data, cache=0))
        job = make_job(uncached, family, Path(folder), processes)
        try:
            job.learner = processes.wrap(job.learner)
            state = make_state(recipe, family.network, processes)
            batch = job.batch(0, 0)
            times = []
            for _ in range(2):  # the first is slow
                begun = time.monotonic()
                loss, _ = step(job.learner, batch, state, recipe, processes)
                loss.item()
                times.append(time.monotonic() - begun)
            count = job.reader.count(0)
        finally:
            job.close()
    trained = sum(p.numel() for p in family.network.parameters() if p.requires_grad)
    tensors = [t for s in state.optimiser.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
    held = sum(t.numel() * t.element_size() for t in tensors)
    return {
        "task": recipe.run.task,
        "parameters": sum(p.numel() for p in family.network.parameters()),
        "trained_parameters": trained,
        "images": recipe.run.images,
        "batch": count,
        "steps": -(-recipe.run.images // count),
        "sources": [s.name for s in recipe.data.sources] or ["procedural"],
        "device": str(processes.device),
        "processes": processes.count,
        "seconds_a_step": round(min(times), 4),
        "images_per_s": round(count / min(times), 2),
        "bytes_of_training_state": held + trained * 4 * (2 + len(state.averages)),
    }
