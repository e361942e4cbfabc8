"""Fakes of the published training shards.

From the reference: parts of each kind of record and their JSON, the csv beside them; the records themselves
are the ones of its fixtures. Assumed: names of the tars.
Flaws: a tar cut off, a pickle that would run code, a record of no kind, a view that is twice in the csv.
"""

import csv
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
from fakes.files import npy, pixels, tar

CAPTIONS = Path(__file__).parents[2] / "fixtures/parity/data/captions.json"
NUMBERS = CAPTIONS.with_name("numerical_metadata.json")


def decoded(value):
    """A fixture's value with its arrays as arrays."""
    if isinstance(value, dict) and "__zeros__" in value:
        return np.zeros(value["shape"], value["dtype"])
    if isinstance(value, dict) and "__array__" in value:
        return np.array(value["__array__"], value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict):
        return {name: decoded(v) for name, v in value.items()}
    return [decoded(v) for v in value] if isinstance(value, list) else value


def members(record):
    """The files of a record as in a tar."""
    for part, value in record.items():
        if part == "__key__":
            continue
        if part.endswith(".npy"):
            content = npy(value)
        elif part.endswith(".json"):
            content = json.dumps(value).encode()
        elif part.endswith(".pyd"):
            content = pickle.dumps(value)
        else:
            content = str(value).encode()
        yield f"{record['__key__']}.{part}", content


def shard(path, records):
    tar(path, [member for record in records for member in members(record)])


def meta_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["category", "location_id", "image_id", "polygon"])
        writer.writeheader()
        writer.writerows(rows)


class Evil:
    def __reduce__(self):
        return os.getcwd, ()


def texas(key="texas_0"):
    record = {"__key__": key}
    for i, part in enumerate(("rgb-2016", "rgb-2018", "sentinel-2016", "sentinel-2018")):
        record[f"tif.{part}.npy"] = pixels(i, (14, 14, 3))
    about = {"parcel.lon": -95.495, "parcel.lat": 30.243, "eff.year.built": 2014.0, "acres": 0.1929}
    return record | {"tif.metadata.json": about}


def view(name, date):
    return {
        "img_filename": name,
        "gsd": 0.5,
        "cloud_cover": 3,
        "timestamp": f"{date}T00:00:00Z",
        "country_code": "DEU",
    }


def make_flawed(root):
    """One good Texas record and one sequence, then everything that can be wrong."""
    sequence = {"__key__": "fmow-zoo-zoo_3", "output.cls": 61}
    for i, date in ((0, "2016-05-01"), (2, "2014-05-01"), (10, "2015-05-01")):
        sequence[f"input-{i}.npy"] = pixels(i, (6, 6, 3))
        sequence[f"metadata-{i}.json"] = view(f"zoo_3_{i}_rgb.jpg", date)
    super_resolution = {
        "__key__": "fmow-zoo-zoo_4",
        "category.txt": "zoo",
        "rgb.npy": pixels(1, (8, 8, 3)),
        "multispectral.npy": pixels(1, (4, 4, 13), np.uint16, 4000),
        "metadata.json": view("zoo_4_0_rgb.jpg", "2016-07-01"),
    }
    twice = super_resolution | {
        "__key__": "fmow-zoo-zoo_5",
        "metadata.json": view("zoo_5_0_rgb.jpg", "2016-07-01"),
    }
    evil = {
        "__key__": "satlas_24000_48000_a",
        "info.json": {"task_name": "airplane", "image_names": ["x_2019-08-23"]},
        "targets.pyd": [Evil()],
        "rgb.npy": np.zeros((1, 8, 8, 3), np.uint8),
    }
    shard(root / "a/train-000000.tar", [texas(), sequence, super_resolution, twice, evil])
    polygon = "POLYGON ((13 52, 13.2 52, 13.2 52.2, 13 52.2, 13 52))"
    ids = [(3, 0), (3, 2), (3, 10), (4, 0), (5, 0), (5, 0)]
    meta_csv(
        root / "a/fmow-train-meta.csv",
        [{"category": "zoo", "location_id": a, "image_id": b, "polygon": polygon} for a, b in ids],
    )
    shard(
        root / "b/train-000001.tar", [{"__key__": "other_0", "image.json": {}}, texas("texas_1"), texas("t2")]
    )
    whole = (root / "b/train-000001.tar").read_bytes()
    (root / "b/train-000001.tar").write_bytes(whole[: whole.index(b"t2.tif.sentinel-2016.npy") + 100])


if __name__ == "__main__":
    make_flawed(Path(sys.argv[1]))
