import numpy as np
import pytest
import torch

from diffusionsat import ConfigError
from diffusionsat.diffusion.constraints import (
    DETERMINED,
    INVENTED,
    PARTLY,
    composite,
    determined,
    hard,
    project,
    pseudo_inverse,
    soft,
    split,
    support,
)
from diffusionsat.diffusion.operators import BandResponse, Blur, Compose, Decimate, Mask, Scale, Stack
from diffusionsat.diffusion.schedules import karras
from diffusionsat.diffusion.sensors import preset
from diffusionsat.diffusion.solvers import SOLVERS
from diffusionsat.testing import FakeDenoiser, GaussianMixture

SHAPE = (2, 6, 8)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KNOWN = normal(6, 8, seed=9) > 0
SHARP = Compose((Blur(1.1), Decimate(2)))
OPERATORS = {
    "area": Decimate(2),
    "point": Decimate(2, "point"),
    "mask": Mask(KNOWN),
    "blurred": SHARP,
    "blurred and holed": Compose((Blur(0.8), Mask(KNOWN))),
    "twice the same": BandResponse(torch.tensor([[1.0, 0.5], [1.0, 0.5], [0.0, 0.0]])),
    "other units": Compose((Scale(torch.tensor([2.0, 5.0])[:, None, None], 1.0), Decimate(2))),
    "stacked": Stack((SHARP, Mask(KNOWN)), SHAPE),
}


def matrix(operator):
    eye = torch.eye(96, dtype=torch.float64).view(96, *SHAPE)
    return operator.linear(eye).flatten(1).T


