import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusionsat import RasterError
from diffusionsat.geo.features import centre, read_features


def feature(coordinates, kind="Point", **properties):
    geometry = coordinates and {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*points):
    return {"type": "Polygon", "coordinates": [[list(p) for p in (*points, points[0])]]}


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        ({"type": "Point", "coordinates": [7.4, 46.9, 500]}, (7.4, 46.9)),
        (polygon((0, 0), (4, 0), (4, 2), (0, 2)), (2, 1)),
        (polygon((-180, -60), (180, -60), (180, 80), (-180, 80)), (0, 10)),
        (polygon((178, 0), (-178, 0), (-178, 2), (178, 2)), (-180, 1)),
        (polygon((179, 0), (-175, 0), (-175, 2), (179, 2)), (-178, 1)),
        (  # the same, cut in two at the antimeridian as RFC 7946 wants
            {
                "type": "MultiPolygon",
                "coordinates": [
                    polygon((179, 0), (180, 0), (180, 2), (179, 2))["coordinates"],
                    polygon((-180, 0), (-175, 0), (-175, 2), (-180, 2))["coordinates"],
                ],
            },
            (-178, 1),
        ),
        ({"type": "LineString", "coordinates": [[10, -10], [20, 10]]}, (15, 0)),
        ({"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 2]}]}, (1, 2)),
    ],
)
def test_centre(geometry, expected):
    lon, lat = centre(geometry)
    assert (lon - expected[0]) % 360 == pytest.approx(0, abs=1e-9) or (
        lon - expected[0]
    ) % 360 == pytest.approx(360)
    assert lat == pytest.approx(expected[1])


def test_forms_of_input():
    one, two = feature([1, 2], label="a"), feature([3, 4], label="b")
    collection = json.dumps({"type": "FeatureCollection", "features": [one, two]}, indent=1)
    lines = f"{json.dumps(one)}\n\n{json.dumps(two)}\r\n"
    sequence = "".join(f"\x1e{json.dumps(f)}\n" for f in (one, two))
    for text in (collection, "\ufeff" + collection, lines, sequence):
        assert [(f.place, f.properties) for f in read_features(text)] == [
            ((1, 2), {"label": "a"}),
            ((3, 4), {"label": "b"}),
        ]
    assert [f.place for f in read_features(json.dumps(one))] == [(1, 2)]


def test_one_bad_feature_harms_no_other():
    lines = [
        json.dumps(feature([1, 2])),
        "{no json",
        json.dumps({"type": "Point", "coordinates": [1, 2]}),
        json.dumps(feature([1, 200])),
        json.dumps(feature(["a", "b"])),
        json.dumps(feature([[]], kind="Polygon")),
        json.dumps(feature(None)),
        json.dumps(feature([None, None])),
        json.dumps({"type": "Feature", "geometry": {"type": "Point"}, "properties": None}),
    ]
    features = read_features("\n".join(lines))
    assert [f.index for f in features] == list(range(9))
    assert [f.error is None for f in features] == [
        True,
        False,
        False,
        False,
        False,
        False,
        True,
        False,
        False,
    ]
    assert "is no JSON" in features[1].error
    assert "no degrees" in features[3].error
    assert features[6].place is None


def test_what_is_wrong_is_named():
    (kind,) = read_features(json.dumps(feature([1, 2], kind="Nonsense")))
    assert "its type is 'Nonsense'" in kind.error
    (word,) = read_features(json.dumps(feature(["a", 5])))
    assert "'a' stands where coordinates belong" in word.error


def test_only_the_agreed_properties_are_taken():
    properties = {"prompt": "x", "seed": 3, "gsd": None, "population": 5}
    (one,) = read_features(json.dumps({**feature([1, 2], **properties), "id": 17}))
    assert one.properties == {"prompt": "x", "seed": 3, "id": 17}


@pytest.mark.parametrize("text", ["", "\n", '{"type": "FeatureCollection", "features": []}'])
def test_no_feature_at_all(text):
    with pytest.raises(RasterError, match="no feature"):
        read_features(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(["Point", "Polygon", "GeometryCollection", "x"])
GEOMETRY = st.fixed_dictionaries({"type": KINDS | JSON}, optional={"coordinates": JSON, "geometries": JSON})


@given(JSON | GEOMETRY, JSON)
def test_any_json_is_a_feature_or_a_complaint(geometry, properties):
    text = json.dumps({"type": "Feature", "geometry": geometry, "properties": properties})
    (one,) = read_features(text)
    assert one.error or one.place is None or (abs(one.place[0]) <= 180 and abs(one.place[1]) <= 90)


@given(JSON)
def test_any_json_is_read(value):
    try:
        features = read_features(json.dumps(value))
    except RasterError:
        return
    assert all(f.error for f in features)


def test_a_deep_nest_is_a_complaint():
    (one,) = read_features(
        '{"type": "Feature", "geometry": {"type": "Point", "coordinates": ' + "[" * 500 + "]" * 500 + "}}"
    )
    assert one.error
    (one,) = read_features("[" * 100_000)
    assert "is no JSON" in one.error
