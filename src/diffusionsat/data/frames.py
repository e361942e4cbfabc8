"""A raster with what is known about it: place, date, sensor, and what its numbers mean."""

import datetime
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffusionsat.data.safe import is_safe, read_safe
from diffusionsat.data.sensors import (
    RGB,
    SENSORS,
    SENTINEL_2,
    SENTINEL_2_L1C,
    SENTINEL_2_L2A,
    Band,
    Product,
    Scaling,
    band_of,
    identify,
    sensor_of,
)
from diffusionsat.data.sidecars import Sidecar, sidecar
from diffusionsat.errors import MetadataError, RasterError
from diffusionsat.geo.rasters import ArrayRaster, FileRaster, Raster, ground, open_raster
from diffusionsat.geo.stacks import Stack
from diffusionsat.metadata import Metadata

log = logging.getLogger(__name__)

_SAMPLED = 256  # pixels of a side that tell the range of floating-point numbers
_MOST_REFLECTANCE = 2.0  # clouds and snow are brighter than 1
_TCI = {"tci_r": "red", "tci_g": "green", "tci_b": "blue"}
_UNNAMED = {12: SENTINEL_2_L2A, 13: SENTINEL_2_L1C}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image of a place, of any size.

    Args:
        raster: Its numbers; bands of a known sensor have the sensor's names.
        metadata: What it shows; the gsd is that of the raster's pixels.
        sensor: A key of `sensors.SENSORS`; None if it is not known.
        scaling: From stored numbers to reflectance; None if they are for display.
    """

    raster: Raster
    metadata: Metadata = field(default_factory=Metadata)
    sensor: str | None = None
    scaling: Scaling | None = None

    @property
    def common(self) -> tuple[str, ...]:
        """STAC's common names of the bands; a band that has none keeps its own."""
        found = [(name, band_of(name, self.sensor)) for name in self.raster.bands]
        return tuple(name if band is None else band.common for name, band in found)

    @property
    def coarseness(self) -> tuple[int, ...]:
        """How many of the raster's pixels, along a side, repeat one number, for each band."""
        return self.raster.coarseness

    def tags(self) -> dict[str, str]:
        """What makes `open_frame` read a raster of the same numbers in the same way."""
        scaling = self.scaling and {"gain": self.scaling.gain, "offset": self.scaling.offset}
        return {"RADIOMETRY": json.dumps({"sensor": self.sensor, "scaling": scaling})}


def open_frame(
    source: Any,
    *,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    scaling: Scaling | float | None = None,
    tile: str | None = None,
    **known: Any,
) -> Frame:
    """A frame of a path, a URL, an open rasterio dataset, a `Raster`, an array (bands, H, W), or a frame.

    A path is a GeoTIFF, a JP2, a PNG or JPEG with or without a world file, whatever else GDAL reads, or a
    Sentinel-2 product (a ``.SAFE`` folder or its zip). What is known is taken, in this order, from the
    arguments; the grid (place and gsd); a STAC item beside the file; its own tags, which come before the
    item if it is synthetic; its name, if that is of Sentinel-2, Landsat or NAIP; its time stamp. What is
    assumed beyond that is logged.

    Args:
        source: What to open.
        bands: Names of all bands in order (numbers, common names or wavelengths), or of those to take.
        sensor: A key of `SENSORS`, where neither the file nor its name tells.
        scaling: From stored numbers to reflectance, or the gain alone.
        tile: Which tile of a Sentinel-2 product that has several, as in ``T32TLR``; of nothing else.
        **known: Fields of `Metadata` that are known better: lon, lat, gsd, cloud_cover, date; None is what
            the file says.

    Raises:
        RasterError: If it cannot be opened or understood.
        MetadataError: If one of the fields is not possible.
    """
    if sensor is not None and sensor not in SENSORS:
        raise RasterError(f"sensor is {sensor!r}. Known are: {', '.join(SENSORS)}.")
    if isinstance(scaling, (int, float)):
        scaling = Scaling(gain=float(scaling))
    better = {name: value for name, value in known.items() if value is not None}
    if isinstance(source, (str, Path)) and is_safe(Path(source)):
        source = _of_product(Path(source), tile)
    if isinstance(source, Frame):
        raster = source.raster if bands is None else _named(source.raster, bands, sensor or source.sensor)
        frame = replace(
            source, raster=raster, sensor=sensor or source.sensor, scaling=scaling or source.scaling
        )
    else:
        frame = _frame(_raster(source, bands), bands, sensor, scaling, dated="date" in better)
    return replace(frame, metadata=frame.metadata.replace(**better))


