import importlib
import itertools
import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from fakes import files, folder
from fakes import webdataset as shards

from diffusionsat import DatasetError, Metadata
from diffusionsat.data.adapters import ADAPTERS, pickles
from diffusionsat.data.parquet import read_samples
from diffusionsat.data.records import Bad, Frame, Record
from diffusionsat.data.sensors import Scaling

MAKERS = {
    "fmow-rgb": ("fmow", "make_rgb"),
    "fmow-temporal": ("fmow", "make_rgb"),
    "fmow-sentinel": ("fmow", "make_sentinel"),
    "fmow-pairs": ("fmow", "make_pairs"),
    "satlas": ("satlas", "make"),
    "spacenet": ("spacenet", "make"),
    "xbd": ("xbd", "make"),
    "eurosat-rgb": ("eurosat", "make_rgb"),
    "eurosat-ms": ("eurosat", "make_ms"),
    "webdataset": ("webdataset", "make_flawed"),
    "folder": ("folder", "make"),
}


def make(name, root, **options):
    module, function = MAKERS[name]
    root.mkdir(exist_ok=True)
    getattr(importlib.import_module(f"fakes.{module}"), function)(root, **options)
    return root


def read(name, src, split=None, published=False):
    """Records by key, and reasons by file name."""
    found = list(ADAPTERS[name].records(src, split, published=published))
    bad = {Path(f.file).name: f.reason for f in found if isinstance(f, Bad)}
    records = {f.key: f for f in found if isinstance(f, Record)}
    assert len(records) + sum(isinstance(f, Bad) for f in found) == len(found)
    return records, bad


def about(x, y, **more):
    """Metadata at a place, to a centimetre."""
    return pytest.approx({"lon": x, "lat": y, **more}, abs=1e-7)


@pytest.mark.parametrize("name", MAKERS)
def test_every_good_record_can_be_read_and_every_bad_one_is_told(tmp_path, name):
    src = make(name, tmp_path / "release")
    found = list(ADAPTERS[name].records(src))
    good = [f for f in found if isinstance(f, Record)]
    expected = {
        "fmow-rgb": (7, 3),
        "fmow-temporal": (3, 1),
        "fmow-sentinel": (4, 4),
        "fmow-pairs": (2, 2),
        "satlas": (3, 3),
        "spacenet": (6, 4),
        "xbd": (4, 2),
        "eurosat-rgb": (20, 0),
        "eurosat-ms": (10, 1),
        "webdataset": (4, 4),
        "folder": (7, 5),
    }
    assert (len(good), len(found) - len(good)) == expected[name]
    for record in good:
        assert record.licence
        for frame in record.frames:
            pixels = frame.pixels()
            assert pixels.shape[2] == len(frame.bands)
            assert pixels.any()
            if frame.role != "bands":
                assert frame.rgb().shape == (*pixels.shape[:2], 3)
                assert frame.rgb().dtype == np.uint8
    assert len({record.key for record in good}) == len(good)
    assert [f for f in found if isinstance(f, Record)] == good, "the order is fixed"
    assert list(ADAPTERS[name].records(src)) == found
    for record in good:
        pickle.loads(pickle.dumps(record))  # as for other processes


def test_fmow_views(tmp_path):
    records, bad = read("fmow-rgb", make("fmow-rgb", tmp_path / "f"))
    airports = [key for key in records if "airport" in key]
    assert airports == [f"train/airport/airport_0/{view}" for view in (0, 2, 10)]
    first = records["train/airport/airport_0/0"]
    assert first.frames[0].metadata.to_dict() == about(
        8.583082, 47.449039, gsd=0.468074887991, cloud_cover=7, date="2012-04-02"
    )
    assert first.caption() == "a fmow satellite image of an airport in Switzerland"
    assert first.caption(without={"source", "country"}) == "a satellite image of an airport"
    assert (first.label, first.split) == ("airport", "train")
    assert first.place == records["train/airport/airport_0/10"].place
    assert records["val/crop_field/crop_field_12/1"].caption().endswith(" in XYZ")  # a code of no country
    test = next(record for record in records.values() if record.split == "test")
    assert (test.label, test.caption()) == ("zoo", "a fmow satellite image of a zoo in Spain")
    assert test.frames[0].metadata.lat == pytest.approx(40.4)
    assert "no JSON" in bad["crop_field_12_2_rgb.json"]
    assert "crop_field_12_3_rgb.jpg (or .tif) is missing" in bad["crop_field_12_3_rgb.json"]
    assert "cannot be read: No such file" in bad["crop_field_12_4_rgb.json"]
    assert read("fmow-rgb", tmp_path / "f", "val")[0].keys() == {k for k in records if k.startswith("val")}
    old = read("fmow-rgb", tmp_path / "f", published=True)[0]["train/airport/airport_0/0"]
    assert old.caption() == "a fmow satellite image of a airport in Switzerland"


