"""The published training records: tar shards of arrays, JSON and labels under a common key.

Source: the published preprocessing's reading of them. Which kind a record is follows from its key and parts.
Pickles (`.pyd`) are read only as far as they hold plain containers and arrays.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusionsat.data.adapters import fmow, pickles, satlas, spacenet, xbd
from diffusionsat.data.adapters.release import Adapter, Found, Piece, read_csv
from diffusionsat.data.published.tables import CITIES, FMOW_CATEGORIES, City
from diffusionsat.data.records import Bad, Frame, Pieces, Record
from diffusionsat.data.sensors import SENTINEL_2, SENTINEL_2_L1C, Scaling
from diffusionsat.errors import DatasetError
from diffusionsat.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard.

    Args:
        shard: Its tar.
        key: The common part of its members' names.
        parts: Contents by the rest of the names.
        polygons: Of fMoW's views, by (class, location, view): numbers are used again in every class.
    """

    shard: Path
    key: str
    parts: dict[str, bytes]
    polygons: Mapping[tuple[str, int, int], list[str]]

    @property
    def name(self) -> str:
        """The key without folders."""
        return self.key.rpartition("/")[2]

    def json(self, part: str) -> Any:
        """A JSON part, decoded."""
        try:
            return json.loads(self.parts[part])
        except ValueError as error:
            raise DatasetError(f"{self.key}.{part} is no JSON: {error}.") from None

    def text(self, part: str) -> str:
        """A part as text."""
        return self.parts[part].decode("utf-8").strip()

    def shape(self, part: str) -> tuple[int, ...]:
        """Shape of an array part, from its head."""
        content = io.BytesIO(self.parts[part])
        version = np.lib.format.read_magic(content)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        return read(content)[0]

    def frame(self, part: str, metadata: Metadata, **more: Any) -> Frame:
        """An array part as a frame."""
        return Frame(
            content=self.parts[part], format="npy", name=f"{self.key}.{part}", metadata=metadata, **more
        )


