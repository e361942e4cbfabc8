"""Where training images come from: Parquet on this disk or behind an address, and the list of what it holds.

A source is what `diffusionsat prepare` made, a folder of ``train.parquet`` and ``test.parquet``, or one file;
on this disk, or at an http(s) or s3 address, of which row groups are fetched by range.
Both ways of reading stand here, behind one class.
"""

import contextlib
import functools
import hashlib
import io
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusionsat.data import shards
from diffusionsat.data.records import Record
from diffusionsat.data.sensors import RGB, has
from diffusionsat.errors import DatasetError, MissingExtraError

INDEX = "index.json"
IMAGES = "images.parquet"
FORMAT = "diffusionsat shards"
WINDOW = 8  # row groups among which samples are shuffled
_KEPT = 2 * WINDOW  # row groups in memory
_HELD_OUT = 26  # of 256: the tenth of the places kept for choosing and calibrating


def held_out(source: str, place: str, lon: float | None, lat: float | None) -> bool:
    """Whether a row belongs to the tenth of places kept for choosing and calibrating.

    A place is a cell of one degree, and without coordinates what a shard's column ``place`` says, or the key.
    All frames of a row go together.
    """
    cell = f"{source}/{place}"
    if lon is not None and lat is not None:
        cell = f"{math.floor(lon)},{math.floor(lat)}"
    return hashlib.sha256(cell.encode()).digest()[0] < _HELD_OUT


def scan(file: Any, shard: str) -> list[dict[str, Any]]:
    """One entry an image of a Parquet file, without the images themselves.

    Args:
        file: `pyarrow.parquet.ParquetFile`.
        shard: Its name.

    Returns:
        shard, group, row in the group, frame in the row, frames of the row, place, width, height, role,
        whether it has colours, and its lon, lat, gsd, cloud_cover [percent] and date; None is unknown.

    Raises:
        DatasetError: If the file lacks columns.
    """
    paths = [file.schema.column(i).path for i in range(len(file.schema.names))]
    light = [path for path in paths if path.split(".")[-1] not in ("image", "mask")]
    entries = []
    try:
        for group in range(file.num_row_groups):
            for number, row in enumerate(file.read_row_group(group, columns=light).to_pylist()):
                where = {"shard": shard, "group": group, "row": number}
                # Only shards promise that rows of one place share its name.
                where["place"] = row["place"] if "licence" in row else row["key"]
                frames = row.get("frames", [row])
                for i, frame in enumerate(frames):
                    entry = where | {"frame": i, "frames": len(frames)} | _about(row, frame)
                    entries.append(entry)
    except KeyError as error:
        raise DatasetError(f"{shard} lacks the column {error}; see the how-to page on training.") from None
    return entries


def _about(row: dict[str, Any], frame: dict[str, Any]) -> dict[str, Any]:
    single = frame is row
    bands = RGB if single else tuple(frame["bands"])
    cloud_cover = _known(frame["cloud_cover"])
    if cloud_cover is not None and not single:
        cloud_cover = round(100 * cloud_cover, 9)
    return {
        "width": frame["width"],
        "height": frame["height"],
        "role": frame.get("role") or ("rgb" if bands == RGB else "bands"),
        "colour": _has_colours(bands, frame.get("sensor") or "sentinel-2"),
        "lon": _known(frame.get("lon", row["lon"])),
        "lat": _known(frame.get("lat", row["lat"])),
        "gsd": _known(frame["gsd"]),
        "cloud_cover": cloud_cover,
        "date": frame["date"] or None,
    }


