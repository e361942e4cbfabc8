"""EuroSAT: Sentinel-2 chips of ten classes, in colour or with 13 bands.

Source: github.com/phelber/EuroSAT; band order of the files as torchgeo's reader has it.
"""

from pathlib import Path

from diffusionsat.data.adapters.rasters import read_raster
from diffusionsat.data.adapters.release import Adapter, Found, Piece, folders
from diffusionsat.data.captions import PHRASES
from diffusionsat.data.records import Frame, Record
from diffusionsat.data.sensors import SENTINEL_2, SENTINEL_2_L1C
from diffusionsat.errors import DatasetError
from diffusionsat.metadata import Metadata

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
# B8A stands last in these files.
BANDS = (*(name for name in SENTINEL_2_L1C if name != "B8A"), "B8A")
LICENCE = "MIT; contains modified Copernicus Sentinel data"


def _find(src: Path, suffix: str) -> Found:
    root = next(src.glob(f"**/{CLASSES[0]}/*.{suffix}")).parents[1]
    for folder in folders(root):
        yield from ((str(path), path) for path in sorted(folder.glob(f"*.{suffix}")))


def _record(path: Path, frame: Frame, source: str) -> Record:
    label = path.parent.name
    words = PHRASES[label][0] if label in PHRASES else label
    return Record(
        key=f"{label}/{path.stem}",
        source=source,
        frames=(frame,),
        licence=LICENCE,
        place=f"{label}/{path.stem}",
        label=label,
        pieces=(("article", "a"), ("kind", " satellite image"), ("class", f" of {words}")),
    )


def _colour(path: Path, _: bool) -> Record:
    frame = Frame(content=path, format="jpeg", name=str(path), metadata=Metadata(gsd=10.0))
    return _record(path, frame, "eurosat-rgb")


def _bands(path: Path, _: bool) -> Record:
    raster = read_raster(path)
    if len(raster.bands) != len(BANDS):
        raise DatasetError(f"{path.name} has {len(raster.bands)} band(s) in place of {len(BANDS)}.")
    frame = Frame(
        content=path,
        format="tif",
        name=str(path),
        metadata=Metadata(lon=raster.lon, lat=raster.lat, gsd=10.0),
        bands=BANDS,
        role="sentinel",
        scaling=SENTINEL_2,
    )
    return _record(path, frame, "eurosat-ms")


def _pieces(suffix: str) -> tuple[Piece, ...]:
    return tuple(Piece(f"the class {name}", (f"**/{name}/{name}_*.{suffix}",)) for name in CLASSES)


RGB = Adapter(
    name="eurosat-rgb",
    licence=LICENCE,
    layout="2750/ or EuroSAT_RGB/ (at any depth): AnnualCrop/AnnualCrop_1.jpg …, ten classes",
    pieces=_pieces("jpg"),
    find=lambda src, _: _find(src, "jpg"),
    build=_colour,
)
MULTISPECTRAL = Adapter(
    name="eurosat-ms",
    licence=LICENCE,
    layout="EuroSAT_MS/ or tif/ (at any depth): AnnualCrop/AnnualCrop_1.tif …, ten classes",
    pieces=_pieces("tif"),
    find=lambda src, _: _find(src, "tif"),
    build=_bands,
)
