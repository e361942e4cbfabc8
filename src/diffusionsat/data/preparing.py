"""From a raw release to shards: in parallel, whole shards only, taken up again where it stopped.

The records of a release come in a fixed order and are cut into shards by that order alone. So a job that was
stopped and is given again skips the shards that are there and ends as if it had never been stopped.
"""

import hashlib
import json
import logging
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffusionsat.data import shards, summary
from diffusionsat.data.adapters import ADAPTERS
from diffusionsat.data.records import Bad, Record
from diffusionsat.data.sources import FORMAT, IMAGES, INDEX, scan
from diffusionsat.data.splits import Blocks
from diffusionsat.errors import DatasetError, RasterError
from diffusionsat.files import write_bytes, writing

log = logging.getLogger(__name__)

JOB = "prepare.json"
REJECTED = "rejected.jsonl"
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.\w+")  # as `files.writing` names what is not whole yet
_OWN = (JOB, INDEX, IMAGES, REJECTED, *summary.FILES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is prepared, and how.

    Args:
        dataset: A key of `ADAPTERS`.
        sources: Folders or files of releases, which go together.
        split: The publisher's split to take; None is all.
        published: Keep what the published preprocessing made of places, dates and captions.
        blocks: How to split by place; None is the publisher's splits, and `Blocks()` for records without one.
        size: Longest side of an image in pixels; None keeps them as they are.
    """

    dataset: str
    sources: tuple[Path, ...]
    split: str | None = None
    published: bool = False
    blocks: Blocks | None = None
    size: int | None = None

    def described(self) -> dict[str, Any]:
        """The job as JSON can hold it."""
        known = asdict(self) | {"sources": [str(source.resolve()) for source in self.sources]}
        return {"format": FORMAT, "version": shards.VERSION, **known}


@dataclass(slots=True)
class Plan:
    """What a walk through a job's releases has found so far.

    Args:
        records: Records by split.
        near: Records left out because they lie too near to another split.
        rejected: What cannot be used.
    """

    records: Counter[str] = field(default_factory=Counter)
    near: int = 0
    rejected: list[Bad] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A file to be made of records.

    Args:
        name: Of the file.
        split: Of its records.
        records: At most `shards.ROWS`, of one form.
    """

    name: str
    split: str
    records: tuple[Record, ...]


def plan(job: Job, found: Plan) -> Iterator[Shard]:
    """The shards of a job, in a fixed order; ``found`` is filled meanwhile.

    Raises:
        DatasetError: If a source is no such release.
    """
    adapter = ADAPTERS[job.dataset]
    open_shards: dict[tuple[str, str], list[Record]] = {}
    numbers: Counter[tuple[str, str]] = Counter()

    def closed(kind: tuple[str, str]) -> Shard:
        split, form = kind
        name = f"{split}-{'' if form == 'images' else 'sequences-'}{numbers[kind]:05d}.parquet"
        numbers[kind] += 1
        return Shard(name=name, split=split, records=tuple(open_shards.pop(kind)))

    keys: set[str] = set()
    for source in job.sources:
        for record in adapter.records(source, job.split, published=job.published):
            if isinstance(record, Bad):
                found.rejected.append(record)
                continue
            if record.key in keys:
                name = record.frames[0].name
                found.rejected.append(Bad(name, f"Its key {record.key} was in another source before."))
                continue
            if len(job.sources) > 1:
                keys.add(record.key)
            split = _split(record, job.blocks)
            if split is None:
                found.near += 1
                continue
            found.records[split] += 1
            kind = (split, shards.form(record))
            open_shards.setdefault(kind, []).append(record)
            if len(open_shards[kind]) == shards.ROWS:
                yield closed(kind)
    for kind in sorted(open_shards):
        yield closed(kind)


def _split(record: Record, blocks: Blocks | None) -> str | None:
    if blocks is None and record.split is not None:
        return record.split
    blocks = blocks or Blocks()
    known = record.frames[0].metadata
    if known.lon is None or known.lat is None:
        return blocks.of_text(f"{record.source}/{record.place}")
    return blocks.split(known.lon, known.lat)


def prepare(
    job: Job,
    folder: Path,
    executor: Executor,
    *,
    at_once: int = 1,
    overwrite: bool = False,
    on_records: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Write the shards of a job that are missing, then the list of their images, summary and index.

    Args:
        job: What to prepare.
        folder: Where it goes; made if absent.
        executor: Makes shards; one of this machine, whose processes see the releases and the folder.
        at_once: Shards that are handed to it at a time.
        overwrite: Remove what the folder holds of another job or of this one, and begin anew.
        on_records: Called with the number of records done.

    Returns:
        The index, without its list of files, and how many shards were written now.

    Raises:
        DatasetError: If a source is no such release, or nothing in it can be used.
        RasterError: If the folder holds something else, or cannot be written.
        MissingExtraError: If pyarrow is not installed.
    """
    shards.check_pyarrow()
    for source in job.sources:
        ADAPTERS[job.dataset].check(source, job.split)
        if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
            raise RasterError(f"{folder} lies in {source}, which is read. Give a folder outside.")
    _claim(folder, job, overwrite)
    done = _complete(folder)
    if done is not None:
        log.warning(
            "%s is complete and stays as it is; what was added since is not in it: --overwrite makes it anew",
            folder,
        )
        return _short(done) | {"written": 0}
    found = Plan()
    files, written = _make(job, folder, found, executor, at_once, on_records)
    for stale in {path.name for path in folder.glob("*.parquet")} - {*files, IMAGES}:
        (folder / stale).unlink()
    return _short(_finish(job, folder, files, found)) | {"written": written}


def _make(
    job: Job,
    folder: Path,
    found: Plan,
    executor: Executor,
    at_once: int,
    on_records: Callable[[int], None],
) -> tuple[dict[str, str], int]:
    """Make the shards that are missing; the splits of all by name, and how many were made."""
    pending: dict[Future, int] = {}
    files: dict[str, str] = {}
    records = written = 0
    try:
        for shard in plan(job, found):
            files[shard.name] = shard.split
            digest = _digest(shard.records)
            if _is_made(folder / shard.name, digest):
                records += len(shard.records)
                on_records(records)
                continue
            path = folder / shard.name
            future = executor.submit(shards.write_shard, path, shard.records, job.size, digest)
            pending[future] = len(shard.records)
            written += 1
            while len(pending) >= at_once:
                records += _finished(pending)
                on_records(records)
        while pending:
            records += _finished(pending)
            on_records(records)
    except BrokenProcessPool:
        raise DatasetError(
            "A worker process ended before its work did, perhaps for want of memory. Give fewer --workers; "
            "the same command goes on from here."
        ) from None
    finally:
        for future in pending:
            future.cancel()
    return files, written


def leave_with_parent() -> None:
    """Initialise a worker: it leaves Ctrl-C to its parent, and goes when that is killed."""
    import multiprocessing
    import os

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _finished(pending: dict[Future, int]) -> int:
    """Wait for a shard; the number of records that are done with it."""
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    records = 0
    for future in done:
        try:
            future.result()
        except RasterError as error:
            # Between processes the cause was lost: that a disk failed and not the one who asked.
            raise error from OSError(str(error))
        records += pending.pop(future)
    return records


def _digest(records: Sequence[Record]) -> str:
    """Of all that a shard's rows depend on; of a file its name and length."""
    digest = hashlib.sha256()
    for record in records:
        for frame in record.frames:
            content = frame.content
            held = content if isinstance(content, bytes) else str(content).encode()
            length = len(held) if isinstance(content, bytes) else _length(content)
            digest.update(hashlib.sha256(held).digest() + f"{length}".encode())
            about = [getattr(frame, name) for name in frame.__slots__ if name != "content"]
            digest.update(repr(about).encode())
        about = [getattr(record, name) for name in record.__slots__ if name != "frames"]
        digest.update(repr(about).encode())
    return digest.hexdigest()


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _is_made(path: Path, digest: str) -> bool:
    if not path.exists():
        return False
    import pyarrow.parquet as parquet
    from pyarrow.lib import ArrowException

    try:
        return (parquet.read_metadata(path).metadata or {}).get(b"digest") == digest.encode()
    except (ArrowException, OSError):
        return False


def _claim(folder: Path, job: Job, overwrite: bool) -> None:
    """Make the folder this job's, unless it is another's; to overwrite, remove what was prepared there."""
    described = job.described()
    if folder.exists() and not folder.is_dir():
        raise RasterError(f"{folder} is a file. Give a folder for the shards.")
    held = _json(folder / JOB)
    if held != described or overwrite:
        if folder.is_dir() and any(folder.iterdir()) and not overwrite:
            differ = [name for name, value in described.items() if held and held.get(name) != value]
            what = f"shards of another job ({', '.join(differ)})" if differ else "other files"
            raise RasterError(
                f"{folder} holds {what}. Give another folder, the same options to go on with that job, or "
                "--overwrite."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in [*folder.glob("*.parquet"), *(folder / name for name in _OWN)] if held else []:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise RasterError(f"{folder} cannot be prepared: {error.strerror}.") from error
        write_bytes(folder / JOB, _text(described), overwrite=True)
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name):  # of a run that was killed
            path.unlink(missing_ok=True)


def _complete(folder: Path) -> dict[str, Any] | None:
    """The index of a folder in which nothing is missing."""
    index = _json(folder / INDEX)
    if not index:
        return None
    whole = all(_length(folder / file["name"]) == file["bytes"] for file in index["files"])
    return index if whole and all((folder / name).exists() for name in _OWN) else None


def _finish(job: Job, folder: Path, files: dict[str, str], found: Plan) -> dict[str, Any]:
    """Everything beside the shards, made of the shards; the index comes last and says that all is there."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    images: list[dict[str, Any]] = []
    listed = []
    rejected = [asdict(bad) for bad in found.rejected]
    columns: dict[str, list[str]] = {}
    for name, split in sorted(files.items()):
        file = parquet.ParquetFile(folder / name)
        bad = json.loads(file.metadata.metadata[b"rejected"])
        rejected += bad
        images += [entry | {"split": split} for entry in scan(file, name)]
        form = shards.FORMS["frames" in file.schema_arrow.names]
        columns[form] = file.schema_arrow.names
        with (folder / name).open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        rows = file.metadata.num_rows
        listed.append({"name": name, "split": split, "form": form, "rows": rows, "rejected": len(bad)})
        listed[-1] |= {"bytes": _length(folder / name), "sha256": sha256}
    if not images:
        first = f" The first: {rejected[0]['file']}: {rejected[0]['reason']}" if rejected else ""
        raise DatasetError(
            f"Nothing in {job.sources[0]} can be used; {len(rejected)} records are bad.{first}"
        )
    with writing(folder / IMAGES, overwrite=True) as partial:
        parquet.write_table(pa.Table.from_pylist(images), partial, compression="zstd")
    lines = "".join(json.dumps(bad) + "\n" for bad in rejected)
    write_bytes(folder / REJECTED, lines.encode(), overwrite=True)
    told = summary.summarise(images) | {"rejected": len(rejected), "too_near": found.near}
    summary.write(folder, told, images)
    index = {
        "format": FORMAT,
        "version": shards.VERSION,
        "dataset": job.dataset,
        "licence": ADAPTERS[job.dataset].licence,
        "records": dict(sorted(Counter({f["split"]: 0 for f in listed}).items())),
        "images": len(images),
        "rejected": len(rejected),
        "too_near": found.near,
        "nearest_km": told["nearest_km"],
        "columns": columns,
        "files": listed,
    }
    for file in listed:
        index["records"][file["split"]] += file["rows"]
    write_bytes(folder / INDEX, _text(index), overwrite=True)
    return index


def _short(index: dict[str, Any]) -> dict[str, Any]:
    names = ("dataset", "records", "images", "rejected", "too_near", "nearest_km")
    return {name: index[name] for name in names} | {"shards": len(index["files"])}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
