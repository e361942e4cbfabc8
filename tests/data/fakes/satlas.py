"""A fake of SatlasPretrain, large or small.

From a source (github.com/allenai/satlas, SatlasPretrain.md): folders, tile numbers, vector.json, the splits'
and image_times' form, the tile 36368_55726 of m_2508008_nw_17_1_20151013. From its code: good_images.
Assumed: the times of the images; 8x8 pixels in place of 512x512.
Flaws: an image whose time is nowhere, unreadable labels, a file that is no tile.
"""

import sys
from pathlib import Path

from fakes.files import image, write_json

NAIP = "m_2508008_nw_17_1_20151013"
SENTINEL = "S2A_MSIL1C_20160808T181452_N0204_R041_T12SVC_20160808T181447"


def make(root, small=False):
    """Three tiles that are good, three files that are not; and in the large form one that its list lacks."""
    size = "_small" if small else ""
    naip, sentinel = root / f"naip{size}", root / f"sentinel2{size}"
    image(naip / NAIP / "tci/36368_55726.png", 1, (8, 8))
    image(naip / NAIP / "tci/36369_55726.png", 2, (8, 8))
    image(sentinel / SENTINEL / "tci/1867_3287.png", 3, (8, 8))
    image(naip / "no_time" / "tci/36368_55726.png", 4, (8, 8))
    image(sentinel / SENTINEL / "tci/1000_3000.png", 5, (8, 8))
    image(sentinel / SENTINEL / "tci/thumbnail_.png", 5, (8, 8))
    if not small:
        image(naip / NAIP / "ir/36368_55726.png", 6, (8, 8), 1)
        image(sentinel / SENTINEL / "b08/1867_3287.png", 7, (8, 8), 1)
        image(sentinel / SENTINEL / "tci/1868_3287.png", 8, (8, 8))
        good = [[1867, 3287, SENTINEL], [1000, 3000, SENTINEL]]
        write_json(root / "metadata/good_images_lowres_all.json", good)
    write_json(root / "metadata/image_times.json", {NAIP: "2015-10-13T00:00:00+00:00"})
    write_json(root / "metadata/train_highres.json", [[2273, 3482]])
    write_json(root / "metadata/test_highres.json", [])
    write_json(root / "metadata/train_lowres.json", [])
    write_json(root / "metadata/test_lowres.json", [[1867, 3287], [1868, 3287]])
    point = {"Geometry": {"Type": "point", "Point": [100, 7400]}, "Properties": {}}
    ring = [[20, 7300], [60, 7300], [60, 7340], [20, 7340], [20, 7300]]
    farm = {"Geometry": {"Type": "polygon", "Polygon": [ring]}, "Properties": {}}
    road = {"Geometry": {"Type": "polyline", "Polyline": [[0, 0], [8192, 8192]]}, "Properties": {}}
    everywhere = {"Geometry": {"Type": "polygon", "Polygon": [[[0, 0], [8192, 0], [8192, 8192]]]}}
    elsewhere = {"Geometry": {"Type": "point", "Point": [4000, 4000]}, "Properties": {}}
    write_json(
        root / "static/2273_3482/vector.json",
        {
            "water_tower": [point, point, elsewhere],
            "solar_farm": [farm],
            "road": [road],
            "smoke": [everywhere],
            "dam": [],
        },
    )
    for event, name in (("airplane_1", NAIP), ("airplane_2", "m_2508008_nw_17_1_20111013")):
        about = {"Start": "2015-10-13T23:59:59+00:00", "ImageName": name}
        write_json(
            root / f"dynamic/2273_3482/{event}/vector.json", {"metadata": about, "airplane": [point] * 3}
        )
    (root / "static/1000_3000").mkdir(parents=True)
    (root / "static/1000_3000/vector.json").write_text('{"dam": [')


if __name__ == "__main__":
    make(Path(sys.argv[1]), small="small" in sys.argv)
