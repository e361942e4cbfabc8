import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusionsat import ConfigError
from diffusionsat.metrics.memorisation import (
    distance_ratio,
    exact_duplicates,
    near_duplicates,
    share_below,
    thumbnails,
)
from diffusionsat.metrics.neighbours import nearest

RNG = torch.Generator().manual_seed(0)


def pictures(count):
    small = torch.rand(count, 3, 6, 6, generator=RNG)
    return F.interpolate(small, scale_factor=8, mode="bicubic").clamp(0, 1)


def test_ratio_and_share_by_hand():
    held_out = torch.arange(1.0, 102)  # quantile q is 1 + 100 q
    generated = torch.cat([torch.full((10,), 0.5), torch.full((90,), 50.0)])
    assert distance_ratio(generated, held_out, quantile=0.05) == pytest.approx(0.5 / 6)
    assert distance_ratio(generated, held_out, quantile=0.5) == pytest.approx(50 / 51)
    assert distance_ratio(held_out, held_out) == 1
    assert share_below(generated, held_out, quantile=0.01) == pytest.approx(0.1)
    assert share_below(held_out, held_out, quantile=0.01) == pytest.approx(1 / 101)


def test_quantiles_are_numpys():
    distances = torch.rand(37, generator=RNG) + 0.1
    for q in (0.01, 0.05, 0.5, 0.97):
        ours = distance_ratio(distances, torch.ones(3), quantile=q)
        assert ours == pytest.approx(np.quantile(distances.double().numpy(), q))


def test_a_generator_that_copies_is_caught():
    train, held_out, honest = pictures(300), pictures(200), pictures(200)
    copies = honest.clone()
    copies[:20] = (0.9 * train[:20] + 0.05 + 0.02 * torch.rand(20, 3, 48, 48, generator=RNG)).clamp(0, 1)
    space = thumbnails(train)
    unseen, fair, copied = (nearest(thumbnails(x), space)[0][:, 0] for x in (held_out, honest, copies))
    assert 0.9 < distance_ratio(fair, unseen) < 1.1
    assert share_below(fair, unseen) < 0.04
    assert distance_ratio(copied, unseen) < 0.5
    assert share_below(copied, unseen) >= 0.1
    found = near_duplicates(thumbnails(copies), space, limit=0.2)
    assert {(row, other) for row, other, _ in found} == {(i, i) for i in range(20)}
    assert [d for *_, d in found] == sorted(d for *_, d in found)


def test_thumbnails_measure_correlation():
    x, y = pictures(2)
    features = thumbnails(torch.stack([x, y, 0.5 * x + 0.1]))
    assert features.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    small = [z.double().view(3, 8, 6, 8, 6).mean((2, 4)).flatten().numpy() for z in (x, y)]
    expected = math.sqrt(2 * (1 - np.corrcoef(*small)[0, 1]))
    assert (features[0] - features[1]).norm().item() == pytest.approx(expected, rel=1e-5)
    assert (features[0] - features[2]).norm() < 1e-5
    larger = thumbnails(F.interpolate(x[None], scale_factor=2, mode="bilinear"))
    assert (larger[0] - features[0]).norm() < 0.05
    assert thumbnails(torch.full((1, 3, 16, 16), 0.3)).abs().max() == 0


def test_exact_duplicates_are_equal_in_pixels_shape_and_dtype():
    x = torch.arange(12, dtype=torch.uint8)
    train = [x, x.view(3, 4), x + 1, x.view(3, 4).clone()]
    looked_for = [x.view(3, 4), x.int(), x + 1, x.view(4, 3).T]
    assert list(exact_duplicates(looked_for, train)) == [(0, 1), (0, 3), (2, 2)]
    floats = torch.tensor([0.5, 0.25])
    assert list(exact_duplicates([floats, floats.bfloat16()], iter([floats, floats + 1e-7]))) == [(0, 0)]
    scalar = torch.tensor(3.0)
    assert list(exact_duplicates([scalar], [scalar])) == [(0, 0)]


def test_doubles_within_one_set_are_told_once(monkeypatch):
    monkeypatch.setattr("diffusionsat.metrics.neighbours.BLOCK", 2)
    x = torch.tensor([[0.0], [5.0], [0.1], [9.0], [5.0]])
    found = near_duplicates(x, x, limit=0.2, itself=False)
    assert [(row, other) for row, other, _ in found] == [(1, 4), (0, 2)]
    assert [d for *_, d in found] == pytest.approx([0, 0.1], abs=1e-6)
    assert len(near_duplicates(x, x, limit=0.2)) == 5 + 2 * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distance_ratio(torch.ones(3), torch.tensor([0.0, 0.0, 1.0])), "Mend the split"),
        (lambda: distance_ratio(torch.ones(3, 1), torch.ones(3)), r"shape \(3, 1\)"),
        (lambda: share_below(torch.tensor([-1.0]), torch.ones(3)), "0 upwards"),
        (lambda: share_below(torch.ones(3), torch.ones(3), quantile=1), "quantile is 1"),
        (lambda: near_duplicates(torch.ones(3, 2), torch.ones(3, 2), limit=-1), "limit is -1"),
        (lambda: thumbnails(torch.ones(1, 3, 7, 9)), "8 pixels"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
