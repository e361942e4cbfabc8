import pytest
import torch

from diffusionsat import ConfigError
from diffusionsat.diffusion.denoisers import denoiser
from diffusionsat.diffusion.schedules import flow_time


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0", "flow"])
@pytest.mark.parametrize("sigma", [0.01, 0.7, 1.0, 20.0])
def test_a_perfect_network_gives_back_the_clean_latents(prediction, sigma):
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    alpha = 1 / (1 + sigma**2) ** 0.5
    perfect = {"epsilon": noise, "v": alpha * noise - sigma * alpha * x0, "x0": x0, "flow": noise - x0}[
        prediction
    ]
    t = sigma / (1 + sigma)
    expected_input = (1 - t) * x0 + t * noise if prediction == "flow" else alpha * (x0 + sigma * noise)

    def network(latents, time):
        torch.testing.assert_close(latents, expected_input)
        torch.testing.assert_close(time.double(), torch.full((2,), t).double())
        return perfect

    torch.testing.assert_close(denoiser(network, prediction, flow_time)(x0 + sigma * noise, sigma), x0)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ConfigError, match="Known are: epsilon, v, x0, flow"):
        denoiser(lambda x, t: x, "score", flow_time)
