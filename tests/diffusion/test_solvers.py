import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from diffusionsat import Cancelled
from diffusionsat.diffusion.schedules import Discrete, flow, karras
from diffusionsat.diffusion.solvers import SOLVERS
from diffusionsat.testing import FakeDenoiser, GaussianMixture

MIXTURE = GaussianMixture(
    torch.tensor([[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2]]), 0.5, torch.tensor([0.5, 0.3, 0.2])
)
START, END = 10.0, 0.05


def exact(x):
    """The mixture's path from START to END, by SciPy's Runge-Kutta of order 8 in log sigma."""

    def slope(s, flat):
        sigma = float(np.exp(s))
        state = torch.from_numpy(flat).view(x.shape)
        return (state - MIXTURE(state, sigma)).numpy().ravel()

    span = (np.log(START), np.log(END))
    end = solve_ivp(slope, span, x.numpy().ravel(), method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    return torch.from_numpy(end).view(x.shape)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2), ("dpmpp-2m", 2)])
def test_order_of_convergence(name, order):
    torch.manual_seed(0)
    x = torch.randn(64, 2, 1, 1).double() * START
    truth = exact(x)

    def error(steps):
        levels = torch.logspace(np.log10(START), np.log10(END), steps + 1, dtype=torch.float64)
        return float((SOLVERS[name](MIXTURE, x, levels) - truth).square().mean().sqrt())

    coarse, fine = error(80), error(160)
    assert order - 0.25 < np.log2(coarse / fine) < order + 0.6
    assert fine < (0.05 if order == 1 else 0.004)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("sigmas", [flow(7), karras(7, 0.02, 80.0)], ids=["flow", "karras"])
def test_a_denoiser_that_is_sure_is_believed(name, sigmas):
    x0 = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    fake, seen = FakeDenoiser(x0), []
    x = x0 + float(sigmas[0]) * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    result = SOLVERS[name](fake, x, sigmas, seen.append)
    torch.testing.assert_close(result, x0.expand_as(x))
    assert [s.step for s in seen] == list(range(1, 8))
    assert seen[-1].steps == 7
    assert seen[-1].sigma == 0
    assert len(fake.sigmas) == {"euler": 7, "dpmpp-2m": 7, "heun": 13, "midpoint": 14}[name]


@pytest.mark.parametrize("name", SOLVERS)
def test_on_step_cancels(name):
    fake = FakeDenoiser(torch.zeros(1, 1, 1, 1))
    with pytest.raises(Cancelled, match="step 2 of 5"):
        SOLVERS[name](fake, torch.ones(1, 1, 1, 1), flow(5), lambda info: info.step < 2)


def schedulers():
    return pytest.importorskip("diffusers", reason="diffusers is not installed")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_is_ddim_of_diffusers(prediction):
    scheduler = schedulers().DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        set_alpha_to_one=False,
        steps_offset=1,
        clip_sample=False,
    )
    schedule = Discrete.scaled_linear()
    sigmas = schedule.leading(20)
    scheduler.set_timesteps(20)
    torch.manual_seed(0)
    start = torch.randn(2, 2, 1, 1).double()

    theirs = start
    for t in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[t].double()
        sigma = float(((1 - alpha) / alpha).sqrt())
        x0 = MIXTURE(theirs / alpha.sqrt(), sigma)
        noise = (theirs - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        output = noise if prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * x0
        theirs = scheduler.step(output, t, theirs).prev_sample
    first, last = (float(1 / (1 + s**2) ** 0.5) for s in (sigmas[0], sigmas[-1]))
    ours = SOLVERS["euler"](MIXTURE, start / first, sigmas) * last
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_dpmpp_2m_is_that_of_diffusers():
    scheduler = schedulers().DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(15)
    torch.manual_seed(0)
    start = torch.randn(2, 2, 1, 1).double()
    theirs = start
    for i, t in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[i])
        alpha = 1 / (1 + sigma**2) ** 0.5
        x0 = MIXTURE(theirs / alpha, sigma)
        theirs = scheduler.step((theirs - alpha * x0) / (sigma * alpha), t, theirs).prev_sample
    sigmas = scheduler.sigmas.tolist()
    ours = SOLVERS["dpmpp-2m"](MIXTURE, start * (1 + sigmas[0] ** 2) ** 0.5, sigmas)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_euler_is_the_flow_matching_solver_of_diffusers():
    scheduler = schedulers().FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(12)
    torch.manual_seed(0)
    start = torch.randn(2, 2, 1, 1)
    theirs = start
    for i, t in enumerate(scheduler.timesteps):
        time = min(float(scheduler.sigmas[i]), 1 - 1e-7)  # at 1 the noise level is infinite
        x0 = MIXTURE(theirs / (1 - time), time / (1 - time))
        theirs = scheduler.step((theirs - x0) / time, t, theirs).prev_sample
    times = scheduler.sigmas.double().clamp_max(1 - 1e-7)
    sigmas = times / (1 - times)
    ours = SOLVERS["euler"](MIXTURE, start.double() * (1 + float(sigmas[0])), sigmas)
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-3, atol=1e-3)


def test_heun_is_that_of_diffusers():
    scheduler = schedulers().HeunDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(12)
    torch.manual_seed(0)
    start = torch.randn(2, 2, 1, 1).double() * float(scheduler.sigmas[0])
    theirs = start
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        noise = (theirs - MIXTURE(theirs, sigma)) / sigma
        theirs = scheduler.step(noise, t, theirs).prev_sample
    sigmas = [float(scheduler.sigmas[0]), *scheduler.sigmas[1::2].tolist()]  # levels within stand there twice
    torch.testing.assert_close(SOLVERS["heun"](MIXTURE, start, sigmas), theirs, rtol=1e-4, atol=1e-4)
