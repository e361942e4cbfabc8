"""Stand-ins for tests, ours and users': denoisers whose answer is known, and a tiny checkpoint."""

from diffusionsat.testing.checkpoint import tiny_checkpoint
from diffusionsat.testing.denoisers import FakeDenoiser, GaussianMixture

__all__ = ["FakeDenoiser", "GaussianMixture", "tiny_checkpoint"]
