"""Parquet tables of single images and of sequences, as `diffusionsat.data.parquet` describes them.

Unlike there, a sequence stays one record, with its frames in all their bands.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusionsat.data.adapters.release import Adapter, Found, Piece
from diffusionsat.data.records import Bad, Frame, Pieces, Record
from diffusionsat.data.sensors import RGB, Scaling
from diffusionsat.errors import DatasetError, MissingExtraError
from diffusionsat.metadata import Metadata

# How the sets' column `scale` spells reflectance; whatever else it says is for display.
_SCALES = {
    "reflectance*10000": Scaling(gain=1e-4, nodata=0),
    "255*reflectance/0.6": Scaling(gain=0.6 / 255),
    "255*reflectance/0.5": Scaling(gain=0.5 / 255),
}
LICENCES = {"harvey_pairs": "CC BY-NC 4.0", "xbd_samples": "CC BY-NC-SA 4.0"}
_ELSE = "see the README of the set"


def _find(src: Path, split: str | None) -> Found:
    for path in [src] if src.is_file() else sorted(src.glob(f"{split or '*'}.parquet")):
        source = path.parent.name if path.stem in _SPLITS else path.stem
        try:
            for row in rows(path):
                yield f"{path}:{row.get('key')}", (row, source, path.stem)
        except DatasetError as error:
            yield Bad(str(path), str(error))


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file.

    Raises:
        DatasetError: If it cannot be read.
        MissingExtraError: If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise MissingExtraError("Reading Parquet", "data") from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=64):
            yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise DatasetError(f"{path.name} cannot be read as Parquet: {error}.") from None


def _build(item: tuple[dict[str, Any], str, str], _: bool) -> Record:
    row, source, split = item
    frames = _frames(row, source) if "frames" in row else [_single(row, source)]
    if not frames:
        raise DatasetError(f"{row['key']} has no frames.")
    lon, lat = _known(row["lon"]), _known(row["lat"])
    place = f"{source}/{row['key']}" if lon is None or lat is None else f"{math.floor(lon)},{math.floor(lat)}"
    return Record(
        key=row["key"],
        source=source,
        frames=tuple(frames),
        licence=LICENCES.get(source, _ELSE),
        place=place,
        split=split if split in _SPLITS else None,
        label=row.get("label") or None,
        pieces=_caption(row.get("caption")),
    )


def _caption(sentence: str | None) -> Pieces:
    return (("caption", sentence),) if sentence else ()


def _single(row: Mapping[str, Any], source: str) -> Frame:
    return Frame(
        content=row["image"],
        format=_format(row["image"]),
        name=f"{source}/{row['key']}",
        metadata=_metadata(row, row["gsd"], row["cloud_cover"], row["date"]),
    )


def _frames(row: Mapping[str, Any], source: str) -> list[Frame]:
    frames = []
    for i, frame in enumerate(row["frames"]):
        bands, cloud_fraction = tuple(frame["bands"]), _known(frame["cloud_cover"])
        scale = frame.get("scale") or ""
        scaling = next((scaling for text, scaling in _SCALES.items() if text in scale), None)
        frames.append(
            Frame(
                content=frame["image"],
                format=frame["format"],
                name=f"{source}/{row['key']}/{i}",
                metadata=_metadata(
                    row, frame["gsd"], None if cloud_fraction is None else 100 * cloud_fraction, frame["date"]
                ),
                bands=bands,
                role="rgb" if bands == RGB else "bands",
                scaling=scaling,
            )
        )
    return frames


def _format(image: bytes) -> str:
    heads = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"RIFF": "webp", b"II*\0": "tif", b"MM\0*": "tif"}
    return next((name for head, name in heads.items() if image.startswith(head)), "unknown")


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _metadata(
    row: Mapping[str, Any], gsd: float | None, cloud_cover: float | None, date: str | None
) -> Metadata:
    return Metadata(
        lon=_known(row["lon"]),
        lat=_known(row["lat"]),
        gsd=_known(gsd),
        cloud_cover=_known(cloud_cover),
        date=date or None,
    )


_SPLITS = ("train", "test")
PARQUET = Adapter(
    name="parquet",
    licence=_ELSE,
    layout="train.parquet, test.parquet (one row an image, or one row a place with a column frames)",
    pieces=(Piece("a table", ("*.parquet",)),),
    find=_find,
    build=_build,
    splits=_SPLITS,
)
