"""Calibrations of samples whose spread is wrong in a known way."""

import numpy as np
import pytest
import torch

from diffusionsat import ConfigError
from diffusionsat.evaluation.calibrating import Made, check, fit


def made(seed, places=60, lie=2.0, mask=None):
    """Truths about means of normal samples that claim half of the error's size; two cases a place."""
    rng, shape = np.random.default_rng(seed), (2 * places, 3, 8, 8)
    size = 0.02 * rng.lognormal(0, 0.3, (places, 1, 1, 1)).repeat(2, 0)
    centre = rng.uniform(0.3, 0.7, shape)
    one = object.__new__(Made)
    one.digest, one.conditions, one.mask = "ab", {"task": "upscale"}, mask
    one.places = [f"{i // 2}" for i in range(2 * places)]
    one.truth = torch.from_numpy(centre + lie * size * rng.standard_normal(shape))
    one.samples = torch.from_numpy(centre + size * rng.standard_normal((8, *shape)))
    return one


@pytest.mark.parametrize("count", [4, 8])
def test_what_is_fitted_on_some_places_holds_on_others(count):
    calibration = fit(made(0), count)
    # The error of the mean of K is (lie² + 1/K)^½ of the size, that of a perfect ensemble (1 + 1/K)^½.
    assert calibration.scale == pytest.approx(((4 + 1 / count) / (1 + 1 / count)) ** 0.5, rel=0.03)
    assert (calibration.places, calibration.samples, calibration.data) == (60, count, "ab")
    found = check(made(1, places=200), calibration)
    assert found["spread_skill"].value == pytest.approx(1, abs=0.05)
    assert found["raw"].value == pytest.approx(1 / calibration.scale, rel=0.05)
    assert 0.89 < found["coverage"].value < 0.94
    assert found["coverage"].low < found["coverage"].value < found["coverage"].high
    assert found["width"].value > 4 * 0.02


def test_only_pixels_that_count_are_judged():
    rows = torch.zeros(120, 1, 8, 8, dtype=torch.bool)
    rows[:, :, :2] = True
    one, whole = made(0, mask=rows), made(0)
    one.truth = torch.where(rows, one.truth, 9.0)
    spoilt, clean = fit(one, 8), fit(whole, 8)
    assert spoilt.scale == pytest.approx(clean.scale, rel=0.1)
    assert spoilt.quantile == pytest.approx(clean.quantile, rel=0.1)


def test_too_few_places_promise_nothing():
    with pytest.raises(ConfigError, match=r"8 scores cannot promise 0\.9\. Give at least 9"):
        fit(made(0, places=8), 8)
