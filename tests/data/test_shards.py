"""Shards give their records back, pixels and all."""

import io
import json
import math

import numpy as np
import pyarrow.parquet as parquet
import pytest
from fakes import eurosat, files, fmow, xbd
from PIL import Image

from diffusionsat.data import shards
from diffusionsat.data.adapters import ADAPTERS
from diffusionsat.data.parquet import read_samples
from diffusionsat.data.records import Frame, Record
from diffusionsat.data.sensors import Scaling
from diffusionsat.errors import DatasetError
from diffusionsat.metadata import Metadata


def display(content, form, **known):
    frame = Frame(content=content, format=form, name="a.img", metadata=Metadata(**known))
    return Record(key="a", source="s", frames=(frame,), licence="free", place="a")


def back(record, **options):
    return shards.record(shards.row(record, **options), record.source)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (fmow.make_rgb, "fmow-rgb"),
        (fmow.make_pairs, "fmow-pairs"),
        (xbd.make, "xbd"),
        (eurosat.make_ms, "eurosat-ms"),
    ],
)
def test_records_come_back(tmp_path, make, name):
    make(tmp_path)
    records = [r for r in ADAPTERS[name].records(tmp_path) if isinstance(r, Record)]
    assert len(records) >= 2
    for record in records:
        again = back(record)
        assert (again.key, again.label, again.pieces) == (record.key, record.label, record.pieces)
        assert again.licence == record.licence
        for old, new in zip(record.frames, again.frames, strict=True):
            assert np.array_equal(old.pixels(), new.pixels())
            assert new.metadata == old.metadata
            if shards.form(record) == "sequences":
                assert (old.role, old.sensor, old.scaling) == (new.role, new.sensor, new.scaling)
                assert (old.bands, old.pieces) == (new.bands, new.pieces)
                assert again.place == record.place


def test_scaling_and_unknowns_come_back():
    array = files.npy(files.pixels(1, (6, 5, 2), np.uint16, 4000))
    scaling = Scaling(gain=1e-4, offset=-0.1, nodata=0)
    frames = (
        Frame(content=array, format="npy", name="n", metadata=Metadata(cloud_cover=7), bands=("B8A", "B11"),
              role="sentinel", scaling=scaling),
        Frame(content=array, format="npy", name="n", metadata=Metadata(lon=1, lat=2, date="2019"),
              bands=("nir08", "red"), sensor="landsat-8", scaling=Scaling(nodata=math.nan)),
    )  # fmt: skip
    record = Record(key="k", source="s", frames=frames, licence="l", place="p", pieces=(("article", "a"),))
    again = back(record)
    assert [f.metadata for f in again.frames] == [f.metadata for f in frames]
    assert again.frames[0].scaling == scaling
    assert again.frames[1].scaling.gain is None
    assert math.isnan(again.frames[1].scaling.nodata)
    assert np.array_equal(again.frames[0].pixels(), frames[0].pixels())
    assert again.frames[0].pixels().dtype == np.uint16


def test_encoded_images_stay_as_they_are_and_arrays_lose_nothing(tmp_path):
    for suffix, form in (("jpg", "jpeg"), ("png", "png"), ("webp", "webp")):
        content = files.image(tmp_path / f"a.{suffix}").read_bytes()
        assert shards.row(display(content, form))["image"] == content
    array = files.pixels(3, (7, 9, 3))
    row = shards.row(display(files.npy(array), "npy"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]))), array)
    assert (row["width"], row["height"], row["bands"]) == (9, 7, "RGB")
    png = files.image(tmp_path / "b.png").read_bytes()
    row = shards.row(display(png, "jpeg"))  # by a wrong name
    assert row["image"].startswith(b"\x89PNG")


