"""Any folder of images: GeoTIFFs tell their place, resolution, day and bands; a csv or STAC items override.

What is known about an image is taken from, in this order: the row of a csv in the folder (column ``file``,
``file_name``, ``image`` or ``path``, and any of lon, lat, gsd, cloud_cover, date, label, caption), a STAC
item (an asset's ``href``, or the image's name with ``.json``), the GeoTIFF itself, its file name if that is
of Sentinel-2, Landsat or NAIP (before the tag TIFFTAG_DATETIME, which is often the day when the file was
made). A text of the same name with ``.txt`` is its caption; the name of its folder is its label.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusionsat.data.adapters import tables
from diffusionsat.data.adapters.rasters import Raster, read_raster
from diffusionsat.data.adapters.release import Adapter, Found, read_csv, read_json
from diffusionsat.data.records import Bad, Frame, Pieces, Record
from diffusionsat.data.sensors import RGB, SENSORS, Product, has, identify
from diffusionsat.errors import DatasetError, RasterError
from diffusionsat.geo.features import centre
from diffusionsat.metadata import Metadata

_FORMATS = {
    ".tif": "tif",
    ".tiff": "tif",
    ".jp2": "tif",
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}
_NAMES = ("file", "file_name", "image", "path")  # columns of a csv
_NUMBERS = ("lon", "lat", "gsd", "cloud_cover")
_FIELDS = (*_NUMBERS, "date", "label", "caption")


@dataclass(frozen=True, slots=True)
class _Item:
    src: Path
    file: Path
    row: Mapping[str, Any]
    stac: Mapping[str, Any]


def _find(src: Path, split: str | None) -> Found:
    if src.suffix == ".parquet":
        yield from tables.PARQUET.find(src, split)
        return
    src = src.resolve()
    root = src.parent if src.is_file() else src
    listed: dict[Path, dict[str, Any]] = {}
    for table in [src] if src.is_file() else sorted(src.glob("*.csv")):
        for line, row in enumerate(read_csv(table), start=2):
            if not any(column in row for column in _NAMES):
                said = f"It has no column {' or '.join(_NAMES)}, but {', '.join(filter(None, row))}."
                yield Bad(str(table), said)
                break
            name = next((row[column] for column in _NAMES if row.get(column)), None)
            file = root / name if name else None
            if file is None or not file.is_file():
                said = f"There is no {name}." if name else "It names no file."
                yield Bad(f"{table}:{line}", said)
            elif file.resolve() in listed:
                yield Bad(f"{table}:{line}", f"{name} was there before.")
            else:
                listed[file.resolve()] = row
    files = listed if src.is_file() else (p for p in sorted(src.rglob("*")) if p.suffix.lower() in _FORMATS)
    stac, broken = ({}, []) if src.is_file() else _stac(src)
    yield from broken
    for path in [] if src.is_file() else sorted(src.rglob("*")):
        if path.is_symlink() and path.is_dir():
            yield Bad(str(path), "It is a link to a folder, which is not followed. Give that folder too.")
    for file in files:
        row = listed.get(file.resolve(), {})
        yield str(file), _Item(root, file, row, stac.get(file.resolve(), {}))


def _stac(src: Path) -> tuple[dict[Path, dict[str, Any]], list[Bad]]:
    """STAC items by the files of their assets, and by files of their own name."""
    found, broken = {}, []
    for path in sorted(src.rglob("*.json")):
        try:
            content = read_json(path)
        except DatasetError as error:
            broken.append(Bad(str(path), str(error)))
            continue
        try:
            for item in content.get("features", [content]) if isinstance(content, dict) else []:
                if "stac_version" in item and item.get("type") == "Feature":
                    hrefs = [asset["href"] for asset in item.get("assets", {}).values() if "href" in asset]
                    beside = [] if "features" in content else [path.with_suffix(end) for end in _FORMATS]
                    files = [path.parent / href for href in hrefs] + beside
                    found |= {file.resolve(): item for file in files}
        except (TypeError, AttributeError):
            broken.append(Bad(str(path), "It looks like STAC, but its features or assets are none."))
    return found, broken


def _build(item: Any, published: bool) -> Record:
    if not isinstance(item, _Item):
        return tables.PARQUET.build(item, published)
    file = item.file
    form = _FORMATS.get(file.suffix.lower())
    if form is None:
        raise DatasetError(f"{file.name} is no image of a known kind ({', '.join(_FORMATS)}).")
    raster = read_raster(file) if form == "tif" else None
    product = identify(file.stem) or identify(file.parent.name)
    known = _of_file(raster, product) | _of_stac(item.stac) | _of_row(item.row)
    relative = file.relative_to(item.src) if file.is_relative_to(item.src) else Path(file.name)
    label = known.pop("label", relative.parts[0] if len(relative.parts) == 2 else None)
    sentence = known.pop("caption", None) or _beside(file) or (label and f"a satellite image of {label}")
    frame = Frame(
        content=file,
        format=form,
        name=str(file),
        metadata=Metadata.from_dict(known),
        **_radiometry(raster, product),
    )
    key = relative.with_suffix("").as_posix()
    return Record(
        key=key,
        source=item.src.name,
        frames=(frame,),
        licence=LICENCE,
        place=key,
        label=label,
        pieces=_caption(sentence),
    )


def _caption(sentence: str | None) -> Pieces:
    return (("caption", sentence),) if sentence else ()


def _beside(file: Path) -> str | None:
    text = file.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() or None if text.is_file() else None


def _of_file(raster: Raster | None, product: Product | None) -> dict[str, Any]:
    known: dict[str, Any] = {"date": product and product.date}
    if raster is not None:
        known = {
            "date": raster.acquired or known["date"] or raster.stamped,
            "lon": raster.lon,
            "lat": raster.lat,
            "gsd": raster.gsd,
        }
    return {name: value for name, value in known.items() if value is not None}


def _of_stac(item: Mapping[str, Any]) -> dict[str, Any]:
    if not item:
        return {}
    about = item.get("properties") or {}
    known = {
        "gsd": about.get("gsd"),
        "cloud_cover": about.get("eo:cloud_cover"),
        "date": (about.get("datetime") or about.get("start_datetime") or "")[:10] or None,
    }
    if item.get("geometry"):
        try:
            known["lon"], known["lat"] = centre(item["geometry"])
        except RasterError as error:
            raise DatasetError(f"The STAC item {item.get('id')} has a geometry of which {error}.") from None
    return {name: value for name, value in known.items() if value is not None}


def _of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: row[name].strip() for name in _FIELDS if row.get(name) and row[name].strip()}
    return {name: float(text) if name in _NUMBERS else text for name, text in given.items()}


def _radiometry(raster: Raster | None, product: Product | None) -> dict[str, Any]:
    """Bands, sensor and scaling of a frame; a product's scaling is not that of an 8-bit copy."""
    if raster is None:
        return {}
    bands, scaling = raster.bands, raster.scaling
    if product is not None:
        natural = tuple(band.name for band in SENSORS[product.sensor])
        if product.band is not None and len(bands) == 1:
            bands = (product.band,)
        elif bands[0] == "band1" and len(bands) == len(natural):
            bands = natural
        if raster.dtype != "uint8" and product.scaling is not None and scaling.gain is None:
            scaling = product.scaling
    display = raster.dtype == "uint8" and scaling.gain is None and scaling.nodata is None
    sensor = product.sensor if product is not None else "sentinel-2"
    return {
        "bands": bands,
        "scaling": None if display else scaling,
        "sensor": sensor,
        "role": "rgb" if has(bands, RGB, sensor) else "bands",
    }


LICENCE = "yours"
FOLDER = Adapter(
    name="folder",
    licence=LICENCE,
    layout="""
any folders of .tif, .jp2, .png, .jpg or .webp; or a .csv with a column file; or a .parquet
metadata.csv (if there: file, lon, lat, gsd, cloud_cover, date, label, caption), STAC items (if there: .json)
""",
    pieces=(),
    find=_find,
    build=_build,
)
