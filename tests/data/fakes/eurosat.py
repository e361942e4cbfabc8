"""Fakes of EuroSAT, in colour and with 13 bands.

From sources (github.com/phelber/EuroSAT; torchgeo's reader): the zips' folders, names, classes, the order of
the bands with B8A last. Assumed: 8x8 pixels in place of 64x64, the places.
Flaws: a TIFF without StripOffsets.
"""

import sys
from pathlib import Path

import numpy as np
from fakes.files import geotiff, image, pixels, without_strip_offsets

CLASSES = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"]
CLASSES += ["Pasture", "PermanentCrop", "Residential", "River", "SeaLake"]


def make_rgb(root):
    """Two images a class."""
    for name in CLASSES:
        for number in (1, 2):
            image(root / "2750" / name / f"{name}_{number}.jpg", number, (8, 8))


def make_ms(root):
    """One image a class, and a broken one of forest; band i of a chip holds 100 i everywhere."""
    folder = root / "EuroSAT_MS"
    ramp = np.broadcast_to(100 * np.arange(1, 14, dtype=np.uint16), (8, 8, 13))
    for name in CLASSES:
        geotiff(folder / name / f"{name}_1.tif", ramp, "EPSG:32632", (500_000, 5_000_000), 10)
    broken = geotiff(folder / "Forest/Forest_2.tif", pixels(0, (8, 8, 13), np.uint16, 3000))
    without_strip_offsets(broken)


if __name__ == "__main__":
    make_rgb(Path(sys.argv[1]))
    make_ms(Path(sys.argv[1]))