def test_fmow_full_and_its_tiff_without_strip_offsets(tmp_path):
    records, bad = read("fmow-rgb", make("fmow-rgb", tmp_path / "f", suffix=".tif"))
    assert len(records) == 7
    assert {Path(r.frames[0].name).suffix for r in records.values()} == {".tif"}
    assert not any("_ms" in r.frames[0].name for r in records.values())
    assert 'missing required "StripOffsets"' in bad["zoo_0_1_rgb.json"]


def test_fmow_places_are_taken_from_the_ground_truth_where_the_views_have_none(tmp_path):
    src = make("fmow-rgb", tmp_path / "f")
    for path in sorted((src / "train").rglob("*_rgb.json")):
        known = json.loads(path.read_text())
        truth = src / "groundtruth" / path.relative_to(src)
        files.write_json(truth, known)
        del known["raw_location"]
        files.write_json(path, known)
    records, _ = read("fmow-rgb", src, "train")
    assert records["train/zoo/zoo_0/0"].frames[0].metadata.lon == pytest.approx(-3.7)
    shutil.rmtree(src / "groundtruth")
    records, _ = read("fmow-rgb", src, "train")
    assert records["train/zoo/zoo_0/0"].frames[0].metadata.lon is None


def test_fmow_sequences_are_in_order_of_time(tmp_path):
    src = make("fmow-temporal", tmp_path / "f")
    records, bad = read("fmow-temporal", src)
    dates = [frame.metadata.date for frame in records["train/airport/airport_0"].frames]
    assert dates == ["2012-04-02", "2015-09-01", "2016-02-13"]
    old, _ = read("fmow-temporal", src, published=True)
    dates = [frame.metadata.date for frame in old["train/airport/airport_0"].frames]
    assert dates == ["2012-04-02", "2016-02-13", "2015-09-01"]  # airport_0_0, _10, _2: order of text
    assert "crop_field_12" in bad


def test_fmow_sentinel(tmp_path):
    records, bad = read("fmow-sentinel", make("fmow-sentinel", tmp_path / "f"))
    assert list(records) == [
        "train/airport/airport_0/10",
        "train/airport/airport_0/100",
        "train/zoo/zoo_0/10",  # the numbers of an airport's image, in another class
        "train/zoo/zoo_0/0",
    ]
    frame = records["train/airport/airport_0/10"].frames[0]
    assert frame.metadata.to_dict() == about(8.583082, 47.449039, gsd=10, date="2016-02")
    assert frame.bands[7:10] == ("B08", "B8A", "B09")
    assert frame.reflectance()[0].max() <= 0.4
    assert bad.keys() == {"train.csv:6", "train.csv:7", "train.csv:8", "train.csv:9"}
    assert "StripOffsets" in bad["train.csv:6"]
    assert "1 band(s) in place of 13" in bad["train.csv:7"]
    assert "zoo_0_103.tif is missing" in bad["train.csv:8"]
    assert bad["train.csv:9"] == "zoo/0/0 was there before."


def test_fmow_pairs_keep_the_sentinel_image_s_own_date(tmp_path):
    src = make("fmow-pairs", tmp_path / "f")
    records, bad = read("fmow-pairs", src, "train")
    target, sentinel = records["train/airport/airport_0/10"].frames
    assert (target.role, sentinel.role) == ("rgb", "sentinel")
    assert (target.metadata.date, target.metadata.cloud_cover) == ("2016-02-13", 7)
    assert (sentinel.metadata.date, sentinel.metadata.cloud_cover) == ("2016-02", None)
    _, copied = read("fmow-pairs", src, "train", published=True)[0]["train/airport/airport_0/10"].frames
    assert copied.metadata == target.metadata.replace(gsd=10)
    assert "zoo_0_10_rgb.json" in bad["train.csv:4"]


