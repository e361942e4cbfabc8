"""Functional Map of the World: RGB views, views as sequences, Sentinel-2 composites, and pairs of both.

Source: github.com/fMoW/dataset (layout, licence); github.com/sustainlab-group/SatMAE (fMoW-Sentinel).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusionsat.data.adapters.rasters import read_raster
from diffusionsat.data.adapters.release import (
    Adapter,
    Found,
    Piece,
    folders,
    read_csv,
    read_json,
)
from diffusionsat.data.published.captions import article
from diffusionsat.data.published.places import centroid, polygons
from diffusionsat.data.published.tables import COUNTRIES
from diffusionsat.data.records import Bad, Frame, Pieces, Record
from diffusionsat.data.sensors import SENTINEL_2, SENTINEL_2_L1C
from diffusionsat.errors import DatasetError
from diffusionsat.metadata import Metadata

LICENCE = "Functional Map of the World Challenge Public License"
_SENTINEL_LICENCE = f"{LICENCE}; contains modified Copernicus Sentinel data"


def view_metadata(known: Mapping[str, Any], polygon: str | None) -> Metadata:
    """Metadata of one view from its JSON, and from its polygon (WKT) where the JSON has none."""
    polygon = known.get("raw_location") or polygon
    lon, lat = centroid(polygons(polygon)) if polygon else (None, None)
    return Metadata(
        lon=lon, lat=lat, gsd=known["gsd"], cloud_cover=known["cloud_cover"], date=known["timestamp"][:10]
    )


def caption(label: str | None, country_code: str | None, published: bool) -> Pieces:
    """Caption pieces of a view; the published ones say "a" before vowels too."""
    pieces = [("article", "a"), ("source", " fmow"), ("kind", " satellite image")]
    if label:
        pieces.append(("class", f" of {article(label, not published)}"))
    if country_code:
        pieces.append(("country", f" in {COUNTRIES.get(country_code, country_code)}"))
    return tuple(pieces)


@dataclass(frozen=True, slots=True)
class _View:
    json: Path
    truth: Path  # the JSON with all that is known; the same but for the challenge's test images
    split: str
    label: str | None

    @property
    def place(self) -> str:
        """Split, class and number of the location: numbers are used again in every class."""
        return f"{self.split}/{(self.label or 'unknown').replace(' ', '_')}/{self.json.parent.name}"

    @property
    def key(self) -> str:
        """Place and number of the view."""
        return f"{self.place}/{_number(self.json)}"

    def frame(self, published: bool) -> tuple[Frame, Pieces]:
        """The view and its caption."""
        known = {**read_json(self.json), **(read_json(self.truth) if self.truth != self.json else {})}
        image = next((p for s in (".jpg", ".tif") if (p := self.json.with_suffix(s)).is_file()), None)
        if image is None:
            raise DatasetError(f"{self.json.stem}.jpg (or .tif) is missing beside its JSON.")
        if image.suffix == ".tif":
            read_raster(image)
        frame = Frame(
            content=image,
            format="jpeg" if image.suffix == ".jpg" else "tif",
            name=str(image),
            metadata=view_metadata(known, None),
        )
        return frame, caption(self.label, known.get("country_code"), published)


def _views(src: Path, split: str | None) -> Iterator[tuple[str, _View]]:
    """All views of a split; `_msrgb` and `_ms` files lie beside them and are other renderings."""
    for name in [split] if split else _RGB_SPLITS:
        truths = _truths(src, name)
        levels = folders(src / name)
        labelled = [(c, location) for c in levels for location in folders(c)]
        for folder, label in [(location, c.name) for c, location in labelled] or [(f, None) for f in levels]:
            truth = truths.get(folder.name) if label is None else src / "groundtruth" / name / label
            for json in sorted({p.with_suffix(".json") for p in folder.glob("*_rgb.*")}, key=_by_view):
                if label is None:
                    yield str(json), _challenge_view(json, truth, name)
                else:
                    beside = truth / folder.name / json.name if truth else json
                    known = beside if beside.is_file() else json
                    yield str(json), _View(json, known, name, label.replace("_", " "))


def _truths(src: Path, split: str) -> dict[str, Path]:
    """For the challenge's nameless test locations, the folder that says what they are."""
    for root in (src, src / "groundtruth"):
        mapping = root / f"{split}_gt_mapping.json"
        if mapping.is_file():
            return {Path(m["output"]).name: root / m["input"] for m in read_json(mapping)}
    return {}


