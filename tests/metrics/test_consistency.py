import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusionsat import ConfigError
from diffusionsat.metrics.consistency import (
    coarse,
    consistency,
    correctness,
    fine,
    harmonised,
    noise_residual,
    shift,
    synthesis,
)

RNG = torch.Generator().manual_seed(0)
HR = (
    F.interpolate(torch.rand(2, 4, 16, 16, generator=RNG), scale_factor=4, mode="bicubic").clamp(0.02, 1)
    * 0.4
)
HR = (HR + 0.05 * torch.rand(HR.shape, generator=RNG)).double()
LR = coarse(HR, 4)
SMOOTH = fine(LR, 4)


def moved(image, rows, columns):
    """An image moved by a Fourier phase, periodic."""
    y, x = (torch.fft.fftfreq(n, dtype=torch.float64) for n in image.shape[-2:])
    phase = torch.exp(-2j * math.pi * (y[:, None] * rows + x * columns))
    return torch.fft.ifft2(torch.fft.fft2(image) * phase).real


def test_consistency_by_hand():
    """Each coarse pixel 0.1, 0.1; the sharpened image 0.1, 0.2: |difference| 0.05, angle atan 2 - 45°."""
    lr = torch.full((1, 2, 4, 4), 0.1)
    sr = torch.full((1, 2, 8, 8), 0.1)
    sr[:, 1] = 0.2
    scores = consistency(lr, sr)
    assert scores.reflectance.item() == pytest.approx(0.05, rel=1e-6)
    assert scores.angle_deg.item() == pytest.approx(math.degrees(math.atan(2)) - 45, rel=1e-6)
    assert scores.shift_px.item() == 0


def test_truth_is_consistent_and_a_shifted_or_coloured_image_is_not():
    truth = consistency(LR, HR)
    assert truth.reflectance.max() < 1e-12
    assert truth.angle_deg.max() < 1e-6
    assert truth.shift_px.max() == 0
    off = consistency(LR, moved(HR, 0, 8))  # two coarse pixels
    assert off.shift_px.tolist() == pytest.approx([2, 2], abs=0.05)
    purple = HR * torch.tensor([1.2, 0.8, 1.2, 1.0]).double().view(1, 4, 1, 1)
    assert consistency(LR, purple).angle_deg.min() > 5


@pytest.mark.parametrize("by", [(3, -2), (0.4, 1.3), (-0.06, 0.02), (20, -31), (0, 0)])
def test_shift_is_that_of_scikit_image(by):
    target = moved(HR, *by)
    ours = shift(HR, target)
    assert ours[0].tolist() == pytest.approx(by, abs=0.021)
    register = pytest.importorskip("skimage.registration", reason="scikit-image is not installed")
    theirs = register.phase_cross_correlation(
        target[0].mean(0).numpy(), HR[0].mean(0).numpy(), upsample_factor=50
    )[0]
    assert ours[0].tolist() == pytest.approx(theirs.tolist(), abs=1e-9)


def test_harmonised_takes_colours_and_shift_away_and_leaves_detail():
    off = moved(HR, 1, -2) * 0.7 + 0.05
    mended = harmonised(off, HR)
    inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert (mended - HR)[inside].abs().mean() < 0.02 < 0.05 < (off - HR)[inside].abs().mean()
    far = moved(HR, 12, 0)
    torch.testing.assert_close(harmonised(far, HR).mean((2, 3)), HR.mean((2, 3)), rtol=1e-3, atol=1e-3)
    assert shift(harmonised(far, HR), HR).norm(dim=1).min() > 11  # too far to be a shift of the sensor


def test_histograms_match_as_scikit_images_do():
    exposure = pytest.importorskip("skimage.exposure", reason="scikit-image is not installed")
    image = (SMOOTH * 1.1).round(decimals=2)  # with many equal values
    theirs = exposure.match_histograms(image[0].numpy(), HR[0].numpy(), channel_axis=0)
    np.testing.assert_allclose(harmonised(image, HR, most_px=0)[0].numpy(), theirs, atol=1e-12)


def test_synthesis_is_the_added_detail():
    assert synthesis(LR, SMOOTH).tolist() == pytest.approx([0, 0], abs=1e-12)
    assert synthesis(LR, SMOOTH + 0.03).tolist() == pytest.approx([0.03, 0.03])