@functools.cache
def _has_colours(bands: tuple[str, ...], sensor: str) -> bool:
    return has(bands, RGB, sensor)


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What a source holds, one entry an image, in the order of the files.

    Args:
        shard: Index into the source's shards, int (N,).
        group: Row group in the shard.
        row: Row in the group.
        frame: Frame of the row.
        frames: Frames of its row.
        side: Shorter side in pixels.
        role: Its part in the record.
        colour: Whether it can be shown in red, green and blue.
        held_out: Whether it is never trained on.
        ground: Number of the ground that its record shows, in the order of the first image of each; the same
            coordinates are the same ground, and a record without any has its own.
    """

    shard: np.ndarray
    group: np.ndarray
    row: np.ndarray
    frame: np.ndarray
    frames: np.ndarray
    side: np.ndarray
    role: np.ndarray
    colour: np.ndarray
    held_out: np.ndarray
    ground: np.ndarray


class Source:
    """Images in Parquet.

    Args:
        address: A folder, a ``.parquet`` file, or the http(s) or s3 address of either; a folder at an address
            must have been made by `diffusionsat prepare`. Keys and ends of S3 come from the environment
            (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL …).
        name: What weights call it; by default the folder's name, or the file's if that is no split's.
        split: Which shards of a folder.

    Raises:
        DatasetError: If there is nothing of this kind, or it cannot be read.
        MissingExtraError: If pyarrow, or obstore for an address, is not installed.
    """

    def __init__(self, address: str | Path, *, name: str | None = None, split: str = "train") -> None:
        shards.check_pyarrow()
        self.address = str(address).rstrip("/")
        head, _, last = self.address.rpartition("/")
        alone = last.endswith(".parquet")
        folder = (head or ".") if alone else self.address
        self._index: dict[str, Any] | None = None
        self._store = _Remote(folder) if "://" in self.address else _Local(Path(folder))
        stem = last.removesuffix(".parquet")
        self.name = name or (folder.rpartition("/")[2] if not alone or stem in ("train", "test") else stem)
        self._lock = threading.Lock()
        self._footers: dict[str, Any] = {}
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self.shards = (last,) if alone else self._find(split)
        self.images = self._list()

    def record(self, image: int) -> Record:
        """The record that an entry of `images` belongs to.

        Raises:
            DatasetError: If it cannot be read (any more).
        """
        shard, group = self.shards[self.images.shard[image]], int(self.images.group[image])
        row = self._rows(shard, group).slice(int(self.images.row[image]), 1).to_pylist()[0]
        return shards.record(row, self.name)

    def masks(self) -> list[bytes]:
        """Images in the column ``mask``, without those of rows that are held out.

        Raises:
            DatasetError: As `record`.
        """
        found = []
        for image in np.flatnonzero((self.images.frame == 0) & ~self.images.held_out):
            rows = self._rows(self.shards[self.images.shard[image]], int(self.images.group[image]))
            if "mask" in rows.column_names:
                found.append(rows["mask"][int(self.images.row[image])].as_py())
        return [mask for mask in found if mask is not None]

    def _find(self, split: str) -> tuple[str, ...]:
        if self._store.has(INDEX):
            with self._reading(INDEX):
                self._index = _index(self._store.read(INDEX), self.address)
            found = [file["name"] for file in self._index["files"] if file["split"] == split and file["rows"]]
            said = sorted({file["split"] for file in self._index["files"]})
        else:
            names = self._store.names()
            found = [name for name in names if Path(name).stem == split]
            said = [Path(name).stem for name in names]
        if not found:
            there = f"it has {', '.join(said)}" if said else "it is empty, or not there"
            raise DatasetError(
                f"{self.address} has no images of the split {split!r}; {there}. "
                f"Give a .parquet file, or a folder with {INDEX} or {split}.parquet in it."
            )
        return tuple(found)

    def _list(self) -> Images:
        number = {shard: i for i, shard in enumerate(self.shards)}
        if self._index is not None:
            with self._reading(IMAGES):
                everything = self._open(IMAGES).read().to_pylist()
            entries = [entry for entry in everything if entry["shard"] in number]
        else:
            entries = []
            for shard in self.shards:
                with self._reading(shard):
                    entries += scan(self._open(shard), shard)
        columns = {
            "shard": [number[entry["shard"]] for entry in entries],
            "side": [min(entry["width"], entry["height"]) for entry in entries],
            "held_out": [held_out(self.name, e["place"], e["lon"], e["lat"]) for e in _first_frames(entries)],
            "ground": _grounds(entries),
        }
        for name in ("group", "row", "frame", "frames", "role", "colour"):
            columns[name] = [entry[name] for entry in entries]
        return Images(**{name: np.array(values) for name, values in columns.items()})

    def _rows(self, shard: str, group: int) -> Any:
        """A row group, of those that were used last or read now."""
        with self._lock:
            if (shard, group) not in self._groups:
                with self._reading(shard):
                    self._groups[shard, group] = self._open(shard).read_row_group(group)
                if len(self._groups) > _KEPT:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((shard, group))
            return self._groups[shard, group]

    def _open(self, shard: str) -> Any:
        import pyarrow.parquet as parquet

        file = parquet.ParquetFile(
            self._store.open(shard), metadata=self._footers.get(shard), pre_buffer=True
        )
        self._footers[shard] = file.metadata
        return file

    @contextlib.contextmanager
    def _reading(self, shard: str) -> Iterator[None]:
        from pyarrow.lib import ArrowException

        try:
            yield
        except (ArrowException, OSError) as error:
            raise DatasetError(f"{shard} of {self.address} cannot be read: {error}.") from error

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        return kept | {"_footers": {}, "_groups": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _first_frames(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For every entry the one of its row's first frame, whose place is the row's."""
    first: dict[str, Any] = {}
    for entry in entries:
        if entry["frame"] == 0:
            first = entry
        yield first


