import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from diffusionsat import ConfigError
from diffusionsat.metrics.uncertainty import (
    ause,
    conformal_quantile,
    crps,
    interval_coverage,
    interval_width,
    rank_histogram,
    rank_unevenness,
    spread_and_error,
    spread_skill,
)

RNG = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=RNG).double()


def test_crps_by_hand():
    """Samples 0 and 2, truth 1: 1 - 4 / (2 · 4) plain, 1 - 4 / (2 · 2) fair; one sample: its error."""
    samples = torch.tensor([[0.0], [2.0]])
    assert crps(samples, torch.tensor([1.0]), fair=False).tolist() == [0.5]
    assert crps(samples, torch.tensor([1.0])).tolist() == [0.0]
    assert crps(samples[:1], torch.tensor([1.0]), fair=False).tolist() == [1.0]


def test_crps_is_that_of_scoringrules():
    rules = pytest.importorskip("scoringrules", reason="scoringrules is not installed")
    samples, truth = normal(9, 2, 3, 4), normal(2, 3, 4)
    for fair, estimator in ((True, "fair"), (False, "nrg")):
        theirs = rules.crps_ensemble(truth.numpy(), samples.numpy(), m_axis=0, estimator=estimator)
        np.testing.assert_allclose(crps(samples, truth, fair=fair).numpy(), theirs, rtol=1e-10, atol=1e-12)


def test_crps_of_many_samples_is_the_integral():
    mean, sigma, truth = 0.3, 0.7, 1.1
    forecast = stats.norm(mean, sigma)
    below = integrate.quad(lambda x: forecast.cdf(x) ** 2, -10, truth)[0]
    above = integrate.quad(lambda x: forecast.sf(x) ** 2, truth, 10)[0]
    ensemble = mean + sigma * normal(200_000, 1)
    assert crps(ensemble, torch.tensor([truth])).item() == pytest.approx(below + above, rel=5e-3)


def test_the_fair_form_does_not_depend_on_the_number_of_samples():
    truth = normal(200_000)
    perfect = 1 / math.sqrt(math.pi)  # of the standard normal
    fair, plain = ({m: crps(normal(m, 200_000), truth, fair=f).mean().item() for m in (2, 8)} for f in (1, 0))
    assert fair[2] == pytest.approx(perfect, rel=0.01)
    assert fair[8] == pytest.approx(perfect, rel=0.01)
    assert plain[2] == pytest.approx(perfect * (1 + 1 / 2), rel=0.01)


def test_spread_and_error_by_hand():
    samples = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1).expand(2, 1, 1, 2, 2)
    variance, squared = spread_and_error(samples, torch.full((1, 1, 2, 2), 5.0))
    assert (variance.item(), squared.item()) == (2, 9)
    assert spread_skill(variance, squared, 2) == pytest.approx(math.sqrt(1.5 * 2 / 9))
    none = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    assert all(x.isnan() for x in spread_and_error(samples, torch.zeros(1, 1, 2, 2), mask=none))


@pytest.mark.parametrize(("claimed", "ratio"), [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0)])
def test_spread_skill_tells_too_sure_from_too_unsure(claimed, ratio):
    centre, members = normal(6, 3, 32, 32), 4
    truth, samples = centre + normal(6, 3, 32, 32), centre + claimed * normal(members, 6, 3, 32, 32)
    variance, squared = spread_and_error(samples, truth)
    expected = math.sqrt((members + 1) / members * claimed**2 / (1 + claimed**2 / members))
    measured = spread_skill(variance, squared, members)
    assert measured == pytest.approx(expected, rel=0.02)
    assert (measured > 1.2, measured < 0.8) == (ratio > 1, ratio < 1)


def test_coverage_and_width_of_intervals():
    low, high = torch.zeros(1, 1, 2, 2), torch.tensor([[1.0, 1.0], [2.0, 4.0]]).view(1, 1, 2, 2)
    truth = torch.tensor([[1.0, 1.1], [-0.1, 3.0]]).view(1, 1, 2, 2)
    assert interval_coverage(low, high, truth).tolist() == [0.5]  # 1 is on the end and counts
    assert interval_width(low, high).tolist() == [2]
    lower_row = torch.tensor([[False, False], [True, True]]).view(1, 1, 2, 2)
    assert interval_width(low, high, mask=lower_row).tolist() == [3]
    z, truth = stats.norm.ppf(0.95), normal(2, 3, 64, 64)
    shares = interval_coverage(torch.full_like(truth, -z), torch.full_like(truth, z), truth)
    assert shares.tolist() == pytest.approx([0.9, 0.9], abs=0.01)


def test_ranks_by_hand():
    """Samples 1, 3, 3: truth 0 has rank 0, 2 rank 1, 4 rank 3; 3 any of 1, 2 and 3."""
    samples = torch.tensor([1.0, 3.0, 3.0]).view(3, 1, 1, 1, 1).expand(3, 1, 1, 2, 2)
    truth = torch.tensor([[0.0, 2.0], [4.0, 3.0]]).view(1, 1, 2, 2)
    assert rank_histogram(samples, truth).tolist() == pytest.approx([1, 1 + 1 / 3, 1 / 3, 1 + 1 / 3])
    last = torch.tensor([[False, False], [False, True]]).view(1, 1, 2, 2)
    assert rank_histogram(samples, truth, mask=last).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


