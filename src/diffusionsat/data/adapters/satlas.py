"""SatlasPretrain: Web Mercator tiles of NAIP and Sentinel-2 with labels, the full and the small images.

Source: github.com/allenai/satlas, SatlasPretrain.md (layout, tiles, labels), Normalization.md (bands).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusionsat.data.adapters.release import Adapter, Found, Piece, folders, read_json
from diffusionsat.data.published.places import mercator_to_geo, middle, paths
from diffusionsat.data.records import Bad, Frame, Pieces, Record
from diffusionsat.data.sensors import RGB, Scaling, identify
from diffusionsat.errors import DatasetError
from diffusionsat.geo.grids import ground_distance_m
from diffusionsat.metadata import Metadata

_LABEL_ZOOM = 13  # labels and splits are in tiles of this zoom, 8192 units a side
_UNITS = 8192
_PIXELS = 512
_BANDS = {"b05": "B05", "b06": "B06", "b07": "B07", "b08": "B08", "b11": "B11", "b12": "B12", "ir": "nir"}
_EIGHT_BIT = Scaling(gain=32 / 10_000)  # Sentinel-2 bands are stored as number / 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mode:
    """High or low resolution."""

    name: str
    zoom: int
    published_gsd: float


_MODES = {
    "naip": _Mode(name="highres", zoom=17, published_gsd=1.0),
    "sentinel2": _Mode(name="lowres", zoom=13, published_gsd=10.0),
}


@dataclass(frozen=True, slots=True)
class _Tile:
    src: Path
    root: str  # a key of _MODES
    image: Path  # folder of one satellite image
    column: int
    row: int
    date: str | None
    split: str | None

    @property
    def parent(self) -> tuple[int, int]:
        """The tile that labels and splits are kept by."""
        return self.column // self.factor, self.row // self.factor

    @property
    def factor(self) -> int:
        """Tiles a side of its parent."""
        return 2 ** (_MODES[self.root].zoom - _LABEL_ZOOM)


def tile_metadata(column: int, row: int, root: str, date: str | None, published: bool) -> Metadata:
    """Centre and ground resolution of a tile of 512 pixels.

    Published: the tile's number divided by the training size, 512 here, as if it counted pixels, which puts
    every tile near longitude -180 and latitude 85; and one resolution for all latitudes.

    Args:
        column: From the west, in tiles of the zoom of ``root``.
        row: From the north.
        root: ``naip`` or ``sentinel2``.
        date: Of the image.
        published: Whether to keep that.
    """
    mode = _MODES[root]
    if published:
        lon, lat = mercator_to_geo((column, row), mode.zoom, _PIXELS)
        return Metadata(lon=lon, lat=lat, gsd=mode.published_gsd, date=date)
    lon, lat = mercator_to_geo((column + 0.5, row + 0.5), mode.zoom, 1)
    north, south = (mercator_to_geo((column + 0.5, row + side), mode.zoom, 1) for side in (0, 1))
    return Metadata(lon=lon, lat=lat, gsd=ground_distance_m(north, south) / _PIXELS, date=date)


def _find(src: Path, split: str | None) -> Found:
    times = read_json(src / "metadata" / "image_times.json")
    for root, mode in _MODES.items():
        images = next((p for p in (src / root, src / f"{root}_small") if p.is_dir()), None)
        if images is None:
            continue
        splits = _splits(src, mode)
        listed = _listed(src, mode)
        for image in folders(images):
            product = identify(image.name)
            date = times.get(image.name, product.date if product else "")[:10] or None
            for png in sorted((image / "tci").glob("*_*.png")):
                try:
                    column, row = (int(number) for number in png.stem.split("_"))
                except ValueError:
                    yield Bad(str(png), "Its name is no COLUMN_ROW.")
                    continue
                if listed is not None and (column, row, image.name) not in listed:
                    continue
                tile = _Tile(src, root, image, column, row, date, None)
                tile = replace(tile, split=splits.get(tile.parent))
                if split is None or tile.split == split:
                    yield str(png), tile


def _splits(src: Path, mode: _Mode) -> dict[tuple[int, int], str]:
    found = {}
    for split in _SPLITS:
        path = src / "metadata" / f"{split}_{mode.name}.json"
        if path.is_file():
            found |= {(tile[0], tile[1]): split for tile in read_json(path)}
    return found


def _listed(src: Path, mode: _Mode) -> set[tuple[int, int, str]] | None:
    """The tiles of few clouds and no black, if the release brings that list."""
    path = src / "metadata" / f"good_images_{mode.name}_all.json"
    return {(c, r, image) for c, r, image in read_json(path)} if path.is_file() else None


def _build(tile: _Tile, published: bool) -> Record:
    if tile.date is None:
        raise DatasetError(f"{tile.image.name} has no time in metadata/image_times.json.")
    metadata = tile_metadata(tile.column, tile.row, tile.root, tile.date, published)
    return Record(
        key=f"{tile.image.name}/{tile.column}_{tile.row}",
        source="satlas",
        frames=tuple(_frames(tile, metadata)),
        licence=LICENCE,
        place="/".join(map(str, tile.parent)),
        split=tile.split,
        pieces=_caption(_objects(tile)),
    )


def _frames(tile: _Tile, metadata: Metadata) -> Iterator[Frame]:
    """The true-colour image and, in the full release, its other bands."""
    for folder in ("tci", *_BANDS):
        png = tile.image / folder / f"{tile.column}_{tile.row}.png"
        if png.is_file():
            colour = folder == "tci"
            yield Frame(
                content=png,
                format="png",
                name=str(png),
                metadata=metadata,
                bands=RGB if colour else (_BANDS[folder],),
                role="rgb" if colour else "bands",
                scaling=None if colour or folder == "ir" else _EIGHT_BIT,
            )


def _objects(tile: _Tile) -> Counter[str]:
    """How many of each category of points and polygons have their middle in the tile."""
    name = f"{tile.parent[0]}_{tile.parent[1]}"
    labels = [tile.src / "static" / name / "vector.json"]
    labels += [folder / "vector.json" for folder in folders(tile.src / "dynamic" / name)]
    found: Counter[str] = Counter()
    for path in labels:
        if not path.is_file():
            continue
        vector = read_json(path)
        if vector.get("metadata", {}).get("ImageName", tile.image.name) != tile.image.name:
            continue  # a dynamic label of another image
        for category in vector.keys() - _WHOLE_TILE:
            inside = sum(_inside(tile, thing["Geometry"]) for thing in vector[category])
            found[category] = max(found[category], inside)
    return +found


def _inside(tile: _Tile, geometry: Mapping[str, Any]) -> bool:
    kind = geometry["Type"]
    if kind == "polyline":
        return False
    x, y = geometry["Point"] if kind == "point" else middle(list(paths(geometry["Polygon"])))
    side = _UNITS // tile.factor
    return (x // side, y // side) == (tile.column % tile.factor, tile.row % tile.factor)


def _caption(objects: Counter[str]) -> Pieces:
    head = (("article", "a"), ("source", " satlas"), ("kind", " satellite image"))
    items = ", ".join(
        f"{count} {category.replace('_', ' ')}{'s' if count > 1 else ''}"
        for category, count in sorted(objects.items())
    )
    return (*head, ("items", f" of {items}")) if items else head


_WHOLE_TILE = {"metadata", "smoke", "snow"}  # no things to count
_SPLITS = ("train", "test")
LICENCE = "ODC-BY (labels); NAIP public domain; contains modified Copernicus Sentinel data"
SATLAS = Adapter(
    name="satlas",
    licence=LICENCE,
    layout="""
naip/ or naip_small/: m_2508008_nw_17_1_20151013/tci/36368_55726.png (and ir/)
sentinel2/ or sentinel2_small/: S2A_MSIL1C_…/tci/1867_3287.png (and b05/ …)
static/2273_3482/vector.json, dynamic/…
metadata/image_times.json, train_highres.json, test_highres.json, train_lowres.json, test_lowres.json
""",
    pieces=(
        Piece("an image", tuple(f"{root}{size}/*/tci/*.png" for root in _MODES for size in ("", "_small"))),
        Piece("the times of the images", ("metadata/image_times.json",)),
        Piece("the tiles of a split", ("metadata/{split}_highres.json", "metadata/{split}_lowres.json")),
        Piece("the labels", ("static/*/vector.json", "dynamic/*/*/vector.json")),
    ),
    find=_find,
    build=_build,
    splits=_SPLITS,
)
