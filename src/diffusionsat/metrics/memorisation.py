"""Does the model copy its training images: nearest neighbours, against what real unseen images have.

Give distances in a space made for copies (SSCD, say) or that of `thumbnails`; those of a classifier call two
forests copies. Distances come from `neighbours.nearest`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.errors import ConfigError
from diffusionsat.metrics.checks import check_images


def distance_ratio(generated: Tensor, held_out: Tensor, *, quantile: float = 0.05) -> float:
    """Quantile of the generated images' nearest training distances over the same of held-out real images'.

    Range 0 upwards, 1 is best, no unit; below 1 the images lie nearer to training images than unseen real
    ones do. Source: the project's definition, after Meehan, Chaudhuri & Dasgupta 2020.

    Args:
        generated: Distance of each generated image to its nearest training image, (N,).
        held_out: The same of real images that were not trained on, (M,), apart by place.
        quantile: Which, between 0 and 1; the small ones show copies.

    Raises:
        ConfigError: If the distances are none, or the held-out quantile is 0: then the split leaks.
    """
    wanted = _quantile(held_out, quantile)
    if wanted == 0:
        raise ConfigError(
            f"The held-out images' {quantile:g} quantile of distances is 0: they are training images. "
            "Mend the split."
        )
    return _quantile(generated, quantile) / wanted


def share_below(generated: Tensor, held_out: Tensor, *, quantile: float = 0.01) -> float:
    """Share of generated images nearer to a training image than a low quantile of held-out images is.

    Range 0 to 1, no unit, lower is better; about ``quantile`` for a model that copies no more than chance
    does. Source: the project's definition.

    Args:
        generated: Distance of each generated image to its nearest training image, (N,).
        held_out: The same of real images that were not trained on, (M,).
        quantile: Which, between 0 and 1.

    Raises:
        ConfigError: If the distances are none.
    """
    limit = _quantile(held_out, quantile)
    _quantile(generated, quantile)  # the same refusals
    return float((generated.double() < limit).double().mean())


def thumbnails(images: Tensor, *, side: int = 8) -> Tensor:
    """Features in which near copies meet: a small picture without its mean and contrast, of length 1.

    The squared distance of two is 2 (1 - correlation). A change of size, brightness or contrast and light
    compression keep it near 0; a flip or a crop do not.

    Args:
        images: (B, C, H, W), sides at least ``side``.
        side: Of the small picture.

    Returns:
        Features, (B, C · side²), float64; a constant image's are 0.

    Raises:
        ConfigError: If they are no images.
    """
    check_images(images, images, side=side)
    small = F.adaptive_avg_pool2d(images.double(), side).flatten(1)
    centred = small - small.mean(1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    # What rounding leaves of a constant image is no picture.
    return torch.where(length > 1e-9 * small.norm(dim=1, keepdim=True), centred / length, 0.0)


def _quantile(distances: Tensor, quantile: float) -> float:
    if distances.ndim != 1 or len(distances) == 0 or not bool((distances >= 0).all()):
        raise ConfigError(f"Distances of shape {tuple(distances.shape)} are no row of numbers, 0 upwards.")
    if not 0 < quantile < 1:
        raise ConfigError(f"quantile is {quantile!r}. Give a share between 0 and 1.")
    ordered = distances.double().sort().values  # torch.quantile refuses more than 16 million
    place = quantile * (len(ordered) - 1)
    low = int(place)
    return float(ordered[low].lerp(ordered[min(low + 1, len(ordered) - 1)], place - low))
