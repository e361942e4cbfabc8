import datetime
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusionsat import Metadata, MetadataError

DATES = st.one_of(
    st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 12, 31)).map(lambda d: d.isoformat()),
    st.dates(datetime.date(1900, 1, 1)).map(lambda d: d.isoformat()[:7]),
    st.integers(1900, 2100).map(str),
)
ANY = st.builds(
    Metadata,
    lon=st.none() | st.floats(-180, 180),
    lat=st.none() | st.floats(-90, 90),
    gsd=st.none() | st.floats(1e-3, 1e5),
    cloud_cover=st.none() | st.floats(0, 100),
    date=st.none() | DATES,
)


@given(ANY)
def test_json_round_trip(metadata):
    assert Metadata.from_json(metadata.to_json()) == metadata
    assert Metadata.from_dict(metadata.to_dict()) == metadata


@given(ANY)
def test_numbers_are_nan_exactly_where_unknown(metadata):
    known = [
        metadata.lon,
        metadata.lat,
        metadata.gsd,
        metadata.cloud_cover,
        metadata.year,
        metadata.month,
        metadata.day,
    ]
    for number, field in zip(metadata.numbers, known, strict=True):
        assert math.isnan(number) if field is None else number == field


def test_dates_of_every_precision():
    day, month, year = (Metadata(date=d) for d in ("2020-02-29", "2020-02", "2020"))
    assert (day.year, day.month, day.day) == (2020, 2, 29)
    assert (month.year, month.month, month.day) == (2020, 2, None)
    assert (year.year, year.month, year.day) == (2020, None, None)
    assert month.interval() == (datetime.date(2020, 2, 1), datetime.date(2020, 2, 29))
    assert year.interval() == (datetime.date(2020, 1, 1), datetime.date(2020, 12, 31))
    assert Metadata().interval() is None
    assert (
        Metadata(date=datetime.date(2020, 2, 29)) == Metadata(date=datetime.datetime(2020, 2, 29, 12)) == day
    )
    assert Metadata(date=2020) == year


def test_is_immutable_and_replaceable():
    metadata = Metadata(lon=1, gsd=np.float32(10))
    with pytest.raises(AttributeError):
        metadata.lon = 2
    assert metadata.replace(lon=None, lat=-3) == Metadata(lat=-3.0, gsd=10.0)
    assert isinstance(metadata.gsd, float)
    assert hash(metadata) == hash(Metadata(lon=1.0, gsd=10.0))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("lat", 91, "lat is 91. Give degrees north from -90 to 90"),
        ("lat", -90.001, "lat is -90"),
        ("lon", 180.5, "lon is 180.5"),
        ("lon", math.inf, "lon is inf"),
        ("gsd", 0, "gsd is 0. Give metres per pixel from 0.001 to 1,000,000"),
        ("gsd", math.nan, "gsd is nan"),
        ("gsd", -1, "gsd is -1"),
        ("cloud_cover", 140, "cloud_cover is 140. Give percent from 0 to 100"),
        ("cloud_cover", math.nan, "nan"),
        ("gsd", 1e-46, "gsd is 1e-46"),
        ("gsd", 10**400, "no number"),
        ("lon", "7", "no number"),
        ("lon", True, "no number"),
        ("date", "2019-02-30", "in no calendar"),
        ("date", "2019-13", "in no calendar"),
        ("date", "0000", "in no calendar"),
        ("date", "July", "Give YYYY-MM-DD, YYYY-MM or YYYY"),
        ("date", "2019-7", "YYYY-MM"),
        ("date", "٢٠١٩", "YYYY-MM"),
        ("date", 20190714, "YYYY-MM"),
        ("date", True, "YYYY-MM"),
    ],
)
def test_impossible_values_are_refused(field, value, says):
    with pytest.raises(MetadataError, match=says.replace("[", r"\[")) as error:
        Metadata(**{field: value})
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("text", "says"), [("[]", "must be an object"), ("{", "no JSON"), ('{"gds": 1}', "no field 'gds'")]
)
def test_json_that_is_no_metadata(text, says):
    with pytest.raises(MetadataError, match=says):
        Metadata.from_json(text)


def test_the_example_in_the_docstring():
    import doctest

    import diffusionsat.metadata

    assert doctest.testmod(diffusionsat.metadata) == doctest.TestResults(failed=0, attempted=1)
