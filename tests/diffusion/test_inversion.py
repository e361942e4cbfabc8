import math

import pytest
import torch

from diffusionsat import Cancelled, ConfigError
from diffusionsat.diffusion.inversion import invert, start
from diffusionsat.diffusion.schedules import Discrete, flow, karras
from diffusionsat.diffusion.solvers import SOLVERS
from diffusionsat.testing import FakeDenoiser, GaussianMixture

GAUSSIAN = GaussianMixture(torch.tensor([[0.4, -0.7]]), 0.5, torch.ones(1))
MIXTURE = GaussianMixture(torch.tensor([[1.0, 0.5], [-1.0, 0.3]]), 0.4, torch.tensor([0.6, 0.4]))


def images():
    return torch.randn(32, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.6


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2), ("dpmpp-2m", 2)])
@pytest.mark.parametrize("denoise", [GAUSSIAN, MIXTURE], ids=["normal", "mixture"])
def test_invert_and_solve_give_the_image_back(solver, order, denoise):
    def error(steps):
        sigmas = flow(steps, start=0.95)
        latents = invert(denoise, images(), sigmas, SOLVERS[solver])
        return float((SOLVERS[solver](denoise, latents, sigmas) - images()).square().mean().sqrt())

    coarse, fine = error(80), error(160)
    assert math.log2(coarse / fine) > order - 0.3
    assert fine < (0.02 if order == 1 else 0.001)


@pytest.mark.parametrize("solver", SOLVERS)
def test_inverted_latents_are_those_of_the_exact_path(solver):
    # Of normal data x - m grows with (s^2 + sigma^2)^0.5.
    sigmas = flow(400, start=0.95)
    latents = invert(GAUSSIAN, images(), sigmas, SOLVERS[solver])
    mean = torch.tensor([0.4, -0.7]).double().view(1, 2, 1, 1)
    exact = mean + (images() - mean) * (1 + (float(sigmas[0]) / 0.5) ** 2) ** 0.5
    assert float((latents / exact - 1).abs().max()) < (0.1 if solver == "euler" else 0.01)


def test_the_step_to_zero_is_inverted_to_first_order():
    sigma, spread = 0.2, 0.5
    latents = invert(GAUSSIAN, images(), [sigma, 0.0])
    mean = torch.tensor([0.4, -0.7]).double().view(1, 2, 1, 1)
    shrinks_by = sigma**2 / (sigma**2 + spread**2)  # of the step to zero
    torch.testing.assert_close(GAUSSIAN(latents, sigma) - mean, (1 - shrinks_by**2) * (images() - mean))


def test_where_the_last_level_is_not_zero_the_latents_are_at_that_level():
    sigmas = Discrete.scaled_linear().leading(100)
    assert sigmas[-1] > 0
    x = SOLVERS["heun"](GAUSSIAN, invert(GAUSSIAN, images(), sigmas, SOLVERS["heun"]), sigmas)
    torch.testing.assert_close(x, images(), rtol=0, atol=1e-3)


def test_the_start_of_an_edit():
    sigmas = karras(10, 0.1, 20.0)
    x0, noise = images(), torch.ones(32, 2, 1, 1).double()
    x, left = start(x0, noise, sigmas, 0.4)
    assert left == sigmas[-5:].tolist()
    torch.testing.assert_close(x, x0 + left[0])
    assert start(x0, noise, sigmas, 1.0)[1] == sigmas.tolist()
    assert start(x0, noise, sigmas, 1e-9)[1] == sigmas[-2:].tolist()
    torch.testing.assert_close(SOLVERS["euler"](FakeDenoiser(x0), x, left), x0)


def test_little_strength_keeps_the_image_and_much_makes_another():
    prior = GaussianMixture(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), 0.05, torch.tensor([0.5, 0.5]))
    x0 = torch.ones(500, 2, 1, 1).double()
    noise = torch.randn(500, 2, 1, 1, generator=torch.Generator().manual_seed(1)).double()
    kept = []
    for strength in (0.3, 1.0):
        x, left = start(x0, noise, karras(30, 0.02, 40.0), strength)
        kept.append(float((SOLVERS["heun"](prior, x, left).mean((1, 2, 3)) > 0).double().mean()))
    assert kept[0] > 0.99
    assert 0.4 < kept[1] < 0.65


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, float("nan")])
def test_impossible_strength_is_refused(strength):
    with pytest.raises(ConfigError, match="strength"):
        start(images(), images(), flow(4), strength)


def test_without_steps_there_is_nothing_to_invert():
    with pytest.raises(ConfigError, match="1 noise levels"):
        invert(GAUSSIAN, images(), [0.0])


def test_inversion_can_be_stopped():
    with pytest.raises(Cancelled):
        invert(GAUSSIAN, images(), flow(5), on_step=lambda info: False)