def test_correctness_by_hand():
    """One level a pixel: lr 1, hr 3, sr 2. r = 2/4, a = (1/5) / r = 0.4, b = (1/3) / r = 2/3."""
    lr, sr, hr = (torch.full((1, 1, n, n), v).double() for n, v in ((2, 1.0), (4, 2.0), (4, 3.0)))
    a, b = 0.4, 2 / 3
    beyond = 1 - math.exp(-0.05 * (a + b - 1))
    far = np.array([a + b * beyond, b + a * beyond, math.exp(-0.05 * a * b)])
    weights = np.exp(-far / 0.25)
    improvement, omission, hallucination = weights / weights.sum()
    scores = correctness(lr, sr, hr, threshold=0.1)
    assert scores.improvement.item() == pytest.approx(improvement, rel=1e-6)
    assert scores.omission.item() == pytest.approx(omission, rel=1e-6)
    assert scores.hallucination.item() == pytest.approx(hallucination, rel=1e-6)
    assert correctness(lr, sr, hr, threshold=0.6).improvement.isnan().item()  # no distance is above it


@pytest.mark.parametrize("threshold", [None, 0.02])
def test_truth_improves_blur_omits_and_invention_hallucinates(threshold):
    invented = SMOOTH * (1 + 0.8 * torch.randn(HR.shape, generator=RNG).double()).clamp(0.1, 3)
    scores = [correctness(LR, sr, HR, threshold=threshold) for sr in (HR, SMOOTH, invented)]
    names = ("improvement", "omission", "hallucination")
    for score, name in zip(scores, names, strict=True):
        shares = {n: getattr(score, n) for n in names}
        torch.testing.assert_close(sum(shares.values()), torch.ones(2).double())
        assert all(shares[name].min() > shares[other].max() for other in names if other != name)


# Printed by opensr-test 1.3.3 (border_mask=0, without alignment) for the images of `sharpened`.
GOLDEN = {
    0.1: [0.005712808, 0.5478189, 0.03775724, 0.06016385, 0.02872063, 0.9111155],
    None: [0.005712808, 0.5478189, 0.03775724, 0.06236001, 0.09943213, 0.8382078],
}


def sharpened():
    y, x = torch.meshgrid(*[torch.arange(32, dtype=torch.float64)] * 2, indexing="ij")
    bands = torch.arange(1, 4, dtype=torch.float64).view(3, 1, 1)
    hr = 0.3 + 0.1 * torch.sin(0.9 * x * bands / 2) * torch.cos(0.7 * y) + 0.05 * bands
    sr = 0.3 + 0.07 * torch.sin(0.9 * x * bands / 2 + 0.4) * torch.cos(0.7 * y) + 0.052 * bands
    return hr[None], sr[None]


@pytest.mark.parametrize("threshold", GOLDEN)
def test_is_what_opensr_test_prints(threshold):
    hr, sr = sharpened()
    lr, matched = coarse(hr, 4), harmonised(sr, hr, most_px=0)
    kept, shares = consistency(lr, sr), correctness(lr, matched, hr, threshold=threshold)
    ours = [
        kept.reflectance,
        kept.angle_deg,
        synthesis(lr, matched),
        shares.hallucination,
        shares.omission,
        shares.improvement,
    ]
    assert [x.item() for x in ours] == pytest.approx(GOLDEN[threshold], rel=1e-5)


def test_noise_residual_counts_in_units_of_the_sensors_noise():
    noise = torch.tensor([0.001, 0.002, 0.004, 0.01]).view(4, 1, 1)
    assert noise_residual(LR + noise, LR, noise).tolist() == pytest.approx([1, 1])
    seen = LR + noise * torch.randn(LR.shape, generator=RNG)
    assert noise_residual(seen, LR, noise).tolist() == pytest.approx([1, 1], abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: consistency(LR, HR[:, :, :62]), "times a whole number"),
        (lambda: consistency(LR[0], HR[0]), "B, C, H, W"),
        (lambda: synthesis(LR[:, :3], HR), "times a whole number"),
        (lambda: correctness(LR, HR, HR[:1]), "equal shapes"),
        (lambda: noise_residual(LR, LR, torch.zeros(1)), "not above 0"),
        (lambda: shift(HR * math.nan, HR), "not finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
