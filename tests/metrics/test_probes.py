import math

import numpy as np
import pytest
from pyproj import Geod
from scipy import stats

from diffusionsat import ConfigError
from diffusionsat.metrics.probes import circular_error, controllability, great_circle_km, r2, spearman


def test_controllability_by_hand():
    real, shuffled = np.array([1.0, 1.0, 1.0, 1.0]), np.array([5.0, 5.0, 5.0, 5.0])
    generated = np.array([1.0, 3.0, 1.0, 3.0])
    score = controllability(generated, real, shuffled, [1, 2, 1, 2], count=400)
    assert score.value == pytest.approx(1 - (2 - 1) / (5 - 1))
    assert (score.low, score.high) == pytest.approx((0.5, 1.0))  # all draws of one place


@pytest.mark.parametrize(("obeys", "aim"), [(1.0, 1.0), (0.0, 0.0), (0.5, None)])
def test_a_model_that_ignores_a_field_scores_0_and_one_like_the_world_1(obeys, aim):
    """A probe reads a field with noise; the model shows ``obeys`` of what was asked and makes up the rest."""
    rng = np.random.default_rng(0)
    places = np.repeat(np.arange(150), 4)
    asked, noise = np.repeat(rng.normal(size=150), 4), 0.3 * rng.normal(size=(2, 600))
    shown = obeys * asked
    generated, real = np.abs(shown + noise[0] - asked), np.abs(noise[1])
    others = np.roll(asked, 4)  # the next place's request
    score = controllability(generated, real, np.abs(shown + noise[0] - others), places, count=300)
    if aim is None:
        assert 0.1 < score.low < score.value < score.high < 0.95
    else:
        assert score.low <= aim <= score.high
        assert score.high - score.low < 0.5


def test_controllability_says_when_the_probe_is_blind():
    with pytest.raises(ConfigError, match="does not read this field"):
        controllability(np.ones(4), np.ones(4), np.ones(4), [1, 2, 3, 4])


def test_r2_by_hand_and_by_scikit_learn():
    truth = np.array([[0.0, 0.0], [2.0, 10.0]])
    predicted = np.array([[1.0, 0.0], [2.0, 10.0]])
    assert r2(predicted, truth) == pytest.approx(
        1 - 1 / (2 + 50)
    )  # pooled: bands of little variance weigh little
    assert r2(truth.mean(0) + 0 * truth, truth) == 0
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 3)) * [1, 2, 5]
    predicted = truth + rng.normal(size=(50, 3))
    wanted = metrics.r2_score(truth, predicted, multioutput="variance_weighted")
    assert r2(predicted, truth) == pytest.approx(wanted)
    assert r2(predicted[:, 0], truth[:, 0]) == pytest.approx(metrics.r2_score(truth[:, 0], predicted[:, 0]))


def test_circular_error_goes_the_short_way_round():
    months = circular_error(np.array([1, 12, 7, 6.5]), np.array([12, 1, 1, 6]), period=12)
    assert months.tolist() == [1, 1, 6, 0.5]
    longitudes = circular_error(np.array([179.9, 350.0]), np.array([-179.9, 10.0]), period=360)
    assert longitudes.tolist() == pytest.approx([0.2, 20])


def test_great_circle_in_closed_form_and_by_proj():
    quarter = great_circle_km(
        np.array([0.0, 0, 10]), np.array([0.0, 0, 90]), np.array([90.0, 180, -50]), np.zeros(3)
    )
    radius = 6371.0088
    assert quarter.tolist() == pytest.approx([radius * math.pi / 2, radius * math.pi, radius * math.pi / 2])
    rng = np.random.default_rng(0)
    lon, other_lon = rng.uniform(-180, 180, (2, 200))
    lat, other_lat = rng.uniform(-90, 90, (2, 200))
    sphere = Geod(a=6371008.8, b=6371008.8)
    wanted = sphere.inv(lon, lat, other_lon, other_lat)[2] / 1000
    ours = great_circle_km(lon, lat, other_lon, other_lat)
    np.testing.assert_allclose(ours, wanted, rtol=1e-9)
    ellipsoid = Geod(ellps="WGS84").inv(lon, lat, other_lon, other_lat)[2] / 1000
    assert np.abs(ours / ellipsoid - 1).max() < 0.006
    metre = great_circle_km(np.array([8.0]), np.array([47.0]), np.array([8.0]), np.array([47.0 + 1e-5]))
    assert metre[0] == pytest.approx(sphere.inv(8, 47, 8, 47 + 1e-5)[2] / 1000, rel=1e-6)


def test_spearman_by_hand_and_by_scipy():
    assert spearman(np.array([1, 2, 3]), np.array([10, 20, 1000])) == 1
    assert spearman(np.array([1, 2, 3]), np.array([3, 2, 1])) == -1
    assert spearman(np.array([1, 2, 3]), np.array([5, 5, 5])) == 0
    rng = np.random.default_rng(0)
    asked = np.repeat(np.arange(12.0), 5)  # a sweep has ties
    read = np.round(asked + 4 * rng.normal(size=60))
    assert spearman(asked, read) == pytest.approx(stats.spearmanr(asked, read).statistic)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: controllability(np.ones(2), np.ones(3), np.ones(2), [1, 2]), "Lengths differ"),
        (lambda: controllability(np.ones(2), np.zeros(2), np.ones(2), [1]), "1 places for 2 rows"),
        (lambda: r2(np.ones(3), np.ones((3, 1))), "equal shapes"),
        (lambda: r2(np.ones(3), np.ones(3)), "constant"),
        (lambda: circular_error(np.ones(1), np.ones(1), period=0), "period is 0"),
        (lambda: great_circle_km(*[np.array([91.0])] * 4), "lat reaches 91"),
        (lambda: spearman(np.ones(2), np.ones(2)), "at least 3"),
        (lambda: spearman(np.ones(3), np.array([1, np.inf, 2])), "no finite numbers"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
