"""Are the borders of the windows that made an image to be seen."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusionsat.errors import ConfigError
from diffusionsat.metrics.checks import check_images


def seam_ratio(image: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Mean absolute step across window borders over the mean step of the same direction elsewhere.

    Steps down and steps across are compared with their own kind, then pooled. Range 0 upwards, 1 is best
    (above: seams, below: smoothed borders), no unit. Few borders make it noisy: a real image cut at the same
    places tells by how much. Source: the project's definition.

    Args:
        image: Images, (B, C, H, W).
        rows: Borders between windows: row r is the first below one, 1 to H - 1.
        columns: Borders between windows: column c is the first right of one, 1 to W - 1.

    Returns:
        The ratio of each image, (B,), float64; NaN if it has no steps elsewhere.

    Raises:
        ConfigError: If it is no image, there is no border, or all steps are borders.
    """
    check_images(image, image, side=2)
    observed = expected = torch.zeros(len(image), dtype=torch.float64, device=image.device)
    for axis, places in ((2, rows), (3, columns)):
        steps = image.double().diff(dim=axis).abs().mean((1, 5 - axis))  # (B, H - 1) or (B, W - 1)
        at_border = torch.zeros(steps.shape[1], dtype=torch.bool, device=image.device)
        for place in places:
            if not 1 <= place <= steps.shape[1]:
                raise ConfigError(f"A border at {place} is not inside {steps.shape[1] + 1} pixels.")
            at_border[place - 1] = True
        if not bool(at_border.any()):
            continue
        if bool(at_border.all()):
            raise ConfigError("Every step is a window border, so that there is no elsewhere to compare with.")
        # A direction weighs as the number of steps across its borders.
        length = image.shape[5 - axis]
        observed = observed + length * steps[:, at_border].sum(1)
        expected = expected + length * at_border.sum() * steps[:, ~at_border].mean(1)
    if not rows and not columns:
        raise ConfigError("No window border is given. Give the rows or columns where windows meet.")
    return observed / expected
