"""A model without weights: exact for normal data, with an autoencoder that keeps the means of blocks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.checkpoints.layout import FORMAT, FORMAT_VERSION, Config, Defaults
from diffusionsat.checkpoints.opening import Opened
from diffusionsat.diffusion.schedules import Flow
from diffusionsat.model import DiffusionSat
from diffusionsat.models.networks import Residuals


class AnalyticNetworks:
    """Networks of normal data, every latent independent of mean 0 and variance 1.

    See `diffusionsat.models.networks.Networks`. Words and metadata change nothing; the latents are the means
    of blocks of four by four pixels, and one channel of nothing.
    """

    factor, multiple, latent_channels = 4, 16, 4
    halo: int | None = 0

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """There is nothing to move."""

    def lost(self, prompt: str) -> str | None:
        """Every prompt fits."""
        return None

    def text(self, prompts: list[str]) -> tuple[Tensor, ...]:
        """A row of nothing for each."""
        return (torch.zeros(len(prompts), 1),)

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        text: tuple[Tensor, ...],
        numbers: Tensor,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """Velocity of flow matching: noise less x0, with E[x0 | x] = x / (1 + sigma^2)."""
        t = time[:, None, None, None].to(latents)
        sigma = t / (1 - t)
        x = latents * (1 + sigma)
        x0 = x / (1 + sigma**2)
        return torch.where(t > 0, (x - x0) / sigma.clamp_min(1e-12) - x0, -x0)

    def encode(self, image: Tensor) -> Tensor:
        """Means of blocks."""
        return F.pad(F.avg_pool2d(image.float(), 4), (0, 0, 0, 0, 0, 1))

    def decode(self, latents: Tensor) -> Tensor:
        """Each latent repeated over its block."""
        return latents[:, :3].float().repeat_interleave(4, 2).repeat_interleave(4, 3)


class _Analytic(DiffusionSat):
    def __reduce__(self) -> tuple[object, tuple[()]]:
        return analytic_model, ()


def analytic_model() -> DiffusionSat:
    """A model that makes noise of the right kind at once; for trials of size, order and interruption."""
    config = Config(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        name="analytic",
        version="1",
        licence="Apache-2.0",
        max_tokens=16,
        denoiser={},
        autoencoder={},
        text_encoder={},
        defaults=Defaults(size=(64, 64), steps=2, solver="euler"),
    )
    opened = Opened(config=config, networks=AnalyticNetworks(), schedule=Flow(), digest="analytic")
    return _Analytic(opened, device=torch.device("cpu"), precision="fp32")
