"""What was measured, respected: projection, guidance, and which part of an image is invented.

A measurement is y = A x + noise, with any operator A of `diffusionsat.diffusion.operators`. Its
pseudo-inverse A^+ gives the image of least norm that explains it; x + A^+ (y - A x) is the image nearest to
x that does, and leaves the null space of A, what the sensor cannot see, as it is in x.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.diffusion.denoisers import Denoiser
from diffusionsat.diffusion.operators import Operator
from diffusionsat.errors import ConfigError

ITERATIONS, TOLERANCE = 100, 1e-5
DETERMINED, PARTLY, INVENTED = 2, 1, 0  # classes of `support`
# Block means of 10 by 10 pixels determine 0.01 of each on average, and behind the optics of any preset 0.0034
# of the least, so that all that a sensor sees ten times coarser is partly determined.
DETERMINED_FROM, INVENTED_BELOW = 0.95, 0.003

Mapping = Callable[[Tensor], Tensor]


def pseudo_inverse(
    y: Tensor,
    operator: Operator,
    *,
    variance: Tensor | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """A^+ y, or with noise A^T (A A^T + N)^-1 y, which explains no more of y than its noise allows.

    In closed form where A A^T is diagonal; else by conjugate gradients on the least-squares problem (CGLS:
    Björck, Elfving & Strakos 1998), which needs y to be in the range of A no more than A^+ does. Images of
    a batch do not influence each other.

    Args:
        y: Measurements without the operator's offset, (B, ...).
        operator: A.
        variance: N, the variance of every measurement's noise, above 0; broadcasts to y. None is none.
        iterations: Most steps of conjugate gradients.
        tolerance: An image is done when its residual is this share of y, or when no step lowers it.

    Returns:
        Images (B, C, H, W).
    """
    if variance is None and (direct := operator.inverse(y)) is not None:
        return direct
    gram = operator.gram(y)
    if gram is not None:
        total = gram if variance is None else gram + variance
        return operator.adjoint(torch.where(total > 0, y / torch.where(total > 0, total, 1), 0))
    weight = torch.ones((), dtype=y.dtype, device=y.device) if variance is None else variance.to(y).rsqrt()
    damping = 0.0 if variance is None else 1.0
    residual = weight * y
    gradient = operator.adjoint(weight * residual)
    z = torch.zeros_like(gradient)
    direction, power = gradient, _power(gradient)
    enough, nothing = tolerance**2 * _power(residual), (10 * torch.finfo(y.dtype).eps) ** 2 * power
    for _ in range(iterations):
        active = (_power(residual) > enough) & (power > nothing)
        if not bool(active.any()):
            break
        seen = weight * operator.linear(direction)
        curvature = _power(seen) + damping * _power(direction)
        step = torch.where(active, power / torch.where(active, curvature, 1), 0)
        z = z + _each(step, z) * direction
        residual = residual - _each(step, residual) * seen
        gradient = operator.adjoint(weight * residual) - damping * z
        before, power = power, torch.where(active, _power(gradient), power)
        turn = torch.where(active, power / torch.where(active, before, 1), 0)
        direction = gradient + _each(turn, gradient) * direction
    return z


def project(
    x: Tensor,
    y: Tensor,
    operator: Operator,
    *,
    variance: Tensor | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """The image nearest to x that explains a measurement: x + A^+ (y - A x).

    With noise it is the mean of an image whose prior is normal about x with variance 1, given y. Source:
    Wang et al. 2023 (DDNM), equations 9 and 17.

    Args:
        x: Images (B, C, H, W).
        y: Measurements as the operator makes them.
        operator: A, with its offset if it has one.
        variance: See `pseudo_inverse`.
        iterations: See `pseudo_inverse`.
        tolerance: See `pseudo_inverse`.
    """
    missing = y - operator(x)
    return x + pseudo_inverse(
        missing, operator, variance=variance, iterations=iterations, tolerance=tolerance
    )


def hard(
    denoise: Denoiser,
    y: Tensor,
    operator: Operator,
    *,
    to_pixels: Mapping | None = None,
    to_latents: Mapping | None = None,
    levels: tuple[float, float] = (0.0, math.inf),
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Denoiser:
    """A denoiser whose estimates explain the measurement (DDNM: Wang et al. 2023, Alg. 1).

    Latents are moved by the difference that the projection makes, to_latents(projected) -
    to_latents(pixels), so that what the autoencoder loses is not lost again at every step. An autoencoder is
    not exact: `project` the decoded image at the end.

    Args:
        denoise: The denoiser.
        y: Measurements as the operator makes them.
        operator: Of images in pixels.
        to_pixels: The decoder, if the denoiser is of latents.
        to_latents: The encoder, likewise.
        levels: Lowest and highest noise level at which it is done: decoding costs.
        iterations: See `pseudo_inverse`.
        tolerance: See `pseudo_inverse`.

    Raises:
        ConfigError: If one of decoder and encoder is given without the other.
    """

    def projected(pixels: Tensor, sigma: float) -> Tensor:
        return project(pixels, y, operator, iterations=iterations, tolerance=tolerance)

    return corrected(denoise, projected, to_pixels, to_latents, levels)


def soft(
    denoise: Denoiser,
    y: Tensor,
    operator: Operator,
    variance: Tensor,
    *,
    spread: float = 1.0,
    through: bool = False,
    to_pixels: Mapping | None = None,
    to_latents: Mapping | None = None,
    levels: tuple[float, float] = (0.0, math.inf),
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Denoiser:
    """A denoiser guided by the measurement as far as its noise allows (PiGDM: Song et al. 2023).

    Given x at noise level sigma, the image is taken to be normal about the estimate x0 with variance r^2 =
    sigma^2 s^2 / (sigma^2 + s^2), s the spread of the data, so that y is normal about A x0 with covariance
    r^2 A A^T + N. Then

        x0' = x0 + sigma^2 J^T A^T (r^2 A A^T + N)^-1 (y - A x0)

    J is the derivative of x0 (decoded, if it is latents) with respect to x. It is computed if ``through``;
    else r^2 stands for sigma^2 J, as it does exactly for normal data of that spread, and nothing is
    differentiated. With J and little noise some ten steps are too few: the estimates overshoot.

    Args:
        denoise: The denoiser.
        y: Measurements as the operator makes them.
        operator: Of images in pixels.
        variance: N, the variance of every measurement's noise, above 0; broadcasts to y.
        spread: Standard deviation of the data, in units of the pixels; of the latents if ``through``.
        through: Whether to differentiate the denoiser and decoder: exact of J, at twice the cost or more.
        to_pixels: The decoder, if the denoiser is of latents.
        to_latents: The encoder, likewise; not needed if ``through``.
        levels: Lowest and highest noise level at which it is done.
        iterations: See `pseudo_inverse`.
        tolerance: See `pseudo_inverse`.

    Raises:
        ConfigError: If one of decoder and encoder is given without the other it needs.
    """

    def explained(pixels: Tensor, sigma: float) -> Tensor:
        """r^2 A^T (r^2 A A^T + N)^-1 (y - A pixels)."""
        r2 = _posterior_variance(sigma, spread)
        return pseudo_inverse(
            y - operator(pixels), operator, variance=variance / r2, iterations=iterations, tolerance=tolerance
        )

    if not through:
        return corrected(denoise, lambda p, sigma: p + explained(p, sigma), to_pixels, to_latents, levels)

    def guided(x: Tensor, sigma: float) -> Tensor:
        if sigma == 0 or not levels[0] <= sigma <= levels[1]:
            return denoise(x, sigma)
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            x0 = denoise(x, sigma)
            pixels = x0 if to_pixels is None else to_pixels(x0)
            pull = explained(pixels.detach(), sigma) / _posterior_variance(sigma, spread)
            (gradient,) = torch.autograd.grad((pixels * pull).sum(), x)
        return x0.detach() + sigma**2 * gradient

    return guided


def corrected(
    denoise: Denoiser,
    correct: Callable[[Tensor, float], Tensor],
    to_pixels: Mapping | None = None,
    to_latents: Mapping | None = None,
    levels: tuple[float, float] = (0.0, math.inf),
) -> Denoiser:
    """A denoiser whose estimates are moved by what correcting them as pixels makes of a difference.

    Args:
        denoise: The denoiser.
        correct: From pixels and their noise level to better pixels.
        to_pixels: The decoder, if the denoiser is of latents.
        to_latents: The encoder, likewise.
        levels: Lowest and highest noise level at which it is done.

    Raises:
        ConfigError: If one of decoder and encoder is given without the other.
    """
    if (to_pixels is None) != (to_latents is None):
        raise ConfigError("A constraint on latents needs both to_pixels and to_latents.")

    def denoise_corrected(x: Tensor, sigma: float) -> Tensor:
        x0 = denoise(x, sigma)
        if not levels[0] <= sigma <= levels[1]:
            return x0
        if to_pixels is None or to_latents is None:
            return correct(x0, sigma)
        pixels = to_pixels(x0)
        return x0 + to_latents(correct(pixels, sigma)) - to_latents(pixels)

    return denoise_corrected


def _posterior_variance(sigma: float, spread: float) -> float:
    return sigma**2 * spread**2 / (sigma**2 + spread**2)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """An image as the sum of two, float64 (B, C, H, W).

    Args:
        measured: What the measurement determines, A^+ y.
        invented: The rest.
    """

    measured: Tensor
    invented: Tensor


def split(x: Tensor, operator: Operator, y: Tensor | None = None) -> Split:
    """An image parted into what was measured and what was invented.

    In float64, so that of an image in float32 or integers the sum is the image to the last bit (unless a
    pixel is 2^-29 of its measured part or less).

    Args:
        x: The image, (B, C, H, W).
        operator: A.
        y: The measurement, less the operator's offset; None is A x.
    """
    seen = operator.linear(x) if y is None else y
    measured = pseudo_inverse(seen, operator).float().double()
    return Split(measured, x.double() - measured)


def determined(operator: Operator, shape: tuple[int, int, int], *, probes: int = 64) -> Tensor:
    """How much of every pixel the measurement determines: the diagonal of A^+ A, 0 to 1, float32 (C, H, W).

    Exact where all measurements are means of pixels of their own (masks, area sampling). Else estimated:
    P = A^+ A is a projection, so that its diagonal is the variance of P v for white noise v, and what it
    lacks to 1 that of v - P v. With a and b their mean squares over the probes it is a / (a + b), exact at 0
    and 1 and right to about (2 / probes)^0.5 of itself, or of what it lacks, elsewhere.

    Args:
        operator: A.
        shape: Of an image, (C, H, W).
        probes: Images of noise.
    """
    ones = torch.ones(1, *operator.measures(shape))
    if operator.gram(ones) is not None:
        return operator.adjoint(ones)[0]
    seen, unseen = torch.zeros(shape), torch.zeros(shape)
    for probe in range(probes):
        stream = np.random.Generator(np.random.Philox(key=probe))
        v = torch.from_numpy(stream.standard_normal((1, *shape), np.float32))
        pv = pseudo_inverse(operator.linear(v), operator)
        seen += pv[0].square()
        unseen += (v - pv)[0].square()
    return seen / (seen + unseen)


def support(determined: Tensor) -> Tensor:
    """A class for every pixel, uint8 (H, W): `DETERMINED`, `PARTLY` or `INVENTED`.

    Args:
        determined: How much of it the measurement determines, (C, H, W), see `determined`; the mean over
            bands decides: `DETERMINED_FROM` and more, or less than `INVENTED_BELOW`.
    """
    share = determined.mean(0)
    return (share >= INVENTED_BELOW).to(torch.uint8) + (share >= DETERMINED_FROM).to(torch.uint8)


def feathered(hole: Tensor, feather: int) -> Tensor:
    """Weights of a hole's filling, float32 (H, W): 1 in the hole, fading out linearly around it.

    Args:
        hole: Bool (H, W).
        feather: Width of the rim, pixels, 0 or more, by the larger of rows and columns.

    Raises:
        ConfigError: If the feather is negative.
    """
    if feather < 0:
        raise ConfigError(f"feather is {feather}. Give pixels, 0 or more.")
    reached = hole.float()[None]
    weight = reached
    for _ in range(feather):
        reached = F.max_pool2d(reached, 3, stride=1, padding=1)
        weight = weight + reached
    return (weight / (feather + 1))[0]


def composite(original: Tensor, filled: Tensor, hole: Tensor, feather: int = 0) -> Tensor:
    """An image with its hole filled, every pixel beyond a rim around the hole as it was, to the last bit.

    In the rim the filling fades out linearly with the distance from the hole (the larger of rows and
    columns).

    Args:
        original: The image, (B, C, H, W), floating or whole numbers; may be NaN in the hole.
        filled: What fills it, same shape.
        hole: Bool (H, W).
        feather: Width of the rim, pixels, 0 or more.

    Returns:
        The image, in the dtype of the original.

    Raises:
        ConfigError: If the shapes differ or the feather is negative.
    """
    if original.shape != filled.shape or hole.shape != original.shape[-2:]:
        shapes = [tuple(t.shape) for t in (original, filled, hole)]
        raise ConfigError(f"Image, filling and hole are {shapes}. Give (B, C, H, W) twice and (H, W).")
    weight = feathered(hole, feather).double()
    rim = original.double() * (1 - weight) + filled.double() * weight
    if not original.is_floating_point():
        rim, filled = rim.round(), filled.round() if filled.is_floating_point() else filled
    return torch.where(
        weight == 0, original, torch.where(weight == 1, filled.to(original.dtype), rim.to(original.dtype))
    )


def _power(x: Tensor) -> Tensor:
    """Sum of squares of every image, (B,)."""
    return x.flatten(1).square().sum(1)


def _each(values: Tensor, like: Tensor) -> Tensor:
    """Values of every image, (B,), to be multiplied with images."""
    return values.view(-1, *[1] * (like.ndim - 1))