@pytest.mark.parametrize("name", OPERATORS)
def test_projection_is_that_of_the_dense_pseudo_inverse(name):
    operator, dense = OPERATORS[name], matrix(OPERATORS[name])
    x = normal(3, *SHAPE, seed=1)
    y = operator(normal(3, *SHAPE, seed=2))
    y[0] = operator(x[0:1])[0]  # one that is done at once must not disturb the others
    ours = project(x, y, operator, iterations=400, tolerance=1e-12)
    missing = (y - operator(x)).flatten(1)
    theirs = x + (missing @ torch.linalg.pinv(dense, rtol=1e-10).T).view_as(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(operator(ours), y, rtol=1e-7, atol=1e-7)
    # What the sensor cannot see is left as it was.
    blind = torch.eye(96).double() - torch.linalg.pinv(dense, rtol=1e-10) @ dense
    torch.testing.assert_close((ours - x).flatten(1) @ blind, torch.zeros(3, 96).double(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", OPERATORS)
def test_with_noise_it_is_the_mean_of_the_normal_posterior(name):
    operator, dense = OPERATORS[name], matrix(OPERATORS[name])
    x = normal(2, *SHAPE, seed=1)
    y = operator(normal(2, *SHAPE, seed=2)) + normal(*operator(x).shape, seed=3)
    variance = 0.1 + normal(*y.shape[1:], seed=4).square()
    ours = project(x, y, operator, variance=variance, iterations=400, tolerance=1e-14)
    gain = dense.T @ torch.linalg.inv(dense @ dense.T + torch.diag(variance.flatten()))
    torch.testing.assert_close(ours, x + ((y - operator(x)).flatten(1) @ gain.T).view_as(x))


def test_what_no_image_explains_is_explained_as_well_as_can_be():
    operator = OPERATORS["twice the same"]
    y = normal(1, 3, 6, 8)  # two bands that should be equal and a third that should be 0
    ours = pseudo_inverse(y, operator, tolerance=1e-12)
    theirs = torch.einsum("io,bohw->bihw", torch.linalg.pinv(operator.matrix.double()), y)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("sensor", ["sentinel-2", "landsat-7"])
def test_the_residual_of_a_sensor_in_single_precision(sensor):
    bands, gsd = {"sentinel-2": (["B04", "B05", "B12"], 5.0), "landsat-7": (["SR_B1", "SR_B4"], 7.5)}[sensor]
    model = preset(sensor, bands, (len(bands), 64, 64), gsd)
    truth, start = (
        torch.rand(2, len(bands), 64, 64, generator=torch.Generator().manual_seed(i)) for i in (0, 1)
    )
    y = model.operator(truth)
    left = y - model.operator(project(start, y, model.operator))
    assert float((left / model.variance(y).sqrt()).abs().max()) < 0.05
    assert float(left.norm()) < 2e-5 * float((y - model.operator(start)).norm())


@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("through", [False, True])
def test_soft_guidance_of_normal_data_is_exact(sigma, through):
    mean, spread = normal(96, seed=5), 0.7
    denoise = GaussianMixture(mean[None], spread, torch.ones(1))

    def differentiable(x, sigma):
        keep = spread**2 / (spread**2 + sigma**2)
        return keep * x + (1 - keep) * mean.view(SHAPE)

    dense = matrix(SHARP)
    x, y, variance = (
        normal(2, *SHAPE, seed=6) * sigma,
        normal(2, 2, 3, 4, seed=7),
        torch.tensor(0.04).double(),
    )
    with torch.inference_mode():
        ours = soft(
            differentiable if through else denoise,
            y, SHARP, variance, spread=spread, through=through, iterations=400, tolerance=1e-14,
        )(x, sigma)  # fmt: skip
    precision = torch.eye(96).double() * (1 / spread**2 + 1 / sigma**2) + dense.T @ dense / variance
    known = mean / spread**2 + x.flatten(1) / sigma**2 + y.flatten(1) @ dense / variance
    torch.testing.assert_close(ours.flatten(1), known @ torch.linalg.inv(precision), rtol=1e-5, atol=1e-6)


def test_samples_under_soft_guidance_have_the_posterior_of_the_measurement():
    mean, spread, noise = torch.tensor([1.0, -1.0, 0.5, 0.0]).double(), 0.8, 0.3
    y = torch.tensor(0.6).double().view(1, 1, 1, 1)
    guided = soft(
        GaussianMixture(mean[None], spread, torch.ones(1)), y, Decimate(2),
        torch.tensor(noise**2), spread=spread,
    )  # fmt: skip
    sigmas = karras(40, 0.01, 50.0)
    x = SOLVERS["heun"](guided, normal(4000, 1, 2, 2) * 50, sigmas.tolist()).flatten(1)
    row = torch.full((1, 4), 0.25).double()
    covariance = torch.linalg.inv(torch.eye(4).double() / spread**2 + row.T @ row / noise**2)
    expected = covariance @ (mean / spread**2 + row[0] * 0.6 / noise**2)
    torch.testing.assert_close(x.mean(0), expected, rtol=0, atol=0.04)
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0, atol=0.04)


def test_the_null_space_is_left_to_the_denoiser():
    # Of isotropic normal data under an exact measurement, the posterior is the prior in the null space.
    mean, spread = torch.tensor([1.0, -1.0, 0.5, 0.0]).double(), 0.8
    y = torch.tensor(0.6).double().view(1, 1, 1, 1)
    constrained = hard(GaussianMixture(mean[None], spread, torch.ones(1)), y, Decimate(2))
    x = SOLVERS["heun"](constrained, normal(4000, 1, 2, 2) * 50, karras(40, 0.01, 50.0).tolist()).flatten(1)
    torch.testing.assert_close(x.mean(1), torch.full((4000,), 0.6).double())
    torch.testing.assert_close(x.mean(0), mean - mean.mean() + 0.6, rtol=0, atol=0.04)
    covariance = spread**2 * (torch.eye(4).double() - 0.25)
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0, atol=0.04)


@pytest.mark.parametrize("solver", ["euler", "dpmpp-2m"])
def test_super_resolution_by_a_denoiser_that_never_saw_a_sensor(solver):
    # Smooth images: normal, with a correlation that falls with the distance.
    places = torch.cartesian_prod(torch.arange(12), torch.arange(12)).double()
    covariance = torch.exp(-torch.cdist(places, places).square() / 18) + 1e-4 * torch.eye(144)
    root, eye = torch.linalg.cholesky(covariance), torch.eye(144).double()

    def prior(x, sigma):
        return (x.flatten(1) @ torch.linalg.solve(covariance + sigma**2 * eye, covariance)).view_as(x)

    operator = Compose((Blur(1.2), Decimate(3)))
    dense = operator.linear(eye.view(144, 1, 12, 12)).flatten(1).T
    gain = covariance @ dense.T @ torch.linalg.inv(dense @ covariance @ dense.T)
    spread = (covariance - gain @ dense @ covariance).diagonal().mean()

    def error(images, truth):
        return float((images.flatten(-3) - truth).square().mean().sqrt())

    truth = normal(8, 144, seed=3) @ root.T
    y, sigmas = operator(truth.view(8, 1, 12, 12)), karras(20, 0.005, 20.0).tolist()
    best = error((y.flatten(1) @ gain.T).view(8, 1, 12, 12), truth)
    samples = 16
    start = normal(samples * 8, 1, 12, 12, seed=4) * 20
    constrained = hard(prior, y.repeat(samples, 1, 1, 1), operator, tolerance=1e-10, iterations=200)
    made = SOLVERS[solver](constrained, start, sigmas).view(samples, 8, 1, 12, 12)
    torch.testing.assert_close(operator(made.mean(0)), y, rtol=0, atol=1e-8)
    # One sample errs by the posterior's spread too, the mean of many by little more than the best guess.
    assert error(made, truth) < 1.1 * (best**2 + spread) ** 0.5
    assert error(made.mean(0), truth) < 1.1 * best < error(pseudo_inverse(y, operator), truth)


def test_the_constraint_acts_at_the_levels_given():
    x0 = normal(1, *SHAPE)
    y = SHARP(normal(1, *SHAPE, seed=1))
    constrained = hard(FakeDenoiser(x0), y, SHARP, levels=(0.5, 2.0))
    for sigma, acts in ((0.4, False), (0.5, True), (2.0, True), (2.1, False)):
        assert bool((constrained(x0, sigma) != x0).any()) == acts


def test_latents_are_moved_by_what_the_projection_moves_and_no_more():
    def decode(latents):
        return latents.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def encode(pixels):  # loses a tenth at every pass, as autoencoders do
        return 0.9 * Decimate(2)(pixels)

    operator, latents = Decimate(4), normal(1, 2, 4, 4)
    options = {"to_pixels": decode, "to_latents": encode}
    consistent = operator(decode(latents))
    torch.testing.assert_close(
        hard(FakeDenoiser(latents), consistent, operator, **options)(latents, 1.0), latents
    )
    moved = hard(FakeDenoiser(latents), consistent + 1, operator, **options)(latents, 1.0)
    torch.testing.assert_close(moved, latents + 0.9)
    pulled = soft(FakeDenoiser(latents), consistent + 1, operator, torch.tensor(1e-9), **options)(
        latents, 1.0
    )
    torch.testing.assert_close(pulled, latents + 0.9)
    with pytest.raises(ConfigError, match="both to_pixels and to_latents"):
        hard(FakeDenoiser(latents), consistent, operator, to_pixels=decode)


def test_through_the_decoder_the_gradient_reaches_the_latents():
    def decode(latents):
        return 3 * latents.repeat_interleave(2, 2).repeat_interleave(2, 3)

    # One number z with prior N(0, 1), decoded to 3 z in every pixel, whose mean is measured.
    y, sigma, noise = torch.full((1, 1, 1, 1), 2.0).double(), 0.6, 0.25
    guided = soft(
        lambda x, s: x / (1 + s**2), y, Decimate(2), torch.tensor(noise), through=True, to_pixels=decode
    )
    x = torch.full((1, 1, 1, 1), 0.4).double()
    r2, x0 = sigma**2 / (1 + sigma**2), 0.4 / (1 + sigma**2)
    # PiGDM takes the decoded image, not the latents, to have variance r2.
    expected = x0 + sigma**2 * (3 / (1 + sigma**2)) * (2.0 - 3 * x0) / (r2 / 4 + noise)
    assert float(guided(x, sigma)) == pytest.approx(expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_measured_and_invented_sum_to_the_image_exactly(name):
    operator = OPERATORS[name]
    x = (normal(2, *SHAPE) * 100).float()
    parts = split(x, operator)
    assert (parts.measured + parts.invented == x).all()
    torch.testing.assert_close(
        operator.linear(parts.measured), operator.linear(x.double()), rtol=1e-3, atol=1e-2
    )
    assert float(operator.linear(parts.invented).abs().max()) < 1e-2 < float(parts.measured.abs().max())
    twin = split(x, operator, operator.linear(normal(2, *SHAPE, seed=1).float()))
    assert (twin.measured + twin.invented == x).all()
    assert not torch.equal(twin.measured, parts.measured)


@pytest.mark.parametrize("name", OPERATORS)
def test_how_much_is_determined(name):
    operator, dense = OPERATORS[name], matrix(OPERATORS[name])
    expected = (torch.linalg.pinv(dense, rtol=1e-10) @ dense).diagonal().view(SHAPE).float()
    ours = determined(operator, SHAPE)
    exact = name in ("area", "point", "mask")
    tolerances = {"rtol": 1e-6, "atol": 1e-6} if exact else {"rtol": 0.5, "atol": 0.1}
    torch.testing.assert_close(ours, expected, **tolerances)
    assert float((ours - expected).mean().abs()) < 0.02
    assert 0 <= float(ours.min()) <= float(ours.max()) <= 1 + 1e-6


def test_support_names_what_is_known_what_is_partly_and_what_is_not():
    known = torch.zeros(8, 8, dtype=torch.bool)
    known[:, :4] = True
    assert (support(determined(Mask(known), (3, 8, 8))) == torch.where(known, DETERMINED, INVENTED)).all()
    assert (support(determined(Decimate(8), (3, 8, 8))) == PARTLY).all()
    assert (support(determined(Decimate(10), (1, 10, 10))) == PARTLY).all()
    seen = preset("sentinel-2", ["B04", "B03", "B02"], (3, 60, 60), 1.0).operator
    assert (
        support(determined(seen, (3, 60, 60))) != INVENTED
    ).double().mean() > 0.999  # but for probes' noise
    one_band = Mask(torch.tensor([True, False, False])[:, None, None])
    assert (support(determined(one_band, (3, 2, 2))) == PARTLY).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.uint16, torch.int16])