def test_satlas_places_and_labels(tmp_path):
    records, bad = read("satlas", make("satlas", tmp_path / "s"))
    naip = records["m_2508008_nw_17_1_20151013/36368_55726"]
    known = naip.frames[0].metadata
    # SatlasPretrain.md's tile; a pixel is 40,075 km cos(26) / 2^17 / 512 wide on the Mercator sphere.
    assert (known.lon, known.lat) == (pytest.approx(-80.11, abs=0.002), pytest.approx(26.00, abs=0.002))
    assert known.gsd == pytest.approx(40_075_017 * math.cos(math.radians(26)) / 2**17 / 512, rel=0.01)
    assert known.date == "2015-10-13"
    assert naip.caption() == "a satlas satellite image of 3 airplanes, 1 solar farm, 2 water towers"
    assert [frame.bands for frame in naip.frames] == [("red", "green", "blue"), ("nir",)]
    assert (naip.split, naip.place) == ("train", "2273/3482")
    beside = records["m_2508008_nw_17_1_20151013/36369_55726"]
    assert beside.caption() == "a satlas satellite image"
    assert beside.frames[0].metadata.lon - known.lon == pytest.approx(360 / 2**17)
    sentinel = next(record for key, record in records.items() if key.endswith("1867_3287"))
    known = sentinel.frames[0].metadata
    half = 180 / 2**13  # the document gives the tile's corner
    assert (known.lon - half, known.lat) == (
        pytest.approx(-97.9541, abs=1e-4),
        pytest.approx(33.4681, abs=0.02),
    )
    assert (known.date, sentinel.split) == ("2016-08-08", "test")
    nir = sentinel.frames[1]
    assert nir.bands == ("B08",)
    assert nir.reflectance()[0].max() == pytest.approx(int(nir.pixels().max()) * 32 / 10_000)
    assert "no time" in bad["36368_55726.png"]
    assert "vector.json is no JSON" in bad["1000_3000.png"]
    assert "COLUMN_ROW" in bad["thumbnail_.png"]


def test_satlas_small_and_published(tmp_path):
    src = make("satlas", tmp_path / "s", small=True)
    records, _ = read("satlas", src)
    assert len(records) == 3
    assert all(len(record.frames) == 1 for record in records.values())
    assert list(read("satlas", src, "test")[0]) == [key for key in records if key.endswith("1867_3287")]
    old = read("satlas", src, published=True)[0]["m_2508008_nw_17_1_20151013/36368_55726"]
    known = old.frames[0].metadata
    assert known.to_dict() == {  # FIELD.md, 1.8
        "lon": pytest.approx(-179.80, abs=0.01),
        "lat": pytest.approx(85.03, abs=0.01),
        "gsd": 1.0,
        "date": "2015-10-13",
    }


def test_spacenet(tmp_path):
    src = make("spacenet", tmp_path / "s")
    records, bad = read("spacenet", src)
    vegas = records["train/AOI_2/SN2/img1"]
    pixel = 2.7e-6
    known = vegas.frames[0].metadata
    assert (known.lon, known.lat) == pytest.approx((-115.2 + 10 * pixel, 36.2 - 5 * pixel))
    assert known.gsd == pytest.approx(pixel * 111_100 * math.sqrt(math.cos(math.radians(36.2))), rel=0.003)
    assert known.date == "2015-10-22"
    square = 1e-4 * 110_960 * 1e-4 * 111_320 * math.cos(math.radians(36.2))  # of a building
    area = float(vegas.caption().split(" area of ")[1].split()[0])
    assert area == pytest.approx(2 * square, rel=0.003)
    assert vegas.caption(without={"items"}) == "a spacenet satellite image in Vegas"
    moscow = records["train/AOI_7/SN5/chip0"].caption()
    length = float(moscow.split(" length ")[1].split()[0])
    assert length == pytest.approx(0.01 * 111_320 * math.cos(math.radians(55.7)), rel=0.004)
    assert " of 1 building covering" in records["train/AOI_3/SN2/img7"].caption()  # the older names
    rio = records["train/AOI_1/SN1/img1"].frames[0]
    assert rio.metadata.date is None
    assert rio.scaling is None  # 8 bit
    test = read("spacenet", src, "test")[0]
    assert [record.caption() for record in test.values()] == ["a spacenet satellite image in Mumbai"]
    stem = "SN2_buildings_train_AOI_2_Vegas_PS-RGB_img"
    assert "no GeoJSON of img2" in bad[f"{stem}2.tif"]
    assert "StripOffsets" in bad[f"{stem}3.tif"]
    assert "no JSON" in bad[f"{stem}4.tif"]
    assert "no image of img5" in bad["SN2_buildings_train_AOI_2_Vegas_geojson_buildings_img5.geojson"]
    old, _ = read("spacenet", src, published=True)
    known = old["train/AOI_2/SN2/img1"].frames[0].metadata
    assert (known.lon, known.lat, known.gsd) == pytest.approx((-115.19945, 36.20055, 0.3))
    known = old["train/AOI_1/SN1/img1"].frames[0].metadata
    assert (known.lon, known.lat, known.gsd) == (-43.196388, -22.908333, 0.5)


