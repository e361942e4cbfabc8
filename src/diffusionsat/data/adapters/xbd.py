"""xBD (xView2): the same ground before and after a disaster, with buildings in label JSON.

Source: xview2.org; github.com/DIUx-xView/xView2_baseline (layout, names, fields).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusionsat.data.adapters.release import Adapter, Found, Piece, read_json
from diffusionsat.data.published.captions import article
from diffusionsat.data.published.places import centroid, polygons
from diffusionsat.data.records import Frame, Pieces, Record
from diffusionsat.errors import DatasetError
from diffusionsat.metadata import Metadata

LICENCE = "CC BY-NC-SA 4.0"
_ROLES = ("pre", "post")


def frame_metadata(known: Mapping[str, Any], other: Mapping[str, Any], published: bool) -> Metadata:
    """Metadata of one image of a pair from its label JSON.

    The place is the centroid of all its buildings, else of all of the other image's, else unknown. The
    resolution is the pan-sharpened one; "gsd" in the JSON is that of the multispectral bands, four times
    coarser than the image. Published: the first building alone, and "gsd".
    """
    buildings = known["features"]["lng_lat"] or other["features"]["lng_lat"]
    shapes = [polygon for building in buildings for polygon in polygons(building["wkt"])]
    if published and buildings:
        shapes = polygons(buildings[0]["wkt"])
    lon, lat = centroid(shapes) if shapes else (None, None)
    about = known["metadata"]
    gsd = about["gsd"] if published else about.get("pan_resolution") or None
    return Metadata(lon=lon, lat=lat, gsd=gsd, date=about["capture_date"][:10])


def frame_pieces(known: Mapping[str, Any], role: str, published: bool) -> Pieces:
    """What a caption says of one image of a pair."""
    disaster = article(known["metadata"]["disaster_type"], not published)
    when = {"pre": "before", "post": "after"}[role]
    return (("event", f" {when} being affected by {disaster} natural disaster"),)


def caption(published: bool) -> Pieces:
    """Caption pieces of both images; the published ones call the data set fMoW."""
    return (("article", "a"), ("source", " fmow" if published else " xbd"), ("kind", " satellite image"))


@dataclass(frozen=True, slots=True)
class _Pair:
    folder: Path  # holds images and labels
    stem: str  # hurricane-harvey_00000000
    split: str | None

    def files(self, role: str) -> tuple[Path, Path]:
        """Image and label of one of the two."""
        name = f"{self.stem}_{role}_disaster"
        return self.folder / "images" / f"{name}.png", self.folder / "labels" / f"{name}.json"


def _find(src: Path, split: str | None) -> Found:
    roots = [(src / s, s) for s in ([split] if split else _SPLITS)]
    if not any(root.is_dir() for root, _ in roots):
        roots = [(src, None)]
    for root, own in roots:
        stems = {
            path.stem.removesuffix(f"_{role}_disaster")
            for role in _ROLES
            for folder, suffix in (("images", "png"), ("labels", "json"))
            for path in (root / folder).glob(f"*_{role}_disaster.{suffix}")
        }
        yield from ((str(root / stem), _Pair(root, stem, own)) for stem in sorted(stems))


def _build(pair: _Pair, published: bool) -> Record:
    files = {role: pair.files(role) for role in _ROLES}
    missing = [path for both in files.values() for path in both if not path.is_file()]
    if missing:
        raise DatasetError(f"{missing[0].name} of the pair is missing.")
    labels = {role: read_json(files[role][1]) for role in _ROLES}
    return Record(
        key=f"{pair.split or 'all'}/{pair.stem}",
        source="xbd",
        frames=tuple(_frames(files, labels, published)),
        licence=LICENCE,
        place=pair.stem.rpartition("_")[0],
        split=pair.split,
        label=labels["post"]["metadata"]["disaster_type"],
        pieces=caption(published),
    )


def _frames(
    files: Mapping[str, tuple[Path, Path]], labels: Mapping[str, Any], published: bool
) -> Iterator[Frame]:
    for role, other in zip(_ROLES, reversed(_ROLES), strict=True):
        yield Frame(
            content=files[role][0],
            format="png",
            name=str(files[role][0]),
            metadata=frame_metadata(labels[role], labels[other], published),
            role=role,
            pieces=frame_pieces(labels[role], role, published),
        )


_SPLITS = ("train", "tier3", "test", "hold")
XBD = Adapter(
    name="xbd",
    licence=LICENCE,
    layout="""
train/images/hurricane-harvey_00000000_pre_disaster.png, …_post_disaster.png
train/labels/hurricane-harvey_00000000_pre_disaster.json, …_post_disaster.json
tier3/…, test/…, hold/… (or images/ and labels/ alone)
""",
    pieces=(
        Piece("an image before", ("images/*_pre_disaster.png", "{split}/images/*_pre_disaster.png")),
        Piece("an image after", ("images/*_post_disaster.png", "{split}/images/*_post_disaster.png")),
        Piece("a label", ("labels/*_disaster.json", "{split}/labels/*_disaster.json")),
    ),
    find=_find,
    build=_build,
    splits=_SPLITS,
)
