"""A fake of SpaceNet 1, 2 and 5.

From sources (spacenet.ai; readers of it): the names of images and labels, old and new, and their folders.
Assumed: the pixels' sizes and values; SpaceNet 5 in degrees like the others.
Flaws: a training chip without labels, labels without a chip, a TIFF without StripOffsets, labels that are no
JSON.
"""

import sys
from pathlib import Path

import numpy as np
from fakes.files import geotiff, pixels, without_strip_offsets, write_json

DEGREES = 2.7e-6  # the pixel of 0.3 m chips


def building(lon, lat):
    d = 1e-4
    ring = [[lon, lat], [lon + d, lat], [lon + d, lat + d], [lon, lat + d], [lon, lat]]
    return {
        "type": "Feature",
        "properties": {"OBJECTID": 1},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


def chip(path, lon, lat, dtype=np.uint16):
    high = 256 if dtype == np.uint8 else 3000
    return geotiff(path, pixels(1, (10, 20, 3), dtype, high), "EPSG:4326", (lon, lat), DEGREES)


def make(root):
    """Six chips that are good, one of them of the test set, and four that are not."""
    chip(root / "3band/3band_AOI_1_RIO_img1.tif", -43.6, -22.9, np.uint8)
    write_json(root / "geojson/Geo_AOI_1_RIO_img1.geojson", collection())
    for city, lon, lat in (("AOI_2_Vegas", -115.2, 36.2), ("AOI_5_Khartoum", 32.5, 15.5)):
        stem = f"SN2_buildings_train_{city}"
        folder = root / stem
        chip(folder / f"PS-RGB/{stem}_PS-RGB_img1.tif", lon, lat)
        label = folder / f"geojson_buildings/{stem}_geojson_buildings_img1.geojson"
        write_json(label, collection(building(lon, lat), building(lon + 0.001, lat + 0.001)))
    vegas = root / "SN2_buildings_train_AOI_2_Vegas"
    stem = "SN2_buildings_train_AOI_2_Vegas"
    chip(vegas / f"PS-RGB/{stem}_PS-RGB_img2.tif", -115.2, 36.2)
    broken = chip(vegas / f"PS-RGB/{stem}_PS-RGB_img3.tif", -115.2, 36.2)
    without_strip_offsets(broken)
    write_json(vegas / f"geojson_buildings/{stem}_geojson_buildings_img3.geojson", collection())
    chip(vegas / f"PS-RGB/{stem}_PS-RGB_img4.tif", -115.2, 36.2)
    (vegas / f"geojson_buildings/{stem}_geojson_buildings_img4.geojson").write_text("<html>")
    write_json(vegas / f"geojson_buildings/{stem}_geojson_buildings_img5.geojson", collection())
    chip(root / "AOI_3_Paris_Train/RGB-PanSharpen/RGB-PanSharpen_AOI_3_Paris_img7.tif", 2.3, 48.8)
    paris = root / "AOI_3_Paris_Train/geojson/buildings/buildings_AOI_3_Paris_img7.geojson"
    write_json(paris, collection(building(2.3, 48.8)))
    stem = "SN5_roads_train_AOI_7_Moscow"
    chip(root / stem / f"PS-RGB/{stem}_PS-RGB_chip0.tif", 37.6, 55.7)
    road = {"type": "LineString", "coordinates": [[37.6, 55.7], [37.61, 55.7]]}
    feature = {"type": "Feature", "properties": {"inferred_speed_mph": 25}, "geometry": road}
    write_json(
        root / stem / f"geojson_roads_speed/{stem}_geojson_roads_speed_chip0.geojson", collection(feature)
    )
    stem = "SN5_roads_test_public_AOI_8_Mumbai"
    chip(root / stem / f"PS-RGB/{stem}_PS-RGB_chip1.tif", 72.8, 19.0)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
