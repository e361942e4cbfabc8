"""What a coarser raster tells of the image that is to be made: its pixels, through a sensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.data.frames import Frame
from diffusionsat.data.radiometry import Radiometry
from diffusionsat.data.sensors import band_of
from diffusionsat.diffusion.operators import Blur, Decimate, Separable
from diffusionsat.diffusion.sensors import PRESETS, BandModel, Sensor, view

# A sensor that is not known: what most imagers in orbit are built to.
_ANY = BandModel(gsd=1.0, modulation=0.3, snr=100.0, reflectance=0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Red, green and blue of a frame as a measurement of an image a whole number of times finer.

    Everything is in light (see `Radiometry`).

    Args:
        frame: The frame.
        colours: Positions of its red, green and blue.
        radiometry: Of these three.
        factor: Pixels of the image along the side of one of the frame's.
    """

    frame: Frame
    colours: tuple[int, int, int]
    radiometry: Radiometry
    factor: int

    @property
    def coarse(self) -> int:
        """Pixels of the image along the side of what the sensor measured."""
        return self.factor * max(self.frame.coarseness[i] for i in self.colours)

    def sensor(self, height: int, width: int) -> Sensor:
        """The sensor's view of whole blocks of an image of so many pixels."""
        bands = tuple(self.frame.raster.bands[i] for i in self.colours)
        return _sensor(self.frame.sensor, bands, self.coarse, height, width, self.radiometry.white)

    def read(self, rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
        """Light of the blocks that lie in a rectangle of the image, and where it is known.

        Args:
            rows: Of the image, beginning with a block; may go beyond it.
            columns: Likewise.

        Returns:
            Float32 (3, blocks down, blocks across), 0 where unknown, and bool of the same shape.
        """
        step = self.coarse // self.factor  # of the raster's pixels, which hold the same number within a block
        down, across = (
            range(r.start // self.factor, r.start // self.factor + len(r) // self.coarse * step)
            for r in (rows, columns)
        )
        values, valid = self.frame.raster.read(down, across)
        values, valid = (part[list(self.colours), ::step, ::step] for part in (values, valid))
        return np.where(valid, self.radiometry.light(np.where(valid, values, 0)), np.float32(0)), valid


@lru_cache(maxsize=8)
def _sensor(
    name: str | None, bands: tuple[str, ...], factor: int, height: int, width: int, white: float
) -> Sensor:
    known = PRESETS.get(name or "", {})
    names = [band.name if (band := band_of(own, name)) else own for own in bands]  # as red, of the picture
    models = [known.get(each, _ANY) for each in names]
    decimate = Decimate(factor)
    blur = Blur.from_modulation([model.modulation for model in models], decimate)
    noise = view(models, [factor] * len(bands), (len(bands), factor, factor), white)
    operator = Separable.optics(blur, decimate, len(bands), height, width)
    return Sensor(operator, noise.constant, noise.photon)


def respect(
    light: Tensor,
    y: Tensor,
    known: Tensor,
    sensor: Sensor,
    variance: Tensor | None = None,
    within: Tensor | float = 0.0,
) -> Tensor:
    """Images moved so that they explain a measurement where it is known.

    Where it is not known they are taken to explain it already, which keeps the inverse in closed form.

    Args:
        light: (B, 3, H, W).
        y: (B, 3, h, w).
        known: Bool of the same shape.
        sensor: What measured.
        variance: Of the measurement's noise over that of the images, one a band; None is none.
        within: How far from the measurement the images may stay.
    """
    missing = torch.where(known, y - sensor.operator(light), 0)
    missing = missing.sign() * (missing.abs() - within).clamp_min(0)
    return light + optics(sensor).inverse(missing, variance)


def filled(y: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """A measurement with its gaps filled by the means of what is known around, of 2, 4, 8 … pixels.

    What a sensor sees beside a gap depends on what lies in it: were that black, pixels beside it would have
    to be too bright. What is filled in is not shown. A band of which nothing is known stays so.

    Args:
        y: (B, 3, h, w).
        known: Bool of the same shape.

    Returns:
        The measurement, and where it was filled.
    """
    whole = _continued(torch.where(known, y, 0), known.to(y))
    return whole, ~known & known.any(-1, keepdim=True).any(-2, keepdim=True)


def bridged(light: Tensor, y: Tensor, gap: Tensor, coarse: int) -> Tensor:
    """Images with a measurement's pixels, repeated, where that was `filled`.

    Args:
        light: (B, 3, H, W).
        y: (B, 3, h, w), the filled measurement.
        gap: Bool of the same shape.
        coarse: Pixels of the image along the side of one of the measurement's.
    """
    there, wide = (p.repeat_interleave(coarse, -2).repeat_interleave(coarse, -1) for p in (gap, y))
    out, place = light.clone(), (..., slice(there.shape[-2]), slice(there.shape[-1]))
    out[place] = torch.where(there, wide, light[place])
    return out


def _continued(total: Tensor, weight: Tensor) -> Tensor:
    """Means of what has weight, and elsewhere of twice as coarse a block."""
    height, width = total.shape[-2:]
    mean = torch.where(weight > 0, total / weight, 0)
    if height == width == 1 or bool((weight > 0).all()):
        return mean
    coarse = _continued(*(F.avg_pool2d(part, 2, ceil_mode=True) for part in (total, weight)))
    wide = coarse.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :height, :width]
    return torch.where(weight > 0, mean, wide)


def explained(y: Tensor, known: Tensor, sensor: Sensor) -> Tensor:
    """The least image that explains a measurement, A^+ y, (B, 3, H, W), its unknown pixels taken for 0."""
    return optics(sensor).inverse(torch.where(known, y, 0))


def optics(sensor: Sensor) -> Separable:
    """The operator of a sensor that `Measurement.sensor` gave."""
    assert isinstance(sensor.operator, Separable)
    return sensor.operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """How well an image explains a measurement, over all pixels that are known.

    Args:
        noise: Root mean square of the difference over the sensor's noise; 1 is as good as the sensor.
        reflectance: Mean absolute difference; of light where reflectance is not known.
        angle: Mean angle between measured and explained colours, degrees.
    """

    noise: float
    reflectance: float
    angle: float


def residual(seen: Sequence[tuple[Tensor, Tensor, Tensor, Sensor]], white: float) -> Residual:
    """The residual of some blocks.

    Args:
        seen: Of each what the image would give, what was measured and where it is known, (1, 3, h, w), and
            the sensor.
        white: Reflectance of light 1.
    """
    noise = reflectance = angle = count = pixels = 0.0
    for given, y, known, sensor in seen:
        difference = torch.where(known, given - y, 0).double()
        noise += float((difference.square() / sensor.variance(y)).sum())
        reflectance += float(difference.abs().sum()) * white
        count += float(known.sum())
        everywhere = known.all(1)
        cosine = F.cosine_similarity(given.double(), y.double(), dim=1).clamp(-1, 1)
        angle += float(torch.rad2deg(cosine.acos())[everywhere].sum())
        pixels += float(everywhere.sum())
    count, pixels = max(count, 1), max(pixels, 1)
    return Residual(noise=(noise / count) ** 0.5, reflectance=reflectance / count, angle=angle / pixels)
