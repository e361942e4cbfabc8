import numpy as np
import pytest
import torch

from diffusionsat import ConfigError
from diffusionsat.metrics.coverage import manifold_scores
from diffusionsat.metrics.neighbours import nearest

RNG = torch.Generator().manual_seed(0)


def test_by_hand():
    """k = 1 on a line. Real balls: 0±1, 1±1, 5±4; generated balls: 0.5±0.25, 0.75±0.25, 20±19.25.

    Generated 0.5 and 0.75 lie in two real balls, 20 in none. Real 0 lies in no generated ball (0.25 to 0.75,
    0.5 to 1, 0.75 to 39.25), 1 and 5 do. The third real ball, 1 to 9, holds no generated image.
    """
    real = torch.tensor([[0.0], [1.0], [5.0]])
    scores = manifold_scores(torch.tensor([[0.5], [0.75], [20.0]]), real, k=1)
    assert scores.precision == pytest.approx(2 / 3)
    assert scores.recall == pytest.approx(2 / 3)
    assert scores.density == pytest.approx(4 / 3)
    assert scores.coverage == pytest.approx(2 / 3)


def test_is_what_scikit_learns_neighbours_say(monkeypatch):
    neighbours = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is not installed")
    monkeypatch.setattr("diffusionsat.metrics.neighbours.BLOCK", 64)  # several blocks, one not full
    real, generated, k = torch.randn(300, 8, generator=RNG), 0.8 * torch.randn(250, 8, generator=RNG) + 0.3, 5

    def radius(x):
        return neighbours.NearestNeighbors(n_neighbors=k).fit(x).kneighbors()[0][:, -1]  # without itself

    x, y = generated.double().numpy(), real.double().numpy()
    distances = np.linalg.norm(x[:, None] - y[None], axis=-1)
    in_real, in_generated = distances <= radius(y), distances <= radius(x)[:, None]
    scores = manifold_scores(generated, real, k)
    assert scores.precision == pytest.approx(in_real.any(1).mean())
    assert scores.recall == pytest.approx(in_generated.any(0).mean())
    assert scores.density == pytest.approx(in_real.sum(1).mean() / k)
    assert scores.coverage == pytest.approx(in_real.any(0).mean())


def test_equal_distributions_score_as_the_source_says():
    """E[density] = 1, E[coverage] near 1 - 2^-k (Naeem et al. 2020)."""
    scores = manifold_scores(torch.randn(3000, 4, generator=RNG), torch.randn(3000, 4, generator=RNG), k=3)
    assert scores.density == pytest.approx(1, abs=0.04)
    assert scores.coverage == pytest.approx(1 - 2**-3, abs=0.02)


def test_planted_faults():
    real = torch.randn(500, 6, generator=RNG)
    collapsed = manifold_scores(0.01 * torch.randn(500, 6, generator=RNG), real)  # one good image, ever again
    noise = manifold_scores(10 * torch.randn(500, 6, generator=RNG), real)
    copied = manifold_scores(real.clone(), real)
    assert collapsed.precision > 0.95 > 0.2 > max(collapsed.recall, collapsed.coverage)
    assert noise.precision < 0.1
    assert (copied.precision, copied.recall, copied.coverage) == (1, 1, 1)


def test_nearest_is_that_of_scikit_learn_far_from_the_origin(monkeypatch):
    neighbours = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is not installed")
    monkeypatch.setattr("diffusionsat.metrics.neighbours.BLOCK", 50)
    x, y = (torch.randn(n, 5, generator=RNG).double() + 1e3 for n in (120, 170))
    search = neighbours.NearestNeighbors(n_neighbors=3, algorithm="kd_tree").fit(y.numpy())
    wanted, rows = search.kneighbors(x.numpy())
    distances, ours = nearest(x, y, 3)
    np.testing.assert_allclose(distances.numpy(), wanted, rtol=1e-7)
    np.testing.assert_array_equal(ours.numpy(), rows)
    apart, _ = nearest(y, y, 2, itself=False)
    np.testing.assert_allclose(apart.numpy(), search.kneighbors(n_neighbors=2)[0], rtol=1e-7)


def test_a_double_is_at_distance_0():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    distances, rows = nearest(x, x, itself=False)
    assert distances[:, 0].tolist() == pytest.approx([0, 8**0.5, 0])
    assert rows[0].item() == 2
    assert rows[2].item() == 0


def test_bad_input():
    x = torch.zeros(5, 2)
    with pytest.raises(ConfigError, match="5 neighbours among 5 points"):
        manifold_scores(x, x, k=5)
    with pytest.raises(ConfigError, match="0 neighbours"):
        nearest(x, x, 0)
    with pytest.raises(ConfigError, match="widths"):
        manifold_scores(x, torch.zeros(5, 3))