@pytest.mark.parametrize("feather", [0, 3])
def test_in_painting_keeps_known_pixels_to_the_last_bit(dtype, feather):
    rng = np.random.default_rng(0)
    original, filled = (torch.from_numpy(rng.uniform(0, 255, (1, 3, 40, 30))).to(dtype) for _ in range(2))
    hole = torch.zeros(40, 30, dtype=torch.bool)
    hole[10:20, 5:12] = True
    if dtype.is_floating_point:
        original[..., hole] = torch.nan
    made = composite(original, filled, hole, feather)
    assert made.dtype == dtype
    rim = torch.zeros_like(hole)
    rim[10 - feather : 20 + feather, 5 - feather : 12 + feather] = True
    beyond = (~rim).expand_as(original)
    assert made[beyond].numpy().tobytes() == original[beyond].numpy().tobytes()
    assert made[hole.expand_as(made)].numpy().tobytes() == filled[hole.expand_as(made)].numpy().tobytes()
    if feather:
        row = torch.stack([made, original, filled])[:, 0, 0, 15, 12:15].double()
        share = torch.tensor([0.75, 0.5, 0.25]).double()
        torch.testing.assert_close(row[0], row[1] + share * (row[2] - row[1]), rtol=1e-6, atol=0.5)


def test_nothing_to_fill_is_nothing_done():
    original = normal(1, 1, 4, 4)
    assert (composite(original, original + 1, torch.zeros(4, 4, dtype=torch.bool), 5) == original).all()


@pytest.mark.parametrize(
    ("hole", "feather", "message"), [((4, 5), 0, "filling and hole"), ((4, 4), -1, "feather is -1")]
)
def test_a_hole_of_another_size_is_refused(hole, feather, message):
    image = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ConfigError, match=message):
        composite(image, image, torch.zeros(hole, dtype=torch.bool), feather)