def test_xbd(tmp_path):
    src = make("xbd", tmp_path / "x")
    records, bad = read("xbd", src)
    pair = records["train/hurricane-harvey_00000000"]
    assert [frame.role for frame in pair.frames] == ["pre", "post"]
    before, after = (frame.metadata for frame in pair.frames)
    assert before.to_dict() == about(-95.65, 29.75, gsd=0.52290617, date="2017-08-20")
    assert after.to_dict() == about(-95.6, 29.7, gsd=0.52290617, date="2017-08-31")
    second = records["train/hurricane-harvey_00000001"].frames[1].metadata  # no building of its own
    assert (second.lon, second.lat) == pytest.approx((-95.65, 29.75))
    fire = records["train/socal-fire_00000002"].frames[0].metadata
    assert (fire.lon, fire.lat, fire.date) == (None, None, "2017-12-10")
    quake = records["hold/mexico-earthquake_00000003"]
    assert (
        quake.caption(quake.frames[1])
        == "a xbd satellite image after being affected by an earthquake natural disaster"
    )
    assert bad.keys() == {"joplin-tornado_00000004", "joplin-tornado_00000005"}
    assert "joplin-tornado_00000004_post_disaster.png" in bad["joplin-tornado_00000004"]
    old = read("xbd", src, published=True)[0]["train/hurricane-harvey_00000000"]
    assert old.frames[0].metadata.to_dict() == about(-95.6, 29.7, gsd=2.0916247, date="2017-08-20")
    assert old.caption() == "a fmow satellite image before being affected by a flooding natural disaster"
    records, _ = read("xbd", src / "hold")  # images and labels without a split
    assert list(records) == ["all/mexico-earthquake_00000003"]


def test_eurosat(tmp_path):
    records, _ = read("eurosat-rgb", make("eurosat-rgb", tmp_path / "e"))
    assert records["SeaLake/SeaLake_2"].caption() == "a satellite image of open water"
    assert records["SeaLake/SeaLake_2"].frames[0].metadata == Metadata(gsd=10)
    records, bad = read("eurosat-ms", make("eurosat-ms", tmp_path / "m"))
    frame = records["River/River_1"].frames[0]
    assert frame.metadata.lon == pytest.approx(9.0005, abs=1e-4)  # 40 m east of the meridian of zone 32
    assert frame.metadata.lat == pytest.approx(45.153, abs=1e-3)
    assert frame.bands.index("B8A") == 12
    assert frame.rgb()[0, 0].tolist() == [59, 49, 37]  # 255 * (0.04, 0.03, 0.02 / 0.3558) ** (1 / 1.5)
    assert "StripOffsets" in bad["Forest_2.tif"]


def test_texas(tmp_path):
    enlarged = shards.texas()
    native = shards.texas("texas_1") | {
        f"tif.sentinel-{year}.npy": files.pixels(0, (2, 2, 3)) for year in (2016, 2018)
    }
    shards.shard(tmp_path / "val.tar", [enlarged, native])
    records, bad = read("texas-housing", tmp_path)
    assert not bad
    frames = records["texas_0"].frames
    assert [(f.role, f.metadata.date, f.metadata.gsd) for f in frames] == [
        ("rgb", "2016", 1.0),
        ("rgb", "2018", 1.0),
        ("sentinel", "2016", 1.0),
        ("sentinel", "2018", 1.0),
    ]
    assert (frames[0].metadata.lon, frames[0].metadata.lat) == (-95.495, 30.243)
    assert np.array_equal(frames[2].pixels(), enlarged["tif.sentinel-2016.npy"])
    assert records["texas_1"].frames[2].metadata.gsd == 7.0
    assert (
        records["texas_0"].caption()
        == "a texas satellite image of houses built in 2014 covering 0.1929 acres"
    )
    old = read("texas-housing", tmp_path / "val.tar", published=True)[0]["texas_0"].frames
    assert [(f.metadata.date, f.metadata.gsd) for f in old[1:3]] == [("2018-11-20", 1), ("2016-09-11", 10)]


