"""How often conditions are dropped, and that what stays is not touched."""

import numpy as np
import pytest

from diffusionsat.data.dropout import Rates, draw_whole, drop
from diffusionsat.errors import ConfigError

COUNT = 200_000
NUMBERS = np.tile(np.array([7.4, 46.9, 10, 5, 2019, 7, 14], np.float32), (COUNT, 1))


def test_whole_conditions():
    no_text, no_metadata = draw_whole(COUNT, np.random.default_rng(0), Rates())
    assert (no_text & no_metadata).mean() == pytest.approx(0.08, abs=0.003)
    assert (no_text & ~no_metadata).mean() == pytest.approx(0.08, abs=0.003)
    assert (~no_text & no_metadata).mean() == pytest.approx(0.08, abs=0.003)


def test_fields_and_groups():
    dropped = np.isnan(drop(NUMBERS, np.random.default_rng(1), Rates()))
    whole = dropped.all(axis=1)
    assert whole.mean() >= 0.1, "the null of guidance is seen often"
    lon, lat, gsd, cloud_cover, year, month, day = dropped[~whole].T
    assert gsd.mean() == pytest.approx(0.1, abs=0.004)
    assert cloud_cover.mean() == pytest.approx(0.1, abs=0.004)
    assert lon.mean() == pytest.approx(1 - 0.9 * 0.975, abs=0.004)
    assert (lon & ~lat).mean() == pytest.approx(0.9 * 0.025 * 0.975, abs=0.002)
    assert year.mean() == pytest.approx(1 - 0.9 * 0.95, abs=0.004)
    assert (year & ~month).mean() == pytest.approx(0.9 * 0.05 * 0.975, abs=0.002)
    assert np.array_equal(month, day)
    assert (gsd & cloud_cover).mean() == pytest.approx(0.01, abs=0.002), "groups are independent"


def test_what_is_not_dropped_stays_and_the_input_too():
    numbers = NUMBERS[:500].copy()
    numbers[:, 3] = np.nan
    dropped = drop(numbers, np.random.default_rng(2), Rates(no_field=0.5))
    kept = ~np.isnan(dropped)
    assert np.array_equal(dropped[kept], numbers[kept])
    assert np.array_equal(numbers[:, [0, 6]], NUMBERS[:500, [0, 6]])
    assert dropped.dtype == np.float32


def test_given_rows_are_dropped_whole_and_nothing_else():
    rows = np.arange(COUNT) % 3 == 0
    dropped = drop(NUMBERS, np.random.default_rng(3), Rates(no_field=0), rows)
    assert np.array_equal(np.isnan(dropped).all(axis=1), rows)
    assert np.array_equal(np.isnan(dropped).any(axis=1), rows)


@pytest.mark.parametrize(
    "wrong", [{"no_text": 0.5, "no_metadata": 0.6}, {"no_field": 1.5}, {"no_text": -0.1}]
)
def test_rates_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match="Give rates from 0 to 1"):
        Rates(**wrong)
