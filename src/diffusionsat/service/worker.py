"""The worker: does the jobs of the queue one after the other, those that are alike together."""

import base64
import functools
import io
import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffusionsat.config import parse
from diffusionsat.diffusion.solvers import Cancelled, OnStep, StepInfo
from diffusionsat.errors import DiffusionSatError
from diffusionsat.execution import Execute
from diffusionsat.model import DiffusionSat
from diffusionsat.service.board import Board
from diffusionsat.service.folder import Folder
from diffusionsat.service.keeping import Keeping
from diffusionsat.service.limits import Limits, Problem
from diffusionsat.service.references import Rasters
from diffusionsat.service.results import described, save_layers, save_scene, save_shown
from diffusionsat.service.schemas import PROCESSES, FeaturesInputs
from diffusionsat.service.store import Row, Store
from diffusionsat.service.uploads import placed
from diffusionsat.tasks.drawing import grid_of
from diffusionsat.tasks.feature_maps import map_features
from diffusionsat.tasks.generate import Resolved, batch_size, make_batch
from diffusionsat.tasks.restoring import Restoration, restore_to
from diffusionsat.tasks.sampling import SamplingRequest, provenance

log = logging.getLogger(__name__)

_LIVES = 3  # times that a job may be running when the process dies
_IDLE_S = 60
_PREVIEW_S, _PREVIEW_LATENTS = 0.5, 32
_FEATURES = "Features of a neural network (diffusionsat) that saw an image; not a measurement of any place."


def alike(request: Any, sat: DiffusionSat) -> str | None:
    """What is equal for requests that can be done in one batch; None is alone."""
    if not hasattr(request, "resolved"):
        return None
    resolved = request.resolved(sat)
    return repr((resolved.size, resolved.steps, resolved.solver, resolved.guidance, resolved.negative))