def cases(file):
    found = json.loads(file.read_text())
    return [
        pytest.param(kind, case, id=f"{kind}-{case['record']['__key__']}")
        for kind in ("fmow", "spacenet", "satlas", "texas", "xbd")
        for case in found[kind]
        if "Rotterdam" not in case["record"]["__key__"]  # of SpaceNet 6
        and "__zeros__" not in str(case["record"].get("targets.pyd"))  # a mask that is not told
    ]


def published_record(tmp_path, case, decoded):
    shards.shard(tmp_path / "one.tar", [decoded])
    rows = json.loads(shards.NUMBERS.read_text())["fmow_meta_csv_rows"]
    shards.meta_csv(tmp_path / "fmow-train-meta.csv", rows)
    (record,) = ADAPTERS["webdataset"].records(tmp_path, published=True)
    return record


@pytest.mark.parametrize(("kind", "case"), cases(shards.CAPTIONS))
def test_published_captions(tmp_path, kind, case):
    record = published_record(tmp_path, case, shards.decoded(case["record"]))
    assert isinstance(record, Record), record
    frame = next(
        f for f in record.frames if f.role in ("rgb", case["kwargs"].get("md_key", "x").split("-")[0])
    )
    whole = {output["caption"] for output in case["outputs"] if output["drop_pct"] == 0}
    bare = {output["caption"] for output in case["outputs"] if output["drop_pct"] == 1}
    assert record.caption(frame) in whole
    droppable = {"source", "class", "country", "city", "houses", "built", "acres", "event"}
    droppable |= {"items"} if kind == "spacenet" else set()
    assert record.caption(frame, without=droppable) in bare


def as_trained(kind, case):
    """Satlas's wrong place depends on the training size, of which 512 is kept."""
    args = case["args"]
    return kind != "satlas" or (args["target_resolution"] == 512 and args.get("base_gsd", 1.0) == 1.0)


@pytest.mark.parametrize(("kind", "case"), [c for c in cases(shards.NUMBERS) if as_trained(*c.values)])
def test_published_numbers(tmp_path, kind, case):
    args, decoded = case["args"], shards.decoded(case["record"])
    record = published_record(tmp_path, case, decoded)
    assert isinstance(record, Record), record
    part = args.get("img_key") or args.get("rgb_key") or record.frames[0].name.partition(".")[2]
    frame = next(f for f in record.frames if f.name.endswith(part))
    known = frame.metadata
    shown = known.gsd * min(frame.pixels().shape[:2]) / args["target_resolution"]
    place = (0, 0) if known.lon is None else (known.lon + 180, known.lat + 90)
    date = (known.year - args.get("base_year", 1980), known.month, known.day) if known.date else (0, 0, 0)
    mine = [*place, shown, (known.cloud_cover or 0) / 100, *date]
    assert mine == pytest.approx(case["raw"], rel=1e-6, abs=2e-5)


def test_shards_with_everything_that_can_be_wrong(tmp_path):
    src = make("webdataset", tmp_path / "w")
    records, bad = read("webdataset", src)
    sequence = records["fmow-zoo-zoo_3"]
    assert [frame.metadata.year for frame in sequence.frames] == [2014, 2015, 2016]
    assert (sequence.frames[0].metadata.lon, sequence.frames[0].metadata.lat) == pytest.approx((13.1, 52.1))
    target, sentinel = records["fmow-zoo-zoo_4/zoo_4_0_rgb"].frames
    assert (sentinel.metadata.date, sentinel.metadata.cloud_cover, sentinel.metadata.gsd) == (None, None, 10)
    assert sentinel.pixels().shape == (4, 4, 13)
    assert "stands 2 times" in bad["train-000000.tar:fmow-zoo-zoo_5"]
    assert "getcwd, which could run code" in bad["train-000000.tar:satlas_24000_48000_a"]
    assert "no published kind. It has the parts image.json" in bad["train-000001.tar:other_0"]
    assert "its end is missing" in bad["train-000001.tar"]
    assert "texas_1" in records
    assert "t2" not in records, "a sample of which parts may be missing"
    old = read("webdataset", src, published=True)[0]
    copied = old["fmow-zoo-zoo_4/zoo_4_0_rgb"].frames[1].metadata
    assert copied == target.metadata.replace(gsd=10)
    assert [frame.metadata.year for frame in old["fmow-zoo-zoo_3"].frames] == [2016, 2015, 2014]  # 0, 10, 2


