"""The lists that the published preprocessing looks things up in, from ``tables.json`` beside this file.

The names are as the published captions spell them. Satlas's tasks go back to allenai/satlas, the band
statistics to SatMAE (Cong et al. 2022).
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

_TABLES: dict[str, Any] = json.loads(
    files("diffusionsat.data.published").joinpath("tables.json").read_text(encoding="utf-8")
)

FMOW_CATEGORIES: tuple[str, ...] = tuple(_TABLES["fmow_categories"])  # the label is the index
COUNTRIES: dict[str, str] = _TABLES["countries"]  # by ISO 3166 code, of two letters and of three
SATLAS_TASKS: dict[str, dict[str, Any]] = _TABLES["satlas_tasks"]  # type and categories of each
SENTINEL_MEAN: tuple[float, ...] = tuple(_TABLES["sentinel_mean"])  # of B1 ... B8, B8A, B9 ... B12
SENTINEL_STD: tuple[float, ...] = tuple(_TABLES["sentinel_std"])


@dataclass(frozen=True, slots=True)
class City:
    """What SpaceNet's images of a city have in common.

    Args:
        centre: Longitude and latitude where no feature tells the place; None is unknown.
        date: Year, month and day of the images, roughly; None is unknown.
        gsd: Metres per pixel.
        crs: Coordinates of the features.
    """

    centre: tuple[float, float] | None = None
    date: tuple[int, int, int] | None = None
    gsd: float = 0.3
    crs: int = 4326


CITIES = {
    "Rio": City((-43.196388, -22.908333), None, 0.5),
    "Rotterdam": City((4.462456, 51.926517), (2019, 8, 31), 0.5, 32631),
    "Vegas": City((-115.176468, 36.188110), (2015, 10, 22)),
    "Paris": City((2.349014, 48.864716), (2016, 2, 29)),
    "Shanghai": City((121.469170, 31.224361), (2015, 6, 6)),
    "Khartoum": City((32.522854, 15.508457), (2015, 4, 13)),
    "Moscow": City((37.618423, 55.751244), (2018, 2, 13)),
    "Mumbai": City((72.877426, 19.076090), (2018, 1, 6)),
}
