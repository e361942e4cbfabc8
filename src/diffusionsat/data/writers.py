"""Many images as data sets: files, a folder of classes, Parquet, webdataset shards.

A writer takes groups of scenes. A group is written whole or not at all and is known by its files, so that a
job that was stopped goes on with the groups that are missing.
"""

import io
import json
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusionsat.errors import MissingExtraError
from diffusionsat.files import write_bytes
from diffusionsat.metadata import Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image of a job.

    Args:
        name: Unique within the job, fit for a file name.
        label: Class, or empty.
        metadata: What the image shows.
        caption: Its prompt.
        png: Bytes of the PNG.
        tif: Bytes of the GeoTIFF, made when asked for.
        provenance: How it was made.
        size: Width and height in pixels.
    """

    name: str
    label: str
    metadata: Metadata
    caption: str
    png: Callable[[], bytes]
    tif: Callable[[], bytes]
    provenance: dict[str, Any]
    size: tuple[int, int]

    def record(self) -> dict[str, Any]:
        """What is known about the image, as JSON can hold it."""
        return {
            "key": self.name,
            "synthetic": True,
            "label": self.label or None,
            "caption": self.caption,
            **self.metadata.to_dict(),
            "width": self.size[0],
            "height": self.size[1],
            "provenance": self.provenance,
        }


def file_name(text: str) -> str:
    """A text as part of a file name: letters, digits, dot, dash, underscore; never empty or hidden."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".")[:100] or "_"


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write many images.

    Args:
        group: Images that are written together.
        paths: Files of a group, relative to the folder, from its number and its (name, label) pairs; the
            group is done when all of them exist.
        write: Writes a group's items to these files.
    """

    group: int
    paths: Callable[[int, Sequence[tuple[str, str]]], list[str]]
    write: Callable[[list[Path], Sequence[Item]], None]


def _each(suffix: str, folders: bool = False) -> Form:
    def paths(_: int, names: Sequence[tuple[str, str]]) -> list[str]:
        return [
            f"{file_name(label or 'unlabelled') + '/' if folders else ''}{name}{suffix}"
            for name, label in names
        ]

    def write(files: list[Path], items: Sequence[Item]) -> None:
        for file, item in zip(files, items, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, item.tif() if suffix == ".tif" else item.png(), overwrite=True)

    return Form(1, paths, write)


def _parquet(files: list[Path], items: Sequence[Item]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("Writing Parquet", "data") from error
    schema = pa.schema(
        [(name, pa.string()) for name in ("key", "label", "caption", "date", "provenance")]
        + [
            ("image", pa.binary()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("bands", pa.list_(pa.string())),
        ]
        + [(name, pa.float64()) for name in ("lon", "lat", "gsd", "cloud_cover")]
        + [("synthetic", pa.bool_())]
    )
    rows = [
        item.record()
        | {"image": item.png(), "bands": ["red", "green", "blue"], "provenance": json.dumps(item.provenance)}
        for item in items
    ]
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema), out, compression="zstd")
    write_bytes(files[0], out.getvalue(), overwrite=True)


def _webdataset(files: list[Path], items: Sequence[Item]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for item in items:
            parts = {
                "png": item.png(),
                "txt": item.caption.encode(),
                "json": json.dumps(item.record()).encode(),
            }
            for suffix, content in parts.items():
                # In webdataset the part of a name before its first dot is the sample's key.
                member = tarfile.TarInfo(f"{item.name.replace('.', '_')}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    write_bytes(files[0], out.getvalue(), overwrite=True)


FORMS = {
    "tif": _each(".tif"),
    "png": _each(".png"),
    "folder": _each(".png", folders=True),
    "parquet": Form(256, lambda number, _: [f"part-{number:05d}.parquet"], _parquet),
    "webdataset": Form(256, lambda number, _: [f"shard-{number:05d}.tar"], _webdataset),
}
