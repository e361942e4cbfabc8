import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusionsat.data import sensors
from diffusionsat.data.radiometry import Radiometry, rounded
from diffusionsat.data.sensors import Scaling


def test_reflectance_is_shown_as_by_the_display_stretch():
    scaling = Scaling(gain=1e-4, offset=-0.1, nodata=0)
    stored = np.random.default_rng(0).integers(1, 9000, (3, 5, 7)).astype(np.uint16)
    radiometry = Radiometry.of(scaling, stored.dtype, [(0, 1)] * 3)
    shown = np.rint(255 * radiometry.show(radiometry.light(stored)))
    reflectance, valid = scaling.reflectance(np.moveaxis(stored, 0, 2))
    assert np.array_equal(np.moveaxis(shown, 0, 2), sensors.display(reflectance, valid))
    assert radiometry.white == sensors.DISPLAY_WHITE


def test_eight_bits_are_shown_as_they_are():
    stored = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    radiometry = Radiometry.of(None, stored.dtype, [(0, 1)])
    assert np.array_equal(np.rint(255 * radiometry.show(radiometry.light(stored))), stored)


def test_counts_are_shown_by_their_range():
    radiometry = Radiometry.of(Scaling(), np.dtype(np.uint16), [(100, 300), (0, 1000)]).take([1, 0])
    light = radiometry.light(np.array([[[500.0]], [[150.0]]]))
    assert light.ravel() == pytest.approx([0.5, 0.25])


@given(st.floats(-0.5, 3), st.floats(1e-5, 1), st.floats(-0.3, 0.3))
def test_stored_numbers_come_back(light, gain, offset):
    radiometry = Radiometry.of(Scaling(gain=gain, offset=offset), np.dtype(np.float32), [(0, 1)])
    given_light = np.full((1, 1, 1), light, np.float32)
    assert radiometry.light(radiometry.stored(given_light)) == pytest.approx(given_light, abs=1e-5)
    shown = radiometry.show(given_light)
    assert radiometry.unshow(shown) == pytest.approx(np.clip(given_light, 0, 1), abs=1e-5)
    spread = radiometry.stored(given_light + 0.1) - radiometry.stored(given_light)
    assert radiometry.stored_spread(np.full((1, 1, 1), 0.1)) == pytest.approx(spread, rel=1e-3)


def test_rounded_numbers_stay_in_range_and_are_never_nodata():
    made = np.array([[-5.0, 0.4, 0.6, 254.6, 300.0]])
    assert rounded(made, np.dtype(np.uint8), None).tolist() == [[0, 0, 1, 255, 255]]
    assert rounded(made, np.dtype(np.uint8), 0).tolist() == [[1, 1, 1, 255, 255]]
    assert rounded(made, np.dtype(np.uint8), 255).tolist() == [[0, 0, 1, 254, 254]]
    assert rounded(made, np.dtype(np.int16), -9999).tolist() == [[-5, 0, 1, 255, 300]]
    assert rounded(made, np.dtype(np.float32), 0).dtype == np.float32