def test_a_geotiff_keeps_its_bytes_and_its_place_is_told(tmp_path):
    path = files.geotiff(
        tmp_path / "a.tif", files.pixels(0, (8, 4, 4), np.uint16), "EPSG:32632", (4e5, 5e6), 10
    )
    bands = ("B02", "B03", "B04", "B08")
    scaling = Scaling(gain=1e-4)
    frame = Frame(
        content=path, format="tif", name="a", metadata=Metadata(gsd=10), bands=bands, scaling=scaling
    )
    record = Record(key="a", source="s", frames=(frame,), licence="l", place="a")
    row = shards.row(record)
    assert row["frames"][0]["image"] == path.read_bytes()
    assert (row["crs"], row["transform"]) == ("EPSG:32632", [10, 0, 4e5, 0, -10, 5e6])
    smaller = shards.row(record, size=4)
    assert smaller["transform"] == [20, 0, 4e5, 0, -20, 5e6]
    assert (smaller["gsd"], smaller["frames"][0]["gsd"]) == (20, 20)
    means = frame.pixels().astype(float).reshape(4, 2, 2, 2, 4).mean((1, 3))
    assert np.abs(shards.record(smaller, "s").frames[0].pixels() - means).max() <= 0.5


def test_reduction_is_of_valid_pixels_alone():
    values = np.full((4, 4, 1), 1000, np.uint16)
    values[:2, :2] = 9999
    values[2, 2] = 9999
    frame = Frame(content=files.npy(values), format="npy", name="a", metadata=Metadata(gsd=5), bands=("nir",),
                  scaling=Scaling(gain=1e-4, nodata=9999))  # fmt: skip
    again = back(Record(key="a", source="s", frames=(frame,), licence="l", place="a"), size=2)
    assert again.frames[0].pixels()[..., 0].tolist() == [[9999, 1000], [1000, 1000]]


def test_resolution_follows_the_reduction():
    array = files.pixels(0, (100, 200, 3))
    row = shards.row(display(files.npy(array), "npy", gsd=0.5), size=50)
    assert (row["width"], row["height"], row["gsd"]) == (50, 25, 2.0)
    wanted = array.astype(float).reshape(25, 4, 50, 4, 3).mean((1, 3))
    assert np.abs(np.asarray(Image.open(io.BytesIO(row["image"]))) - wanted).max() <= 0.51
    assert shards.row(display(files.npy(array), "npy", gsd=0.5), size=200)["gsd"] == 0.5


def test_display_images_of_more_than_8_bits_are_refused():
    array = files.npy(files.pixels(0, (4, 4, 3), np.uint16, 5000))
    with pytest.raises(DatasetError, match="holds uint16 numbers; an image for display is 8-bit"):
        shards.row(display(array, "npy"))


def test_a_shard_tells_what_became_of_its_records(tmp_path):
    good = [display(files.npy(files.pixels(i, (4, 4, 3))), "npy", lon=i, lat=0) for i in range(70)]
    bad = display(b"\xff\xd8 cut", "jpeg")
    path = tmp_path / "s" / "train.parquet"
    path.parent.mkdir()
    assert shards.write_shard(path, [*good[:40], bad, *good[40:]], None, "digest") == (70, 1)
    file = parquet.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [32, 32, 6]
    (told,) = json.loads(file.metadata.metadata[b"rejected"])
    assert told["file"] == "a.img"
    assert "cannot be read" in told["reason"]
    samples = list(read_samples(path, "s"))  # the reader of the other Parquet sets
    assert [sample.metadata.lon for sample in samples] == list(range(70))
    assert np.array_equal(samples[5].pixels(), files.pixels(5, (4, 4, 3)))
    assert shards.write_shard(path, [bad], None, "digest") == (0, 1)
    assert list(read_samples(path, "s")) == []


def test_rows_of_another_kind_are_refused():
    row = shards.row(display(files.npy(files.pixels(0, (4, 4, 3))), "npy"))
    del row["gsd"]
    with pytest.raises(DatasetError, match="A row of s is not as it should be: KeyError\\('gsd'\\)"):
        shards.record(row, "s")
