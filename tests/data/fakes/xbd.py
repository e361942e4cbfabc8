"""A fake of xBD.

From sources (github.com/DIUx-xView/xView2_baseline; readers of it): folders, names, the label JSON's fields;
that "gsd" is the multispectral one, four times that of the image in "pan_resolution", from a fit of the
buildings' pixels to their places in two scenes.
Assumed: values; 8x8 pixels in place of 1024x1024.
Flaws: a pair without an image, unreadable labels, a pair without any building.
"""

import sys
from pathlib import Path

from fakes.files import box, image, write_json


def about(name, date, *places, kind="flooding"):
    return {
        "features": {
            "lng_lat": [
                {"properties": {"feature_type": "building", "uid": str(i)}, "wkt": box(lon, lat, half)}
                for i, (lon, lat, half) in enumerate(places)
            ],
            "xy": [],
        },
        "metadata": {
            "sensor": "GEOEYE01",
            "provider_asset_type": "GEOEYE01",
            "gsd": 2.0916247,
            "capture_date": f"{date}T17:04:01.000Z",
            "off_nadir_angle": 26.1,
            "pan_resolution": 0.52290617,
            "disaster": name.rpartition("_")[0],
            "disaster_type": kind,
            "width": 1024,
            "height": 1024,
            "img_name": f"{name}.png",
        },
    }


def pair(root, name, before, after):
    for role, known in (("pre", before), ("post", after)):
        image(root / f"images/{name}_{role}_disaster.png", 1, (8, 8))
        write_json(root / f"labels/{name}_{role}_disaster.json", known)


def make(root):
    """Four pairs that are good and two that are not."""
    houses = [(-95.6, 29.7, 0.0001), (-95.7, 29.8, 0.0001)]
    name = "hurricane-harvey_00000000"
    before = about(name, "2017-08-20", *houses)
    pair(root / "train", name, before, about(name, "2017-08-31", *houses[:1]))
    name = "hurricane-harvey_00000001"
    pair(root / "train", name, about(name, "2017-08-20", *houses), about(name, "2017-08-31"))
    name = "socal-fire_00000002"
    empty = about(name, "2017-12-10", kind="fire")
    pair(root / "train", name, empty, empty)
    name = "mexico-earthquake_00000003"
    quake = about(name, "2017-09-20", (-99.2, 19.4, 0.0001), kind="earthquake")
    pair(root / "hold", name, quake, quake)
    pair(root / "train", "joplin-tornado_00000004", quake, quake)
    (root / "train/images/joplin-tornado_00000004_post_disaster.png").unlink()
    pair(root / "train", "joplin-tornado_00000005", quake, quake)
    (root / "train/labels/joplin-tornado_00000005_pre_disaster.json").write_text("")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
