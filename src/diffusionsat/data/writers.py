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
from diffusionsat.geo.grids import Grid
from diffusionsat.geo.images import world_file
from diffusionsat.metadata import Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image of a job.

    Args:
        name: Unique within the job, fit for a file name.
        label: Class, or empty.
        metadata: What the image shows.
        caption: Its prompt.
        png: Gives the bytes of the PNG.
        tif: Gives the bytes of the GeoTIFF.
        grid: Where the pixels lie; None if that is unknown.
        provenance: How it was made.
        size: Width and height in pixels.
    """

    name: str
    label: str
    metadata: Metadata
    caption: str
    png: Callable[[], bytes]
    tif: Callable[[], bytes]
    grid: Grid | None
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
            "crs": self.grid and self.grid.crs.to_string(),
            "transform": self.grid and list(self.grid.transform)[:6],
            "width": self.size[0],
            "height": self.size[1],
            "provenance": self.provenance,
        }


def file_name(text: str) -> str:
    """A text as part of a file name: letters of any script, digits, dash and underscore; never empty."""
    return re.sub(r"[^\w-]+", "_", text)[:60] or "_"


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write many images.

    Args:
        group: Images that are written together.
        path: File of a group, relative to the folder, from its number and its first image's name and label;
            the group is done when the file exists.
        write: Writes a group's items to that file.
        check: Raises what `write` would raise for want of a package.
    """

    group: int
    path: Callable[[int, str, str], str]
    write: Callable[[Path, Sequence[Item]], None]
    check: Callable[[], None] = lambda: None


def _tif(file: Path, items: Sequence[Item]) -> None:
    write_bytes(file, items[0].tif(), overwrite=True)


def _png(file: Path, items: Sequence[Item]) -> None:
    file.parent.mkdir(exist_ok=True)
    if items[0].grid is not None:
        write_bytes(file.with_suffix(".pgw"), world_file(items[0].grid), overwrite=True)
    write_bytes(file, items[0].png(), overwrite=True)


def _check_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Writing Parquet", "data") from error


def _parquet(file: Path, items: Sequence[Item]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = pa.schema(
        [(name, pa.string()) for name in ("key", "label", "caption", "date", "crs", "provenance")]
        + [
            ("image", pa.binary()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("bands", pa.list_(pa.string())),
        ]
        + [(name, pa.float64()) for name in ("lon", "lat", "gsd", "cloud_cover")]
        + [("transform", pa.list_(pa.float64())), ("synthetic", pa.bool_())]
    )
    rows = [
        item.record()
        | {"image": item.png(), "bands": ["red", "green", "blue"], "provenance": json.dumps(item.provenance)}
        for item in items
    ]
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema), out, compression="zstd")
    write_bytes(file, out.getvalue(), overwrite=True)


def _webdataset(file: Path, items: Sequence[Item]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for item in items:
            parts = {
                "png": item.png(),
                "txt": item.caption.encode(),
                "json": json.dumps(item.record()).encode(),
            }
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{item.name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    write_bytes(file, out.getvalue(), overwrite=True)


FORMS = {
    "tif": Form(1, lambda _, name, __: f"{name}.tif", _tif),
    "png": Form(1, lambda _, name, __: f"{name}.png", _png),
    "folder": Form(1, lambda _, name, label: f"{file_name(label or 'unlabelled')}/{name}.png", _png),
    "parquet": Form(256, lambda number, _, __: f"part-{number:05d}.parquet", _parquet, _check_pyarrow),
    "webdataset": Form(256, lambda number, _, __: f"shard-{number:05d}.tar", _webdataset),
}
