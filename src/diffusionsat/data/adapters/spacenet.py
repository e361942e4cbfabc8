"""SpaceNet 1, 2 and 5: GeoTIFFs of six cities with buildings or roads in GeoJSON.

Source: spacenet.ai and the names in s3://spacenet-dataset; both the first and today's folders of SpaceNet 2.
Days and default places of the cities: the published preprocessing.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusionsat.data.adapters.rasters import Raster, read_raster
from diffusionsat.data.adapters.release import Adapter, Found, Piece, read_json
from diffusionsat.data.published.places import geodesic_area, geodesic_length, middle, paths
from diffusionsat.data.published.tables import CITIES, City
from diffusionsat.data.records import Bad, Frame, Pieces, Record
from diffusionsat.data.sensors import RGB, Scaling
from diffusionsat.metadata import Metadata

AREAS = {1: "Rio", 2: "Vegas", 3: "Paris", 4: "Shanghai", 5: "Khartoum", 7: "Moscow", 8: "Mumbai"}

_IMAGES = ("3band_AOI_*.tif", "RGB-PanSharpen_AOI_*.tif", "SN*_PS-RGB_*.tif")
_LABELS = ("Geo_AOI_*.geojson", "buildings_AOI_*.geojson", "SN*_geojson_buildings_*.geojson")
_ROADS = ("SN*_geojson_roads_speed_*.geojson", "SN*_geojson_roads_*.geojson")
_NAME = re.compile(r"(?:SN(?P<set>\d)_)?.*AOI_(?P<aoi>\d)_[A-Za-z]+_.*?(?P<chip>(?:img|chip)\d+)$")


@dataclass(frozen=True, slots=True)
class _Chip:
    image: Path
    label: Path | None
    aoi: int
    key: str
    split: str


def _find(src: Path, split: str | None) -> Found:
    files = sorted(path for pattern in (*_LABELS, *_ROADS) for path in src.rglob(pattern))
    labels = {ids: path for path in files if (ids := _ids(path))}
    seen = set()
    for image in sorted(path for pattern in _IMAGES for path in src.rglob(pattern)):
        ids = _ids(image)
        if ids is None or ids[1] not in AREAS:
            yield Bad(str(image), "Its name has no area of interest of SpaceNet 1, 2 or 5.")
            continue
        seen.add(ids)
        own = "test" if "_test" in str(image.relative_to(src)).lower() else "train"
        if split not in (None, own):
            continue
        if own == "train" and ids not in labels:
            yield Bad(str(image), f"There is no GeoJSON of {ids[2]} of area {ids[1]}.")
            continue
        key = f"{own}/AOI_{ids[1]}/SN{ids[0]}/{ids[2]}"
        yield str(image), _Chip(image, labels.get(ids) if own == "train" else None, ids[1], key, own)
    for ids in sorted(labels.keys() - seen) if split != "test" else ():
        yield Bad(str(labels[ids]), f"There is no image of {ids[2]} of area {ids[1]}.")


def _ids(path: Path) -> tuple[int, int, str] | None:
    """Challenge, area and chip of a file; the older names do not say the challenge but the area does."""
    match = _NAME.match(path.stem)
    if match is None:
        return None
    aoi = int(match["aoi"])
    return int(match["set"] or (1 if aoi == 1 else 2)), aoi, match["chip"]


def _build(chip: _Chip, published: bool) -> Record:
    name = AREAS[chip.aoi]
    city = CITIES[name]
    raster = read_raster(chip.image)
    features = read_json(chip.label)["features"] if chip.label else []
    metadata = Metadata(lon=raster.lon, lat=raster.lat, gsd=raster.gsd or city.gsd, date=day(city))
    if published or metadata.lon is None:
        lon, lat = place(features) or city.centre or (None, None)
        metadata = metadata.replace(lon=lon, lat=lat)
    if published:
        metadata = metadata.replace(gsd=city.gsd)
    frame = Frame(
        content=chip.image,
        format="tif",
        name=str(chip.image),
        metadata=metadata,
        bands=RGB,
        scaling=_counts(raster),
    )
    return Record(
        key=chip.key,
        source="spacenet",
        frames=(frame,),
        licence=LICENCE,
        place=chip.key,
        split=chip.split,
        pieces=caption(features, name, published),
    )


def _counts(raster: Raster) -> Scaling | None:
    """16-bit chips hold counts, 0 outside the image; 8-bit ones are for display."""
    return None if raster.dtype == "uint8" else Scaling(nodata=0)


def day(city: City) -> str | None:
    """The day of a city's images."""
    return city.date and "{:04d}-{:02d}-{:02d}".format(*city.date)


def place(features: list[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Middle of the bounding box of all features; None without any."""
    lines = [line for geometry in _geometries(features) for line in paths(geometry["coordinates"])]
    return middle(lines) if lines else None


def _geometries(features: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    yield from (g for f in features if (g := f.get("geometry")) and g.get("coordinates"))


def caption(features: list[Mapping[str, Any]], city: str, published: bool) -> Pieces:
    """Caption pieces of a chip: how many buildings, or how much road, by the kind of the first feature."""
    pieces = [("article", "a"), ("source", " spacenet"), ("kind", " satellite image")]
    if features:
        pieces.append(("items", f" of {_items(features, published)}"))
    return (*pieces, ("city", f" in {city}"))


def _items(features: list[Mapping[str, Any]], published: bool) -> str:
    shapes = [(g["type"], list(paths(g["coordinates"]))) for g in _geometries(features)]
    if shapes and "Polygon" in shapes[0][0]:
        area = round(sum(geodesic_area(lines) for _, lines in shapes), 3)
        plural = "s" if published or len(features) > 1 else ""
        covering = f" covering an area of {area} squared meters" if area > 0 else ""
        return f"{len(features)} building{plural}{covering}"
    length = round(sum(geodesic_length(lines) for kind, lines in shapes if "Line" in kind), 3)
    return f"roads of length {length} meters" if length else "no roads"


LICENCE = "CC BY-SA 4.0 (SpaceNet; imagery Maxar)"
SPACENET = Adapter(
    name="spacenet",
    licence=LICENCE,
    layout="""
3band/3band_AOI_1_RIO_img1.tif, geojson/Geo_AOI_1_RIO_img1.geojson (SpaceNet 1)
SN2_buildings_train_AOI_2_Vegas/PS-RGB/SN2_buildings_train_AOI_2_Vegas_PS-RGB_img1.tif
SN2_buildings_train_AOI_2_Vegas/geojson_buildings/…_AOI_2_Vegas_geojson_buildings_img1.geojson
SN5_roads_train_AOI_7_Moscow/PS-RGB/…_PS-RGB_chip0.tif, geojson_roads_speed/…_roads_speed_chip0.geojson
(at any depth; the AOI_2_Vegas_Train/RGB-PanSharpen names of SpaceNet 2 too)
""",
    pieces=(
        Piece("an image", tuple(f"**/{pattern}" for pattern in _IMAGES)),
        Piece("a label", tuple(f"**/{pattern}" for pattern in (*_LABELS, *_ROADS))),
    ),
    find=_find,
    build=_build,
    splits=("train", "test"),
)
