"""A fake of a user's folder: GeoTIFFs of several sensors, plain images, a csv, a STAC item.

From sources: the naming conventions of ESA, USGS and NAIP. All else is made up.
Flaws: a TIFF without StripOffsets, a row of a missing file, a row twice, an impossible latitude, broken JSON.
"""

import sys
from pathlib import Path

import numpy as np
from fakes.files import geotiff, image, pixels, without_strip_offsets, write_json

NAIP = "m_4709963_se_14_1_20090818"
LANDSAT = "LC08_L2SP_195028_20190714_20200827_02_T1_SR_B4"
SENTINEL = "S2B_MSIL2A_20230714T103629_N0509_R008_T32TLR_20230714T150000"


def make(root):
    """Seven images that are good, one that is broken, one of an impossible place; and two bad rows."""
    geotiff(root / f"{NAIP}.tif", pixels(0, (10, 10, 4)), "EPSG:26914", (500_000, 5_200_000), 1.0)
    geotiff(
        root / f"{LANDSAT}.TIF",
        np.array([[[0], [7273]], [[20000], [43636]]], np.uint16),
        "EPSG:32632",
        (400_000, 5_100_000),
        30.0,
    )
    geotiff(
        root / f"{SENTINEL}.tif",
        pixels(2, (6, 6, 4), np.uint16, 4000),
        "EPSG:32632",
        (400_000, 5_100_000),
        10.0,
        descriptions=("B2", "B3", "B4", "B8"),
        tags={"TIFFTAG_DATETIME": "2023:07:15 09:00:00"},
    )
    geotiff(root / "mercator.tif", pixels(3, (8, 8, 3)), "EPSG:3857", (1_113_194.9, 8_399_737.9), 10.0)
    image(root / "harbour/one.png")
    image(root / "harbour/two.jpg")
    (root / "harbour/two.txt").write_text("boats at a pier\n")
    image(root / "harbour/three.webp")
    image(root / "nowhere.png")
    without_strip_offsets(geotiff(root / "broken.tif", pixels(5, (4, 4, 3))))
    (root / "metadata.csv").write_text(
        "file,lon,lat,gsd,cloud_cover,date,label,caption\n"
        f"{NAIP}.tif,,,,12.5,2010,prairie,potholes in the prairie\n"
        "nowhere.png,10,95,,,,,\n"
        "absent.png,10,50,,,,,\n"
        "nowhere.png,10,50,,,,,\n"
    )
    write_json(
        root / "harbour/item.json",
        {
            "type": "Feature",
            "stac_version": "1.1.0",
            "id": "one",
            "geometry": {"type": "Point", "coordinates": [4.4, 51.9]},
            "properties": {"datetime": "2020-06-05T10:00:00Z", "gsd": 0.5, "eo:cloud_cover": 4},
            "assets": {"image": {"href": "./one.png"}},
        },
    )
    (root / "broken.json").write_text("{")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
