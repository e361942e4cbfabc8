import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusionsat import ConfigError
from diffusionsat.metrics.memorisation import (
    distance_ratio,
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
    assert (copied <= 0.2).nonzero()[:, 0].tolist() == list(range(20))


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distance_ratio(torch.ones(3), torch.tensor([0.0, 0.0, 1.0])), "Mend the split"),
        (lambda: distance_ratio(torch.ones(3, 1), torch.ones(3)), r"shape \(3, 1\)"),
        (lambda: share_below(torch.tensor([-1.0]), torch.ones(3)), "0 upwards"),
        (lambda: share_below(torch.ones(3), torch.ones(3), quantile=1), "quantile is 1"),
        (lambda: thumbnails(torch.ones(1, 3, 7, 9)), "8 pixels"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
