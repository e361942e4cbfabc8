"""The parts of a service, and what is asked of several of them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusionsat.errors import DiffusionSatError
from diffusionsat.execution import executor
from diffusionsat.model import DiffusionSat
from diffusionsat.service.answers import link
from diffusionsat.service.board import Board
from diffusionsat.service.folder import Folder
from diffusionsat.service.keeping import Keeping
from diffusionsat.service.limits import EXCEPTIONS, Limits, Problem
from diffusionsat.service.references import Rasters
from diffusionsat.service.remote import Remote
from diffusionsat.service.results import with_addresses
from diffusionsat.service.schemas import parsed, references
from diffusionsat.service.store import Row, Store
from diffusionsat.service.worker import Worker, alike

_SYNC_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of a service.

    Args:
        store: Jobs and uploads.
        board: How far jobs are.
        folder: Files.
        keeping: How long they are kept.
        rasters: What references mean.
        worker: What does the jobs; knows the model.
        limits: Of requests.
        sync_s: Seconds that a client waits at most who does not ask to be answered at once.
    """

    store: Store
    board: Board
    folder: Folder
    keeping: Keeping
    rasters: Rasters
    worker: Worker
    limits: Limits
    sync_s: float = _SYNC_S

    def submit(self, name: str, body: Any) -> Row:
        """Check a request and put it into the queue.

        Raises:
            Problem: If it is not possible, or the queue is full.
        """
        if not isinstance(body, dict):
            raise Problem(422, 'The body is no object. Send {"inputs": {...}}.')
        foreign = sorted(body.keys() - {"inputs", "outputs", "response"})
        if foreign:
            raise Problem(422, f"The body has {foreign[0]!r}. It may have inputs, outputs and response.")
        response = body.get("response", "raw")
        if response not in ("raw", "document"):
            raise Problem(422, f"response is {response!r}. Give raw or document.")
        inputs, sat = body.get("inputs", {}), self.worker.sat
        try:
            request = parsed(name, inputs, sat, self.limits)
            together = alike(request, sat)
            if all([self.rasters.check(each, getattr(request, "factor", 1)) for each in references(request)]):
                self._try(request)
        except DiffusionSatError as error:
            raise Problem(422, self.folder.said(str(error))) from None
        wait_s = self.worker.seconds_to_wait()
        row = self.store.add(name, inputs, together, self.limits.waiting, response, wait_s)
        self.worker.wake.set()
        return row

    def _try(self, request: Any) -> None:
        """Go as far as the task goes before it computes, so that what cannot be done is refused at once."""
        job = self.rasters.bind(request, self.folder.root)
        if hasattr(job, "job"):
            job.job(self.worker.sat)

    def dismiss(self, name: str) -> Row:
        """Cancel a job that waits or runs, or remove one that is done; the job as it was left."""
        row = self.store.job(name)
        if self.store.dismiss(name):
            self.board.post(name)
            return self.store.job(name)
        self.keeping.remove("job", name)
        self.keeping.write_catalogue()
        return row

    def status(self, row: Row, base: str) -> dict[str, Any]:
        """What OGC calls statusInfo."""
        progress, message = {"successful": 100}.get(row.status, 0), row.message
        told = self.board.progress(row.id)
        if row.status == "running" and told is not None:
            progress, message = told
        links = [link(f"{base}jobs/{row.id}", "self"), link(f"{base}jobs/{row.id}/events", "monitor")]
        if row.status == "successful":
            results = "http://www.opengis.net/def/rel/ogc/1.0/results"
            links += [
                link(f"{base}jobs/{row.id}/results", results, "application/geo+json"),
                link(f"{base}items/{row.id}.json", "item", "application/geo+json"),
            ]
        times = {"created": row.created, "started": row.started, "finished": row.finished}
        return {
            "jobID": row.id,
            "processID": row.process,
            "type": "process",
            "status": row.status,
            "message": message,
            "progress": progress,
            **{name: time for name, time in times.items() if time is not None},
            "updated": row.updated,
            "links": links,
            "inputs": row.inputs,
            "kept_until": self.keeping.kept_until(row),
        }

    def results(self, row: Row, base: str) -> dict[str, Any]:
        """The results of a job.

        Raises:
            Problem: If it has none, or none yet.
        """
        if row.status == "failed":
            raise Problem(422, f"The job {row.id} failed: {row.message}")
        if row.status != "successful" or not self.folder.done(row.id):
            detail = f"The job {row.id} is {row.status} and has no results."
            raise Problem(404, detail, kind=f"{EXCEPTIONS}result-not-ready")
        found = with_addresses(self.folder.item(row.id), base)
        return {"result": found} if row.response == "document" else found

    def files(self, name: str) -> Path:
        """Where the files of a successful job are.

        Raises:
            Problem: If there is none.
        """
        row = self.store.job(name)
        if row.status != "successful" or not self.folder.done(name):
            raise Problem(404, f"The job {name} is {row.status} and has no results.")
        return self.folder.files(name)


@contextlib.contextmanager
def opened(
    sat: DiffusionSat,
    data: Path,
    *,
    workers: int = 1,
    dask: str | None = None,
    days: float | None = None,
    most_bytes: int | None = None,
    remote: str | None = None,
    limits: Limits | None = None,
) -> Iterator[Service]:
    """The parts of a service, for as long as the block lasts; what one that died has left is taken up.

    Args:
        sat: The model.
        data: The folder of its results and uploads.
        workers: Processes that do the windows of large jobs.
        dask: Address of a Dask scheduler whose workers do so instead.
        days: That results and uploads are kept; None is for ever.
        most_bytes: Of results and uploads that are kept; None is any number.
        remote: Read addresses outside: those that are ``public``, or ``any``; None is none.
        limits: Of requests.

    Raises:
        ConfigError: If the folder cannot be used, or no scheduler answers.
        MissingExtraError: If Dask is asked for and not installed.
    """
    limits = limits or Limits()
    with contextlib.ExitStack() as stack:
        folder = Folder(data)
        stack.callback(folder.close)
        execute = stack.enter_context(executor(workers, dask))
        store = Store(folder.root / "service.db")
        stack.callback(store.close)
        board, keeping = Board(), Keeping(store, folder, days, most_bytes)
        outside = Remote(limits, public=remote != "any") if remote else None
        rasters = Rasters(folder, store.upload, limits, outside)
        worker = Worker(sat, store, board, folder, rasters, keeping, limits, execute)
        worker.recover()
        yield Service(
            store=store,
            board=board,
            folder=folder,
            keeping=keeping,
            rasters=rasters,
            worker=worker,
            limits=limits,
        )
