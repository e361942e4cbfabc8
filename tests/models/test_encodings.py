import datetime
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusionsat import Metadata
from diffusionsat.models.compact.denoiser import Conditioning
from diffusionsat.models.encodings import Bandwidth, extended, numbers, published, published_features

FIELDS = {"lon": 10.0, "lat": 50.0, "gsd": 3.0, "cloud_cover": 20.0, "date": "2019-07-14"}


def features(**known):
    return {name: f[0] for name, (f, _) in extended(numbers(Metadata(**known)), Bandwidth()).items()}


def test_published_encoding_equals_the_published_code(reference):
    rows = json.loads((reference / "parity/data/metadata_normalize.json").read_text())["rows"]
    checked = 0
    for row in rows:
        lon, lat, gsd, cloud, year, month, day = row["in"]
        raw = torch.tensor(
            [[lon - 180, lat - 90, gsd, cloud * 100, year + 1980, month, day]], dtype=torch.float64
        )
        torch.testing.assert_close(published(raw)[0], torch.tensor(row["from_list"]), rtol=1e-6, atol=1e-4)
        checked += 1
    assert checked >= 10


def test_published_encoding_by_hand():
    full = Metadata(lon=0, lat=0, gsd=10, cloud_cover=25, date="2040-06-30")
    expected = [500.0, 500.0, 10_000.0, 250.0, 500.0, 500.0, 30 / 31 * 1000]
    torch.testing.assert_close(published(numbers(full)), torch.tensor([expected]))
    assert published(numbers(Metadata())).eq(0).all()


@given(st.floats(-90, 90))
def test_place_has_no_seam_at_the_antimeridian(lat):
    west, east = features(lon=-180, lat=lat), features(lon=180, lat=lat)
    for name in ("place", "lon"):
        torch.testing.assert_close(west[name], east[name], rtol=0, atol=1e-4)


@given(st.floats(-180, 180), st.sampled_from([-90.0, 90.0]))
def test_every_longitude_is_one_place_at_a_pole(lon, lat):
    here, there = features(lon=lon, lat=lat), features(lon=0, lat=lat)
    for name in here:
        torch.testing.assert_close(here[name], there[name], rtol=0, atol=1e-4)


def test_the_new_year_is_no_seam():
    last, first, summer = (features(date=d)["season"] for d in ("2019-12-31", "2020-01-01", "2019-07-01"))
    assert (last - first).norm() < 0.2 < 1.0 < (last - summer).norm()


def test_sun_tells_the_hemispheres_apart():
    def sun(lat, date):
        return float(features(lat=lat, date=date)["sun"])

    assert sun(50, "2019-06-21") == pytest.approx(0.894, abs=5e-3)  # sin(90 - 50 + 23.44 degrees)
    assert sun(-50, "2019-06-21") == pytest.approx(0.283, abs=5e-3)
    assert sun(0, "2019-03-20") == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("place", [2, 8])
def test_bandwidth_of_place_is_adjustable(place):
    near = numbers([Metadata(lon=10, lat=50), Metadata(lon=10.5, lat=50)])
    encoded, _ = extended(near, Bandwidth(place=place))["place"]
    distance = float((encoded[0] - encoded[1]).norm())
    assert distance > 0.5 if place == 8 else distance < 0.05


@pytest.mark.parametrize("field", FIELDS)
def test_only_what_depends_on_an_unknown_field_is_unknown(field):
    _, before = zip(*extended(numbers(Metadata(**FIELDS)), Bandwidth()).values(), strict=True)
    assert all(bool(mask) for mask in before)
    after = extended(numbers(Metadata(**FIELDS).replace(**{field: None})), Bandwidth())
    lost = {name for name, (_, mask) in after.items() if not mask}
    assert (
        lost
        == {
            "lon": {"lon", "place"},
            "lat": {"lat", "place", "sun"},
            "gsd": {"gsd"},
            "cloud_cover": {"cloud_cover"},
            "date": {"year", "season", "sun"},
        }[field]
    )
    assert all(f.isfinite().all() for f, _ in after.values())


@pytest.mark.parametrize("field", ["lon", "lat", "place", "gsd", "cloud_cover", "year", "season", "sun"])
def test_unknown_is_a_vector_of_its_own(field):
    torch.manual_seed(0)
    embed = Conditioning(32, 8, Bandwidth(), "extended")
    text, mask, time = torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1)
    known, unknown = numbers(Metadata(**FIELDS)), numbers(Metadata())
    before = [embed(time, text, mask, n).detach() for n in (known, unknown)]
    embed.nulls[field].data += 1
    after = [embed(time, text, mask, n).detach() for n in (known, unknown)]
    torch.testing.assert_close(after[0], before[0])  # a known value never meets the null
    torch.testing.assert_close(after[1], before[1] + 1)


@given(
    lon=st.floats(-180, 180),
    lat=st.floats(-90, 90),
    gsd=st.floats(0.001, 1e6),
    cloud_cover=st.floats(0, 100),
    date=st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1)),
)
@settings(max_examples=50, deadline=None)
def test_no_value_is_that_of_unknown(lon, lat, gsd, cloud_cover, date):
    torch.manual_seed(0)
    embed = Conditioning(32, 8, Bandwidth(), "extended")
    text, mask, time = torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1)
    whole = Metadata(lon=lon, lat=lat, gsd=gsd, cloud_cover=cloud_cover, date=date.isoformat())
    known = embed(time, text, mask, numbers(whole)).detach()
    for fields in (("lon", "lat"), ("gsd",), ("cloud_cover",), ("date",)):
        unknown = embed(time, text, mask, numbers(whole.replace(**dict.fromkeys(fields)))).detach()
        assert (known - unknown).abs().max() > 1e-3
    for null in embed.nulls.values():
        null.data += 1
    assert torch.equal(embed(time, text, mask, numbers(whole)).detach(), known)


def test_the_published_encoding_in_a_compact_denoiser():
    torch.manual_seed(0)
    embed = Conditioning(32, 8, Bandwidth(), "published")
    text, mask, time = torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1)

    def embedded(**known):
        return embed(time, text, mask, numbers(Metadata(**known)))

    assert torch.equal(embedded(), embedded(lon=-180, lat=-90, cloud_cover=0))  # the published lie
    assert not torch.allclose(embedded(), embedded(lon=7, lat=46, cloud_cover=0))
    # 10 m is 10,000 before the sines of a timestep.
    features, known = published_features(numbers(Metadata(gsd=10)), Bandwidth())["gsd"]
    assert known.all()
    torch.testing.assert_close(features[0, 0], torch.tensor(10_000.0).cos())
    torch.testing.assert_close(features[0, 127], torch.tensor(10_000.0 * 10_000 ** (-63 / 64)).sin())