def test_ranks_are_flat_for_a_calibrated_ensemble_even_of_few_levels():
    truth, samples = normal(4, 3, 64, 64), normal(7, 4, 3, 64, 64)
    assert rank_unevenness(rank_histogram(samples, truth)) < 0.03
    assert rank_unevenness(rank_histogram(samples.round(), truth.round())) < 0.03
    assert rank_unevenness(rank_histogram(0.3 * samples, truth)) > 0.5  # a U
    assert rank_unevenness(torch.tensor([4.0, 0.0])) == 1
    together = rank_histogram(samples, truth)
    parts = [rank_histogram(samples[:, i : i + 1], truth[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(sum(parts), together)


def test_ause_by_hand():
    """Errors 0, 1, 2 and mean 1. Kept by error: 0, 1/2, 1; the worst order: 2, 3/2, 1; no order: 1, 1, 1."""
    error = torch.tensor([0.0, 1.0, 2.0])
    assert ause(error, error) == pytest.approx(0)
    assert ause(-error, error) == pytest.approx((2 + 1 + 0) / 3)
    assert ause(torch.ones(3), error) == pytest.approx((1 + 0.5 + 0) / 3)
    assert ause(torch.ones(3), error.flip(0)) == pytest.approx(0.5)


def test_ause_sees_what_spread_knows():
    sigma = torch.rand(20_000, generator=RNG) + 0.05
    error = (sigma * normal(20_000)).abs()
    assert ause(sigma, error) < 0.7 * ause(sigma[torch.randperm(20_000, generator=RNG)], error)


def test_conformal_quantile_by_hand():
    scores = torch.tensor([5.0, 1, 3, 2, 4, 9, 8, 7, 6])
    assert conformal_quantile(scores, level=0.9) == 9  # ceil(10 · 0.9) = 9
    assert conformal_quantile(scores, level=0.5) == 5
    assert conformal_quantile(scores, level=0.45) == 5
    with pytest.raises(ConfigError, match=r"8 scores cannot promise 0\.9\. Give at least 9"):
        conformal_quantile(scores[:8])


def test_conformal_interval_covers_new_rows_of_a_wrong_model():
    """Student's errors under a claimed unit spread: whatever they are, nine of ten are covered."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        errors = torch.from_numpy(np.abs(rng.standard_t(3, 119)))
        covered.append((errors[19:] <= conformal_quantile(errors[:19], level=0.9)).double().mean())
    assert np.mean(covered) == pytest.approx(18 / 20, abs=0.015)


def test_conformal_quantile_of_places_by_hand():
    """Of three places, at a half, shares that sum to 4 · 0.5 = 2 are wanted, each place's being 1 in all."""
    places = [torch.tensor([1.0, 2, 3, 4]), torch.tensor([10.0]), torch.tensor([0.5, 5, 0.5, 5])]
    assert conformal_quantile(places, level=0.5) == 5  # 1 of the first, 1 of the third
    assert conformal_quantile(places, level=0.45) == 5  # 1.8: 1 and a half by 4, then 2
    assert conformal_quantile(places, level=0.3) == 3  # 1.2: half at 0.5, then 0.75, 1, 1.25
    assert conformal_quantile(places, level=0.75) == 10  # all three
    with pytest.raises(ConfigError, match=r"3 scores cannot promise 0\.8\. Give at least 4"):
        conformal_quantile(places, level=0.8)
    with pytest.raises(ConfigError, match="no row of finite numbers"):
        conformal_quantile([torch.ones(2), torch.zeros(0)], level=0.5)


def test_pixels_of_new_places_are_covered_though_places_differ():
    """Errors of a place share their size. What counts its pixels for so many rows covers too few of them."""
    rng, covered, naive = np.random.default_rng(1), [], []
    for _ in range(400):
        sizes = rng.lognormal(0, 1.2, 20)
        counts = rng.integers(5, 40, 20)
        places = [
            torch.from_numpy(np.abs(size * rng.standard_normal(count)))
            for size, count in zip(sizes, counts, strict=True)
        ]
        *seen, new = places
        covered.append((new <= conformal_quantile(seen, level=0.9)).double().mean())
        naive.append((new <= conformal_quantile(torch.cat(seen), level=0.9)).double().mean())
    assert 0.89 < np.mean(covered) < 0.9 + 1 / 20 + 0.015
    assert np.mean(naive) < np.mean(covered) - 0.02


BATCH = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crps(BATCH, BATCH), r"samples are \(2, 3, 4, 4\)"),
        (lambda: crps(BATCH[None], BATCH), "1 samples are given. Give at least 2"),
        (lambda: crps(BATCH[None] * math.nan, BATCH, fair=False), "not floating and finite"),
        (lambda: spread_skill(torch.ones(1), torch.ones(1), 1), "1 samples an image"),
        (lambda: interval_coverage(BATCH + 1, BATCH, BATCH), "above its upper end"),
        (lambda: interval_width(BATCH, BATCH[:1]), "equal shapes"),
        (lambda: rank_histogram(torch.zeros(5, *BATCH.shape), BATCH, mask=BATCH > 0), "mask is bool"),
        (lambda: rank_unevenness(torch.zeros(3)), "no counts"),
        (lambda: ause(torch.ones(3), torch.zeros(3)), "0 everywhere"),
        (lambda: conformal_quantile(torch.ones(3), level=1), "level is 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