def test_a_shard_cut_anywhere_is_never_taken_for_whole(tmp_path):
    shards.shard(tmp_path / "whole.tar", [shards.texas("a"), shards.texas("b")])
    whole = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "whole.tar").unlink()
    end = whole.rindex(b"b.tif.metadata.json") + 1024
    for size in (1, 511, 512, 700, 2048, end // 2, end - 512, end - 1, end):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        _, bad = read("texas-housing", tmp_path)
        assert "cut.tar" in bad, size
    (tmp_path / "cut.tar").write_bytes(whole)
    records, bad = read("texas-housing", tmp_path)
    assert (len(records), bad) == (2, {})


def test_a_key_that_was_there_before_is_told(tmp_path):
    for name in ("1.tar", "2.tar"):
        shards.shard(tmp_path / name, [shards.texas()])
    records, bad = read("texas-housing", tmp_path)
    assert list(records) == ["texas_0"]
    assert bad == {"2.tar:texas_0": "Its key texas_0 was there before."}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_containers_and_arrays(protocol):
    wanted = [{"labels": np.arange(3), "boxes": np.ones((3, 4), np.float32), "scale_factor": np.float64(0.5)}]
    (found,) = pickles.loads(pickle.dumps(wanted, protocol), "p")
    assert np.array_equal(found["labels"], np.arange(3))
    assert found["boxes"].dtype == np.float32
    assert found["scale_factor"] == 0.5


@pytest.mark.parametrize("thing", [print, Path("x"), shards.Evil(), np.load, [{"a": eval}]])
def test_pickles_of_other_things_are_refused(thing):
    with pytest.raises(DatasetError, match="which could run code"):
        pickles.loads(pickle.dumps(thing), "p")


def test_damaged_pickles_are_refused():
    whole = pickle.dumps({"a": np.arange(100)})
    for size in range(0, len(whole), 7):
        with pytest.raises(DatasetError, match="p is no"):
            pickles.loads(whole[:size], "p")


def test_folder(tmp_path):
    records, bad = read("folder", make("folder", tmp_path / "f"))
    naip = records[folder.NAIP]
    known = naip.frames[0].metadata
    assert (known.lon, known.lat) == (pytest.approx(-99, abs=1e-3), pytest.approx(46.953, abs=1e-3))
    assert known.gsd == pytest.approx(1 / 0.9996)  # UTM's scale at its middle
    assert (known.date, known.cloud_cover) == ("2010", 12.5)  # of the csv, before the file's name
    assert (naip.label, naip.caption()) == ("prairie", "potholes in the prairie")
    assert naip.frames[0].bands == ("red", "green", "blue", "alpha")
    landsat = records[folder.LANDSAT].frames[0]
    assert (landsat.metadata.date, landsat.bands) == ("2019-07-14", ("SR_B4",))
    values, valid = landsat.reflectance()
    assert values[..., 0].ravel().tolist() == pytest.approx([0, 0, 0.35, 1], abs=3e-5)
    assert valid.sum() == 3
    sentinel = records[folder.SENTINEL].frames[0]
    assert sentinel.metadata.date == "2023-07-14"  # of the name; the tag is the day of the file
    assert sentinel.scaling == Scaling(gain=1e-4, offset=-0.1, nodata=0)
    assert sentinel.role == "rgb"
    mercator = records["mercator"].frames[0].metadata
    assert (mercator.lon, mercator.lat) == (pytest.approx(10, abs=1e-3), pytest.approx(60, abs=1e-3))
    assert mercator.gsd == pytest.approx(10 * math.cos(math.radians(60)), rel=0.005)
    one = records["harbour/one"]
    assert one.frames[0].metadata.to_dict() == about(4.4, 51.9, gsd=0.5, cloud_cover=4, date="2020-06-05")
    assert one.caption() == "a satellite image of harbour"
    assert records["harbour/two"].caption() == "boats at a pier"
    assert records["harbour/three"].frames[0].metadata == Metadata()
    assert "lat is 95" in bad["nowhere.png"]
    assert bad["metadata.csv:4"] == "There is no absent.png."
    assert bad["metadata.csv:5"] == "nowhere.png was there before."
    assert "StripOffsets" in bad["broken.tif"]
    assert "no JSON" in bad["broken.json"]
    item = json.loads((tmp_path / "f/harbour/item.json").read_text())
    item |= {"geometry": None, "assets": {"image": {"href": "three.webp"}}}
    files.write_json(tmp_path / "f/harbour/items.json", {"type": "FeatureCollection", "features": [item]})
    records, _ = read("folder", tmp_path / "f")
    assert records["harbour/three"].frames[0].metadata == Metadata(gsd=0.5, cloud_cover=4, date="2020-06-05")
    table = tmp_path / "f/metadata.csv"
    only, _ = read("folder", table)
    assert list(only) == [folder.NAIP]
    table.write_text("file_name,lon,lat\nnowhere.png,1,2\n")
    only, _ = read("folder", table)
    assert only["nowhere"].frames[0].metadata == Metadata(lon=1, lat=2)
    table.write_text("id,lon\n1,2\n3,4\n")
    _, bad = read("folder", table)
    assert bad == {"metadata.csv": "It has no column file or file_name or image or path, but id, lon."}
    table.write_bytes("file,caption\nnowhere.png,forêt\n".encode("latin1"))
    with pytest.raises(DatasetError, match="no UTF-8"):
        read("folder", table)


def frame_row(image, bands, date, cloud_cover, scale, form):
    return {
        "image": image,
        "format": form,
        "bands": bands,
        "date": date,
        "gsd": 10.0,
        "cloud_cover": cloud_cover,
        "scale": scale,
    }


@pytest.fixture
def tables(tmp_path):
    png = files.image(tmp_path / "x/a.png").read_bytes()
    tif = files.geotiff(tmp_path / "x/a.tif", files.pixels(0, (4, 4, 2), np.uint16, 5000)).read_bytes()
    single = {
        "key": "a",
        "image": png,
        "lon": 7.4,
        "lat": 46.9,
        "gsd": 0.3,
        "cloud_cover": math.nan,
        "date": "2019",
        "label": "Forest",
        "caption": None,
    }
    frames = [
        frame_row(png, ["red", "green", "blue"], "2021-04-26", 0.25, "display uint8", "png"),
        frame_row(tif, ["B8A", "B11"], "", None, "surface reflectance*10000 (uint16)", "tif"),
    ]
    sequence = {"key": "s", "lon": -3.2, "lat": -0.1, "label": None, "caption": "hills", "frames": frames}
    (tmp_path / "set").mkdir()
    parquet.write_table(pa.Table.from_pylist([single]), tmp_path / "set/train.parquet")
    parquet.write_table(pa.Table.from_pylist([sequence]), tmp_path / "set/test.parquet")
    return tmp_path / "set"


def test_parquet_of_images_and_of_sequences(tables):
    records, bad = read("parquet", tables)
    assert not bad
    single, sequence = records["a"], records["s"]
    assert (single.source, single.split, single.label, single.place) == ("set", "train", "Forest", "7,46")
    assert single.frames[0].metadata == Metadata(lon=7.4, lat=46.9, gsd=0.3, date="2019")
    assert (sequence.split, sequence.caption(), sequence.place) == ("test", "hills", "-4,-1")
    colour, bands = sequence.frames
    assert (colour.metadata.cloud_cover, colour.metadata.date) == (25, "2021-04-26")
    assert (bands.metadata.cloud_cover, bands.metadata.date, bands.role) == (None, None, "bands")
    assert bands.reflectance()[0] == pytest.approx(bands.pixels() / 10_000, rel=1e-5)
    assert list(read("parquet", tables, "test")[0]) == ["s"]
    assert list(read("parquet", tables / "train.parquet")[0]) == ["a"]
    assert list(read("folder", tables / "train.parquet")[0]) == ["a"]
    (tables / "test.parquet").write_bytes((tables / "test.parquet").read_bytes()[:-20])
    assert "cannot be read as Parquet" in read("parquet", tables)[1]["test.parquet"]


@pytest.mark.parametrize("name", ["wildfire_california", "wildfire_karabuk"])
def test_days_that_are_not_the_images_own_become_months(tables, name):
    folder = tables.rename(tables.parent / name)
    records, _ = read("parquet", folder)
    assert records["s"].frames[0].metadata.date == "2021-04"
    assert records["a"].frames[0].metadata.date == "2019"
    dates = [image.metadata.date for image in read_samples(folder / "test.parquet", name)]
    assert dates == ["2021-04"]


def test_both_sides_of_a_disaster_have_their_own_words(tables):
    folder = tables.rename(tables.parent / "harvey_pairs")
    pair = read("parquet", folder)[0]["s"]
    assert pair.licence == "CC BY-NC 4.0"
    before, after = (pair.caption(frame) for frame in pair.frames)
    assert before.endswith("Texas before Hurricane Harvey")
    assert after.endswith("Texas after Hurricane Harvey, flooded or damaged")


def remove(*patterns):
    def damage(src):
        for path in itertools.chain.from_iterable(src.glob(pattern) for pattern in patterns):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "missing"),
    [
        ("fmow-rgb", remove("*"), "a split's folder"),
        ("fmow-rgb", remove("**/*_rgb.json"), "a view's JSON"),
        ("fmow-rgb", remove("**/*_rgb.jpg"), "a view's image"),
        ("fmow-sentinel", remove("*.csv"), "the table of a split"),
        ("fmow-sentinel", remove("**/*.tif"), "an image"),
        ("fmow-pairs", remove("fmow-sentinel/*.csv"), "the Sentinel-2 table"),
        ("fmow-pairs", remove("fmow-rgb/*"), "a view's JSON"),
        ("satlas", remove("naip", "sentinel2"), "an image"),
        ("satlas", remove("metadata/image_times.json"), "the times of the images"),
        ("satlas", remove("metadata/t*.json"), "the tiles of a split"),
        ("satlas", remove("static", "dynamic"), "the labels"),
        ("spacenet", remove("**/*.tif"), "an image"),
        ("spacenet", remove("**/*.geojson"), "a label"),
        ("xbd", remove("*/images/*_pre_*"), "an image before"),
        ("xbd", remove("*/images/*_post_*"), "an image after"),
        ("xbd", remove("*/labels"), "a label"),
        ("eurosat-rgb", remove("2750/River"), "the class River"),
        ("eurosat-ms", remove("EuroSAT_MS/AnnualCrop"), "the class AnnualCrop"),
        ("webdataset", remove("*"), "a shard"),
    ],
)
def test_a_part_of_a_release_is_refused_with_the_first_missing_piece(tmp_path, name, damage, missing):
    src = make(name, tmp_path / "release")
    ADAPTERS[name].check(src)
    damage(src)
    with pytest.raises(
        DatasetError, match=rf"(?s)no complete release of {name}: {missing} .*looks like this:\n."
    ):
        ADAPTERS[name].records(src)


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_not_there_is_refused_at_once(tmp_path, name):
    with pytest.raises(DatasetError, match="does not exist"):
        ADAPTERS[name].records(tmp_path / "absent")
    with pytest.raises(DatasetError, match="has no split 'dev'"):
        ADAPTERS[name].check(tmp_path, "dev")


