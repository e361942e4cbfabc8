"""Parquet tables of single images and of sequences, one row a record, image bytes in the row.

Two forms are understood, told apart by the column ``frames``. Without it a row is one image with its
metadata (cloud cover in percent). With it a row is one place, ``frames`` a list of structs with their own
date, gsd and cloud cover (a fraction from 0 to 1). Shards of `diffusionsat.data.shards` are such tables too,
and give back all that their further columns hold.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
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
DISPLAY = "display uint8"  # the scale of a shard's frame that has no `Scaling`
_SHARD = re.compile(r"(.+?)-(?:sequences-)?\d{5}")  # as `diffusionsat prepare` names them
# Sets whose days are not the images' own: a fire's alarm, the middle of a composite's month.
_MONTHS = {"wildfire_california", "wildfire_karabuk"}
LICENCES = {"harvey_pairs": "CC BY-NC 4.0", "xbd_samples": "CC BY-NC-SA 4.0"}
# A sentence of the pair, and what is true of either side of it alone: the set's own tells of both at once.
_SIDES = {
    "harvey_pairs": (
        "satellite image of a building and its surroundings in Greater Houston, Texas",
        (" before Hurricane Harvey", " after Hurricane Harvey, flooded or damaged"),
    )
}
_ELSE = "see the README of the set"


def _find(src: Path, split: str | None) -> Found:
    for path in [src] if src.is_file() else sorted(src.glob("*.parquet")):
        shard = _SHARD.fullmatch(path.stem)
        name = shard[1] if shard else path.stem
        if split not in (None, name) or (path.name == "images.parquet" and (src / "index.json").exists()):
            continue
        ours = shard is not None or name in _SPLITS
        source = path.parent.name if ours else name
        try:
            for row in rows(path):
                yield f"{path}:{row.get('key')}", (row, source, name if ours else None)
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


def _build(item: tuple[dict[str, Any], str, str | None], _: bool) -> Record:
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
        licence=row.get("licence") or LICENCES.get(source, _ELSE),
        place=row["place"] if "licence" in row else place,  # which other tables use for words
        split=split,
        label=row.get("label") or None,
        pieces=_pieces(row.get("pieces")) or _caption(_SIDES.get(source, (row.get("caption"),))[0]),
    )


def _caption(sentence: str | None) -> Pieces:
    return (("caption", sentence),) if sentence else ()


def _side(source: str, frame: int) -> Pieces:
    return (("event", _SIDES[source][1][frame]),) if source in _SIDES else ()


def _pieces(structs: Sequence[Mapping[str, str]] | None) -> Pieces:
    return tuple((piece["name"], piece["text"]) for piece in structs or ())


def _single(row: Mapping[str, Any], source: str) -> Frame:
    return Frame(
        content=row["image"],
        format=_format(row["image"]),
        name=f"{source}/{row['key']}",
        metadata=_metadata(row, row, source, row["cloud_cover"]),
    )


def _frames(row: Mapping[str, Any], source: str) -> list[Frame]:
    frames = []
    for i, frame in enumerate(row["frames"]):
        bands, fraction = tuple(frame["bands"]), _known(frame["cloud_cover"])
        percent = None if fraction is None else round(100 * fraction, 9)
        frames.append(
            Frame(
                content=frame["image"],
                format=frame["format"],
                name=f"{source}/{row['key']}/{i}",
                metadata=_metadata(row, frame, source, percent),
                bands=bands,
                role=frame.get("role") or ("rgb" if bands == RGB else "bands"),
                sensor=frame.get("sensor") or "sentinel-2",
                scaling=_scaling(frame.get("scale") or ""),
                pieces=_pieces(frame.get("pieces")) or _side(source, i),
            )
        )
    return frames


def _scaling(scale: str) -> Scaling | None:
    """What a column ``scale`` says: JSON of a `Scaling` in shards, words in other tables."""
    if scale.startswith("{"):
        return Scaling(**json.loads(scale))
    return next((scaling for text, scaling in _SCALES.items() if text in scale), None)


def _format(image: bytes) -> str:
    heads = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"RIFF": "webp", b"II*\0": "tif", b"MM\0*": "tif"}
    return next((name for head, name in heads.items() if image.startswith(head)), "unknown")


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _metadata(
    row: Mapping[str, Any], image: Mapping[str, Any], source: str, cloud_cover: float | None
) -> Metadata:
    """Of an image of a row; its place is the row's if it has none of its own."""
    date = image["date"] or None
    return Metadata(
        lon=_known(image.get("lon", row["lon"])),
        lat=_known(image.get("lat", row["lat"])),
        gsd=_known(image["gsd"]),
        cloud_cover=_known(cloud_cover),
        date=date[: len("2024-05")] if date and source in _MONTHS else date,
    )


_SPLITS = ("train", "val", "test")
PARQUET = Adapter(
    name="parquet",
    licence=_ELSE,
    layout="train.parquet, test.parquet (one row an image, or one row a place with a column frames)",
    pieces=(Piece("a table", ("*.parquet",)),),
    find=_find,
    build=_build,
    splits=_SPLITS,
)
