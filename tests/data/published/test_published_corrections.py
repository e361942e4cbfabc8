"""What the fixtures do not hold: the corrected ways, other forms of input, and refusals."""

import copy
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusionsat import ConfigError, DatasetError, Metadata, MetadataError
from diffusionsat.data import published
from diffusionsat.data.published.places import (
    centroid,
    geodesic_area,
    geodesic_length,
    mercator_to_geo,
    paths,
    polygons,
)


class Always:
    """Draws that keep every piece, or none."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


def text(name, record, number=0.99, **kwargs):
    caption = getattr(published, f"{name}_tokenize_caption")
    return caption(record, None, return_text=True, rng=Always(number), **kwargs)


def square(lon, lat, half=0.5):
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]
    return f"POLYGON (({', '.join(f'{lon + half * x} {lat + half * y}' for x, y in corners)}))"


def image(value=0, side=16):
    return np.full((side, side, 3), value, np.uint8)


def fmow_view(cloud=20, date="2017-02-11", image_id=4):
    return {
        "img_filename": f"airport_890_{image_id}_rgb.jpg",
        "gsd": 0.5,
        "cloud_cover": cloud,
        "timestamp": f"{date}T00:12:31Z",
        "country_code": "AUS",
    }


PLACES = {("airport", 890, 4): square(153, -27), ("airport", 890, 11): square(10, 20)}


def fmow(**changes):
    record = {"__key__": "fmow-1", "metadata.json": fmow_view(), "output.cls": 0, "input.npy": image()}
    return {key: value for key, value in (record | changes).items() if value is not None}


def sequence(count):
    views = {f"input-{i}.npy": image(i) for i in range(count)}
    known = {f"metadata-{i}.json": fmow_view(date=f"2017-02-{i + 1:02d}") for i in range(count)}
    return {"__key__": "fmow-2", "output.cls": 0} | views | known


def xbd(pre=(), post=()):
    record = {"__key__": "xbd-1", "pre-input.npy": image(), "post-input.npy": image(255)}
    for moment, buildings, day in (("pre", pre, "01"), ("post", post, "31")):
        record[f"{moment}-metadata.json"] = {
            "metadata": {"gsd": 2.0, "capture_date": f"2017-08-{day}T17:00Z", "disaster_type": "earthquake"},
            "features": {"lng_lat": [{"wkt": wkt} for wkt in buildings]},
        }
    return record


def satlas(task, target, shape=(1, 200, 400, 3)):
    return {
        "__key__": "satlas_24000_48000_a",
        "info.json": {"task_name": task, "image_names": ["naip_2015-07-01"]},
        "targets.pyd": [target],
        "rgb.npy": np.zeros(shape, np.uint8),
    }


def spacenet(features, city="Vegas"):
    drawn = [{"geometry": {"type": kind, "coordinates": c}} for kind, c in features]
    return {
        "__key__": f"spacenet_SN2_buildings_{city}_img1",
        "rgb.npy": np.zeros((3, 64, 80), np.uint16),
        "metadata.json": {"features": drawn},
    }


def texas():
    sensors = ("rgb-2016", "rgb-2018", "sentinel-2016", "sentinel-2018")
    return {
        "__key__": "texas_0",
        "tif.metadata.json": {
            "parcel.lon": -95.5,
            "parcel.lat": 30.2,
            "eff.year.built": 2014.0,
            "acres": 0.2,
        },
    } | {f"tif.{sensor}.npy": image(10 * i, 224) for i, sensor in enumerate(sensors)}


def test_corrected_captions():
    assert text("fmow", fmow()) == "a fmow satellite image of a airport in Australia"
    assert text("fmow", fmow(), corrected=True) == "a fmow satellite image of an airport in Australia"
    after = "a xbd satellite image after being affected by an earthquake natural disaster"
    assert text("xbd", xbd(), corrected=True) == after
    built = "a texas satellite image of houses built in 2014 covering 0.2 acres"
    assert text("texas", texas(), corrected=True) == built
    building = spacenet([("Polygon", [[[0, 0], [1e-9, 0], [0, 1e-9], [0, 0]]])])
    assert text("spacenet", building) == "a spacenet satellite image of 1 buildings in Vegas"
    assert text("spacenet", building, corrected=True) == "a spacenet satellite image of 1 building in Vegas"


def test_corrected_satlas_captions():
    # In an image of 200 rows and 400 columns, column 150 lies left, and the rule of rows takes it for right.
    target = {"labels": np.array([1]), "boxes": np.array([[140.0, 10.0, 160.0, 30.0]])}
    assert text("satlas", satlas("airplane", target)).endswith("1 airplane in the top right")
    assert text("satlas", satlas("airplane", target), corrected=True).endswith("1 airplane in the top left")
    mask = satlas("bin_segment", {"im": np.array([[[1, 0]]] + [[[0, 0]]] * 46)})
    assert text("satlas", mask).endswith("50.0% road")
    assert text("satlas", mask, corrected=True).endswith("50.0% aquafarm")
    empty = satlas("airplane", {"labels": np.zeros(0, int), "boxes": np.zeros((0, 4))})
    assert text("satlas", empty) == "a satlas satellite image of "
    assert text("satlas", empty, corrected=True) == "a satlas satellite image"
    park = satlas("park_type", {"label": [2]})
    assert text("satlas", park, corrected=True) == "a satlas satellite image of a golf course"


def test_a_third_of_satlas_captions_count_the_whole_image():
    target = {"labels": np.array([1]), "boxes": np.array([[0.0, 0.0, 1.0, 1.0]])}
    assert text("satlas", satlas("airplane", target), 0.32) == "a satellite image of 1 airplane"
    assert (
        text("satlas", satlas("airplane", target), 0.34) == "a satellite image of 1 airplane in the top left"
    )


def test_a_date_with_an_unknown_part_is_not_written():
    for unknown in (4, 5, 6):
        metadata = [190.5, 141.25, 1.0, 0.0, 2017.0, 2.0, 11.0]
        metadata[unknown] = 0.0
        assert "date" not in published.combine_text_and_metadata("x", metadata, None, return_text=True)


def test_corrected_numbers_in_words():
    words = published.combine_text_and_metadata(
        "x", [190.5, 141.25, 1.0, 0.0, 2017.0, 2.0, 11.0], None, return_text=True, corrected=True
    )
    assert "The longitude, latitude is 10.5, 51.25. The date is 2017.0, 2.0, 11.0" in words


def test_corrected_satlas_places():
    record = satlas("airplane", {"scale_factor": 0.5})
    numbers = published.satlas_numerical_metadata(record, "naip_2015-07-01", 200, corrected=True)
    lon, lat, gsd, cloud, *date = numbers.tolist()
    assert (lon - 180, lat - 90) == pytest.approx((-114.08203125, 43.32517768), abs=1e-4)
    assert (gsd, date) == (2.0, [35, 7, 1])
    assert math.isnan(cloud)


def test_mercator_by_hand():
    assert mercator_to_geo((1, 1), zoom=1, pixels=1) == (0, 0)
    assert mercator_to_geo((512, 0), zoom=1) == pytest.approx((0, 85.0511287798))
    # One quarter down: latitude atan(sinh(pi / 2)).
    assert mercator_to_geo((0, 1), zoom=2, pixels=1) == pytest.approx((-180, 66.5132604431))


def test_corrected_xbd_places():
    near_and_far = xbd(post=[square(10, 20), square(13, 20, half=1)])
    first = published.xbd_numerical_metadata(near_and_far, 16)
    assert first[:2].tolist() == [190, 110]
    # The second building has four times the first one's area.
    every = published.xbd_numerical_metadata(near_and_far, 16, corrected=True)
    assert every[:2].tolist() == pytest.approx([10 + 0.8 * 3 + 180, 110])
    assert every[3].isnan()
    unknown = published.xbd_numerical_metadata(xbd(), 16)
    assert unknown[:4].tolist() == [0, 0, 2, 0]
    unknown = published.xbd_numerical_metadata(xbd(), 16, corrected=True)
    assert unknown.isnan().tolist() == [True, True, False, True, False, False, False]
    assert published.metadata_normalize(unknown)[:4].tolist() == [0, 0, 2000, 0]
    record = xbd()
    record["pre-metadata.json"]["metadata"]["pan_resolution"] = 0.5
    options = {"rgb_key": "pre-input.npy", "md_key": "pre-metadata.json"}
    gsd = [published.xbd_numerical_metadata(record, 16, corrected=c, **options)[2] for c in (False, True)]
    assert gsd == [2, 0.5]


def test_corrected_texas_and_spacenet_numbers():
    sentinel = published.texas_numerical_metadata(texas(), "tif.sentinel-2016.npy", 256, corrected=True)
    aerial = published.texas_numerical_metadata(texas(), "tif.rgb-2016.npy", 256, corrected=True)
    assert sentinel[2] == aerial[2] == 0.875
    rio = published.spacenet_numerical_metadata(spacenet([], "rio"), 64, corrected=True)
    assert rio.isnan().tolist() == [False] * 3 + [True] * 4


@pytest.mark.parametrize("views", [2, 3, 4, 12])
def test_corrected_sequences_never_show_the_target(views):
    record = sequence(views)
    seen = set()
    for seed in range(20):
        images, keys = published.fmow_temporal_images(
            record, torch.from_numpy, 4, stack_tensor=False, corrected=True, rng=random.Random(seed)
        )
        assert len(keys) == len(images) == 4
        assert keys[0] not in keys[1:]
        assert len(set(keys)) == min(views, 4)
        assert [f"metadata-{int(i.flatten()[0])}.json" for i in images] == keys
        seen.add(keys[0])
    assert len(seen) > 1


def test_a_sequence_of_one_view():
    _, keys = published.fmow_temporal_images(sequence(1), torch.from_numpy, 3)
    assert keys == ["metadata-0.json"] * 3
    with pytest.raises(DatasetError, match="fmow-2 has 1 views, too few"):
        published.fmow_temporal_images(sequence(1), torch.from_numpy, 3, corrected=True)


def test_a_sequence_as_a_sample():
    sample = published.fmow_temporal_sample(sequence(6), PLACES, 8, rng=random.Random(3))
    assert sample.caption.startswith("a ")
    frames = sample.frames
    assert frames.shape == (3, 3, 8, 8)
    # Every view is of one value, its number, which the day tells too.
    shown = [int(frames[0, t].mean() * 255 + 0.5) for t in range(3)]
    days = (
        published.metadata_unnormalize(sample.metadata)[6],
        *(sample.conditioning_metadata[6] / 1000 * 31).tolist(),
    )
    target = int((sample.pixel_values.mean() + 1) / 2 * 255 + 0.5)
    assert [round(float(day)) - 1 for day in days] == [target, *shown]


def test_pairs_as_samples():
    bands = np.full((32, 40, 13), 1000, np.float32)
    record = fmow(**{"rgb.npy": image(255, 64), "multispectral.npy": bands, "input.npy": None})
    sample = published.fmow_sentinel_sample(record, PLACES, 64, 16, rng=random.Random(0))
    assert sample.conditioning_pixel_values.shape == (10, 16, 16)
    assert sample.pixel_values.eq(1).all()
    condition, target = sample.conditioning_metadata[:, 0], sample.metadata
    assert condition[2] == 10_000
    assert condition[[0, 1, 3, 4, 5, 6]].tolist() == target[[0, 1, 3, 4, 5, 6]].tolist()
    corrected = published.fmow_sentinel_sample(record, PLACES, 64, 16, corrected=True, rng=random.Random(0))
    assert corrected.frames.shape == (10, 1, 16, 16)
    expected = target.clone()
    expected[2], expected[3:] = 20_000, 0
    assert corrected.conditioning_metadata[:, 0].tolist() == expected.tolist()
    before = published.xbd_sample(xbd(), 8, "past", rng=random.Random(0))
    after = published.xbd_sample(xbd(), 8, "future", rng=random.Random(0))
    assert before.pixel_values.eq(-1).all()
    assert before.conditioning_pixel_values.eq(1).all()
    assert "before" in before.caption
    assert "after" in after.caption
    assert before.metadata.tolist() == after.conditioning_metadata[:, 0].tolist()
    tasks = {
        published.texas_sample(texas(), 8, rng=random.Random(s)).pixel_values[0, 0, 0].item()
        for s in range(9)
    }
    assert len(tasks) == 2


def test_the_frame_of_satlas():
    record = satlas("airplane", {}, (3, 4, 4, 3))
    record["rgb.npy"][2] = 2
    record["info.json"]["image_names"] = ["early_2015-07-01", "the-anchor_2016-07-01"]
    name, pixels = published.satlas_frame(record)
    assert name == "the-anchor_2016-07-01"
    assert pixels.min() == 2
    record["info.json"]["image_names"] = ["a_2015-07-01", "b_2016-07-01"]
    names = {published.satlas_frame(record, rng=random.Random(seed))[0] for seed in range(9)}
    assert names == {"a_2015-07-01", "b_2016-07-01"}


def test_geometry_by_hand():
    frame = "POLYGON ((0 0, 4 0, 4 4, 0 4, 0 0), (2 2, 4 2, 4 4, 2 4, 2 2))"  # its north-east is missing
    assert centroid(polygons(frame)) == pytest.approx((5 / 3, 5 / 3))
    clockwise = (
        "MULTIPOLYGON Z (((0 0 9, 0 1 9, 1 1 9, 1 0 9, 0 0 9)), ((2 0 9, 3 0 9, 3 1 9, 2 1 9, 2 0 9)))"
    )
    assert centroid(polygons(clockwise)) == pytest.approx((1.5, 0.5))
    assert centroid(polygons("POLYGON ((1 2, 3 2, 1 2))"))[1] == 2  # no area
    # An eighth of the ellipsoid, 510,065,621.724 km2, and the quarter meridian, 10,001,965.729 m.
    octant = list(paths([[[0, 0], [90, 0], [0, 90], [0, 0]]]))
    assert geodesic_area(octant) == pytest.approx(510_065_621.724e6 / 8, rel=1e-9)
    assert geodesic_length(list(paths([[0, 0], [0, 90]]))) == pytest.approx(10_001_965.729, abs=1e-3)


def test_metadata_that_is_not_shifted_yet():
    known = Metadata(lon=-114, lat=43.5, gsd=0.5, cloud_cover=25, date="2019-07-14")
    expected = published.metadata_normalize([66, 133.5, 0.5, 0.25, 39, 7, 14])
    torch.testing.assert_close(published.metadata_normalize(known), expected)
    for mapping in (
        {"lon": -114, "lat": 43.5, "gsd": 0.5, "cloud_cover": 25, "date": "2019-07-14"},
        {"lng": -114, "latitude": 43.5, "gsd": 0.5, "cloud_cover": 25, "year": 2019, "month": 7.0, "day": 14},
    ):
        torch.testing.assert_close(published.metadata_normalize(mapping), expected)
    unknown = published.metadata_normalize({"longitude": -114, "year": 2019})
    assert unknown[[1, 2, 3, 5, 6]].tolist() == [0] * 5
    assert (
        unknown.tolist() == published.metadata_normalize([66, None, None, math.nan, 39, None, None]).tolist()
    )


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"lat": 1, "lng": 2, "ts": "2019"}, "the key 'ts'"),
        ({"lon": 1, "lng": 2}, "gives lon twice"),
        ({"cloud_cover": 0.5}, "a fraction or percent"),
        ({"lon": 333.3}, "lon is 333.3"),
        ({"year": 37}, "calendar year"),
        ({"month": 7}, "without the year"),
        ({"year": 2019, "day": 3}, "without the year or month"),
        ({"year": 2019, "date": "2019"}, "a date and its parts"),
        ({"date": "14.7.2019"}, "Give YYYY-MM-DD"),
        ([1, 2, 3], "seven numbers"),
        (torch.zeros(2, 7), "seven numbers"),
        ("2019", "seven numbers"),
    ],
)
def test_metadata_that_can_be_taken_in_two_ways_is_refused(mapping, message):
    with pytest.raises(MetadataError, match=message):
        published.metadata_normalize(mapping)


@pytest.mark.parametrize(
    "numbers", [[76.6, 28.7, 0.9, 0.1, 2015, 2, 27], [-115, 126, 1, 0, 35, 1, 1], [64, -36, 1, 0, 35, 1, 1]]
)
def test_unshifted_numbers_are_warned_of(numbers):
    with pytest.warns(UserWarning, match=r"look unshifted.*diffusionsat\.Metadata") as warned:
        published.metadata_normalize(numbers)
    assert warned[0].filename == __file__


def broken(record, *path, value=None):
    """The record without what lies at a path, or with another value there."""
    record = copy.deepcopy(record)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return record


FLAT = np.zeros((4, 4), np.uint8)
BUILDING = xbd(post=[square(1, 2)])
WKT = ("post-metadata.json", "features", "lng_lat", 0, "wkt")
AIRPLANES = satlas("airplane", {"labels": np.array([7]), "boxes": np.zeros((1, 4))})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: text("fmow", broken(fmow(), "output.cls")), "fmow-1 has no category.txt"),
        (lambda: text("fmow", fmow(**{"output.cls": 62})), "output.cls is 62"),
        (
            lambda: text("fmow", broken(fmow(), "metadata.json", "country_code")),
            "metadata.json > country_code",
        ),
        (lambda: numbers(broken(fmow(), "metadata.json", "gsd")), "fmow-1 has no metadata.json > gsd"),
        (lambda: numbers(broken(fmow(), "metadata.json", "gsd", value="x")), "gsd is 'x'"),
        (lambda: numbers(fmow(**{"input.npy": FLAT})), r"fmow-1: input.npy has shape \(4, 4\)"),
        (lambda: numbers(broken(fmow(), "metadata.json", "timestamp", value="2017")), "date '2017'"),
        (lambda: numbers(broken(fmow(), "metadata.json", "timestamp", value="2017-02-30")), "2017-02-30"),
        (lambda: numbers(broken(fmow(), "metadata.json", "timestamp", value="2017-02-111")), "2017-02-111"),
        (lambda: numbers(broken(fmow(), "metadata.json", "img_filename", value="a.jpg")), "img_filename 'a'"),
        (lambda: numbers(fmow(**{"metadata.json": fmow_view(image_id=5)})), "0 rows of airport"),
        (lambda: numbers(fmow(), {("airport", 890, 4): "POINT (1 2)"}), "POINT"),
        (lambda: numbers(fmow(), {("airport", 890, 4): square(200, 2)}), "longitude 200"),
        (lambda: text("xbd", broken(xbd(), "post-metadata.json")), "xbd-1 has no post-metadata.json"),
        (lambda: published.xbd_numerical_metadata(broken(BUILDING, *WKT, value="x"), 8), "building 0"),
        (lambda: text("satlas", broken(AIRPLANES, "targets.pyd", 0, "labels")), "labels"),
        (lambda: text("satlas", AIRPLANES), "class 7 of airplane"),
        (lambda: text("satlas", satlas("ships", {})), "task 'ships'"),
        (
            lambda: text("satlas", broken(AIRPLANES, "targets.pyd", 0, "boxes", value=[[1, 2]])),
            "for 1 labels",
        ),
        (lambda: text("spacenet", spacenet([("Point", [1, 2])])), "feature 0"),
        (lambda: published.spacenet_numerical_metadata(spacenet([], "bern"), 64), "city Bern"),
        (lambda: text("spacenet", broken(spacenet([]), "metadata.json", "features", value=3)), "a list"),
        (lambda: text("texas", broken(texas(), "tif.metadata.json", "acres")), "tif.metadata.json > acres"),
        (lambda: published.target_image(FLAT, 4), "three axes"),
        (lambda: published.sentinel_image(image(), 8), "13 bands"),
    ],
)
def test_bad_records_are_named(call, message):
    with pytest.raises(DatasetError, match=message):
        call()


def numbers(record, places=PLACES):
    return published.fmow_numerical_metadata(record, places, 16)


def test_tasks_are_checked():
    with pytest.raises(ConfigError, match="past, future, random"):
        published.texas_sample(texas(), 8, "now")
    with pytest.raises(ConfigError, match="past, future, random"):
        published.xbd_sample(xbd(), 8, "now")


def test_captions_become_token_ids():
    def tokenizer(caption, **kwargs):
        assert kwargs == {
            "max_length": 5,
            "padding": "max_length",
            "truncation": True,
            "return_tensors": "pt",
        }
        return SimpleNamespace(input_ids=torch.tensor([[len(caption), 0, 0, 0, 0]]))

    tokenizer.model_max_length = 5
    ids = published.fmow_tokenize_caption(fmow(), tokenizer, drop_pct=1.0)
    assert ids.tolist() == [len("a satellite image"), 0, 0, 0, 0]


def test_mixing_ends_with_the_shortest():
    mixed = published.SampleEqually([range(3), "ab"])
    assert list(mixed) == [0, "a", 1, "b", 2]
    assert list(torch.utils.data.DataLoader(mixed, batch_size=None)) == [0, "a", 1, "b", 2]
    assert list(published.SampleEqually([])) == []


def test_the_identity_can_be_called():
    x = torch.ones(1)
    assert published.IdentityTransform()(x) is x
