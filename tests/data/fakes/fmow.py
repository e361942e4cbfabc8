"""Fakes of fMoW (rgb and full flavour), fMoW-Sentinel, and both side by side.

From sources: names and folders (github.com/fMoW/dataset; readers of it: `_msrgb` beside `_rgb`, test folders
without names, `test_gt_mapping.json`); the JSON's fields and `raw_location`, also of the boxes, from a
record that another project printed; fMoW-Sentinel's csv fields, paths and single bands from its README.
Assumed: that the JSON of the challenge's test split has no `category`; the csv's unnamed first column.
Flaws: a TIFF without StripOffsets, unreadable JSON, a view without its image or without its
JSON, a row twice, ids used again in
another class.
"""

import sys
from pathlib import Path

import numpy as np
from fakes.files import box, geotiff, image, pixels, without_strip_offsets, write_json

PLACES = {  # class, location -> longitude, latitude
    ("airport", 0): (8.583082, 47.449039),
    ("zoo", 0): (-3.7, 40.4),
    ("crop_field", 12): (76.571267, 28.696531),
}


def about(category, location, view, date, country, cloud_cover=7):
    lon, lat = PLACES[category, location]
    return {
        "gsd": 0.468074887991,
        "img_width": 16,
        "img_height": 12,
        "utm": "32T",
        "country_code": country,
        "cloud_cover": cloud_cover,
        "timestamp": f"{date}T10:32:22Z",
        "scan_direction": "Reverse",
        "pan_resolution_dbl": 0.468074887991,
        "off_nadir_angle_dbl": 21.9,
        "bounding_boxes": [{"ID": 1, "box": [4, 4, 6, 6], "category": category, "visible": "True"}],
        "img_filename": f"{category}_{location}_{view}_rgb.jpg",
        "raw_location": box(lon, lat),
    }


def view(root, split, category, location, number, known, suffix=".jpg"):
    stem = f"{category}_{location}_{number}"
    folder = root / split / category / f"{category}_{location}"
    write_json(folder / f"{stem}_rgb.json", known)
    beside = "_msrgb" if suffix == ".jpg" else "_ms"
    write_json(folder / f"{stem}{beside}.json", known)
    if suffix == ".jpg":
        image(folder / f"{stem}_rgb.jpg", number)
        image(folder / f"{stem}_msrgb.jpg", number, size=(4, 4))
    else:
        geotiff(folder / f"{stem}_rgb.tif", pixels(number, (12, 16, 3)))
        geotiff(folder / f"{stem}_ms.tif", pixels(number, (4, 4, 8), np.uint16, 2000))
    return folder / f"{stem}_rgb{suffix}"


def make_rgb(root, suffix=".jpg"):
    """Seven views that are good and, by the flaws, three that are not (four in the full flavour)."""
    for number, date in ((10, "2016-02-13"), (2, "2015-09-01"), (0, "2012-04-02")):
        known = about("airport", 0, number, date, "CHE")
        view(root, "train", "airport", 0, number, known, suffix)
    view(root, "train", "zoo", 0, 0, about("zoo", 0, 0, "2017-07-09", "ESP"), suffix)
    view(root, "val", "crop_field", 12, 0, about("crop_field", 12, 0, "2015-02-27", "IND"), suffix)
    view(root, "val", "crop_field", 12, 1, about("crop_field", 12, 1, "2016-03-01", "XYZ"), suffix)
    (root / "val/crop_field/crop_field_12/crop_field_12_2_rgb.json").write_text('{"gsd": 0.5,')
    view(root, "val", "crop_field", 12, 3, about("crop_field", 12, 3, "2016-04-01", "IND"), suffix).unlink()
    image(root / "val/crop_field/crop_field_12/crop_field_12_4_rgb.jpg")
    challenge = about("zoo", 0, 5, "2014-05-05", "ESP")
    del challenge["raw_location"], challenge["bounding_boxes"][0]["category"]
    write_json(root / "test/0011978/0011978_5_rgb.json", challenge)
    if suffix == ".jpg":
        image(root / "test/0011978/0011978_5_rgb.jpg")
    else:
        geotiff(root / "test/0011978/0011978_5_rgb.tif", pixels(5, (12, 16, 3)))
        broken = view(root, "train", "zoo", 0, 1, about("zoo", 0, 1, "2016-07-09", "ESP"), suffix)
        without_strip_offsets(broken)
    write_json(root / "test_gt_mapping.json", [{"input": "test_gt/zoo/zoo_0", "output": "test/0011978"}])
    write_json(root / "test_gt/zoo/zoo_0/zoo_0_5_rgb.json", about("zoo", 0, 5, "2014-05-05", "ESP"))


def make_sentinel(root):
    """Four images that are good, one without StripOffsets, one of a single band; one row twice, one alone."""
    rows = [
        ("airport", 0, 10, "2016-02-13T10:32:22Z"),
        ("airport", 0, 100, "2017-10-01T00:00:00Z"),
        ("zoo", 0, 10, "2016-02-13T10:32:22Z"),  # the ids of an airport again
        ("zoo", 0, 0, "2017-07-09T10:32:22Z"),
        ("zoo", 0, 101, "2018-01-01T00:00:00Z"),
        ("zoo", 0, 102, "2018-07-01T00:00:00Z"),
        ("zoo", 0, 103, "2019-01-01T00:00:00Z"),
        ("zoo", 0, 0, "2017-07-09T10:32:22Z"),
    ]
    lines = [",category,location_id,image_id,timestamp,polygon"]
    for i, (category, location, number, timestamp) in enumerate(rows):
        polygon = box(*PLACES[category, location])
        lines.append(f'{i},{category},{location},{number},{timestamp},"{polygon}"')
        stem = f"{category}_{location}"
        path = root / "train" / category / stem / f"{stem}_{number}.tif"
        if number != 103:
            bands = 1 if number == 102 else 13
            geotiff(path, pixels(i, (5, 6, bands), np.uint16, 4000))
        if number == 101:
            without_strip_offsets(path)
    (root / "train.csv").write_text("\n".join(lines) + "\n")


def make_pairs(root):
    make_rgb(root / "fmow-rgb")
    make_sentinel(root / "fmow-sentinel")


if __name__ == "__main__":
    make_pairs(Path(sys.argv[1]))
