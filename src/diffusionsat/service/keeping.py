"""How long results and uploads are kept: days and bytes, and the oldest go first."""

import datetime
import threading

from diffusionsat.service.folder import Folder, bytes_of
from diffusionsat.service.store import Row, Store


class Keeping:
    """Removes what is older or more than is to be kept.

    Args:
        store: The jobs and uploads.
        folder: Their files.
        days: Since a job was finished or a file was sent; None is for ever.
        most_bytes: Of all results and uploads; None is any number.
    """

    def __init__(self, store: Store, folder: Folder, days: float | None, most_bytes: int | None) -> None:
        self.store, self.folder = store, folder
        self.days, self.most_bytes = days, most_bytes
        self._catalogue = threading.Lock()  # so that the last to be written is the last that was true

    def kept_until(self, row: Row) -> str | None:
        """Until when a finished job is kept at most; None if no day is set."""
        if self.days is None or row.finished is None:
            return None
        until = datetime.datetime.fromisoformat(row.finished) + datetime.timedelta(days=self.days)
        return until.isoformat(timespec="seconds").replace("+00:00", "Z")

    def size(self, job: str) -> int:
        """Bytes of a job's results."""
        return bytes_of(self.folder.files(job))

    def expire(self) -> None:
        """Remove what is too old or too much, and write the catalogue of the rest.

        The newest of all stays until it is too old, however large it is: it is what somebody waits for.
        """
        busy = repr([row.inputs for row in self.store.jobs(statuses=["accepted", "running"])])
        kept = [(time, "job", name, size) for time, _, name, size in self.store.finished()]
        kept += [(created, "upload", name, size) for name, created, size in self.store.uploads()]
        kept.sort()
        total = sum(size for *_, size in kept)
        oldest = ""
        if self.days is not None:
            day = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=self.days)
            oldest = day.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for time, kind, name, size in kept:
            if time >= oldest and (self.most_bytes is None or total <= self.most_bytes):
                break
            if f"{kind}:{name}" in busy or (time >= oldest and name == kept[-1][2]):
                continue
            self.remove(kind, name)
            total -= size
        self.write_catalogue()

    def write_catalogue(self) -> None:
        """Write the catalogue of all results."""
        with self._catalogue:
            done = [name for _, status, name, _ in self.store.finished() if status == "successful"]
            self.folder.write_catalogue(done)

    def remove(self, kind: str, name: str) -> None:
        """Remove a finished job with its results, or an upload."""
        if kind == "job":
            self.store.forget(name)
            self.folder.remove(name)
        else:
            self.store.forget_upload(name)
            self.folder.remove_upload(name)

    def sweep(self) -> None:
        """Remove files that belong to nothing, as a process that died leaves them."""
        done = [name for _, status, name, _ in self.store.finished() if status == "successful"]
        working = [row.id for row in self.store.jobs(statuses=["accepted", "running"])]
        self.folder.sweep(done, working, [name for name, *_ in self.store.uploads()])
        self.expire()