class Worker(threading.Thread):
    """Does the jobs of the queue until it is stopped; what it was doing then waits again.

    Args:
        sat: The model.
        store: The queue.
        board: Where progress is told.
        folder: Where results go.
        rasters: What opens the inputs.
        keeping: What removes old results.
        limits: Of requests.
        execute: Who does the windows of large jobs.
    """

    def __init__(
        self,
        sat: DiffusionSat,
        store: Store,
        board: Board,
        folder: Folder,
        rasters: Rasters,
        keeping: Keeping,
        limits: Limits,
        execute: Execute,
    ) -> None:
        super().__init__(name="worker", daemon=True)
        self.sat, self.store, self.board, self.folder = sat, store, board, folder
        self.rasters, self.keeping, self.limits, self.execute = rasters, keeping, limits, execute
        self.wake, self.stopping = threading.Event(), threading.Event()
        self._seconds: deque[float] = deque([5.0], maxlen=20)

    def recover(self) -> None:
        """Take up what a process that died has left: results that are whole count, all else is done again."""
        for row in self.store.jobs(statuses=["running"]):
            if self.folder.done(row.id):
                self._finish([(row, "successful", "done")])
            elif row.attempts >= _LIVES:
                message = f"the service died {_LIVES} times while it did this job, which is given up"
                self._finish([(row, "failed", message)])
            else:
                self.store.requeue(row.id, counted=True)
        self.keeping.sweep()

    def seconds_to_wait(self) -> int:
        """After about how many seconds a place in a full queue is free."""
        return max(1, round(sum(self._seconds) / len(self._seconds)))

    def stop(self) -> None:
        """Stop after the step that is being done, and wait for that."""
        self.stopping.set()
        self.wake.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """See the class."""
        while not self.stopping.is_set():
            self.wake.clear()
            try:
                self._turn()
            except Exception as error:  # a full disk, mostly; what was running is taken up after a restart
                log.error("the worker could not go on and tries again", exc_info=error)
                self.stopping.wait(5)

    def _turn(self) -> None:
        rows = self.store.take(self._together)
        if rows:
            begun = time.monotonic()
            self._do(rows)
            self._seconds.append((time.monotonic() - begun) / len(rows))
        else:
            self.wake.wait(_IDLE_S)
            self.keeping.expire()

    def _together(self, row: Row) -> int:
        try:
            return batch_size(self._resolved(row))
        except DiffusionSatError:  # is told when the job is done
            return 1

    def _resolved(self, row: Row) -> Resolved:
        return _request(row).resolved(self.sat)

    def _do(self, rows: list[Row]) -> None:
        """Do some jobs together and write down how each ended; if that fails, each by itself."""
        for row in rows:
            self.board.post(row.id, (0, "running"))
        try:
            if rows[0].process == "generate":
                warnings = self._generate(rows)
            else:
                with _heard() as heard:
                    self._other(rows[0])
                warnings = [heard]
            told = zip(rows, warnings, strict=True)
            self._finish([(row, "successful", "; ".join(["done", *heard])) for row, heard in told])
        except Cancelled:
            for row in rows:  # those that were dismissed are not running
                self.store.requeue(row.id, counted=False)
            self._clean(rows)
        except Exception as error:
            if len(rows) > 1:
                for row in rows:
                    self._do([row])
                return
            self._finish([(rows[0], "failed", self._complaint(error))])

    def _complaint(self, error: Exception) -> str:
        if isinstance(error, Problem):
            return error.detail
        if isinstance(error, DiffusionSatError):
            return str(error)
        log.error("a job failed by a fault of diffusionsat", exc_info=error)
        return f"{type(error).__name__}: a fault of diffusionsat or a lack of memory. The log says more."

    def _finish(self, outcomes: Sequence[tuple[Row, str, str]]) -> None:
        sizes = {row.id: self.keeping.size(row.id) for row, status, _ in outcomes if status == "successful"}
        said = self.folder.said
        self.store.finish(
            [(row.id, status, said(text), sizes.get(row.id, 0)) for row, status, text in outcomes]
        )
        self._clean([row for row, _, _ in outcomes])

    def _clean(self, rows: Sequence[Row]) -> None:
        """Remove what jobs that have no results have left, and tell that they have changed."""
        for row in rows:
            if self.store.status(row.id) in ("failed", "dismissed", None):
                self.folder.remove(row.id)
        self.keeping.expire()
        for row in rows:
            self.board.drop(row.id)

    def _running(self, rows: Sequence[Row]) -> bool:
        """Whether any of some jobs is to go on."""
        return not self.stopping.is_set() and any(self.store.status(row.id) == "running" for row in rows)

    def _generate(self, rows: Sequence[Row]) -> list[list[str]]:
        """Make the images of some jobs in one batch; returns the warnings of each."""
        resolved, warnings = list[Resolved](), list[list[str]]()
        for row in rows:
            with _heard() as heard:
                resolved.append(self._resolved(row))
            warnings.append(heard)
        scenes = make_batch(self.sat, [(each, 0) for each in resolved], self._on_step(rows, resolved))
        for row, scene in zip(rows, scenes, strict=True):
            if self.store.status(row.id) == "running":
                files = self._files(row)
                save_scene(scene, files)
                about = {"grid": scene.grid, "metadata": scene.metadata, "provenance": scene.provenance}
                self._publish(row, files, size=(scene.pixels.shape[1], scene.pixels.shape[0]), **about)
        return warnings

    def _on_step(self, rows: Sequence[Row], resolved: Sequence[Resolved]) -> OnStep:
        """What tells of every step of a batch, shows it now and then to who looks, and stops it."""
        told = time.monotonic()

        def on_step(info: StepInfo) -> bool | None:
            nonlocal told
            if not self._running(rows):
                return False
            done = round(99 * info.step / info.steps)
            pictures: Sequence[Any] = [None] * len(rows)
            if time.monotonic() - told > _PREVIEW_S and any(self.board.watched(row.id) for row in rows):
                pictures, told = self._pictures(info, resolved), time.monotonic()
            for row, picture in zip(rows, pictures, strict=True):
                self.board.post(row.id, (done, f"step {info.step} of {info.steps}"), picture)
            return None

        return on_step

    def _pictures(self, info: StepInfo, resolved: Sequence[Resolved]) -> list[dict[str, Any] | None]:
        """Coarse pictures of a batch, decoded of latents that are made smaller."""
        if len(info.x0) != len(resolved):
            return [None] * len(resolved)
        from PIL import Image

        by = max(1, max(info.x0.shape[2:]) // _PREVIEW_LATENTS)
        with torch.inference_mode():
            small = torch.nn.functional.avg_pool2d(info.x0.float().to(self.sat.device), by)
            decoded = self.sat.decode(small)
        found = []
        for pixels, each in zip(decoded, resolved, strict=True):
            out = io.BytesIO()
            Image.fromarray(pixels).save(out, "PNG")
            address = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
            found.append({"png": address, "corners": placed(grid_of(each.metadata, each.size))[0]})
        return found

    def _other(self, row: Row) -> None:
        """Do a job on rasters."""
        request, files = self._bound(row), self._files(row)
        work = self.folder.work(row.id)
        if isinstance(request, FeaturesInputs):
            self._features(row, request, files)
            return
        job: Restoration = request.job(self.sat)
        job.apart = False  # results are kept for long, and another seed gives another sample
        self.rasters.check_output(job.width * job.height)

        def on_share(share: float) -> bool | None:
            if not self._running([row]):
                return False
            self.board.post(row.id, (round(99 * share), f"{round(100 * share)} % done"))
            return None

        restore_to(job, files / "image.tif", overwrite=True, execute=self.execute, on_share=on_share)
        save_shown(job, files, work / "visual")
        save_layers(job, files)
        self._publish(
            row,
            files,
            grid=job.grid,
            metadata=job.metadata,
            size=(job.width, job.height),
            provenance=job.provenance(),
        )

    def _features(self, row: Row, inputs: FeaturesInputs, files: Path) -> None:
        request, frame = inputs.request(), inputs.image

        def on_window(done: int, windows: int) -> None:
            if not self._running([row]):
                raise Cancelled(f"stopped after {done} of {windows} windows")
            self.board.post(row.id, (round(99 * done / windows), f"window {done} of {windows}"))

        map_features(self.sat, frame, files, request, known=inputs.known, overwrite=True, on_window=on_window)
        settings = SamplingRequest(prompt=request.prompt, seed=request.seed).settings(self.sat)
        made = provenance(self.sat, settings, "features", sigma=list(request.sigma), known=inputs.known)
        made = {k: v for k, v in made.items() if k not in ("steps", "solver", "guidance", "negative")}
        raster = frame.raster
        self._publish(
            row,
            files,
            grid=raster.grid,
            metadata=frame.metadata,
            size=(raster.width, raster.height),
            provenance=made,
            note=_FEATURES,
        )

    def _bound(self, row: Row) -> Any:
        fetched = self.folder.work(row.id) / "fetched"
        shutil.rmtree(fetched, ignore_errors=True)  # of an attempt that was stopped
        return self.rasters.bind(_request(row), fetched, functools.partial(self._running, [row]))

    def _files(self, row: Row) -> Path:
        files = self.folder.work(row.id) / "files"
        files.mkdir(parents=True, exist_ok=True)
        return files

    def _publish(self, row: Row, files: Path, **about: Any) -> None:
        if self.store.status(row.id) != "running":
            raise Cancelled("dismissed before it was published")
        self.folder.publish(row.id, described(row.id, files, **about))


def _request(row: Row) -> Any:
    return parse(PROCESSES[row.process].request, row.inputs, "inputs")


class _Listener(logging.Handler):
    """Keeps the warnings of the thread that made it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread, self.messages = threading.get_ident(), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        if record.thread == self.thread and record.levelno == logging.WARNING:
            self.messages.append(record.getMessage())


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The warnings that are logged in this thread while the block lasts."""
    listener, logger = _Listener(), logging.getLogger("diffusionsat")
    logger.addHandler(listener)
    try:
        yield listener.messages
    finally:
        logger.removeHandler(listener)
