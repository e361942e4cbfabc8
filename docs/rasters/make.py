"""Make the small rasters of the examples from data sets that lie outside the repository.

    python docs/rasters/make.py DATA

Sentinel-2: a test row of DATA/s2_multires, on the sensor's own grid. NAIP: the first test row of
DATA/naip_california_cities.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import rasterio
from affine import Affine
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.warp import transform_geom
from rasterio.windows import Window

HERE = Path(__file__).parent
BANDS = ("B02", "B03", "B04", "B08")
SIDE = 128


def sentinel(data: Path) -> None:
    """64 pixels square of the four 10 m bands, a corner of them without data."""
    rows = parquet.read_table(data / "s2_multires/test.parquet").to_pylist()
    row = next(row for row in rows if row["key"] == "sen12mscr_ms_ROIs1868_summer_100_p500")
    window = Window(70, 120, 64, 64)
    with MemoryFile(row["frames"][0]["image"]) as memory, memory.open() as file:
        values = file.read([3, 2, 1, 4], window=window)
    values[:, :12, :16] = 0
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "nodata": 0,
        "count": 4,
        "compress": "deflate",
        "predictor": 2,
        "crs": row["crs"],
        "transform": Affine(*row["transform"]) @ Affine.translation(window.col_off, window.row_off),
    }
    with rasterio.open(HERE / "s2.tif", "w", width=64, height=64, **profile) as file:
        file.write(values)
        file.descriptions = BANDS
        file.update_tags(ACQUISITIONDATETIME="2018")


def naip(data: Path) -> None:
    """The same houses in three years, and a hole."""
    row = parquet.read_table(data / "naip_california_cities/test.parquet").slice(0, 1).to_pylist()[0]
    transform = Affine(*row["transform"][:6])
    for frame in row["frames"]:
        pixels = np.asarray(Image.open(io.BytesIO(frame["image"])).convert("RGB"))[:SIDE, :SIDE]
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "compress": "deflate"}
        name = HERE / f"houses-{frame['date']}.tif"
        with rasterio.open(
            name,
            "w",
            width=SIDE,
            height=SIDE,
            crs=row["crs"],
            transform=transform,
            photometric="RGB",
            **profile,
        ) as file:
            file.write(np.moveaxis(pixels, 2, 0))
    corners = [transform @ corner for corner in ((40, 30), (90, 36), (84, 92), (36, 84), (40, 30))]
    polygon = {"type": "Polygon", "coordinates": [corners]}
    feature = {
        "type": "Feature",
        "properties": {},
        "geometry": transform_geom(row["crs"], "EPSG:4326", polygon),
    }
    (HERE / "hole.geojson").write_text(json.dumps(feature) + "\n")


if __name__ == "__main__":
    sentinel(Path(sys.argv[1]))
    naip(Path(sys.argv[1]))
