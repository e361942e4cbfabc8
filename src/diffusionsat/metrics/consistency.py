"""Does a sharpened image say what was measured, and is what it adds true: opensr-test's three questions.

lr (B, C, h, w) is the measurement, sr and hr (B, C, H, W) the sharpened and the true image, H = factor · h.
As in opensr-test 1.3.3, pixel by pixel with its default distances; a border of 16 pixels of sr, which it
leaves out first, the caller cuts.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.errors import ConfigError
from diffusionsat.metrics.checks import check_images
from diffusionsat.metrics.pairs import spectral_angle

SHARPNESS, TEMPERATURE = 0.05, 0.25  # lambda of the three distances, temperature of their softmin


@dataclass(frozen=True, slots=True, eq=False)
class Consistency:
    """What `consistency` measures.

    Args:
        reflectance: (B,), in units of the images.
        angle_deg: (B,), degrees.
        shift_px: (B,), pixels of the measurement.
    """

    reflectance: Tensor
    angle_deg: Tensor
    shift_px: Tensor


def coarse(image: Tensor, factor: int) -> Tensor:
    """Images (B, C, H, W) made coarser by a whole factor: bilinear with antialiasing, as opensr-test does."""
    return F.interpolate(image, scale_factor=1 / factor, mode="bilinear", antialias=True)


def fine(image: Tensor, factor: int) -> Tensor:
    """Images (B, C, h, w) made finer by a whole factor: bilinear, as opensr-test does."""
    return F.interpolate(image, scale_factor=factor, mode="bilinear", antialias=True)


def consistency(lr: Tensor, sr: Tensor) -> Consistency:
    """How far the sharpened image, made coarse, is from the measurement: reflectance, spectrum, place.

    Mean absolute difference (0 upwards, in units of the images); mean spectral angle (0 to 180 degrees, see
    `pairs.spectral_angle`); length of the `shift` between them (0 upwards, in pixels of the measurement).
    In all lower is better. Source: Aybar et al. 2024.

    Args:
        lr: The measurement, (B, C, h, w), reflectance.
        sr: The sharpened images, (B, C, H, W).

    Raises:
        ConfigError: If they are no images, or their sizes have no whole factor.
    """
    again = coarse(sr.double(), _factor(lr, sr))
    check_images(again, lr.double(), bands=2)
    return Consistency(
        (again - lr).abs().mean((1, 2, 3)),
        spectral_angle(again, lr.double()),
        shift(again, lr).norm(dim=1),
    )


def noise_residual(degraded: Tensor, measured: Tensor, noise: Tensor) -> Tensor:
    """Root mean square of (degraded - measured) / noise: the disagreement in units of the sensor's noise.

    Range 0 upwards, lower is better (1 is what the sensor itself would differ by), no unit. Source: the
    definition.

    Args:
        degraded: What the sensor would see of the sharpened images, (B, C, h, w).
        measured: What it saw, same shape and units.
        noise: Standard deviation of its noise, same units, above 0; broadcasts to (B, C, h, w), (C, 1, 1)
            say.

    Raises:
        ConfigError: If the images are none or the noise is not above 0.
    """
    check_images(degraded, measured)
    if not bool((noise > 0).all()):
        raise ConfigError("noise has values that are not above 0. Give standard deviations.")
    return ((degraded.double() - measured.double()) / noise).square().mean((1, 2, 3)).sqrt()


def synthesis(lr: Tensor, sr: Tensor) -> Tensor:
    """Detail that was added: mean absolute difference of the sharpened image and the measurement made fine.

    Range 0 upwards, higher is more detail, right or wrong, in units of the images; opensr-test takes sr
    `harmonised` to the true image. Source: Aybar et al. 2024.

    Raises:
        ConfigError: If they are no images, or their sizes have no whole factor.
    """
    smooth = fine(lr.double(), _factor(lr, sr))
    check_images(sr, smooth)
    return (smooth - sr).abs().mean((1, 2, 3))


@dataclass(frozen=True, slots=True, eq=False)
class Correctness:
    """Shares of improvement, omission and hallucination, each (B,); see `correctness`."""

    improvement: Tensor
    omission: Tensor
    hallucination: Tensor


def correctness(lr: Tensor, sr: Tensor, hr: Tensor, *, threshold: float | None = None) -> Correctness:
    """Whether detail is true, missing or invented.

    With d(x, y) = mean over bands of ``|x - y| / |x + y|``, r = d(up(lr), hr), a = d(sr, hr) / r, b = d(sr,
    up(lr)) / r, H = a + b - 1 and l = 0.05: distances of improvement a + b (1 - e^(-l H)), of omission b + a
    (1 - e^(-l H)), of hallucination e^(-l a b); their softmin of temperature 0.25, in mean over pixels.
    Pixels where no distance exceeds the threshold are left out; an image of such pixels alone scores NaN.
    Range 0 to 1, no unit; of improvement higher is better, of the others lower is better; they sum to 1, so
    that none is to be read alone. Source: Aybar et al. 2024.

    Args:
        lr: The measurement, (B, C, h, w), reflectance.
        sr: The sharpened images, (B, C, H, W); opensr-test takes them `harmonised` to hr.
        hr: The true images, same shape.
        threshold: Of the distances, 0 to 1; if not given each image's 75th percentile of r, as opensr-test's
            ``compute`` does (its ``correctness`` alone: 0.1).

    Raises:
        ConfigError: If they are no images, or their sizes have no whole factor.
    """
    smooth = fine(lr.double(), _factor(lr, sr))
    check_images(sr, hr)
    check_images(sr.double(), smooth)
    distances = [_relative(x, y) for x, y in ((smooth, hr), (sr, hr), (sr, smooth))]
    reference, to_truth, to_smooth = distances
    if threshold is None:
        rank = max(1, int(0.75 * reference[0].numel()))
        limit = reference.flatten(1).kthvalue(rank).values[:, None, None]
    else:
        limit = torch.tensor(threshold, dtype=torch.float64)
    counts = (torch.stack(distances) > limit).any(0)
    a, b = to_truth / reference, to_smooth / reference
    beyond = 1 - torch.exp(-SHARPNESS * (a + b - 1))
    far = torch.stack([a + b * beyond, b + a * beyond, torch.exp(-SHARPNESS * a * b)])
    shares = torch.softmax(-far / TEMPERATURE, 0)
    shares = torch.where(counts, shares, torch.nan).nanmean((2, 3))
    return Correctness(*shares)


def harmonised(sr: Tensor, hr: Tensor, *, most_px: float = 5) -> Tensor:
    """The sharpened images with the true ones' histogram, band by band, and shifted onto them.

    opensr-test does so before it asks what detail is worth. It is generous: give the figures without it too.

    Args:
        sr: The sharpened images, (B, C, H, W).
        hr: The true ones, same shape.
        most_px: A longer shift is taken for an error of the estimate, and not done.

    Raises:
        ConfigError: If they are no images of one shape.
    """
    check_images(sr, hr)
    matched = torch.stack(
        [
            torch.stack([_matched(band, wanted) for band, wanted in zip(image, target, strict=True)])
            for image, target in zip(sr.double(), hr.double(), strict=True)
        ]
    )
    moves = shift(matched, hr)
    moves = torch.where(moves.norm(dim=1, keepdim=True) > most_px, 0.0, moves)
    return _moved(matched, moves)


def shift(image: Tensor, target: Tensor, *, upsampling: int = 50) -> Tensor:
    """How far each image must be moved (rows, columns) to lie on its target, (B, 2), pixels.

    Phase correlation of the mean of the bands, refined by a matrix Fourier transform about the peak.
    Source: Guizar-Sicairos, Thurman & Fienup 2008.

    Args:
        image: Images, (B, C, H, W).
        target: The true ones, same shape.
        upsampling: The answer is a multiple of one over this.

    Raises:
        ConfigError: If they are no images of one shape.
    """
    check_images(image, target)
    a, b = (torch.fft.fft2(x.double().mean(1)) for x in (image, target))
    cross = b * a.conj()
    cross = cross / cross.abs().clamp_min(100 * torch.finfo(torch.float64).eps)
    height, width = cross.shape[1:]
    peak = torch.fft.ifft2(cross).abs().flatten(1).argmax(1)
    whole = torch.stack([_centred(peak // width, height), _centred(peak % width, width)], 1)
    reach = torch.arange(-upsampling, upsampling + 1, dtype=torch.float64, device=whole.device) / upsampling
    rows, columns = (whole[:, i, None] + reach for i in (0, 1))
    by_row = _waves(rows, height)
    by_column = _waves(columns, width)
    heights = (by_row @ cross @ by_column.transpose(1, 2)).abs().flatten(1)
    best, place = heights.max(1)
    found = whole + reach[torch.stack([place // len(reach), place % len(reach)], 1)]
    # Images without structure fit everywhere alike; rounding must not move them.
    unmoved = cross.sum((1, 2)).abs()
    return torch.where((best > unmoved * (1 + 1e-9))[:, None], found, 0.0)


def _waves(places: Tensor, length: int) -> Tensor:
    """Inverse Fourier matrix at real places (B, K): (B, K, length)."""
    frequencies = torch.fft.fftfreq(length, dtype=torch.float64, device=places.device)
    return torch.exp(2j * torch.pi * places[:, :, None] * frequencies)


def _centred(place: Tensor, length: int) -> Tensor:
    return torch.where(place > length // 2, place - length, place).double()


def _moved(image: Tensor, moves: Tensor) -> Tensor:
    """Images moved by (rows, columns), bilinear, the border repeated."""
    _, _, height, width = image.shape
    scale = 2 / torch.tensor([height, width], dtype=torch.float64, device=image.device)
    theta = torch.eye(2, 3, dtype=torch.float64, device=image.device).repeat(len(image), 1, 1)
    theta[:, :, 2] = -(moves * scale).flip(1)  # the sampling grid counts columns first
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _matched(band: Tensor, wanted: Tensor) -> Tensor:
    """A band (H, W) with the histogram of another."""
    _, place, counts = np.unique(band.cpu().numpy(), return_inverse=True, return_counts=True)
    values, wanted_counts = np.unique(wanted.cpu().numpy(), return_counts=True)
    quantiles = np.cumsum(counts) / band.numel()
    new = np.interp(quantiles, np.cumsum(wanted_counts) / wanted.numel(), values)
    return torch.from_numpy(new[place].reshape(band.shape)).to(band)


def _relative(x: Tensor, y: Tensor) -> Tensor:
    return ((x - y).abs() / (x + y + 1e-8).abs()).mean(1)


def _factor(lr: Tensor, sr: Tensor) -> int:
    sizes = [tuple(x.shape) for x in (lr, sr)]
    if lr.ndim != 4 or sr.ndim != 4 or 0 in lr.shape:
        raise ConfigError(f"Images are {sizes}. Give tensors (B, C, H, W).")
    factor = sr.shape[-1] // lr.shape[-1]
    if factor < 1 or sr.shape != (*lr.shape[:2], factor * lr.shape[2], factor * lr.shape[3]):
        raise ConfigError(f"Images are {sizes}. The second must be the first's size times a whole number.")
    return factor
