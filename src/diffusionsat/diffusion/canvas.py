"""Latents of any size solved in a folder, window by window, in memory that does not grow with their area."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffusionsat.diffusion.solvers import Cancelled, Solver, dpmpp_2m, dpmpp_2m_step
from diffusionsat.diffusion.windows import Plan, Window, WindowDenoiser, denoise_batch
from diffusionsat.errors import ConfigError, RasterError
from diffusionsat.execution import Execute
from diffusionsat.files import write_bytes, writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """Latents of any size that are solved in a folder, in memory that does not depend on their area.

    On the disk are two copies of the latents, one or two of the estimates, and the estimates of all windows.

    Every evaluation of the network is a pass over all windows, in batches, each of which reads its part of
    the latents and leaves its estimates as a file of its own, complete or absent. When all are there they
    are fused, tile by tile, and the latents go on. So the files say what is done: a canvas that was
    interrupted goes on where it was, and what is done twice is the same twice. Solvers are run as they are.

    Args:
        folder: Where the files are, for this job alone; it exists.
        plan: The windows.
        channels: Of the latents.
        sigmas: Noise levels, falling.
        solver: One of `SOLVERS`.
        batch: Windows at a time.

    Raises:
        ConfigError: If there are not two noise levels at least.
    """

    folder: Path
    plan: Plan
    channels: int
    sigmas: tuple[float, ...]
    solver: Solver
    batch: int

    def __post_init__(self) -> None:
        if len(self.sigmas) < 2:
            raise ConfigError("A canvas is solved over two noise levels at least.")

    @property
    def steps(self) -> int:
        """Of the solver."""
        return len(self.sigmas) - 1

    @property
    def units(self) -> range:
        """Batches of windows of a pass, by number."""
        return range(-(-len(self.plan) // self.batch))

    def passes(self) -> list[tuple[int, int]]:
        """(step, evaluation within the step) of every pass, in order."""
        found, blank = [], torch.zeros(1, 1, 1, 1)
        for step in range(self.steps):
            before = min(step, 1) if self.solver is dpmpp_2m else 0
            answers = [blank] * before
            while self._advance(step, blank, answers)[1] is not None:
                found.append((step, len(answers) - before))
                answers.append(blank)
        return found

    def latents(self, step: int, mode: Literal["r", "r+"] = "r") -> np.memmap:
        """Latents after so many steps, float32 (C, H, W), mapped; they last until the next step but one."""
        return np.load(self.file(step), mmap_mode=mode)

    def file(self, step: int) -> Path:
        """Where `latents` are."""
        return self.folder / f"latents-{step % 2}.npy"

    def begin(self, noise: Callable[[range, range], np.ndarray]) -> None:
        """Make the files and fill in the noise."""
        shape = (self.channels, self.plan.rows.length, self.plan.columns.length)
        answers = {self._place(step, evaluation) for step, evaluation in self.passes()}
        for name in ("latents-0", "latents-1", *(f"answer-{i}" for i in answers)):
            _allocate(self.folder / f"{name}.npy", shape)
        latents = self.latents(0, "r+")
        for i in range(len(self.plan)):
            tile = self.plan.tile(i)
            latents[(slice(None), *tile.slices)] = noise(tile.rows, tile.columns)
        latents.flush()

    def estimate(self, denoise_window: WindowDenoiser, step: int, evaluation: int, unit: int) -> int:
        """Denoise one batch of windows and keep the estimates; a worker's work.

        Returns:
            The unit.
        """
        first = unit * self.batch
        windows = [self.plan.window(i) for i in range(first, min(first + self.batch, len(self.plan)))]
        maps = [self.latents(step), *self._answers(step, evaluation)]
        cuts, sigma = [], 0.0
        for window in windows:
            cut, asked = self._advance(step, *_cut(maps, window))
            assert asked is not None
            cuts, sigma = [*cuts, cut], asked
        estimates = denoise_batch(denoise_window, torch.cat(cuts), sigma, windows, self.batch)
        with writing(self._estimates(step, evaluation, unit), overwrite=True) as beside:
            np.save(beside, estimates.float().cpu().numpy())
        return unit

    def fuse(self, step: int, evaluation: int) -> None:
        """Fuse the estimates of a pass, and take the step if it was the step's last."""
        answer, following = self._answer(step, evaluation, "r+"), self.latents(step + 1, "r+")
        maps = [self.latents(step), *self._answers(step, evaluation), answer]
        estimates = lru_cache(maxsize=64)(
            lambda unit: np.load(self._estimates(step, evaluation, unit), mmap_mode="r")
        )
        for i in range(len(self.plan)):
            tile = self.plan.tile(i)
            answer[(slice(None), *tile.slices)] = self._fused(estimates, tile)
            x, asked = self._advance(step, *_cut(maps, tile))
            if asked is None:
                following[(slice(None), *tile.slices)] = x[0].numpy()
        answer.flush()
        following.flush()

    def _fused(self, estimates: Callable[[int], np.ndarray], tile: Window) -> np.ndarray:
        total = np.zeros((self.channels, len(tile.rows), len(tile.columns)), np.float32)
        for i in self.plan.touching(tile):
            window, weights = self.plan.window(i), self.plan.weights(i)
            unit, place = divmod(i, self.batch)
            theirs = _common(window.rows, tile.rows), _common(window.columns, tile.columns)
            ours = _common(tile.rows, window.rows), _common(tile.columns, window.columns)
            total[(slice(None), *ours)] += estimates(unit)[(place, slice(None), *theirs)] * weights[theirs]
        return total

    def _place(self, step: int, evaluation: int) -> int:
        """Number of the file of an evaluation's estimates; the multistep solver's outlive their step."""
        return step % 2 if self.solver is dpmpp_2m else evaluation

    def _answer(self, step: int, evaluation: int, mode: Literal["r", "r+"] = "r") -> np.memmap:
        """The whole canvas's estimates of an evaluation in a step, mapped."""
        return np.load(self.folder / f"answer-{self._place(step, evaluation)}.npy", mmap_mode=mode)

    def _answers(self, step: int, evaluation: int) -> list[np.memmap]:
        """All that the solver looks at beside the latents and an evaluation that is to come."""
        if self.solver is dpmpp_2m:
            return [self._answer(step - 1, 0)] if step else []
        return [self._answer(step, i) for i in range(evaluation)]

    def _advance(self, step: int, x: Tensor, answers: Sequence[Tensor]) -> tuple[Tensor, float | None]:
        """Where the solver asks next in a step, given the answers so far, and at which noise level.

        Or the latents after the step, and None. All but the denoiser is pixel by pixel, so that a solver can
        be run on a part of the canvas with answers from elsewhere.
        """
        if self.solver is dpmpp_2m:
            *before, x0 = answers or [None]
            if x0 is None or len(before) < min(step, 1):
                return x, self.sigmas[step]
            return dpmpp_2m_step(x, x0, before[0] if before else None, self.sigmas, step), None
        replies = iter(answers)

        def replay(x: Tensor, sigma: float) -> Tensor:
            for reply in replies:
                return reply
            raise _Asked(x, sigma)

        try:
            return self.solver(replay, x, self.sigmas[step : step + 2], None), None
        except _Asked as asked:
            return asked.x, asked.sigma

    def _estimates(self, step: int, evaluation: int, unit: int) -> Path:
        return self.folder / f"estimates-{step}-{evaluation}" / f"{unit}.npy"


