"""Bands by name, and numbers as reflectance: Sentinel-2, Landsat 5 to 9, NAIP, and one display stretch.

Arrays are (H, W, C). A pixel that is not valid (nodata, NaN, infinite) is zero in the values and False in
the mask, element by element, so that one such pixel never spoils a patch.
"""

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusionsat.errors import DatasetError

RGB = ("red", "green", "blue")
DISPLAY_WHITE = 0.3558  # reflectance shown as 255, as in ESA's true-colour product
DISPLAY_GAMMA = 1.5


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a sensor.

    Args:
        name: The publisher's.
        common: STAC's common name.
        wavelength_nm: Centre.
        gsd: Native ground sample distance, metres.
    """

    name: str
    common: str
    wavelength_nm: float
    gsd: float


# Centres: Sentinel-2A spectral responses (ESA, COPE-GSEG-EOPG-TN-15-0007); USGS, Landsat band designations;
# Leica ADS for NAIP, whose cameras differ by year and state, so that they are nominal.
_SENTINEL_2 = tuple(
    Band(*band)
    for band in (
        ("B01", "coastal", 442.7, 60.0),
        ("B02", "blue", 492.4, 10.0),
        ("B03", "green", 559.8, 10.0),
        ("B04", "red", 664.6, 10.0),
        ("B05", "rededge071", 704.1, 20.0),
        ("B06", "rededge075", 740.5, 20.0),
        ("B07", "rededge078", 782.8, 20.0),
        ("B08", "nir", 832.8, 10.0),
        ("B8A", "nir08", 864.7, 20.0),
        ("B09", "nir09", 945.1, 60.0),
        ("B10", "cirrus", 1373.5, 60.0),
        ("B11", "swir16", 1613.7, 20.0),
        ("B12", "swir22", 2202.4, 20.0),
    )
)
_TM = tuple(
    Band(f"SR_B{number}", common, wavelength_nm, 30.0)
    for number, common, wavelength_nm in (
        (1, "blue", 485.0),
        (2, "green", 560.0),
        (3, "red", 660.0),
        (4, "nir08", 830.0),
        (5, "swir16", 1650.0),
        (7, "swir22", 2215.0),
    )
)
_OLI = tuple(
    Band(f"SR_B{number}", common, wavelength_nm, 30.0)
    for number, common, wavelength_nm in (
        (1, "coastal", 443.0),
        (2, "blue", 482.0),
        (3, "green", 561.4),
        (4, "red", 654.6),
        (5, "nir08", 864.7),
        (6, "swir16", 1608.9),
        (7, "swir22", 2200.7),
    )
)
_NAIP = tuple(
    Band(name, name, wavelength_nm, 0.6)
    for name, wavelength_nm in (("red", 634.0), ("green", 560.0), ("blue", 456.0), ("nir", 860.0))
)

SENSORS: dict[str, tuple[Band, ...]] = {
    "sentinel-2": _SENTINEL_2,
    "landsat-5": _TM,
    "landsat-7": _TM,
    "landsat-8": _OLI,
    "landsat-9": _OLI,
    "naip": _NAIP,
}
SENTINEL_2_L1C = tuple(band.name for band in _SENTINEL_2)
SENTINEL_2_L2A = tuple(name for name in SENTINEL_2_L1C if name != "B10")


def locate(bands: Sequence[str], wanted: Sequence[str], sensor: str = "sentinel-2") -> list[int]:
    """Positions of bands by their own or their common names.

    Args:
        bands: Names in the order of the array; ``B4`` and ``B04`` are one.
        wanted: Names to find.
        sensor: Whose band numbers these are, a key of `SENSORS`.

    Raises:
        DatasetError: If one of the wanted is not there.
    """
    known = _known(bands, sensor)
    missing = [name for name in wanted if _padded(name) not in known]
    if missing:
        raise DatasetError(
            f"There is no band {missing[0]!r} among {', '.join(bands)}. Name the bands as the sensor does, "
            "or red, green, blue, nir …"
        )
    return [known[_padded(name)] for name in wanted]


def has(bands: Sequence[str], wanted: Sequence[str], sensor: str = "sentinel-2") -> bool:
    """Whether `locate` would find all of the wanted."""
    return {_padded(name) for name in wanted} <= _known(bands, sensor).keys()


def _known(bands: Sequence[str], sensor: str) -> dict[str, int]:
    common = {band.name: band.common for band in SENSORS[sensor]}
    names = [_padded(band) for band in bands]
    return {common.get(name, name): i for i, name in enumerate(names)} | {n: i for i, n in enumerate(names)}


def _padded(name: str) -> str:
    match = re.fullmatch(r"[Bb](\d)", name)
    return f"B0{match[1]}" if match else name


# Other words for common names: of Element 84's catalogue, and of STAC before it told the red edges apart.
_ALSO = {
    "coastal_aerosol": "coastal",
    "rededge": "rededge071",
    "rededge1": "rededge071",
    "rededge2": "rededge075",
    "rededge3": "rededge078",
    "nir8a": "nir08",
}
_NUMBERED = re.compile(r"(sr_)?b0?(\d{1,2}|8a)(?![a-z\d])", re.IGNORECASE)
_WAVELENGTH = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(nm|nanomet|um|µm|μm|micromet|$)", re.IGNORECASE)
_WITHIN = 0.03  # of the wavelength: sensors' centres for one band differ by so much at most


def band_of(name: str, sensor: str | None) -> Band | None:
    """The band that a name means: its number, common name or wavelength, or a description with one of them.

    ``B4``, ``B04_10m``, ``B4, central wavelength 665 nm``, ``red``, ``665``, ``0.665 um`` are one band of
    Sentinel-2.

    Args:
        name: As a file has it.
        sensor: A key of `SENSORS`; None takes Sentinel-2's bands.
    """
    bands, text = SENSORS[sensor or "sentinel-2"], name.strip()
    if match := _NUMBERED.match(text):
        landsat = match[1] or (sensor or "").startswith("landsat")
        own = f"SR_B{int(match[2])}" if landsat and match[2].isdigit() else f"B{match[2].upper().zfill(2)}"
        return next((band for band in bands if band.name == own), None)
    common = _ALSO.get(text.lower(), text.lower())
    if found := next((band for band in bands if band.common == common), None):
        return found
    if match := _WAVELENGTH.search(text):
        number = float(match[1])
        nm = 1000 * number if number < 100 else number
        nearest = min(bands, key=lambda band: abs(band.wavelength_nm - nm))
        return nearest if abs(nearest.wavelength_nm - nm) <= _WITHIN * nm else None
    return None


def sensor_of(names: Sequence[str]) -> str | None:
    """The sensor that the names of some bands tell of, a key of `SENSORS`; None if they tell of none."""
    numbers = [match for name in names if (match := _NUMBERED.match(name.strip()))]
    if any(match[1] for match in numbers):
        return "landsat-8" if {"6", "06"} & {match[2] for match in numbers} else None
    words = {name.strip().lower() for name in names}
    if numbers or words & (_ALSO.keys() | {"rededge071", "rededge075", "rededge078", "nir09", "cirrus"}):
        return "sentinel-2"
    measured = any(_WAVELENGTH.search(word) and band_of(word, None) for word in words)
    return "sentinel-2" if measured else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How stored numbers become reflectance: ``gain * number + offset``.

    Args:
        gain: None if the numbers are counts whose relation to reflectance is not known.
        offset: Added after the gain.
        nodata: Stored number that means there is no measurement; NaN always does.
    """

    gain: float | None = None
    offset: float = 0.0
    nodata: float | None = None

    def valid(self, stored: np.ndarray) -> np.ndarray:
        """Where there is a measurement, bool of the same shape."""
        valid = np.isfinite(stored)
        return valid if self.nodata is None else valid & (stored != self.nodata)

    def reflectance(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reflectance, float32, 0 where there is none, and where there is one.

        Raises:
            DatasetError: If the gain is not known.
        """
        if self.gain is None:
            raise DatasetError("These are counts whose reflectance is not known. Give their gain and offset.")
        valid = self.valid(stored)
        safe = np.where(valid, stored, 0).astype(np.float32)
        return np.where(valid, safe * np.float32(self.gain) + np.float32(self.offset), np.float32(0)), valid


LANDSAT_C2_L2 = Scaling(gain=2.75e-5, offset=-0.2, nodata=0)  # USGS, Collection 2 Level-2 surface reflectance
SENTINEL_2 = Scaling(gain=1e-4, nodata=0)
_SENTINEL_2_SHIFTED = Scaling(gain=1e-4, offset=-0.1, nodata=0)


def sentinel2_scaling(
    baseline: str | None = None, date: str | None = None, *, harmonized: bool = False
) -> Scaling:
    """Scaling of a Sentinel-2 product, L1C and L2A alike.

    From processing baseline 04.00 (25 January 2022) on the numbers are 1000 larger, so that they hold
    negative reflectance. Without a baseline the date decides; without either, none is assumed.

    Args:
        baseline: As in file names and metadata: ``"N0509"``, ``"05.09"``.
        date: Day of the image.
        harmonized: Whether a provider has taken the offset away already.
    """
    if harmonized:
        return SENTINEL_2
    if baseline is not None:
        return _SENTINEL_2_SHIFTED if int(re.sub(r"\D", "", baseline)) >= 400 else SENTINEL_2
    return _SENTINEL_2_SHIFTED if date is not None and date >= "2022-01-25" else SENTINEL_2


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What a file's name tells.

    Args:
        sensor: A key of `SENSORS`.
        date: Day of the image.
        scaling: Of its numbers; None if they are for display, or counts.
        band: The one band of the file, if the name tells it.
    """

    sensor: str
    date: str
    scaling: Scaling | None
    band: str | None = None


_S2_SAFE = re.compile(r"S2[ABC]_MSI(?P<level>L1C|L2A)_(?P<date>\d{8})T\d{6}_(?P<baseline>N\d{4})")
_S2_GRANULE = re.compile(r"T\d\d[A-Z]{3}_(?P<date>\d{8})T\d{6}_(?P<band>B\d[\dA]|TCI)")
_S2_COG = re.compile(r"S2[ABC]_\d{1,2}[A-Z]{3}_(?P<date>\d{8})_\d+_L(?:1C|2A)")
_LANDSAT = re.compile(
    r"L[COTE]0(?P<number>[5789])_L2S[PR]_\d{6}_(?P<date>\d{8})_\d{8}_02_(?:T\d|RT)(?:_(?P<band>SR_B\d))?"
)
# Counts of level 1 (whose reflectance hangs on the sun, which their names do not tell): collections 1 and 2,
# and what was before collections, whose day is that of the year.
_LANDSAT_1 = re.compile(
    r"L[COTE]0(?P<number>[5789])_L1(?:TP|GT|GS)_\d{6}_(?P<date>\d{8})_\d{8}_0[12]_(?:T\d|RT)(?:_(?P<band>B\d+))?"
)
_LANDSAT_OLD = re.compile(
    r"L[COTE](?P<number>[578])\d{6}(?P<date>(?:19|20)\d{2}[0-3]\d{2})[A-Z]{3}\d\d(?:_(?P<band>B\d+))?"
)
_NAIP_NAME = re.compile(r"m_\d{7}_[ns][ew]_\d{1,2}_[\dh]+_(?P<date>\d{8})")


def identify(name: str) -> Product | None:
    """What a file name in the manner of Sentinel-2, Landsat or NAIP tells; None for others."""
    if match := _S2_SAFE.search(name):
        date = _day(match["date"])
        return Product(sensor="sentinel-2", date=date, scaling=sentinel2_scaling(match["baseline"]))
    if match := _S2_GRANULE.search(name):
        date, band = _day(match["date"]), match["band"]
        scaling = None if band == "TCI" else sentinel2_scaling(date=date)
        return Product(sensor="sentinel-2", date=date, scaling=scaling, band=None if band == "TCI" else band)
    if match := _S2_COG.search(name):
        # Element84's COGs of these names have the offset taken away.
        return Product(sensor="sentinel-2", date=_day(match["date"]), scaling=SENTINEL_2)
    if match := _LANDSAT.search(name):
        sensor = f"landsat-{match['number']}"
        return Product(sensor=sensor, date=_day(match["date"]), scaling=LANDSAT_C2_L2, band=match["band"])
    if match := _LANDSAT_1.search(name) or _LANDSAT_OLD.search(name):
        band = match["band"] and f"SR_{match['band']}"
        return Product(sensor=f"landsat-{match['number']}", date=_day(match["date"]), scaling=None, band=band)
    if match := _NAIP_NAME.search(name):
        return Product(sensor="naip", date=_day(match["date"]), scaling=None)
    return None


def _day(digits: str) -> str:
    """A day of YYYYMMDD, or of the year's number and the day's in it."""
    if len(digits) == 7:
        first = datetime.date(int(digits[:4]), 1, 1)
        return (first + datetime.timedelta(days=int(digits[4:]) - 1)).isoformat()
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"


def statistics(values: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every band over its valid pixels, (C,); 0 and 1 without any."""
    count = valid.sum(axis=(0, 1))
    some = np.maximum(count, 1)
    mean = np.where(valid, values, 0).sum(axis=(0, 1), dtype=np.float64) / some
    variance = (np.where(valid, values - mean, 0) ** 2).sum(axis=(0, 1), dtype=np.float64) / some
    return mean, np.where(variance > 0, np.sqrt(variance), 1.0)


def normalise(values: np.ndarray, valid: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Bands of zero mean and unit deviation, float32; what is not valid is 0, the mean."""
    return np.where(valid, (values - mean) / std, 0).astype(np.float32)


def shown(reflectance: np.ndarray) -> np.ndarray:
    """Reflectance as it is shown, 0 to 1: black to `DISPLAY_WHITE` with a gamma.

    The stretch of most of the imagery that the compact model learnt from.
    """
    return np.clip(reflectance / DISPLAY_WHITE, 0, 1) ** (1 / DISPLAY_GAMMA)


def unshown(colours: np.ndarray) -> np.ndarray:
    """The reflectance that is `shown` as some colours, 0 to 1."""
    return DISPLAY_WHITE * np.clip(colours, 0, 1) ** DISPLAY_GAMMA


def display(reflectance: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Reflectance as it is shown in 8 bit, uint8; invalid pixels are black."""
    return np.round(255 * shown(np.where(valid, reflectance, 0))).astype(np.uint8)


def stretch(counts: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Counts of unknown scale as they are shown, uint8: percentiles 2 to 98 of every band's valid pixels."""
    shown = np.zeros(counts.shape, np.uint8)
    for band in range(counts.shape[2]):
        known = valid[..., band]
        if known.any():
            low, high = np.percentile(counts[..., band][known], (2, 98))
            share = np.clip((counts[..., band] - low) / max(high - low, 1e-5), 0, 1)
            shown[..., band] = np.where(known, np.round(255 * share), 0).astype(np.uint8)
    return shown