def together(frames: Sequence[Frame]) -> list[Frame]:
    """The frames, but those of single bands of one scene, as Landsat and Sentinel-2 come, as one.

    The scene is what their files' names begin with.

    Raises:
        RasterError: If bands of one scene do not lie on each other.
    """
    scenes: dict[Any, list[Frame]] = {}
    for frame in frames:
        scenes.setdefault(_scene_of(frame) or id(frame), []).append(frame)
    found = []
    for scene, parts in scenes.items():
        parts = sorted(parts, key=lambda part: part.raster.bands)
        if len(parts) == 1 or len({part.raster.bands for part in parts}) < len(parts):  # two of one band
            found += parts
        else:
            finest = min(parts, key=lambda part: part.metadata.gsd or math.inf)
            found.append(replace(finest, raster=Stack([part.raster for part in parts], scene[0])))
    return found


def _scene_of(frame: Frame) -> tuple[Any, ...] | None:
    """What frames of one scene have in common; None of a frame that is no single band of one."""
    file = frame.raster.file if isinstance(frame.raster, FileRaster) else None
    product = file and identify(file.stem)
    if not (file and product and product.band and len(frame.raster.bands) == 1):
        return None
    number = product.band.removeprefix("SR_")
    name = file.stem.partition(number)[0].rstrip("_").removesuffix("_SR")
    return name, frame.sensor, frame.scaling, frame.metadata.date, frame.metadata.cloud_cover


def _of_product(path: Path, tile: str | None) -> Frame:
    product = read_safe(path, tile)
    raster = _measured(product.raster, "sentinel-2", product.scaling)
    metadata = _metadata(raster, [product.known])
    return Frame(raster=raster, metadata=metadata, sensor="sentinel-2", scaling=product.scaling)


def _raster(source: Any, bands: Sequence[str] | None) -> Raster:
    if not isinstance(source, np.ndarray):
        return open_raster(source)
    valid = None
    if isinstance(source, np.ma.MaskedArray):  # as rasterio reads with masked=True
        source, valid = source.data, ~np.ma.getmaskarray(source)
        valid &= np.isfinite(source) if source.dtype.kind == "f" else True
    if bands is None and source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3:
        valid = valid if valid is None else np.moveaxis(valid, 2, 0)
        return ArrayRaster(np.moveaxis(source, 2, 0), RGB, valid=valid)
    if bands is None:
        raise RasterError(
            f"An array of the shape {source.shape} has no band names. Give bands=, one for each of "
            "(bands, rows, columns)."
        )
    return ArrayRaster(source, bands, valid=valid)


def _frame(
    raster: Raster,
    bands: Sequence[str] | None,
    sensor: str | None,
    scaling: Scaling | None,
    *,
    dated: bool,
) -> Frame:
    """A frame of what a raster, its file's name and what lies beside the file tell."""
    path = raster.file if isinstance(raster, FileRaster) else None
    tags = raster.tags
    beside = (path and sidecar(path)) or Sidecar(known={})
    product = path and (identify(path.stem) or identify(path.parent.name))
    own = _radiometry_tag(raster.name, tags)
    if bands is None:
        bands = _unnamed(raster, beside, product) or _picture(raster)
    told = sensor or own.get("sensor") or (product and product.sensor)
    raster = raster if bands is None else _named(raster, bands, told or sensor_of(raster.bands))
    sensor = told or sensor_of(raster.bands)
    if all(name.lower() in _TCI for name in raster.bands):  # the product's picture, for display
        raster = raster.take(range(len(raster.bands)), [_TCI[name.lower()] for name in raster.bands])
        own = own or {"scaling": None}
    found = [band_of(name, sensor) for name in raster.bands]
    if not any(found):
        raise RasterError(
            f"{raster.name} has the bands {', '.join(raster.bands)}, none of which is known. Name all with "
            f"bands=, or --bands: {', '.join(band.name for band in SENSORS[sensor or 'sentinel-2'])}, "
            "red, green, blue, nir …, or wavelengths in nm."
        )
    date = product and product.date
    own_known = _own(raster.name, tags)
    said = [
        *([own_known] if tags.get("SYNTHETIC") == "YES" else []),  # whatever the item beside it is about
        beside.known,
        own_known,
        {"date": date},
        {"date": _day(tags.get("TIFFTAG_DATETIME"))},
    ]
    metadata = _metadata(raster, said)
    if metadata.date is not None and not dated and not any(one.get("date") for one in said[:-1]):
        log.warning("%s: the date %s is its time stamp, maybe of the file alone", raster.name, metadata.date)
    if scaling is None:
        scaling = own["scaling"] if "scaling" in own else _scaling(raster, beside, product, sensor)
    if scaling is not None:
        raster = _measured(raster, sensor, scaling)
    return Frame(raster=raster, metadata=metadata, sensor=sensor, scaling=scaling)