class _Asked(Exception):  # noqa: N818, it is no error
    def __init__(self, x: Tensor, sigma: float) -> None:
        super().__init__()
        self.x, self.sigma = x, sigma


def solve_on_disk(
    canvas: Canvas,
    denoise_window: WindowDenoiser,
    noise: Callable[[range, range], np.ndarray],
    identity: str,
    *,
    execute: Execute = map,
    on_unit: Callable[[int, int], bool | None] | None = None,
) -> np.ndarray:
    """Solve a canvas, or go on with one that was interrupted.

    Args:
        canvas: What and where.
        denoise_window: The denoiser of windows; sees CPU tensors. For other processes it can be pickled.
        noise: Latents at the first noise level of a rectangle given by absolute rows and columns, float32
            (C, rows, columns).
        identity: What else decides the pixels: model, prompt, seed.
        execute: Who does the work, see `diffusionsat.execution`; workers elsewhere must see the folder.
        on_unit: Called with units done and units in all; returning False stops, and all work is kept.

    Returns:
        The latents, float32 (C, H, W), mapped from the folder.

    Raises:
        ConfigError: If the folder holds another job.
        RasterError: If there is no room on the disk.
        Cancelled: If ``on_unit`` returned False.
    """
    passes, units = canvas.passes(), len(canvas.units)
    done = _begun(canvas, noise, identity)
    for step, evaluation in passes[done:]:
        folder = canvas.folder / f"estimates-{step}-{evaluation}"
        folder.mkdir(exist_ok=True)
        missing = [unit for unit in canvas.units if not (folder / f"{unit}.npy").exists()]
        count = (done + 1) * units - len(missing)
        for _ in execute(partial(canvas.estimate, denoise_window, step, evaluation), missing):
            count += 1
            if on_unit is not None and on_unit(count, len(passes) * units) is False:
                raise Cancelled(f"stopped after {count} of {len(passes) * units} units")
        canvas.fuse(step, evaluation)
        done += 1
        _save(canvas, identity, done)
        shutil.rmtree(folder)
    return canvas.latents(canvas.steps)


def _begun(canvas: Canvas, noise: Callable[[range, range], np.ndarray], identity: str) -> int:
    """Passes that are done of a job, which is begun if it was not."""
    state = canvas.folder / "job.json"
    if not state.exists():
        canvas.begin(noise)
        _save(canvas, identity, 0)
    known = json.loads(state.read_text())
    done = known.pop("passes")
    if known != json.loads(json.dumps(_described(canvas, identity))):
        raise ConfigError(f"{canvas.folder} holds another job's work. Give another folder, or empty it.")
    return done


def _described(canvas: Canvas, identity: str) -> dict[str, Any]:
    return {
        "identity": identity,
        "plan": asdict(canvas.plan),
        "channels": canvas.channels,
        "sigmas": canvas.sigmas,
        "solver": canvas.solver.__name__,
        "batch": canvas.batch,
    }


def _save(canvas: Canvas, identity: str, passes: int) -> None:
    text = json.dumps(_described(canvas, identity) | {"passes": passes})
    write_bytes(canvas.folder / "job.json", text.encode(), overwrite=True)


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """An array's file with its room on the disk taken: mapped files that outgrow a disk kill the process."""
    np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()
    try:
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink()
        raise RasterError(f"{path} cannot be written: {error.strerror}. Make room on the disk.") from error


def _cut(maps: Sequence[np.ndarray], window: Window) -> tuple[Tensor, list[Tensor]]:
    """A window (1, C, h, w) of the first of some arrays (C, H, W), and of the others."""
    first, *others = [torch.from_numpy(np.array(m[(None, slice(None), *window.slices)])) for m in maps]
    return first, others


def _common(a: range, b: range) -> slice:
    """Where a range lies that two have in common, counted in the first."""
    return slice(max(a.start, b.start) - a.start, min(a.stop, b.stop) - a.start)
