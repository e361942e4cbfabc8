"""Scores of an image against the true one, pixel by pixel or window by window.

Each function takes images and targets (B, C, H, W) on one scale and gives one score an image, (B,), float64.
A ``mask`` (B, 1, H, W) says which pixels count (a hole, what changed, what is valid); an image of which none
counts scores NaN. Reports give the mean over images; see `decibels` for the other mean of PSNR.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.errors import ConfigError
from diffusionsat.metrics.checks import check_images, check_mask

SSIM_WINDOW, SSIM_SIGMA, SSIM_K = 11, 1.5, (0.01, 0.03)


def mse(image: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over bands and pixels.

    Range 0 upwards, lower is better, in squared units of the images. Source: the definition.

    Raises:
        ConfigError: If the images are none, or the mask is none for them.
    """
    image, target = _pair(image, target, mask)
    return _mean((image - target).square(), mask)


def decibels(error: Tensor, data_range: float) -> Tensor:
    """PSNR of a mean squared error: 10 log10(R² / MSE); unbounded, higher is better, in dB.

    Of each image's error it gives PSNR an image, whose mean is the common figure; of the errors' mean it
    gives the pooled PSNR, which one perfect image cannot make infinite.
    Source: the definition.

    Args:
        error: Mean squared errors, any shape.
        data_range: R, the span of the scale: 1 for reflectance or [0, 1], 2 for [-1, 1].

    Raises:
        ConfigError: If the range is not above 0.
    """
    return 10 * torch.log10(_span(data_range) ** 2 / error)


