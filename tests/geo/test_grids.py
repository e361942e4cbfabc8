import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusionsat import Grid, RasterError
from diffusionsat.geo.grids import ground_distance_m


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-180, 180),
    st.floats(-90, 90),
    st.sampled_from([0.3, 10.0, 300.0, 7400.0]),
    st.sampled_from([(256, 256), (64, 80)]),
)
def test_the_centre_is_the_place_asked_for(lon, lat, gsd, size):
    grid = Grid.around(lon, lat, gsd, *size)
    assert ground_distance_m(grid.centre, (lon, lat)) < 0.01 * gsd
    assert grid.transform.a == gsd
    assert grid.transform.e == -gsd


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [
        (7.44, 46.95, 32632),
        (-58.4, -34.6, 32721),
        (179.99, -17, 32760),
        (-180, 0, 32601),
        (180, 0, 32660),
        (5.3, 60.4, 32632),  # Bergen
        (15.6, 78.2, 32633),  # Longyearbyen
        (10, 83.99, 32633),
        (10, 84, 5041),
        (10, -80, 32732),
        (10, -80.01, 5042),
        (0, 90, 5041),
        (0, -90, 5042),
    ],
)
def test_local_utm_and_ups(lon, lat, epsg):
    assert Grid.around(lon, lat, 10, 64, 64).crs.to_epsg() == epsg


def test_ground_size_of_a_pixel():
    for lat in (-70, 0, 45, 89):
        grid = Grid.around(3, lat, 10, 100, 100)
        across = ground_distance_m(grid.lon_lat(0, 50), grid.lon_lat(100, 50))
        assert across == pytest.approx(1000, rel=0.007)  # UPS has scale 0.994 at the pole


def test_a_wide_extent_gets_an_equal_area_projection():
    assert Grid.around(20, 60, 390, 256, 256).crs.to_epsg() == 32634  # 99.8 km
    crs = Grid.around(20, 60, 400, 256, 256).crs
    assert crs.to_epsg() is None
    assert "Lambert Azimuthal Equal Area" in crs.to_wkt()
    assert [p.value for p in crs.coordinate_operation.params][:2] == [60, 20]


def test_an_extent_wider_than_a_hemisphere_is_refused():
    Grid.around(0, 0, 58_000, 256, 256)
    with pytest.raises(RasterError, match=r"spans 25,600 km; at most 15,000 km"):
        Grid.around(0, 0, 100_000, 256, 256)


def test_holds_pole():
    assert Grid.around(30, 89.999, 10, 64, 64).holds_pole == 1
    assert Grid.around(30, -89.9, 1000, 64, 64).holds_pole == -1
    assert Grid.around(30, 85, 10, 64, 64).holds_pole == 0
    assert all(math.isfinite(v) for point in Grid.around(0, 90, 10, 64, 64).outline() for v in point)
