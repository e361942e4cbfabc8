"""Objectives and averages against the published numbers and closed forms."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffusionsat.diffusion.denoisers import denoiser
from diffusionsat.diffusion.schedules import Discrete, Flow
from diffusionsat.training import averages, optimisers
from diffusionsat.training import recipe as recipes
from diffusionsat.training.objectives import make_objective, min_snr


@pytest.fixture(scope="module")
def schedule(reference):
    return load_file(reference / "parity/data/schedule.safetensors")


def test_published_v_objective(schedule):
    """Noisy latents, target, loss and weighted loss of the published training."""
    options = recipes.Objective(prediction="v", weighting="published")
    level = (schedule["t"] + 0.5) / 1000
    noised = make_objective(options, timesteps=True)(schedule["x0"], schedule["noise"], level)
    assert noised.time.equal(schedule["t"])
    torch.testing.assert_close(noised.latents, schedule["x_t"], rtol=0, atol=3e-6)
    torch.testing.assert_close(noised.target, schedule["v"], rtol=0, atol=3e-6)
    each = (schedule["loss.model_pred"] - noised.target).square().mean((1, 2, 3))
    torch.testing.assert_close(each, schedule["loss.per_sample_mse"], rtol=1e-5, atol=1e-6)
    weighted = (noised.weight * each).mean()[None]
    torch.testing.assert_close(weighted, schedule["loss.min_snr_published"], rtol=1e-5, atol=1e-6)


def test_min_snr_weights(schedule):
    for weighting, name in (("published", "published"), ("min-snr", "correct_for_v")):
        weights = min_snr(schedule["snr"], "v", weighting, 5.0)
        torch.testing.assert_close(weights, schedule[f"min_snr_weight_gamma5_{name}"])
    weights = min_snr(schedule["snr"], "epsilon", "min-snr", 5.0)
    torch.testing.assert_close(weights, schedule["min_snr_weight_gamma5_published"])


def test_min_snr_for_v_is_that_for_epsilon_by_another_name():
    """An error of x0 weighs the same: its square times snr + 1 is that of v, times snr that of epsilon."""
    snr = torch.logspace(-3, 3, 13)
    by_v = min_snr(snr, "v", "min-snr", 5.0) * (snr + 1)
    by_epsilon = min_snr(snr, "epsilon", "min-snr", 5.0) * snr
    torch.testing.assert_close(by_v, by_epsilon)


@pytest.mark.parametrize(
    ("prediction", "timesteps"),
    [("epsilon", True), ("v", True), ("epsilon", False), ("v", False), ("flow", False)],
)
def test_sampling_undoes_training(prediction, timesteps):
    """A network that predicts the target is, through the sampler's own conversion, the clean latents."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 4, 4, generator=generator) for _ in range(2))
    objective = make_objective(recipes.Objective(prediction=prediction), timesteps=timesteps)
    for level in (0.2, 0.5, 0.9):
        noised = objective(clean, noise, torch.tensor([level]))
        time = float(noised.time[0])
        sigma = float(Discrete.scaled_linear().sigmas[int(time)]) if timesteps else time / (1 - time)
        seen = []

        def network(x, t, seen=seen, noised=noised):
            seen.append((x, t))
            return noised.target

        knows = Discrete.scaled_linear().time if timesteps else Flow().time
        got = denoiser(network, prediction, knows)(clean + sigma * noise, sigma)
        torch.testing.assert_close(seen[0][0], noised.latents, rtol=0, atol=2e-5)
        assert float(seen[0][1][0]) == pytest.approx(time, abs=1e-4)
        torch.testing.assert_close(got, clean, rtol=0, atol=2e-4)


def test_flow_times_are_logit_normal_and_noisier_for_larger_latents():
    levels = (torch.arange(4000) + 0.5) / 4000
    flow = make_objective(recipes.Objective(), timesteps=False)
    small = flow(torch.zeros(4000, 1, 16, 16), torch.zeros(4000, 1, 16, 16), levels).time
    logits = torch.logit(small.double())
    assert float(logits.mean()) == pytest.approx(0, abs=1e-3)
    assert float(logits.std()) == pytest.approx(1, abs=5e-3)
    noisier = make_objective(recipes.Objective(shift=3), timesteps=False)
    moved = noisier(torch.zeros(4000, 1, 16, 16), torch.zeros(4000, 1, 16, 16), levels).time
    odds = small.double() / (1 - small.double())
    torch.testing.assert_close((moved.double() / (1 - moved.double())), 3 * odds, rtol=1e-2, atol=1e-3)
    large = flow(torch.zeros(4000, 1, 32, 32), torch.zeros(4000, 1, 32, 32), levels).time
    torch.testing.assert_close(torch.logit(large.double()), logits + np.log(2), rtol=0, atol=1e-3)


