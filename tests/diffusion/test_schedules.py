import pytest
import torch
from safetensors.torch import load_file

from diffusionsat.diffusion.schedules import Discrete, Flow, flow, flow_time, karras


def test_flow_levels():
    sigmas = flow(4, start=0.9)
    torch.testing.assert_close(
        sigmas, torch.tensor([9.0, 0.675 / 0.325, 0.45 / 0.55, 0.225 / 0.775, 0.0]).double()
    )
    shifted = flow(10, shift=3.0)
    assert (shifted[:-1] >= flow(10)[:-1]).all()
    assert shifted[-1] == 0
    assert flow_time(float(shifted[5])) == pytest.approx(3 * 0.4995 / (1 + 2 * 0.4995), abs=1e-6)


@pytest.mark.parametrize("size", [(32, 64), (64, 64), (512, 128)])
def test_no_level_is_noisier_than_what_was_learned_from(size):
    """Stable Diffusion's noisiest level is 14.6146 (its table of sigmas)."""
    alone, v = (Flow.of(prediction, shift=2.0).levels(9, size) for prediction in ("flow", "v"))
    assert alone[0] > 900
    assert v[0] == pytest.approx(14.6146, abs=1e-3)
    assert (v.diff() < 0).all()
    assert v[-1] == 0


def test_karras_levels_fall_from_the_highest_to_the_lowest_and_then_zero():
    sigmas = karras(5, 0.02, 80)
    torch.testing.assert_close(sigmas[[0, 4, 5]], torch.tensor([80, 0.02, 0]).double())
    assert (sigmas.diff() < 0).all()


def test_scaled_linear_equals_the_published_tables(reference):
    tables = load_file(reference / "parity/data/schedule.safetensors")
    alphas = tables["alphas_cumprod"].double()
    torch.testing.assert_close(1 / (1 + Discrete.scaled_linear().sigmas ** 2), alphas, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("timestep", [0, 1, 500, 999])
def test_a_noise_level_has_its_timestep(timestep):
    schedule = Discrete.scaled_linear()
    assert schedule.time(float(schedule.sigmas[timestep])) == pytest.approx(timestep, abs=1e-6)
    between = float((schedule.sigmas[300] * schedule.sigmas[301]).sqrt())
    assert schedule.time(between) == pytest.approx(300.5, abs=1e-6)


def test_trailing_levels_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(7)
    schedule = Discrete.scaled_linear()
    torch.testing.assert_close(schedule.trailing(7)[:-1], schedule.sigmas[scheduler.timesteps])
    assert schedule.trailing(7)[-1] == 0
