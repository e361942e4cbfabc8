import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from diffusionsat import ConfigError
from diffusionsat.diffusion.operators import (
    BandResponse,
    Blur,
    Compose,
    Decimate,
    Mask,
    Scale,
    Separable,
    Stack,
)
from diffusionsat.diffusion.sensors import PRESETS, Sensor, preset


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operators(bands, height, width, factor):
    known = normal(height, width, seed=5) > 0
    selection = BandResponse.select([bands - 1, 0], bands)
    sharp = Compose((Blur(0.7 * factor), Decimate(factor)))
    return {
        "blur": Blur(1.3),
        "blur by band, zero border": Blur(tuple(0.3 * i for i in range(bands)), "zero"),
        "wide blur": Blur(9.0),
        "area": Decimate(factor),
        "point": Decimate(factor, "point"),
        "mask": Mask(known),
        "bands": BandResponse(normal(4, bands, seed=6)),
        "scale": Scale(normal(bands, 1, 1, seed=7), 3.0),
        "composed": Compose((selection, Scale(2.0, 1.0), Blur((0.5, 1.5)), Decimate(factor))),
        "stacked": Stack((sharp, Mask(known), Compose((selection, sharp))), (bands, height, width)),
    }


@settings(max_examples=25, deadline=None)
@given(bands=st.integers(1, 4), h=st.integers(1, 4), w=st.integers(1, 4), factor=st.integers(2, 6))
def test_adjoints(bands, h, w, factor):
    x = normal(2, bands, h * factor, w * factor, seed=1)
    for name, operator in operators(bands, h * factor, w * factor, factor).items():
        y = operator.linear(x)
        other = normal(*y.shape, seed=2)
        left, right = (y * other).sum(), (x * operator.adjoint(other)).sum()
        torch.testing.assert_close(left, right, msg=name)
        assert operator.adjoint(other).shape == x.shape
        assert operator.measures(x.shape[1:]) == y.shape[1:]
        # Calling adds the offset, which the linear part does not have.
        torch.testing.assert_close(operator(x) - operator(0 * x), y, msg=name)
        torch.testing.assert_close(operator.linear(0 * x), 0 * y, msg=name)


@pytest.mark.parametrize(
    "operator", [Decimate(4), Decimate(4, "point"), Decimate(3, "point"), Mask(normal(12, 12) > 0)]
)
def test_gram_is_the_diagonal_of_a_diagonal_matrix(operator):
    eye = torch.eye(144, dtype=torch.float64).view(144, 1, 12, 12)
    matrix = operator.linear(eye).flatten(1).T
    product = matrix @ matrix.T
    y = operator.linear(eye[:1])
    torch.testing.assert_close(product, torch.diag(operator.gram(y).expand_as(y).flatten()))


@pytest.mark.parametrize(("border", "mode"), [("reflect", "reflect"), ("zero", "constant")])
def test_blur_is_that_of_scipy(border, mode):
    x = normal(1, 2, 13, 30)
    ours = Blur((0.8, 2.5), border).linear(x)
    for band, sigma in enumerate((0.8, 2.5)):
        reach = math.ceil(4 * sigma)
        theirs = ndimage.gaussian_filter(x[0, band].numpy(), sigma, mode=mode, radius=reach)
        np.testing.assert_allclose(ours[0, band], theirs, atol=1e-12)


def test_blur_keeps_the_mean_even_of_images_smaller_than_itself():
    for shape in ((2, 1, 1, 1), (2, 3, 3, 5), (2, 1, 40, 7)):
        x = normal(*shape)
        torch.testing.assert_close(Blur(4.0).linear(x).mean((2, 3)), x.mean((2, 3)))
    assert (Blur(0.0).linear(x) == x).all()


@pytest.mark.parametrize("factor", range(1, 11))
@pytest.mark.parametrize("sampling", ["area", "point"])
def test_decimation_of_a_constant_and_of_a_ramp(factor, sampling):
    decimate = Decimate(factor, sampling)
    assert (decimate(torch.full((1, 2, 2 * factor, 3 * factor), 0.25)) == 0.25).all()
    ramp = (torch.arange(3 * factor, dtype=torch.float64) + 0.5).expand(1, 1, 2 * factor, -1)
    # Registered: a coarse pixel's value is the ramp's at its centre.
    torch.testing.assert_close(decimate(ramp)[0, 0, 0], (torch.arange(3) + 0.5).double() * factor)


def measured_modulation(operator, factor):
    """Of a wave at the coarse grid's Nyquist frequency, in phase with its pixels' centres."""
    places = torch.arange(64 * factor, dtype=torch.float64) + 0.5
    wave = torch.cos(torch.pi * (places / factor - 0.5)).expand(1, 1, factor, -1)
    return float(operator(wave)[0, 0, 0, 16:-16].abs().mean())


@pytest.mark.parametrize("factor", [2, 4, 5, 10])
@pytest.mark.parametrize("sampling", ["area", "point"])
def test_blur_and_decimation_have_the_modulation_asked_for(factor, sampling):
    decimate = Decimate(factor, sampling)
    assert measured_modulation(decimate, factor) == pytest.approx(decimate.modulation)
    blur = Blur.from_modulation([0.25], decimate)
    # The discrete Gaussian is cut at four sigma and sampled.
    assert measured_modulation(Compose((blur, decimate)), factor) == pytest.approx(0.25, abs=0.002)