def test_published_average(schedule):
    decay = averages.published(0.9999)
    got = torch.tensor([decay(int(step)) for step in schedule["ema.step"]], dtype=torch.float64)
    torch.testing.assert_close(got, schedule["ema.decay"], rtol=0, atol=1e-12)


def averaged(width, steps):
    """The power-function average of weights that equal the step's number, and of their square."""
    network = nn.Linear(2, 1, bias=False)
    average = averages.Average(network, averages.power(width))
    for step in range(1, steps + 1):
        network.weight.data = torch.tensor([[step, step**2 / steps]])
        average.update(network, step)
    return average.weights["weight"][0].double()


def test_power_average_has_the_width_that_it_is_named_by():
    """The profile's mean and standard deviation in closed form (EDM2, equation 125)."""
    assert averages.power_exponent(0.10) == pytest.approx(6.94, abs=0.005)
    assert averages.power_exponent(0.05) == pytest.approx(16.97, abs=0.005)
    steps, width = 2000, 0.1
    g = averages.power_exponent(width)
    mean, square = averaged(width, steps).tolist()
    assert mean / steps == pytest.approx((g + 1) / (g + 2), rel=2e-3)
    assert (square / steps - (mean / steps) ** 2) ** 0.5 == pytest.approx(width, rel=2e-2)


def test_an_average_chosen_after_training():
    """Snapshots of two widths give a third that was never kept."""
    kept, weights = [], []
    for width in (0.05, 0.1):
        for steps in range(200, 1601, 200):
            kept.append((float(steps), width))
            value = averaged(width, steps) * torch.tensor([1.0, steps])
            weights.append({"weight": value.float()})
    factors = averages.combination(kept, (1600.0, 0.075))
    got = averages.combine(weights, factors)["weight"].double()
    wanted = averaged(0.075, 1600) * torch.tensor([1.0, 1600])
    assert factors.sum() == pytest.approx(1)
    torch.testing.assert_close(got, wanted, rtol=5e-3, atol=0)
    assert abs(float(weights[7]["weight"][0]) / float(wanted[0]) - 1) > 0.01


def test_an_average_of_few_snapshots_shrinks_no_weight():
    for wanted in (0.02, 0.05, 0.2, 0.25):
        kept = [(float(t), 0.1) for t in range(100, 1601, 100)]
        assert averages.combination(kept, (1600.0, wanted)).sum() == pytest.approx(1)


def test_schedule_of_rates():
    rises = recipes.Schedule(warm_up=100, decay=200, floor=0.1)
    got = [optimisers.rate(rises, seen, 1000) for seen in (0, 49, 99, 500, 800, 900, 1000)]
    assert got == pytest.approx([0.01, 0.5, 1, 1, 1, 0.5, 0.1])
    assert optimisers.rate(recipes.Schedule(warm_up=0), 0, 10) == 1


def test_adamw_is_torchs_and_keeps_its_rate_after_a_resume():
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    made = optimisers.make_optimiser(network, recipes.Optimiser(name="adamw", lr=1e-3))
    assert isinstance(made, torch.optim.AdamW)
    optimisers.set_rate(made, 0.5)
    assert made.param_groups[0]["lr"] == 5e-4
    lower = optimisers.make_optimiser(network, recipes.Optimiser(name="adamw", lr=1e-4))
    optimisers.resume(lower, made.state_dict())
    optimisers.set_rate(lower, 1)
    assert lower.param_groups[0]["lr"] == 1e-4


def test_one_step_of_a_regression_is_the_mean():
    """The best answer to a latent that is one of two is their mean, which a step of Euler gives back."""
    generator = torch.Generator().manual_seed(0)
    one, other, noise = (torch.randn(1, 4, 4, 4, generator=generator) for _ in range(3))
    objective = make_objective(recipes.Objective(regression=True), timesteps=False)
    asked = [objective(latents, noise, torch.tensor([0.3])) for latents in (one, other)]
    assert asked[0].latents.equal(asked[1].latents)  # the network cannot tell which
    best = (asked[0].target + asked[1].target) / 2
    assert float(asked[0].time) == 1
    sigma = 1e4
    got = denoiser(lambda x, t: best, "flow", Flow().time)(sigma * noise, sigma)
    torch.testing.assert_close(got, (one + other) / 2, rtol=0, atol=1e-3)