def _challenge_view(json: Path, truth: Path | None, split: str) -> _View:
    known = truth / f"{truth.name}_{_number(json)}_rgb.json" if truth else json
    label = truth.parent.name.replace("_", " ") if truth else None
    return _View(json, known if known.is_file() else json, split, label)


def _by_view(json: Path) -> tuple[int, str]:
    number = _number(json)
    return (int(number) if number.isdecimal() else -1), json.name


def _number(json: Path) -> str:
    """Number of a view among those of its location, from the name of its JSON."""
    return json.name.removesuffix("_rgb.json").rpartition("_")[2]


def _view_record(view: _View, published: bool) -> Record:
    frame, pieces = view.frame(published)
    return Record(
        key=view.key,
        source="fmow-rgb",
        frames=(frame,),
        licence=LICENCE,
        place=view.place,
        split=view.split,
        label=view.label,
        pieces=pieces,
    )


def _locations(src: Path, split: str | None) -> Found:
    together: list[_View] = []
    for _, view in _views(src, split):
        if together and together[0].json.parent != view.json.parent:
            yield str(together[0].json.parent), together
            together = []
        together.append(view)
    if together:
        yield str(together[0].json.parent), together


def _sequence(views: list[_View], published: bool) -> Record:
    """All views of a location, by date; the published order is that of the names as text."""
    both = [view.frame(published) for view in views]
    frames = [frame for frame, _ in both]
    if published:
        frames.sort(key=lambda frame: Path(frame.name).stem)
    else:
        frames.sort(key=lambda frame: frame.metadata.date or "")
    first = views[0]
    return Record(
        key=first.place,
        source="fmow-temporal",
        frames=tuple(frames),
        licence=LICENCE,
        place=first.place,
        split=first.split,
        label=first.label,
        pieces=both[0][1],
    )


def _rows(src: Path, split: str | None) -> Iterator[tuple[str, dict[str, str]] | Bad]:
    """The rows of fMoW-Sentinel's csvs, each (class, location, image) once."""
    for name in [split] if split else _SENTINEL_SPLITS:
        seen = set()
        table = src / f"{name}.csv"
        for line, row in enumerate(read_csv(table) if table.is_file() else (), start=2):
            ids = tuple(row.get(k) or "" for k in ("category", "location_id", "image_id"))
            if "" in ids:
                yield Bad(f"{table}:{line}", "It lacks category, location_id or image_id.")
            elif ids in seen:
                yield Bad(f"{table}:{line}", f"{'/'.join(ids)} was there before.")
            else:
                seen.add(ids)
                yield f"{table}:{line}", row | {"split": name, "folder": str(src)}


def _sentinel_frame(row: Mapping[str, str]) -> Frame:
    stem = f"{row['category']}_{row['location_id']}"
    tif = Path(row["folder"], row["split"], row["category"], stem, f"{stem}_{row['image_id']}.tif")
    if not tif.is_file():
        raise DatasetError(f"{tif} is missing.")
    bands = len(read_raster(tif).bands)
    if bands != len(SENTINEL_2_L1C):
        raise DatasetError(f"{tif.name} has {bands} band(s) in place of {len(SENTINEL_2_L1C)}.")
    lon, lat = centroid(polygons(row["polygon"]))
    return Frame(
        content=tif,
        format="tif",
        name=str(tif),
        # A composite of 45 days before and after its timestamp: its day and clouds are no image's.
        metadata=Metadata(lon=lon, lat=lat, gsd=10.0, date=row["timestamp"][:7]),
        bands=SENTINEL_2_L1C,
        role="sentinel",
        scaling=SENTINEL_2,
    )


def _sentinel_record(row: Mapping[str, str], published: bool) -> Record:
    label = row["category"].replace("_", " ")
    place = f"{row['split']}/{row['category']}/{row['category']}_{row['location_id']}"
    return Record(
        key=f"{place}/{row['image_id']}",
        source="fmow-sentinel",
        frames=(_sentinel_frame(row),),
        licence=_SENTINEL_LICENCE,
        place=place,
        split=row["split"],
        label=label,
        pieces=caption(label, None, published),
    )


