"""The sensor model, the one place where it is said.

    y = decimate(blur(x)) + noise,     variance of the noise = constant + photon * signal

with a Gaussian point spread function, chosen so that blur and decimation together have the sensor's
modulation at the Nyquist frequency of its own grid. `PRESETS` holds the numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusionsat.diffusion.operators import (
    BandResponse,
    Blur,
    Compose,
    Decimate,
    Operator,
    Stack,
)
from diffusionsat.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Sensor:
    """An operator and its noise, whose variance is ``constant + photon * signal``.

    Args:
        operator: From images to measurements.
        constant: Variance at no signal, above 0, units of the measurement squared; broadcasts to it.
        photon: Variance that a unit of signal adds, 0 or more; broadcasts to the measurement.
    """

    operator: Operator
    constant: float | Tensor
    photon: float | Tensor = 0.0

    def variance(self, signal: Tensor) -> Tensor:
        """Variance of the noise of measurements, of their shape; negative ones count as no signal."""
        constant, photon = (torch.as_tensor(v).to(signal) for v in (self.constant, self.photon))
        return constant + photon * signal.clamp_min(0)

    def observe(self, x: Tensor, noise: Tensor) -> Tensor:
        """A measurement of an image, with standard normal noise of the measurement's shape."""
        signal = self.operator(x)
        return signal + self.variance(signal).sqrt() * noise


@dataclass(frozen=True, slots=True)
class BandModel:
    """Numbers of one band.

    Args:
        gsd: Of its own grid, metres.
        modulation: At that grid's Nyquist frequency, of optics, detector and motion together.
        snr: Signal over standard deviation of the noise ...
        reflectance: ... at this reflectance, where half of the variance is taken to be the photons'.
    """

    gsd: float
    modulation: float
    snr: float
    reflectance: float


# Sentinel-2. Modulation: as in S2Sharp (Ulfarsson et al. 2019). Reference radiances: as in ESA's radiometric
# uncertainty tool (Gorroño et al. 2017); they are taken for reflectances under an overhead sun. Assumed:
# solar irradiances, and the signal to noise, which is what was required at these radiances (in flight it is
# better). B10 sees no ground.
_SENTINEL_2 = {
    name: BandModel(gsd, modulation, snr, math.pi * radiance / irradiance)
    for name, gsd, modulation, snr, radiance, irradiance in (
        ("B01", 60.0, 0.32, 129, 129.11, 1884.69),
        ("B02", 10.0, 0.26, 154, 128.0, 1959.72),
        ("B03", 10.0, 0.28, 168, 128.0, 1823.24),
        ("B04", 10.0, 0.24, 142, 108.0, 1512.06),
        ("B05", 20.0, 0.38, 117, 74.6, 1424.64),
        ("B06", 20.0, 0.34, 89, 68.23, 1287.61),
        ("B07", 20.0, 0.34, 105, 66.7, 1162.08),
        ("B08", 10.0, 0.26, 174, 103.0, 1041.63),
        ("B8A", 20.0, 0.33, 72, 52.39, 955.32),
        ("B09", 60.0, 0.26, 114, 8.77, 812.92),
        ("B11", 20.0, 0.22, 100, 4.0, 245.59),
        ("B12", 20.0, 0.23, 100, 1.7, 85.25),
    )
}
# Landsat. TM's modulation is that of a Gaussian which falls to one half at 1 / (2 * 44.7 m), the mean of what
# Schowengerdt et al. 1985 measured (40.8 and 48.6 m); ETM+ is assumed alike. OLI's is assumed 0.30. Signal
# to noise at typical radiances is assumed: about what was required of OLI, and what ETM+ had.
_OLI = {
    name: BandModel(30.0, 0.30, snr, math.pi * radiance / irradiance)
    for name, snr, radiance, irradiance in (
        ("SR_B1", 130, 40.0, 1895.0),
        ("SR_B2", 130, 40.0, 1997.0),
        ("SR_B3", 100, 30.0, 1812.0),
        ("SR_B4", 90, 22.0, 1533.0),
        ("SR_B5", 90, 14.0, 1039.0),
        ("SR_B6", 100, 4.0, 230.8),
        ("SR_B7", 100, 1.7, 84.9),
    )
}
_TM = {
    name: BandModel(30.0, 0.5 ** ((2 * 44.7 / 60) ** 2), snr, _OLI[alike].reflectance)
    for name, alike, snr in (
        ("SR_B1", "SR_B2", 40),
        ("SR_B2", "SR_B3", 41),
        ("SR_B3", "SR_B4", 28),
        ("SR_B4", "SR_B5", 35),
        ("SR_B5", "SR_B6", 36),
        ("SR_B7", "SR_B7", 29),
    )
}
# NAIP: all assumed; its cameras differ by year and state, and its numbers are 8 bit.
_NAIP = {name: BandModel(0.6, 0.30, 60, 0.2) for name in ("red", "green", "blue", "nir")}

