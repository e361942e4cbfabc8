"""The format of prepared data: Parquet shards of single images or of sequences, one row a record.

The columns are those of `diffusionsat.data.adapters.tables`, which reads these files too, and some more, so
that a row gives back its whole record: ``place``, ``licence``, ``pieces``, and for every frame ``role``,
``sensor``, ``pieces``, ``lon``, ``lat``. Row groups have 32 rows, a shard at most 256. A frame's ``scale`` is
JSON of its `Scaling`, or ``display uint8``. What could not be read stands in the file's metadata, since a
shard that is complete tells all that became of its records.
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffusionsat.data.adapters.tables import DISPLAY, PARQUET
from diffusionsat.data.records import Bad, Frame, Pieces, Record, quiet_gdal
from diffusionsat.data.sensors import RGB, Scaling
from diffusionsat.errors import DatasetError, DiffusionSatError, MissingExtraError
from diffusionsat.files import writing

VERSION = 1
ROWS = 256  # of a shard
GROUP_ROWS = 32
FORMS = ("images", "sequences")
_HEADS = {  # how an encoded image of a format begins, if it may stay as it is
    "jpeg": (b"\xff\xd8",),
    "png": (b"\x89PNG",),
    "webp": (b"RIFF",),
    "tif": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}


def check_pyarrow() -> None:
    """Refuse to work without pyarrow.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Reading and writing shards", "data") from error


def form(record: Record) -> str:
    """Of `FORMS`: a single image for display becomes a row of its own, all else a sequence."""
    first = record.frames[0]
    single = len(record.frames) == 1 and first.bands == RGB and first.scaling is None
    return FORMS[0] if single else FORMS[1]


def schema(name: str) -> Any:
    """Arrow schema of a form."""
    import pyarrow as pa

    text, number, pieces = (
        pa.string(),
        pa.float64(),
        pa.list_(pa.struct({"name": pa.string(), "text": pa.string()})),
    )
    place = {"lon": number, "lat": number}
    about = {"date": text, "gsd": number, "cloud_cover": number}
    size = {"width": pa.int32(), "height": pa.int32()}
    said = {"label": text, "caption": text, "place": text, "licence": text, "pieces": pieces}
    if name == FORMS[0]:
        return pa.schema({"key": text, "image": pa.binary(), **size, **place, **about, **said, "bands": text})
    frame = {"image": pa.binary(), "format": text, "bands": pa.list_(text), **about, **size, "scale": text}
    frame |= {"role": text, "sensor": text, "pieces": pieces, **place}
    ground = {"crs": text, "transform": pa.list_(number), **place, "gsd": number, "mask": pa.binary()}
    return pa.schema({"key": text, **ground, **said, "frames": pa.list_(pa.struct(frame))})