def _pairs(src: Path, split: str | None) -> Found:
    """Rows whose image_id is that of an fMoW view; from 100 on they have no view."""
    for found in _rows(src / "fmow-sentinel", split):
        if isinstance(found, Bad) or not found[1]["image_id"].isdecimal() or int(found[1]["image_id"]) < 100:
            yield found if isinstance(found, Bad) else (found[0], (src / "fmow-rgb", found[1]))


def _pair(item: tuple[Path, Mapping[str, str]], published: bool) -> Record:
    rgb, row = item
    label, location = row["category"], f"{row['category']}_{row['location_id']}"
    json = rgb / row["split"] / label / location / f"{location}_{row['image_id']}_rgb.json"
    truth = rgb / "groundtruth" / json.relative_to(rgb)
    view = _View(json, truth if truth.is_file() else json, row["split"], label.replace("_", " "))
    target, pieces = view.frame(published)
    sentinel = _sentinel_frame(row)
    if target.metadata.lon is None:  # the RGB release leaves places out; the Sentinel csv has them
        place = {"lon": sentinel.metadata.lon, "lat": sentinel.metadata.lat}
        target = replace(target, metadata=target.metadata.replace(**place))
    if published:
        sentinel = replace(sentinel, metadata=target.metadata.replace(gsd=10.0))
    return Record(
        key=view.key,
        source="fmow-pairs",
        frames=(target, sentinel),
        licence=_SENTINEL_LICENCE,
        place=view.place,
        split=view.split,
        label=view.label,
        pieces=pieces,
    )


_RGB_SPLITS = ("train", "val", "test", "seq")
_SENTINEL_SPLITS = ("train", "val", "test_gt")
_RGB_LAYOUT = """
train/airport/airport_0/airport_0_0_rgb.jpg (.tif in fMoW-full)
train/airport/airport_0/airport_0_0_rgb.json
val/…
test/0000000/0000000_0_rgb.jpg, .json (as in the challenge)
test_gt_mapping.json, test_gt/airport/airport_0/airport_0_0_rgb.json (if there: labels and places of test)
groundtruth/train/… (if there: JSON with places)
"""
_SENTINEL_LAYOUT = """
train.csv, val.csv, test_gt.csv (category, location_id, image_id, timestamp, polygon)
train/airport/airport_0/airport_0_6.tif (13 bands)
"""
_RGB_PIECES = (
    Piece("a split's folder", ("{split}",)),
    Piece("a view's JSON", ("{split}/*/*_rgb.json", "{split}/*/*/*_rgb.json")),
    Piece("a view's image", tuple(f"{{split}}/{d}/*_rgb.{s}" for d in ("*", "*/*") for s in ("jpg", "tif"))),
)

RGB = Adapter(
    name="fmow-rgb",
    licence=LICENCE,
    layout=_RGB_LAYOUT,
    pieces=_RGB_PIECES,
    find=_views,
    build=_view_record,
    splits=_RGB_SPLITS,
)
TEMPORAL = Adapter(
    name="fmow-temporal",
    licence=LICENCE,
    layout=_RGB_LAYOUT,
    pieces=_RGB_PIECES,
    find=_locations,
    build=_sequence,
    splits=_RGB_SPLITS,
)
SENTINEL = Adapter(
    name="fmow-sentinel",
    licence=_SENTINEL_LICENCE,
    layout=_SENTINEL_LAYOUT,
    pieces=(
        Piece("the table of a split", ("{split}.csv",)),
        Piece("an image", ("{split}/*/*/*.tif",)),
    ),
    find=_rows,
    build=_sentinel_record,
    splits=_SENTINEL_SPLITS,
)
PAIRS = Adapter(
    name="fmow-pairs",
    licence=_SENTINEL_LICENCE,
    layout="fmow-rgb/, fmow-sentinel/ (each a whole release, or a link to it)",
    pieces=(
        Piece("the Sentinel-2 table", ("fmow-sentinel/{split}.csv",)),
        Piece("a Sentinel-2 image", ("fmow-sentinel/{split}/*/*/*.tif",)),
        Piece("a view's JSON", ("fmow-rgb/{split}/*/*/*_rgb.json",)),
        Piece("a view's image", tuple(f"fmow-rgb/{{split}}/*/*/*_rgb.{s}" for s in ("jpg", "tif"))),
    ),
    find=_pairs,
    build=_pair,
    splits=("train", "val"),
)