PRESETS: dict[str, dict[str, BandModel]] = {
    "sentinel-2": _SENTINEL_2,
    "landsat-5": _TM,
    "landsat-7": _TM,
    "landsat-8": _OLI,
    "landsat-9": _OLI,
    "naip": _NAIP,
}


def preset(sensor: str, bands: Sequence[str], shape: tuple[int, int, int], gsd: float) -> Sensor:
    """A sensor's view of a sharper image of its bands, in reflectance.

    Args:
        sensor: A key of `PRESETS`.
        bands: The image's bands, the sensor's names, in order.
        shape: Of the image, (C, H, W), C the number of bands.
        gsd: Of the image, metres; every band's own is a multiple of it.

    Returns:
        See `view`.

    Raises:
        ConfigError: If the sensor or a band is not known, or a grid is no multiple of the image's.
    """
    if sensor not in PRESETS:
        raise ConfigError(f"sensor is {sensor!r}. Known are: {', '.join(PRESETS)}.")
    known = PRESETS[sensor]
    foreign = [band for band in bands if band not in known]
    if foreign or len(bands) != shape[0]:
        what = f"There is no band {foreign[0]!r}" if foreign else f"{len(bands)} names for {shape[0]} bands"
        raise ConfigError(f"{what}; bands of {sensor} are: {', '.join(known)}.")
    models = [known[band] for band in bands]
    return view(models, [_factor(model.gsd, gsd) for model in models], shape)


def view(
    models: Sequence[BandModel], factors: Sequence[int], shape: tuple[int, int, int], white: float = 1.0
) -> Sensor:
    """What a sensor sees of a sharper image, each band so many times coarser.

    Args:
        models: One a band.
        factors: How many of the image's pixels one of the band's is, along a side.
        shape: Of the image, (C, H, W).
        white: Reflectance of the image's 1.

    Returns:
        The sensor. If the bands are of one factor it measures (B, C, h, w); else its operator is a `Stack`
        of one part a factor, the finest first, bands in the order given.
    """
    views, constants, photons = [], [], []
    for factor in sorted(set(factors)):
        places = [i for i, f in enumerate(factors) if f == factor]
        chosen = [models[i] for i in places]
        decimate = Decimate(factor)
        blur = Blur.from_modulation([model.modulation for model in chosen], decimate)
        views.append(Compose((BandResponse.select(places, len(models)), blur, decimate)))
        at_reference = [(model.reflectance / model.snr) ** 2 / 2 for model in chosen]
        per_signal = [v / model.reflectance for v, model in zip(at_reference, chosen, strict=True)]
        constants.append(torch.tensor(at_reference)[:, None, None] / white**2)
        photons.append(torch.tensor(per_signal)[:, None, None] / white)
    if len(views) == 1:
        return Sensor(views[0], constants[0], photons[0])
    stack = Stack(tuple(views), shape)
    flat = [
        stack.join([n.expand(1, *view.measures(shape)) for n, view in zip(numbers, views, strict=True)])
        for numbers in (constants, photons)
    ]
    return Sensor(stack, *flat)


def _factor(coarse: float, fine: float) -> int:
    factor = round(coarse / fine) if fine > 0 else 0
    if factor < 1 or not math.isclose(factor * fine, coarse, rel_tol=1e-6):
        raise ConfigError(f"A grid of {coarse:g} m is no multiple of the image's {fine:g} m.")
    return factor