def psnr(image: Tensor, target: Tensor, *, data_range: float, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio: 10 log10(R² / MSE), R the data range and not the image's own peak.

    Unbounded (infinite for equal images), higher is better, in dB. Source: the definition.

    Raises:
        ConfigError: If the images are none, the mask is none for them or the range is not above 0.
    """
    return decibels(mse(image, target, mask=mask), data_range)


def ssim(image: Tensor, target: Tensor, *, data_range: float, mask: Tensor | None = None) -> Tensor:
    """Structural similarity, per band and then the mean; nothing is turned to luminance.

    (2 m1 m2 + c1)(2 s12 + c2) / ((m1² + m2² + c1)(s1² + s2² + c2)) with c1 = (0.01 R)², c2 = (0.03 R)², in a
    Gaussian window of 11 x 11 pixels and sigma 1.5, only where it lies inside the image, population
    variances. Range -1 to 1, higher is better, no unit. A masked pixel still counts in its neighbours'
    windows. Source: Wang et al. 2004, equation 13.

    Raises:
        ConfigError: If the images are none or below 11 pixels, the mask is none for them or the range is not
            above 0.
    """
    image, target = _pair(image, target, mask, side=SSIM_WINDOW)
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=image.device) - SSIM_WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    m1, m2, v1, v2, v12 = _window_statistics(image, target, weights / weights.sum())
    c1, c2 = ((k * _span(data_range)) ** 2 for k in SSIM_K)
    similarity = (2 * m1 * m2 + c1) * (2 * v12 + c2) / ((m1**2 + m2**2 + c1) * (v1 + v2 + c2))
    return _mean(similarity, _inside(mask, SSIM_WINDOW))


def uqi(image: Tensor, target: Tensor, *, window: int = 8, mask: Tensor | None = None) -> Tensor:
    """Universal quality index: 4 s12 m1 m2 / ((s1² + s2²)(m1² + m2²)), per band and then the mean.

    In each square window that lies inside the image. Where both windows are flat it is 2 m1 m2 / (m1² + m2²),
    and 1 where both are 0. Range -1 to 1, higher is better, no unit. Source: Wang & Bovik 2002.

    Args:
        image: Images, (B, C, H, W).
        target: The true ones.
        window: Side of the window in pixels; the source's is 8.
        mask: Which pixels count, as the window's centre (the lower right of the middle four).

    Raises:
        ConfigError: If the images are none or smaller than the window, or the mask is none for them.
    """
    if window < 2:
        raise ConfigError(f"window is {window}. Give at least 2 pixels.")
    image, target = _pair(image, target, mask, side=window)
    weights = torch.full((window,), 1 / window, dtype=torch.float64, device=image.device)
    m1, m2, v1, v2, v12 = _window_statistics(image, target, weights)
    squares = m1**2 + m2**2
    luminance = torch.where(squares > 0, 2 * m1 * m2 / squares, 1.0)
    # Rounding leaves a flat window a variance of some 1e-16 of its level squared.
    flat = v1 + v2 <= 1e-14 * squares
    quality = luminance * torch.where(flat, 1.0, 2 * v12 / (v1 + v2))
    return _mean(quality, _inside(mask, window))


def angle_map(image: Tensor, target: Tensor) -> Tensor:
    """Spectral angle of each pixel in degrees, (B, 1, H, W); see `spectral_angle`."""
    length, wanted = image.norm(dim=1, keepdim=True), target.norm(dim=1, keepdim=True)
    a, b = image / length.clamp_min(1e-300), target / wanted.clamp_min(1e-300)
    # Kahan's form is exact for small angles, where the arc cosine is not.
    angle = 2 * torch.atan2((a - b).norm(dim=1, keepdim=True), (a + b).norm(dim=1, keepdim=True))
    dark, dark_target = length == 0, wanted == 0
    angle = torch.where(dark & dark_target, 0.0, torch.where(dark | dark_target, torch.pi / 2, angle))
    return torch.rad2deg(angle)


def spectral_angle(image: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Spectral angle (SAM): mean over pixels of ``arccos(<x, y> / |x||y|)``.

    Range 0 to 180, lower is better, in degrees. A pixel that is 0 in all bands of one image makes 90°, in
    both 0°. Source: Kruse et al. 1993.

    Raises:
        ConfigError: If the images are none or have one band, or the mask is none for them.
    """
    image, target = _pair(image, target, mask, bands=2)
    return _mean(angle_map(image, target), mask)


def ergas(image: Tensor, target: Tensor, *, factor: float, mask: Tensor | None = None) -> Tensor:
    """Relative global error of synthesis: 100 / factor · (mean over bands of (RMSE / mean of the target)²)^½.

    Range 0 upwards, lower is better, in percent; infinite if a band's mean is 0. Source: Wald 2000, with
    h / l = 1 / factor, the finer over the coarser pixel size (some packages multiply instead).

    Args:
        image: Images, (B, C, H, W), of a scale on which 0 is dark.
        target: The true ones.
        factor: How many times finer the images are than what they were made from, such as 4.
        mask: Which pixels count.

    Raises:
        ConfigError: If the images are none, the mask is none for them or the factor is not above 0.
    """
    if not factor > 0:
        raise ConfigError(f"factor is {factor!r}. Give the coarser over the finer pixel size, such as 4.")
    image, target = _pair(image, target, mask)
    errors = _mean_by_band((image - target).square(), mask)
    return 100 / factor * (errors / _mean_by_band(target, mask).square()).mean(1).sqrt()


def feature_distance(
    image: Tensor,
    target: Tensor,
    features: Callable[[Tensor], Sequence[Tensor]],
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Sum over layers of the mean over places of ``|a / |a| - b / |b||²``, a, b features of a network.

    LPIPS without its learned weights: report it under the network's name. Range 0 to 4 a layer, lower is
    better, no unit. Source: Zhang et al. 2018, equation 1 with weights 1.

    Args:
        image: Images, (B, C, H, W), on the scale that the network expects.
        target: The true ones.
        features: Function of images to feature maps, each (B, c, h, w).
        mask: Which pixels count; a place of a map weighs as the share of its cell that counts.

    Raises:
        ConfigError: If the images are none, or the mask is none for them.
    """
    check_images(image, target)
    check_mask(mask, image)
    distance = torch.zeros(len(image), dtype=torch.float64, device=image.device)
    with torch.no_grad():
        for a, b in zip(features(image), features(target), strict=True):
            a, b = (F.normalize(x.double(), dim=1, eps=1e-6) for x in (a, b))
            size = (a.shape[2], a.shape[3])
            weights = None if mask is None else F.adaptive_avg_pool2d(mask.double(), size)
            distance += _mean((a - b).square().sum(1, keepdim=True), weights)
    return distance


def lpips(
    image: Tensor,
    target: Tensor,
    network: Callable[[Tensor, Tensor], Tensor],
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Learned perceptual distance: sum over layers of the mean over places of ``sum_c w_c (a_c - b_c)²``.

    a and b are features of unit length in a network's layers, w weights learned from people's answers; all
    of it is in the network. Range 0 upwards, lower is better, no unit: AlexNet's and VGG's figures differ.
    Source: Zhang et al. 2018, equation 1.

    Args:
        image: Images, (B, 3, H, W), from 0 to 1.
        target: The true ones.
        network: Function of two batches from -1 to 1 to one number an image, (B, ...).
        mask: Which pixels count; the others are taken from the target.

    Raises:
        ConfigError: If the images are none, the mask is none for them, or the network gives something else.
    """
    check_images(image, target)
    check_mask(mask, image)
    if image.shape[1] != 3:
        raise ConfigError(f"Images have {image.shape[1]} bands. LPIPS means something of red, green, blue.")
    image = image if mask is None else torch.where(mask, image, target)
    with torch.no_grad():
        found = network(2 * image.float() - 1, 2 * target.float() - 1)
    if found.numel() != len(image):
        raise ConfigError(
            f"The network gives {tuple(found.shape)} for {len(image)} images. Give one that takes two "
            "batches from -1 to 1 and gives one number an image."
        )
    found = found.double().reshape(len(image))
    return found if mask is None else found.where(mask.flatten(1).any(1), torch.nan)


def _pair(
    image: Tensor, target: Tensor, mask: Tensor | None, *, bands: int = 1, side: int = 1
) -> tuple[Tensor, Tensor]:
    check_images(image, target, bands=bands, side=side)
    check_mask(mask, image)
    return image.double(), target.double()


def _span(data_range: float) -> float:
    if not 0 < data_range < float("inf"):
        raise ConfigError(f"data_range is {data_range!r}. Give the span of the scale, such as 1 for [0, 1].")
    return data_range


def _mean_by_band(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over pixels, (B, C), weighted by (B, 1, H, W)."""
    if weights is None:
        return values.mean((2, 3))
    return (values * weights).sum((2, 3)) / weights.sum((2, 3))


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return _mean_by_band(values, weights).mean(1)


def _inside(mask: Tensor | None, window: int) -> Tensor | None:
    """The mask at the centres of the windows that lie inside the image."""
    if mask is None:
        return None
    first = window // 2
    return mask[
        :, :, first : mask.shape[2] - (window - 1 - first), first : mask.shape[3] - (window - 1 - first)
    ]


def _window_statistics(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Means, variances and covariance in a separable window; each (B, C, H', W')."""
    channels = x.shape[1]
    row = weights.expand(channels, 1, 1, -1)

    def local_mean(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, row, groups=channels), row.transpose(2, 3), groups=channels)

    mx, my = local_mean(x), local_mean(y)
    vx = (local_mean(x * x) - mx * mx).clamp_min(0)
    vy = (local_mean(y * y) - my * my).clamp_min(0)
    return mx, my, vx, vy, local_mean(x * y) - mx * my
