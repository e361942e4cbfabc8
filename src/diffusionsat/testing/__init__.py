"""Stand-ins for tests, ours and users': denoisers whose answer is known, and a tiny checkpoint."""

from diffusionsat.testing.checkpoint import add_tiny_control, tiny_checkpoint
from diffusionsat.testing.denoisers import FakeDenoiser, GaussianMixture
from diffusionsat.testing.networks import analytic_model

__all__ = ["FakeDenoiser", "GaussianMixture", "add_tiny_control", "analytic_model", "tiny_checkpoint"]