def _measured(raster: Raster, sensor: str | None, scaling: Scaling) -> Raster:
    """The raster with the names of its sensor's bands, whose numbers are not valid where they mean nodata."""
    found = [band_of(name, sensor) for name in raster.bands]
    if sensor is not None:
        names = [n if band is None else band.name for n, band in zip(raster.bands, found, strict=True)]
        raster = raster.take(range(len(names)), names)
    if scaling.nodata is None or scaling.nodata == raster.nodata:
        return raster
    return raster.without(scaling.nodata, [i for i, band in enumerate(found) if band is not None])


def _named(raster: Raster, names: Sequence[str], sensor: str | None) -> Raster:
    """The bands that these names mean; or all bands under these names, if the raster knows none of them.

    Raises:
        RasterError: If neither is possible.
    """
    if all(name in raster.bands for name in names):
        return raster.take([raster.bands.index(name) for name in names])
    there, wanted = ([band_of(name, sensor) for name in some] for some in (raster.bands, names))
    if None not in wanted and set(wanted) <= set(there):
        return raster.take([there.index(band) for band in wanted])
    if len(names) != len(raster.bands):
        raise RasterError(
            f"{raster.name} has {len(raster.bands)} band(s): {', '.join(raster.bands)}. bands= names "
            f"{len(names)}: {', '.join(names)}. Give the names of all in order, or those of some that it has."
        )
    return raster.take(range(len(names)), names)


def _unnamed(raster: Raster, beside: Sidecar, product: Product | None) -> Sequence[str] | None:
    """Names for bands without any, as the item says or the name of the file; None if nothing tells."""
    if raster.bands[0] != "band1":
        return None
    count = len(raster.bands)
    if len(beside.bands) == count:
        return beside.bands
    if product is not None:
        names = [band.name for band in SENSORS[product.sensor]]
        return [product.band] if product.band and count == 1 else names if len(names) == count else None
    if count in _UNNAMED and raster.dtype.itemsize == 2:
        log.warning(
            "%s has %d bands without names; taken for those of Sentinel-2 in order: %s",
            raster.name,
            count,
            ", ".join(_UNNAMED[count]),
        )
        return _UNNAMED[count]
    return None


def _picture(raster: Raster) -> Sequence[str] | None:
    """The bands of the product's picture, if a raster has it and no red of its own."""
    names = [name for name in raster.bands if name.lower() in _TCI]
    if len(names) < 3 or any(band and band.common == "red" for band in map(_sentinel2, raster.bands)):
        return None
    if len(names) < len(raster.bands):
        log.warning("%s: only the bands for display are taken: %s", raster.name, ", ".join(names))
    return names


def _sentinel2(name: str) -> Band | None:
    return band_of(name, "sentinel-2")


def _metadata(raster: Raster, said: Sequence[Mapping[str, Any]]) -> Metadata:
    """What is known of a raster: where its grid lies, then what is said, the first thing first."""
    known: dict[str, Any] = {}
    for one in reversed(said):
        known |= {name: value for name, value in one.items() if value is not None}
    place = ground(raster.grid) if raster.grid is not None else None
    if place is not None:
        known |= dict(zip(("lon", "lat", "gsd"), place, strict=True))
    try:
        return Metadata.from_dict(known)
    except MetadataError as error:
        raise RasterError(f"{raster.name}, or what lies beside it, says what cannot be: {error}") from None


