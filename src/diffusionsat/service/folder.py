"""The data folder: results and uploads, each complete or absent, and a static STAC catalogue of them.

    catalog.json        STAC catalogue of the items
    items/ID.json       STAC item of a result
    jobs/ID/files/      its files
    uploads/ID/         an upload, one file
    work/ID/            what a job has done so far
    service.db          the queue

The addresses that the service gives are the same paths.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusionsat.errors import ConfigError
from diffusionsat.files import write_bytes

_STAC = "1.1.0"
_KEEPS = ("items", "jobs", "uploads", "work")
_OURS = re.compile(r"/(upload|job)s/([0-9a-f]{16})/[\w./@-]*\w")
_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/:;,'\"]+/)+([^\s/:;,'\"]*)")


class Folder:
    """The data folder of one service.

    Args:
        root: Made if it is absent.

    Raises:
        ConfigError: If it cannot be made, or another service works in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        try:
            for name in _KEEPS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            self._held = os.open(self.root / "lock", os.O_CREAT | os.O_WRONLY, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigError(f"{root} is the data folder of a service that runs. Give another.") from None
        except OSError as error:
            raise ConfigError(f"{root} cannot be the data folder: {error.strerror}.") from None

    def close(self) -> None:
        """Let another service have it."""
        os.close(self._held)

    def said(self, text: str) -> str:
        """A message as clients may read it: their ids stand for files here, and names for other paths."""
        text = _OURS.sub(r"\1:\2", text.replace(f"{self.root}/", "/"))
        return _PATH.sub(r"\1", text)

    def work(self, job: str) -> Path:
        """Where a job works."""
        return self.root / "work" / job

    def files(self, job: str) -> Path:
        """Where the files of a result are."""
        return self.root / "jobs" / job / "files"

    def item_path(self, job: str) -> Path:
        """Where the STAC item of a result is."""
        return self.root / "items" / f"{job}.json"

    def item(self, job: str) -> dict[str, Any]:
        """The STAC item of a result, whose addresses are relative to its file."""
        return json.loads(self.item_path(job).read_bytes())

    def upload(self, name: str) -> Path:
        """Where an upload is."""
        return self.root / "uploads" / name

    def done(self, job: str) -> bool:
        """Whether a job's results are all there."""
        return (self.root / "jobs" / job).is_dir() and self.item_path(job).is_file()

    def publish(self, job: str, item: dict[str, Any]) -> int:
        """Make what a job has left in ``files`` of its work its results, all at once.

        Returns:
            Their bytes.
        """
        work = self.work(job)
        for kept in work.iterdir():
            if kept.name != "files":
                shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
        _settle(work)
        write_bytes(self.item_path(job), json.dumps(item, allow_nan=False).encode(), overwrite=True)
        size = bytes_of(work) + self.item_path(job).stat().st_size
        results = self.root / "jobs" / job
        if results.exists():  # of an attempt that failed afterwards
            shutil.rmtree(results)
        work.rename(results)
        for name in ("items", "jobs"):
            _sync(self.root / name)
        return size

    def remove(self, job: str) -> None:
        """Remove whatever there is of a job."""
        self.item_path(job).unlink(missing_ok=True)
        for folder in (self.root / "jobs" / job, self.work(job)):
            shutil.rmtree(folder, ignore_errors=True)

    def remove_upload(self, name: str) -> None:
        """Remove an upload."""
        shutil.rmtree(self.upload(name), ignore_errors=True)

    def sweep(self, jobs: Sequence[str], working: Sequence[str], uploads: Sequence[str]) -> None:
        """Remove what belongs to none of the results, the jobs that go on, and the uploads."""
        for name, owners in (("jobs", jobs), ("items", jobs), ("work", working), ("uploads", uploads)):
            for left in (self.root / name).iterdir():
                if left.name.removesuffix(".json") not in owners:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()

    def write_catalogue(self, jobs: Sequence[str]) -> None:
        """Write the catalogue of some results."""
        root = {"rel": "root", "href": "./catalog.json", "type": "application/json"}
        items = [
            {"rel": "item", "href": f"./items/{job}.json", "type": "application/geo+json"} for job in jobs
        ]
        catalogue = {
            "type": "Catalog",
            "stac_version": _STAC,
            "id": "diffusionsat",
            "title": "Synthetic images",
            "description": "Images made by a generative model (diffusionsat); none is a measurement.",
            "links": [root, *items],
        }
        write_bytes(self.root / "catalog.json", json.dumps(catalogue).encode(), overwrite=True)


def bytes_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _settle(folder: Path) -> None:
    """See to it that a folder's files are on the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