def test_frames_tell_which_file_failed(tmp_path):
    jpg = files.image(tmp_path / "a.jpg")
    frame = Frame(content=jpg, format="jpeg", name=str(jpg), metadata=Metadata())
    with pytest.raises(DatasetError, match=r"a\.jpg holds no reflectance"):
        frame.reflectance()
    jpg.write_bytes(jpg.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"a\.jpg cannot be read"):
        frame.pixels()
    jpg.unlink()
    with pytest.raises(DatasetError, match=r"a\.jpg cannot be read: No such file"):
        frame.encoded()
    array = files.npy(np.zeros((3, 8, 8), np.uint8))
    frame = Frame(content=array, format="npy", name="k.rgb.npy", metadata=Metadata())
    assert frame.pixels().shape == (8, 8, 3)  # bands first, as some records have them
    frame = Frame(content=array, format="npy", name="k.rgb.npy", metadata=Metadata(), bands=("a", "b"))
    with pytest.raises(DatasetError, match=r"k\.rgb\.npy has the shape"):
        frame.pixels()
    objects = files.npy(np.array([{}], dtype=object))
    frame = Frame(content=objects, format="npy", name="k.rgb.npy", metadata=Metadata())
    with pytest.raises(DatasetError, match=r"k\.rgb\.npy cannot be read"):
        frame.pixels()