def _own(name: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """What our own tags say, or the day of the image in GDAL's."""
    known: dict[str, Any] = {"date": _date(tags.get("ACQUISITIONDATETIME"))}
    known["cloud_cover"] = _percent(tags.get("CLOUDCOVER"))
    if "METADATA" in tags:
        try:
            known |= Metadata.from_json(tags["METADATA"]).to_dict()
        except MetadataError:
            log.info("the tag METADATA of %s is not ours and is passed over", name)
    if tags.get("SYNTHETIC") == "YES":
        log.warning("%s is synthetic: a generative model made it", name)
    return known


def _radiometry_tag(name: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """What `Frame.tags` has written: sensor and scaling."""
    try:
        told = json.loads(tags.get("RADIOMETRY", "{}"))
        scaling = told.get("scaling") and Scaling(**told["scaling"])
        return told | {"scaling": scaling} if told.get("sensor") in (None, *SENSORS) and told else {}
    except (ValueError, TypeError, AttributeError):
        log.info("the tag RADIOMETRY of %s is not ours and is passed over", name)
        return {}


def _scaling(raster: Raster, beside: Sidecar, product: Product | None, sensor: str | None) -> Scaling | None:
    """What the numbers mean; None if they are for display."""
    counts = Scaling(nodata=raster.nodata)
    if raster.dtype == np.uint8:
        return None
    if beside.scaling is not None:
        return beside.scaling
    bands = zip(raster.bands, raster.scales, strict=True)
    scales = {scale for name, scale in bands if band_of(name, sensor) is not None}
    if len(scales) > 1:
        raise RasterError(
            f"{raster.name} says different scales and offsets of its bands: "
            f"{', '.join(f'{scale} and {offset}' for scale, offset in sorted(scales))}. Give scaling=, or "
            "bring them to one."
        )
    if scales != {(1.0, 0.0)}:
        gain, offset = scales.pop()
        return replace(counts, gain=gain, offset=offset)
    if product is not None and product.scaling is not None:
        return product.scaling
    if sensor == "sentinel-2" and raster.dtype in (np.uint16, np.int16):
        log.warning("%s: numbers are taken for 10,000 times the reflectance, without an offset", raster.name)
        return SENTINEL_2
    if sensor == "sentinel-2" and raster.dtype.kind == "f" and _brightest(raster) <= _MOST_REFLECTANCE:
        log.info("%s: numbers are taken for reflectance", raster.name)
        return replace(counts, gain=1.0)
    log.warning(
        "%s: numbers are counts whose relation to reflectance is not known; give scaling=, or write a scale "
        "and an offset of its bands into the file",
        raster.name,
    )
    return counts


def _brightest(raster: Raster) -> float:
    """The 99th percentile of the middle of a raster's known bands; infinite if nothing is there."""
    places = [i for i, name in enumerate(raster.bands) if _sentinel2(name)]
    top, left = ((length - _SAMPLED) // 2 for length in (raster.height, raster.width))
    values, valid = raster.take(places).read(range(top, top + _SAMPLED), range(left, left + _SAMPLED))
    return float(np.percentile(values[valid], 99)) if valid.any() else np.inf


def _date(text: str | None) -> str | None:
    """The day of a time stamp, or a month or year that stands alone."""
    return text if re.fullmatch(r"\d{4}(-(0[1-9]|1[0-2]))?", text or "") else _day(text)


def _percent(text: str | None) -> float | None:
    """A number of percent, if it is one."""
    try:
        share = float(text or "nan")
    except ValueError:
        return None
    return share if 0 <= share <= 100 else None


def _day(text: str | None) -> str | None:
    """The day of a time stamp, if it is one of the calendar."""
    match = re.match(r"(\d{4})[-:](\d\d)[-:](\d\d)", text or "")
    try:
        return match and datetime.date(*map(int, match.groups())).isoformat()
    except ValueError:
        return None
