import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.stats import entropy

from diffusionsat import ConfigError
from diffusionsat.metrics.distributions import (
    Moments,
    cmmd,
    frechet_distance,
    frechet_infinity,
    inception_score,
    kernel_distance,
    polynomial_mmd,
)

RNG = torch.Generator().manual_seed(0)


def normal(rows, width, mean=0.0, scale=1.0):
    return torch.randn(rows, width, generator=RNG).double() * scale + mean


def exact(mean, covariance):
    """Moments of a population, not of a sample."""
    return Moments(2, torch.tensor(mean).double(), torch.tensor(covariance).double())


def test_moments_are_those_of_numpy_far_from_the_origin():
    features = normal(5000, 7, 1e4, torch.arange(1.0, 8)).float()
    moments = Moments.of(features)
    wanted = features.double().numpy()
    np.testing.assert_allclose(moments.mean.numpy(), wanted.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance.numpy(), np.cov(wanted, rowvar=False), rtol=1e-9, atol=1e-9)


def test_moments_stream():
    features = normal(1000, 5, 3.0)
    parts = [Moments.of(part) for part in features.split([1, 499, 3, 497])]
    together, whole = sum(parts[1:], parts[0]), Moments.of(features)
    assert together.count == 1000
    torch.testing.assert_close(together.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(together.covariance, whole.covariance, rtol=1e-12, atol=1e-13)


def test_frechet_of_two_normals_in_closed_form():
    """Diagonal covariances commute: |m1 - m2|² + sum (s1 - s2)²."""
    one, two = (
        exact([1.0, 2.0, 0.0], np.diag([4.0, 1.0, 9.0])),
        exact([0.0, 2.0, 2.0], np.diag([1.0, 1.0, 0.0])),
    )
    assert frechet_distance(one, two) == pytest.approx(1 + 4 + 1 + 0 + 9)
    assert frechet_distance(two, one) == pytest.approx(15)
    # Unit circle's covariance against a turned ellipse: eigenvalues 9 and 1, so (3 - 1)² + (1 - 1)².
    turn = linalg.expm(np.array([[0, -0.7], [0.7, 0]]))
    ellipse = turn @ np.diag([9.0, 1.0]) @ turn.T
    assert frechet_distance(exact([0.0, 0.0], ellipse), exact([0.0, 0.0], np.eye(2))) == pytest.approx(4)


@pytest.mark.parametrize(("rows", "width"), [(400, 6), (20, 40)], ids=["full rank", "singular"])
def test_frechet_is_that_of_torchmetrics_and_scipy(rows, width):
    mix = normal(width, width)
    x, y = normal(rows, width) @ mix, normal(rows + 7, width, 0.3, 1.5)
    ours = frechet_distance(Moments.of(x), Moments.of(y))
    s1, s2 = (np.cov(f.numpy(), rowvar=False) for f in (x, y))
    with np.errstate(invalid="ignore"):
        root = linalg.sqrtm(s1 @ s2).real
    by_scipy = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + np.trace(s1 + s2 - 2 * root)
    assert ours == pytest.approx(by_scipy, rel=1e-4)
    fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")

    class Same(torch.nn.Module):
        num_features = width

        def forward(self, image):
            return image.flatten(1)

    theirs = fid.FrechetInceptionDistance(feature=Same()).set_dtype(torch.float64)
    theirs.update(x[:, None, None], real=True)
    theirs.update(y[:, None, None], real=False)
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_frechet_of_equal_and_of_shifted_features():
    x = normal(300, 8)
    assert frechet_distance(Moments.of(x), Moments.of(x)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(Moments.of(x + 2), Moments.of(x)) == pytest.approx(4 * 8)


def test_infinity_takes_the_bias_away():
    """Equal distributions: at N rows the distance is about c/N above 0, extrapolated it is near 0."""
    width = 12
    population = exact(np.zeros(width), np.eye(width))
    at_n, at_infinity = [], []
    for seed in range(6):
        features = normal(1500, width)
        at_n.append(frechet_distance(Moments.of(features), population))
        at_infinity.append(frechet_infinity(features, population, smallest=150, seed=seed).value)
    assert np.mean(at_n) > 0.02
    assert abs(np.mean(at_infinity)) < 0.25 * np.mean(at_n)


def test_infinity_follows_the_line():
    features, reference = normal(800, 4), Moments.of(normal(800, 4, 0.5))
    result = frechet_infinity(features, reference, points=5, seed=3)
    assert result.sizes.tolist() == [80, 260, 440, 620, 800]
    assert result.distances[-1] == pytest.approx(frechet_distance(Moments.of(features), reference), rel=1e-9)
    assert result.value == pytest.approx(np.polyfit(1 / result.sizes, result.distances, 1)[1])
    again = frechet_infinity(features, reference, points=5, seed=3)
    np.testing.assert_array_equal(again.distances, result.distances)


def test_polynomial_mmd_by_hand():
    """D = 1: k(x, y) = (xy + 1)³. x = {0, 1}: k = 1; y = {1, 2}: k = 27; across: 1, 1, 8, 27, mean 9.25."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    assert polynomial_mmd(x, y) == pytest.approx(1 + 27 - 2 * 9.25)


def test_polynomial_mmd_is_that_of_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid", reason="torchmetrics is not installed")
    x, y = normal(60, 9), normal(60, 9, 0.4)
    assert polynomial_mmd(x, y) == pytest.approx(kid.poly_mmd(x, y).item(), rel=1e-9)


def test_kernel_distance_is_unbiased_and_its_interval_holds():
    equal, hits, low_ends = [], 0, []
    truth = polynomial_mmd(normal(4000, 6), normal(4000, 6, 0.5))
    for seed in range(100):
        x, y = normal(200, 6), normal(200, 6, 0.5)
        equal.append(kernel_distance(x, normal(200, 6), seed=seed).value)
        interval = kernel_distance(x, y, seed=seed)
        hits += interval.low <= truth <= interval.high
        low_ends.append(interval.low)
    assert abs(np.mean(equal)) < 3 * np.std(equal) / 100**0.5
    assert min(equal) < 0 < max(equal)
    assert 0.88 < hits / 100 <= 1
    assert np.mean(np.array(low_ends) > 0) > 0.95  # a shift by half a sigma is seen


def test_kernel_distance_looks_at_every_row_and_ignores_their_order():
    x, y = normal(1000, 4), normal(1000, 4)
    sorted_rows = x[x[:, 0].argsort()]
    assert abs(kernel_distance(sorted_rows, y).value) < 0.1
    unshuffled = [polynomial_mmd(a, b) for a, b in zip(sorted_rows.split(100), y.split(100), strict=True)]
    assert np.mean(unshuffled) > 0.3
    value = kernel_distance(x, y).value
    for row in (0, 501, 999):
        changed = x.clone()
        changed[row] += 1
        assert kernel_distance(changed, y).value != value


def test_cmmd_by_hand_and_by_scikit_learn():
    # Two points a distance 10 apart, sigma 10: 1 + 1 - 2 exp(-1/2).
    x, y = torch.zeros(1, 2), torch.tensor([[6.0, 8.0]])
    assert cmmd(x, y) == pytest.approx(1000 * (2 - 2 * np.exp(-0.5)))
    kernel = pytest.importorskip(
        "sklearn.metrics.pairwise", reason="scikit-learn is not installed"
    ).rbf_kernel
    x, y = normal(70, 16), normal(90, 16, 0.2)
    x, y = (torch.nn.functional.normalize(f, dim=1) for f in (x, y))
    means = [kernel(a.numpy(), b.numpy(), gamma=1 / 200).mean() for a, b in ((x, x), (y, y), (x, y))]
    wanted = 1000 * (means[0] + means[1] - 2 * means[2])
    assert cmmd(x, y) == pytest.approx(wanted, rel=1e-9)
    assert cmmd(x.float(), y.float()) == pytest.approx(wanted, rel=1e-5)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-12)


def test_inception_score_by_hand_and_by_scipy():
    sure = 100 * torch.eye(4)
    assert inception_score(sure.repeat(6, 1), parts=3) == pytest.approx(4)  # all classes alike, each sure
    assert inception_score(sure[:1].repeat(24, 1)) == pytest.approx(1)  # one class
    assert inception_score(torch.zeros(24, 4)) == pytest.approx(1)  # no idea
    # Half the images are of a class, half of one of two: p(y) is 3/4, 1/4.
    half = torch.tensor([[100.0, 0.0], [0.0, 0.0]]).repeat(5, 1)
    wanted = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) - 0.5 * np.log(2))
    assert inception_score(half, parts=1) == pytest.approx(wanted)
    logits = 2 * normal(200, 7)
    p = logits.softmax(1).numpy()
    shares = [np.exp(entropy(p[i::10].mean(0)) - entropy(p[i::10], axis=1).mean()) for i in range(10)]
    assert inception_score(logits) == pytest.approx(np.mean(shares))


def test_blocks_do_not_change_cmmd(monkeypatch):
    x, y = normal(50, 3), normal(41, 3)
    whole = cmmd(x, y, sigma=1)
    monkeypatch.setattr("diffusionsat.metrics.neighbours.BLOCK", 7)
    assert cmmd(x, y, sigma=1) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Moments.of(torch.zeros(4)), r"float32 of shape \(4,\)"),
        (lambda: Moments.of(torch.zeros(4, 2, dtype=torch.long)), "int64 of shape"),
        (lambda: Moments.of(torch.tensor([[torch.nan]])), "not finite"),
        (lambda: Moments.of(torch.zeros(1, 2)).covariance, "at least two"),
        (lambda: Moments.of(torch.zeros(3, 2)) + Moments.of(torch.zeros(3, 4)), r"widths \[2, 4\]"),
        (lambda: frechet_distance(Moments.of(torch.ones(3, 2)), Moments.of(torch.ones(3, 4))), r"\[2, 4\]"),
        (lambda: frechet_infinity(torch.zeros(9, 2), Moments.of(torch.ones(9, 2))), "from 0 to 9 rows"),
        (lambda: kernel_distance(torch.zeros(19, 2), torch.zeros(30, 2)), "19 rows"),
        (lambda: kernel_distance(torch.zeros(30, 2), torch.zeros(30, 3)), r"widths \[2, 3\]"),
        (lambda: inception_score(torch.zeros(19, 3)), "19 rows"),
        (lambda: cmmd(torch.zeros(2, 2), torch.zeros(2, 2), sigma=0), "sigma is 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