def test_full_width_at_half_maximum():
    point = torch.zeros(1, 1, 1, 41, dtype=torch.float64)
    point[..., 20] = 1
    spread = Blur.from_fwhm(8.0).linear(point)[0, 0, 0]
    assert float(spread[24] / spread[20]) == pytest.approx(0.5)
    assert Blur.from_fwhm([8.0, 4.0]).sigma == pytest.approx((3.3972, 1.6986), abs=1e-4)


def test_noise_has_the_variance_of_the_model():
    sensor = Sensor(Decimate(2), torch.tensor([1e-4, 4e-4])[:, None, None], 0.01)
    x = torch.full((1, 2, 400, 400), 0.2)
    y = sensor.observe(x, normal(1, 2, 200, 200).float())
    expected = torch.tensor([1e-4, 4e-4]) + 0.01 * 0.2
    torch.testing.assert_close((y - 0.2).square().mean((0, 2, 3)), expected, rtol=0.02, atol=0)
    assert sensor.variance(torch.full((1, 2, 1, 1), -5.0)).flatten().tolist() == pytest.approx([1e-4, 4e-4])


def test_presets_have_their_modulation_and_signal_to_noise():
    for name, models in PRESETS.items():
        for band, model in models.items():
            sensor = preset(name, [band], (1, 20, 1280), model.gsd / 20)
            modulation = measured_modulation(sensor.operator, 20)
            assert modulation == pytest.approx(model.modulation, abs=0.002)
            signal = torch.full((1, 1, 1, 64), model.reflectance)
            snr = model.reflectance / sensor.variance(signal).sqrt()
            torch.testing.assert_close(snr, torch.full_like(snr, model.snr))


def test_bands_of_several_resolutions_are_one_measurement():
    bands = ["B04", "B05", "B01", "B02"]
    sensor = preset("sentinel-2", bands, (4, 36, 72), 10 / 2)
    x = torch.rand(2, 4, 36, 72, generator=torch.Generator().manual_seed(3))
    parts = sensor.operator.parts(sensor.operator(x))
    assert [part.shape[1:] for part in parts] == [(2, 18, 36), (1, 9, 18), (1, 3, 6)]
    for band, (part, place) in {"B04": (0, 0), "B05": (1, 0), "B01": (2, 0), "B02": (0, 1)}.items():
        i = bands.index(band)
        alone = preset("sentinel-2", [band], (1, 36, 72), 10 / 2).operator(x[:, i : i + 1])
        torch.testing.assert_close(parts[part][:, place], alone[:, 0], rtol=1e-4, atol=1e-5)
    variances = sensor.operator.parts(sensor.variance(sensor.operator(x)))
    model = PRESETS["sentinel-2"]["B05"]
    noise = (model.reflectance / model.snr) ** 2
    torch.testing.assert_close(variances[1], noise * (1 + parts[1] / model.reflectance) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blur(-1.0), "sigma"),
        (lambda: Blur(float("nan")), "sigma"),
        (lambda: Blur(1.0, "wrap"), "reflect or zero"),
        (lambda: Blur((1.0, 2.0)).linear(torch.zeros(1, 3, 4, 4)), "2 widths and the image 3 bands"),
        (lambda: Blur.from_modulation([0.0], Decimate(2)), "modulation"),
        (lambda: Decimate(0), "factor"),
        (lambda: Decimate(2, "cubic"), "area or point"),
        (lambda: Decimate(3)(torch.zeros(1, 1, 4, 6)), "6x4"),
        (lambda: preset("spot", ["red"], (1, 4, 4), 1.0), "Known are: sentinel-2"),
        (lambda: preset("naip", ["B04"], (1, 4, 4), 0.6), "'B04'; bands of naip are: red, green"),
        (lambda: preset("naip", ["red"], (3, 4, 4), 0.6), "1 names for 3 bands"),
        (lambda: preset("sentinel-2", ["B04"], (1, 4, 4), 3.0), "10 m is no multiple of the image's 3 m"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("factor", "sampling", "height", "width"), [(2, "area", 14, 11), (3, "point", 20, 18)]
)
def test_optics_in_one_are_blur_and_decimation_with_their_inverse(factor, sampling, height, width):
    blur, decimate = Blur((0.4 * factor, 0.9 * factor)), Decimate(factor, sampling)
    optics = Separable.optics(blur, decimate, 2, height, width)
    x = torch.randn(3, 2, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, columns = height // factor * factor, width // factor * factor
    y = optics.linear(x)
    assert y.shape[1:] == optics.measures(x.shape[1:]) == (2, rows // factor, columns // factor)
    assert (y - decimate(blur(x)[..., :rows, :columns])).abs().max() < 1e-6
    # The pseudo-inverse, by brute force of the whole matrix.
    basis = torch.eye(2 * height * width, dtype=torch.float64).view(-1, 2, height, width)
    matrix = optics.linear(basis).flatten(1).T
    assert (optics.inverse(y).flatten(1) - y.flatten(1) @ torch.linalg.pinv(matrix).T).abs().max() < 1e-4
    variance = torch.tensor([0.01, 0.3], dtype=torch.float64)[:, None, None]
    noise = torch.diag(variance.expand(y.shape[1:]).flatten())
    damped = matrix.T @ torch.linalg.inv(matrix @ matrix.T + noise)
    assert (optics.inverse(y, variance).flatten(1) - y.flatten(1) @ damped.T).abs().max() < 1e-5
    share = (torch.linalg.pinv(matrix) @ matrix).diagonal().view(2, height, width)
    assert (optics.determined - share).abs().max() < 1e-4