def _grounds(entries: list[dict[str, Any]]) -> list[int]:
    """The number of the ground of every entry's record; one without coordinates has its own."""
    numbers: dict[Any, int] = {}
    found = []
    for first in _first_frames(entries):
        known = first["lon"] is not None and first["lat"] is not None
        ground = (first["lon"], first["lat"]) if known else (first["shard"], first["group"], first["row"])
        found.append(numbers.setdefault(ground, len(numbers)))
    return found


def _index(content: bytes, address: str) -> dict[str, Any]:
    try:
        index = json.loads(content)
        if index["format"] == FORMAT and index["version"] == shards.VERSION:
            return index
        found = f"{index['format']} of version {index['version']}"
    except (ValueError, TypeError, KeyError):
        found = "something else"
    raise DatasetError(
        f"{address}/{INDEX} is of {found}; {FORMAT} of version {shards.VERSION} are read. "
        "Make it anew with: diffusionsat prepare."
    )


class _Local:
    """Files of a folder on this disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.parquet"))

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def open(self, name: str) -> str:
        return str(self.folder / name)


class _Remote:
    """Objects below an address, read by ranges."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sizes: dict[str, int] = {}
        self.connect()

    def connect(self) -> None:
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError as error:
            raise MissingExtraError(f"Reading {self.address}", "cloud") from error
        try:
            if self.address.startswith("http:"):
                self.store = from_url(self.address, client_options={"allow_http": True})
            else:
                self.store = from_url(self.address)
        except (BaseError, ValueError) as error:
            raise DatasetError(f"{self.address} is no address of data: {error}.") from None

    def has(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise DatasetError(f"{self.address}/{name} cannot be read: {error}.") from error
        return True

    def names(self) -> list[str]:
        return []  # http has no listing that could be relied on

    def size(self, name: str) -> int:
        import obstore

        if name not in self.sizes:
            with _as_os_errors():
                self.sizes[name] = obstore.head(self.store, name)["size"]
        return self.sizes[name]

    def fetch(self, name: str, start: int, end: int) -> bytes:
        import obstore

        with _as_os_errors():
            return bytes(obstore.get_range(self.store, name, start=start, end=end))

    def read(self, name: str) -> bytes:
        return self.fetch(name, 0, self.size(name))

    def open(self, name: str) -> "_Ranges":
        return _Ranges(self, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "sizes": self.sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.connect()


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """What goes wrong between here and an object store, as if it were a disk."""
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise FileNotFoundError("it is not there") from None
    except (BaseError, OSError) as error:
        raise OSError(str(error).splitlines()[0]) from error


class _Ranges(io.RawIOBase):
    """An object as a file; every read is one request."""

    def __init__(self, store: _Remote, name: str) -> None:
        self.store, self.name, self.place = store, name, 0
        self.length = store.size(name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.length}[whence]
        return self.place

    def read(self, size: int = -1) -> bytes:
        end = self.length if size < 0 else min(self.place + size, self.length)
        if end <= self.place:
            return b""
        content = self.store.fetch(self.name, self.place, end)
        self.place += len(content)
        return content
