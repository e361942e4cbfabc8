import numpy as np
import pytest
from scipy import stats

from diffusionsat import ConfigError
from diffusionsat.metrics.bootstrap import bootstrap, label_p_value, mean_interval, sign_flip_p_value


def test_interval_equals_that_of_scipy_where_every_row_is_its_own_group():
    values = np.random.default_rng(0).gamma(2, size=200)
    ours = bootstrap(lambda rows: values[rows].mean(), np.arange(200), count=4000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1)
    assert ours.value == values.mean()
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)


def test_groups_are_drawn_whole():
    seen = []
    groups = ["b", "a", "b", "c", "c", "c"]
    bootstrap(lambda rows: seen.append(tuple(rows)) or 0.0, groups, count=200)
    places = {(1,), (0, 2), (3, 4, 5)}
    for rows in seen[:-1]:
        counts = np.bincount(rows, minlength=6)
        assert all(len(set(counts[list(place)])) == 1 for place in places)
    assert {counts for counts in map(len, seen[:-1])} > {3, 6, 9}  # with replacement


def test_coverage_with_rows_that_depend_on_their_place():
    """Rows drawn one by one would cover far too seldom: 8 rows of a place carry one place's information."""
    rng, places = np.random.default_rng(1), np.repeat(np.arange(40), 8)
    hits = {"places": 0, "rows": 0}
    for trial in range(120):
        scores = np.repeat(rng.normal(size=40), 8) + 0.1 * rng.normal(size=320)
        for name, groups in (("places", places), ("rows", np.arange(320))):
            interval = bootstrap(lambda rows, s=scores: s[rows].mean(), groups, count=150, seed=trial)
            hits[name] += interval.low <= 0 <= interval.high
    assert 0.89 < hits["places"] / 120 < 0.99
    assert hits["rows"] / 120 < 0.7


def test_same_seed_same_interval():
    values = np.arange(10.0)
    results = [bootstrap(lambda rows: values[rows].mean(), range(10), count=50, seed=s) for s in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize(("count", "tolerance"), [(10, 0.003), (30, 2e-4)])
def test_mean_interval_is_students(count, tolerance):
    values = np.random.default_rng(2).normal(5, 2, count)
    ours = mean_interval(values, level=0.95)
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert ours.value == pytest.approx(values.mean())
    assert (ours.high - ours.low) == pytest.approx(high - low, rel=tolerance)
    assert ours.low == pytest.approx((low + high) / 2 - (ours.high - ours.low) / 2)


def test_sign_flips_by_hand():
    """Three places: of the eight flips only +++ and --- reach the observed sum, so p is near 2/8."""
    differences = np.array([1.0, 1.0, 0.5, 2.0])
    p = sign_flip_p_value(differences, ["a", "a", "b", "c"], count=20000)
    assert p == pytest.approx(0.25, abs=0.015)


def test_sign_flips_see_a_difference_and_only_that():
    rng = np.random.default_rng(3)
    noise, places = rng.normal(size=300), np.repeat(np.arange(60), 5)
    assert sign_flip_p_value(noise + 1, places, count=999) == 1 / 1000
    assert sign_flip_p_value(np.zeros(300), places, count=999) == 1.0
    p_values = [sign_flip_p_value(rng.normal(size=60), np.arange(60), count=199, seed=s) for s in range(200)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_labels_as_one_way_permutation_of_scipy():
    rng = np.random.default_rng(4)
    continents = np.repeat(["AF", "AS", "EU"], [3, 20, 7])
    scores = rng.normal(size=30) + 0.9 * (continents == "EU")

    def between(*samples):
        return stats.f_oneway(*samples).statistic  # monotone in the sum of squares between

    samples = [scores[continents == name] for name in np.unique(continents)]
    theirs = stats.permutation_test(samples, between, n_resamples=3000, alternative="greater", rng=5).pvalue
    ours = label_p_value(scores, continents, np.arange(30), count=20000)
    assert ours == pytest.approx(theirs, abs=0.02)
    assert 0.001 < ours < 0.5


def test_labels_are_permuted_by_place():
    """Twenty equal rows of each place are worth one: four places cannot prove a continent's bias."""
    scores, places = np.repeat([1.0, 1.0, 2.0, 2.0], 20), np.repeat([0, 1, 2, 3], 20)
    assert label_p_value(scores, places // 2, places, count=5000) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(len, [1, 1, 1]), "1 groups are given"),
        (lambda: bootstrap(len, [1, 2], level=95), "level is 95"),
        (lambda: mean_interval(np.array([1.0])), "at least 2 numbers"),
        (lambda: sign_flip_p_value(np.array([1.0, np.nan]), [1, 2]), "no finite numbers"),
        (lambda: sign_flip_p_value(np.ones(3), [1, 2]), "2 groups for 3 rows"),
        (lambda: label_p_value(np.ones(4), ["a", "b", "a", "b"], [1, 1, 2, 2]), "different labels"),
        (lambda: label_p_value(np.ones(4), ["a"] * 4, [1, 1, 2, 2]), "at least two kinds"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