def write_shard(path: Path, records: Sequence[Record], size: int | None, digest: str) -> tuple[int, int]:
    """Write records as a shard, whole or not at all.

    Args:
        path: Where; replaced if it is there.
        records: All of one form.
        size: Images with a longer side are reduced to it; None keeps all as they are.
        digest: Of the records, kept in the file, so that a job taken up again knows it.

    Returns:
        Rows, and records that could not be read.

    Raises:
        RasterError: If the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    wanted = schema(form(records[0]))
    rejected: list[Bad] = []
    rows = 0
    with (
        writing(path, overwrite=True) as partial,
        parquet.ParquetWriter(
            partial, wanted, compression="zstd", use_dictionary=False, write_statistics=False
        ) as file,
    ):
        waiting: list[dict[str, Any]] = []

        def flush() -> None:
            nonlocal rows
            rows += len(waiting)
            file.write_table(pa.Table.from_pylist(waiting, wanted), row_group_size=GROUP_ROWS)
            waiting.clear()

        for record in records:
            try:
                waiting.append(row(record, size))
            except DiffusionSatError as error:
                rejected.append(Bad(record.frames[0].name, str(error)))
            if len(waiting) == GROUP_ROWS:
                flush()
        if waiting:
            flush()
        about = {"version": str(VERSION), "digest": digest, "source": records[0].source}
        file.add_key_value_metadata(about | {"rejected": json.dumps([asdict(bad) for bad in rejected])})
    return rows, len(rejected)


def row(record: Record, size: int | None = None) -> dict[str, Any]:
    """A record as a row of its form.

    Raises:
        DatasetError: If one of its images cannot be read.
    """
    images = [_encoded(frame, size, display=form(record) == FORMS[0]) for frame in record.frames]
    first, known = images[0], record.frames[0].metadata
    about = {"key": record.key, "lon": known.lon, "lat": known.lat, "gsd": _gsd(record.frames[0], first)}
    about |= {"label": record.label, "caption": record.caption(), "place": record.place}
    about |= {"licence": record.licence, "pieces": _structs(record.pieces)}
    if form(record) == FORMS[0]:
        image = {"image": first.content, "width": first.width, "height": first.height}
        return about | image | {"bands": "RGB", "date": known.date, "cloud_cover": known.cloud_cover}
    frames = [_frame_row(frame, image) for frame, image in zip(record.frames, images, strict=True)]
    return about | {"crs": first.crs, "transform": first.transform, "mask": None, "frames": frames}


def _frame_row(frame: Frame, image: "_Encoded") -> dict[str, Any]:
    known = frame.metadata
    return {
        "image": image.content,
        "format": image.format,
        "bands": list(frame.bands),
        "date": known.date,
        "gsd": _gsd(frame, image),
        "cloud_cover": None if known.cloud_cover is None else known.cloud_cover / 100,
        "width": image.width,
        "height": image.height,
        "scale": DISPLAY if frame.scaling is None else json.dumps(asdict(frame.scaling)),
        "role": frame.role,
        "sensor": frame.sensor,
        "pieces": _structs(frame.pieces),
        "lon": known.lon,
        "lat": known.lat,
    }


def record(row: dict[str, Any], source: str) -> Record:
    """The record of a row of a shard, or of any table that the adapter ``parquet`` reads.

    Raises:
        DatasetError: If a column is missing or holds something unexpected.
    """
    try:
        return PARQUET.build((row, source, None), False)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"A row of {source} is not as it should be: {error!r}.") from None


def _structs(pieces: Pieces) -> list[dict[str, str]]:
    return [{"name": name, "text": text} for name, text in pieces]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    content: bytes
    format: str
    width: int
    height: int
    factor: float = 1.0  # pixels read a side of one pixel written
    crs: str | None = None
    transform: list[float] | None = None


def _gsd(frame: Frame, image: _Encoded) -> float | None:
    return None if frame.metadata.gsd is None else frame.metadata.gsd * image.factor


def _encoded(frame: Frame, size: int | None, *, display: bool) -> _Encoded:
    """A frame's image, as it was encoded if it may stay so, else without loss."""
    pixels = frame.pixels()  # also of what stays: a damaged image is found now and not in training
    if not (frame.scaling or Scaling()).valid(pixels).any():
        raise DatasetError(f"{frame.name} has no valid pixel: all is nodata or no number.")
    content = frame.encoded()
    height, width = pixels.shape[:2]
    larger = size is not None and max(height, width) > size
    formats = ("jpeg", "png", "webp") if display else tuple(_HEADS)
    crs, transform = _georeference(content) if frame.format == "tif" else (None, None)
    if frame.format in formats and content.startswith(_HEADS[frame.format]) and not larger:
        return _Encoded(
            content=content, format=frame.format, width=width, height=height, crs=crs, transform=transform
        )
    factor = 1.0
    if size is not None and larger:
        shape = [max(1, round(side * size / max(height, width))) for side in (height, width)]
        factor = math.sqrt(height * width / (shape[0] * shape[1]))
        if transform is not None:
            a, b, c, d, e, f = transform
            across, down = width / shape[1], height / shape[0]
            transform = [a * across, b * down, c, d * across, e * down, f]
        pixels = _reduced(pixels, frame.scaling or Scaling(), *shape)
        height, width = shape
    plain = pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3) and crs is None
    if display and not (pixels.dtype == np.uint8 and pixels.shape[2] == 3):
        raise DatasetError(f"{frame.name} holds {pixels.dtype} numbers; an image for display is 8-bit.")
    content = _png(pixels) if display or plain else _tif(pixels, crs, transform)
    return _Encoded(
        content=content,
        format="png" if display or plain else "tif",
        width=width,
        height=height,
        factor=factor,
        crs=crs,
        transform=transform,
    )


def _reduced(pixels: np.ndarray, scaling: Scaling, height: int, width: int) -> np.ndarray:
    """Area means over valid pixels, which is what a coarser sensor sees; nodata where there are none."""

    def resized(plane: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        return np.asarray(image.resize((width, height), Image.Resampling.BOX))

    valid = scaling.valid(pixels)
    nothing = np.nan if scaling.nodata is None else scaling.nodata
    planes = []
    for band in range(pixels.shape[2]):
        weight = resized(valid[..., band])
        mean = resized(np.where(valid[..., band], pixels[..., band], 0)) / np.maximum(weight, 1e-6)
        planes.append(np.where(weight > 0, mean, nothing))
    reduced = np.stack(planes, axis=2)
    return (np.round(reduced) if pixels.dtype.kind in "iu" else reduced).astype(pixels.dtype)


def _georeference(content: bytes) -> tuple[str | None, list[float] | None]:
    from rasterio.io import MemoryFile

    with quiet_gdal(), MemoryFile(content) as memory, memory.open() as file:
        if file.crs is None:
            return None, None
        return file.crs.to_string(), list(file.transform)[:6]


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def _tif(pixels: np.ndarray, crs: str | None, transform: list[float] | None) -> bytes:
    from affine import Affine
    from rasterio.io import MemoryFile

    height, width, count = pixels.shape
    place = {"crs": crs, "transform": Affine(*transform)} if crs and transform else {}
    with quiet_gdal(), MemoryFile(ext=".tif") as memory:
        options = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": pixels.dtype}
        with memory.open(
            **options, **place, compress="deflate", predictor=2 if pixels.dtype.kind in "iu" else 3
        ) as f:
            f.write(np.moveaxis(pixels, 2, 0))
        return memory.read()
