"""The board: how far running jobs are, and whoever waits for news of them."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Board:
    """News of jobs, posted from any thread and read in the event loop. Nothing of it outlives the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: dict[str, tuple[int, str]] = {}
        self._previews: dict[str, dict[str, Any]] = {}
        self._readers: defaultdict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = defaultdict(
            set
        )
        self.closed = False

    def progress(self, job: str) -> tuple[int, str] | None:
        """Percent done and words, of a running job that has told any."""
        return self._progress.get(job)

    def preview(self, job: str) -> dict[str, Any] | None:
        """The last coarse picture of a running job."""
        return self._previews.get(job)

    def post(self, job: str, progress: tuple[int, str] | None = None, preview: Any = None) -> None:
        """Tell of a job that it has got on, or has changed in the store."""
        with self._lock:
            if progress is not None:
                self._progress[job] = progress
            if preview is not None:
                self._previews[job] = preview
            readers = list(self._readers.get(job, ()))
        for loop, event in readers:
            loop.call_soon_threadsafe(event.set)

    def drop(self, job: str) -> None:
        """Forget how far a job was, since it runs no more, and tell so."""
        with self._lock:
            self._progress.pop(job, None)
            self._previews.pop(job, None)
        self.post(job)

    def watched(self, job: str) -> bool:
        """Whether anybody waits for news of a job."""
        return bool(self._readers.get(job))

    @contextmanager
    def reading(self, job: str) -> Iterator[asyncio.Event]:
        """An event that is set with every news of a job."""
        reader = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._readers[job].add(reader)
        try:
            yield reader[1]
        finally:
            with self._lock:
                self._readers[job].discard(reader)
                if not self._readers[job]:
                    del self._readers[job]

    def close(self) -> None:
        """Tell all that wait that no more news will come."""
        self.closed = True
        for job in list(self._readers):
            self.post(job)
