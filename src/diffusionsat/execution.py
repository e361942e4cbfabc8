"""Who does the work: this process, a pool of processes, or a Dask cluster. An argument, not a rewrite.

An `Execute` is like the builtin `map`, but gives results in any order. It is handed a few tasks at a time,
however many there are, and a worker that dies costs what it was doing, which another does again.
"""

import contextlib
import itertools
import logging
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from diffusionsat.errors import ConfigError, DiffusionSatError, MissingExtraError

log = logging.getLogger(__name__)

Execute = Callable[[Callable[[int], int], Iterable[int]], Iterable[int]]

_LIVES = 3  # times that a task may lose its worker
_AHEAD = 2  # tasks that wait, for each worker


@contextlib.contextmanager
def executor(workers: int = 1, dask: str | None = None) -> Iterator[Execute]:
    """What does the work, for as long as the block lasts.

    Args:
        workers: Processes; 1 is this one.
        dask: Address of a Dask scheduler, as in ``tcp://host:8786``; its workers do the work instead, and
            must see the files by the same paths.

    Raises:
        ConfigError: If the number of workers is below 1, or no scheduler answers.
        MissingExtraError: If Dask is asked for and not installed.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"workers is {workers!r}. Give a whole number from 1.")
    if dask is not None:
        with _client(dask) as client:
            yield lambda function, tasks: _on_dask(client, function, tasks)
    elif workers == 1:
        yield map
    else:
        with _Pool(workers) as pool:
            yield pool.map


class _Pool:
    """Processes that are replaced when one of them dies."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        return processes(self.workers, _share_cores, (self.workers,))

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[int], int], tasks: Iterable[int]) -> Iterator[int]:
        """Results in the order in which they are done."""
        coming, again, lost = iter(tasks), list[int](), Counter[int]()
        running: dict[Future[int], int] = {}
        while True:
            while len(running) < self.workers * _AHEAD:
                task = again.pop() if again else next(coming, None)
                if task is None:
                    break
                running[self._submit(function, task)] = task
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                done = {future for future in done if future.exception() is None}
                again = [task for future, task in running.items() if future not in done]
                lost.update(again)
                self._replace(max(lost.values()))
                running = {future: running[future] for future in done}
            for future in done:
                del running[future]
                yield future.result()

    def _submit(self, function: Callable[[int], int], task: int) -> Future[int]:
        try:
            return self.pool.submit(function, task)
        except BrokenProcessPool as error:  # since the last look
            future: Future[int] = Future()
            future.set_exception(error)
            return future

    def _replace(self, deaths: int) -> None:
        self.pool.shutdown(cancel_futures=True)
        if deaths > _LIVES:
            raise DiffusionSatError(
                "Worker processes die again and again, mostly for want of memory. Give fewer workers; the "
                "same command goes on from here."
            )
        log.warning("a worker process died; what it was doing is done again")
        self.pool = self._start()


def processes(count: int, begin: Callable[..., None], given: tuple[Any, ...]) -> ProcessPoolExecutor:
    """A pool of processes that end with this one, even if it is killed.

    Args:
        count: Processes.
        begin: Called in each of them first.
        given: Its arguments.
    """
    # A fork of a process with threads, as torch's are, can hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, initializer=_follow, initargs=(begin, *given))


def _follow(begin: Callable[..., None], *given: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(*given)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _share_cores(workers: int) -> None:
    """Let the processes not fight for the cores; before torch is imported in them."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        import distributed
    except ImportError:
        raise MissingExtraError("Work on a Dask cluster", "cluster") from None
    try:
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"No Dask scheduler answers at {address}: {error}. Start one, or leave it out."
        ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            raise ConfigError(
                f"The Dask scheduler at {address} has no workers. Start some: dask worker {address}."
            )
        yield client


def _on_dask(client: Any, function: Callable[[int], int], tasks: Iterable[int]) -> Iterator[int]:
    """Results as they come; Dask gives what a lost worker was doing to another."""
    import distributed

    coming = iter(tasks)
    # A task's result: Dask makes it again when it is lost, and of scattered data keeps but one copy.
    shared = client.submit(_itself, function, pure=False)
    slots = _AHEAD * sum(client.nthreads().values())
    running = distributed.as_completed(
        [client.submit(_apply, shared, task, pure=False) for task in itertools.islice(coming, slots)],
        loop=client.loop,
    )
    for future in running:
        yield future.result()
        for task in itertools.islice(coming, 1):
            running.add(client.submit(_apply, shared, task, pure=False))


def _itself(function: Callable[[int], int]) -> Callable[[int], int]:
    return function


def _apply(function: Callable[[int], int], task: int) -> int:
    return function(task)