def samples(shard: Path) -> Iterator[tuple[str, dict[str, bytes]] | Bad]:
    """Keys and parts of a tar's samples in their order; members of a sample follow one another."""
    key, parts = None, {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, part = name.partition(".")
                if key is not None and key != f"{folder}/{stem}":
                    yield key.lstrip("/"), parts
                    parts = {}
                key = f"{folder}/{stem}"
                content = tar.extractfile(member)
                parts[part] = content.read() if content else b""
            _check_end(tar)
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Bad(str(shard), f"It cannot be read to its end as a tar: {error}.")
        return  # the last sample may lack parts
    if key is not None:
        yield key.lstrip("/"), parts


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuse a tar without the empty block at its end: tarfile takes a file cut between members for whole."""
    if tar.fileobj is not None:
        tar.fileobj.seek(tar.offset)
        if len(tar.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end is missing")


def _find(src: Path, _: str | None) -> Found:
    shards = [src] if src.is_file() else sorted(src.glob("**/*.tar"))
    polygons = {folder: _polygons(folder) for folder in {shard.parent for shard in shards}}
    for shard in shards:
        for sample in samples(shard):
            if isinstance(sample, Bad):
                yield sample
            else:
                yield f"{shard}:{sample[0]}", Sample(shard, *sample, polygons[shard.parent])


def _polygons(folder: Path) -> dict[tuple[str, int, int], list[str]]:
    found: dict[tuple[str, int, int], list[str]] = {}
    for table in sorted(folder.glob("fmow-*-meta.csv")):
        for row in read_csv(table):
            ids = row["category"], int(row["location_id"]), int(row["image_id"])
            found.setdefault(ids, []).append(row["polygon"])
    return found


def _build(sample: Sample, published: bool) -> Record:
    for marks, build in _KINDS:
        if marks(sample):
            return build(sample, published)
    raise DatasetError(
        f"{sample.key} is of no published kind. It has the parts {', '.join(sorted(sample.parts))}."
    )


def _polygon(sample: Sample, category: str, known: dict[str, Any], published: bool) -> str | None:
    """The polygon of a view from the csv beside the shard; None without a csv."""
    if not sample.polygons and not published:
        return None
    name = known["img_filename"].replace("_rgb", "").replace(".jpg", "").replace("_ms.tif", "")
    location, view = (int(number) for number in name.removesuffix(".tif").split("_")[-2:])
    found = sample.polygons.get((category, location, view), [])
    if len(found) != 1:
        raise DatasetError(
            f"{category}/{location}/{view} stands {len(found)} times in fmow-*-meta.csv beside "
            f"{sample.shard.name}; it must stand there once."
        )
    return found[0]


def _fmow(sample: Sample, published: bool) -> Record:
    parts = sample.parts
    category = (
        FMOW_CATEGORIES[int(sample.text("output.cls"))]
        if "output.cls" in parts
        else sample.text("category.txt")
    )
    label = category.replace("_", " ")
    if "input.npy" in parts or "rgb.npy" in parts:
        views = [("input.npy" if "input.npy" in parts else "rgb.npy", "metadata.json")]
    else:
        names = sorted(part for part in parts if part.startswith("input-"))
        views = [(name, name.replace("input-", "metadata-").replace(".npy", ".json")) for name in names]
    frames = []
    for array, about in views:
        known = sample.json(about)
        polygon = _polygon(sample, category, known, published)
        frames.append(sample.frame(array, fmow.view_metadata(known, polygon)))
    if not published:
        frames.sort(key=lambda frame: frame.metadata.date or "")
    if "multispectral.npy" in parts:
        target = frames[0].metadata
        # The record does not say when the Sentinel-2 image was taken; the published code copied the target's.
        own = target if published else Metadata(lon=target.lon, lat=target.lat)
        frames.append(
            sample.frame(
                "multispectral.npy",
                own.replace(gsd=10.0),
                bands=SENTINEL_2_L1C,
                role="sentinel",
                scaling=SENTINEL_2,
            )
        )
    first = sample.json(views[0][1])
    code = first.get("country_code")
    # The views of a location are samples of one key.
    view = f"/{Path(first['img_filename']).stem}" if len(views) == 1 else ""
    return Record(
        key=sample.key + view,
        source="fmow",
        frames=tuple(frames),
        licence=fmow.LICENCE,
        place=sample.key,
        label=label,
        pieces=fmow.caption(label, code, published),
    )


def _spacenet(sample: Sample, published: bool) -> Record:
    name = sample.name.split("_")[3].title()
    city = CITIES.get(name, City())
    features = sample.json("metadata.json").get("features") or []
    lon, lat = spacenet.place(features) or city.centre or (None, None)
    metadata = Metadata(lon=lon, lat=lat, gsd=city.gsd, date=spacenet.day(city))
    return Record(
        key=sample.key,
        source="spacenet",
        frames=(sample.frame("rgb.npy", metadata, scaling=Scaling(nodata=0)),),
        licence=spacenet.LICENCE,
        place=sample.key,
        pieces=spacenet.caption(features, name, published),
    )


def _satlas(sample: Sample, published: bool) -> Record:
    """The frame that was labelled, or if none is marked as such all of them, of which one may be taken."""
    column, row = (int(number) for number in sample.name.split("_")[1:3])
    info, targets = sample.json("info.json"), pickles.loads(sample.parts["targets.pyd"], sample.key)
    shape, names = sample.shape("rgb.npy"), info["image_names"]
    anchors = [i for i, name in enumerate(names) if "anchor" in name]
    scale = max(float(targets[0].get("scale_factor", 1.0)), 1e-2)
    frames = []
    for i in anchors[:1] or range(len(names)):
        metadata = satlas.tile_metadata(column, row, "naip", names[i].split("_")[-1], published)
        metadata = metadata.replace(gsd=(metadata.gsd or 1.0) / scale)
        frames.append(sample.frame("rgb.npy", metadata, index=shape[0] - len(names) + i))
    example = {
        "__key__": sample.key,
        "info.json": info,
        "targets.pyd": targets,
        "rgb.npy": np.broadcast_to(np.uint8(0), shape),
    }
    return Record(
        key=sample.key,
        source="satlas",
        frames=tuple(frames),
        licence=satlas.LICENCE,
        place=f"{column // 16}/{row // 16}",
        pieces=_satlas_caption(example, published),
    )


def _satlas_caption(example: dict[str, Any], published: bool) -> Pieces:
    """What is seen, by quadrant or in all as the key decides, so that a record is always the same."""
    from diffusionsat.data.published import satlas_tokenize_caption

    seed = int.from_bytes(hashlib.sha256(example["__key__"].encode()).digest()[:8])
    rng: Any = np.random.Generator(np.random.Philox(seed))
    text = satlas_tokenize_caption(
        example, None, drop_pct=1.0, return_text=True, corrected=not published, rng=rng
    )
    return (("article", "a"), ("source", " satlas"), ("items", text.removeprefix("a")))


def texas(sample: Sample, published: bool) -> Record:
    """A record of the Texas housing set: NAIP and Sentinel-2 of 2016 and 2018 about one parcel.

    The days and the Sentinel resolution of the published code are guesses: the arrays are enlarged to the
    grid of the NAIP ones, and only the year is known.
    """
    about = sample.json("tif.metadata.json")
    frames = []
    for sensor in ("rgb", "sentinel"):
        for year, day in (("2016", "2016-09-11"), ("2018", "2018-11-20")):
            part = f"tif.{sensor}-{year}.npy"
            delivered = sample.shape(f"tif.rgb-{year}.npy")[0] / sample.shape(part)[0]
            metadata = Metadata(
                lon=about["parcel.lon"],
                lat=about["parcel.lat"],
                gsd=(10.0 if sensor == "sentinel" else 1.0) if published else delivered,
                date=day if published else year,
            )
            frames.append(sample.frame(part, metadata, role=sensor))
    return Record(
        key=sample.key,
        source="texas-housing",
        frames=tuple(frames),
        licence=TEXAS_LICENCE,
        place=sample.key,
        pieces=_houses(about, published),
    )


def _houses(about: dict[str, Any], published: bool) -> Pieces:
    built, acres = int(about["eff.year.built"]), about["acres"]
    return (
        ("article", "a"),
        ("source", " satlas" if published else " texas"),
        ("kind", " satellite image"),
        ("houses", " of houses " if published else " of houses"),
        ("built", f" built in {built}"),
        ("acres", f" covering {acres} acres"),
    )


def _xbd(sample: Sample, published: bool) -> Record:
    labels = {role: sample.json(f"{role}-metadata.json") for role in ("pre", "post")}
    frames = [
        sample.frame(
            f"{role}-input.npy",
            xbd.frame_metadata(labels[role], labels[other], published),
            role=role,
            pieces=xbd.frame_pieces(labels[role], role, published),
        )
        for role, other in (("pre", "post"), ("post", "pre"))
    ]
    return Record(
        key=sample.key,
        source="xbd",
        frames=tuple(frames),
        licence=xbd.LICENCE,
        place=sample.key.rpartition("_")[0],
        label=labels["post"]["metadata"]["disaster_type"],
        pieces=xbd.caption(published),
    )


_KINDS = (
    (lambda s: "tif.metadata.json" in s.parts, texas),
    (lambda s: "pre-metadata.json" in s.parts, _xbd),
    (lambda s: "fmow" in s.key, _fmow),
    (lambda s: "spacenet" in s.key, _spacenet),
    (lambda s: "satlas" in s.key, _satlas),
)
TEXAS_LICENCE = "not stated by its authors; NAIP public domain, contains modified Copernicus Sentinel data"
_LAYOUT = "*.tar (at any depth); fmow-train-meta.csv, fmow-val-meta.csv beside them (fMoW's places)"
_SHARDS = Piece("a shard", ("**/*.tar",))

WEBDATASET = Adapter(
    name="webdataset",
    licence="that of the set in it",
    layout=_LAYOUT,
    pieces=(_SHARDS,),
    find=_find,
    build=_build,
)
TEXAS = Adapter(
    name="texas-housing",
    licence=TEXAS_LICENCE,
    layout="""
*.tar (at any depth) of KEY.tif.rgb-2016.npy, KEY.tif.rgb-2018.npy, KEY.tif.sentinel-2016.npy,
KEY.tif.sentinel-2018.npy, KEY.tif.metadata.json (parcel.lon, parcel.lat, eff.year.built, acres)
""",
    pieces=(_SHARDS,),
    find=_find,
    build=texas,
)
