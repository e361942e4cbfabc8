"""What tests of ControlNets of the compact family give these."""

import torch

from diffusionsat import Metadata
from diffusionsat.models.compact.autoencoder import FACTOR
from diffusionsat.models.encodings import numbers
from diffusionsat.models.networks import BANDS, Frames

SIZES = {
    "channels": (16, 32),
    "blocks": 1,
    "attention": (False, True),
    "head_width": 16,
    "embedding": 32,
    "text_width": 24,
}
TARGET = Metadata(lon=7, lat=47, gsd=10, cloud_cover=0, date="2020-06-15")
DATES = ("2019-07-14", "2020-01", "2021", None, "2016-02-29", "2024-12-31", "2018-03-03", "2020-06-01")


def randomised(network, seed=0):
    """The network with every parameter drawn anew, so that nothing that starts at zero hides a fault."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def seen(batch=2, count=3, side=32, seed=1):
    """Frames of different bands, holes, dates and gsd."""
    g = torch.Generator().manual_seed(seed)
    known = [Metadata(lon=7, lat=47, gsd=10.0 + 5 * t, date=DATES[t % 8]) for t in range(count)]
    bands = torch.rand(batch, count, len(BANDS), generator=g) < 0.7
    bands[:, :, 0] = True
    return Frames(
        torch.rand(batch, count, len(BANDS), side, side, generator=g),
        bands,
        torch.rand(batch, count, side, side, generator=g) < 0.9,
        numbers(known).expand(batch, count, 7),
    )


def inputs(batch=2, side=8):
    g = torch.Generator().manual_seed(2)
    text = torch.randn(batch, 5, SIZES["text_width"], generator=g)
    latents = torch.randn(batch, 4, side, side, generator=g)
    mask = torch.ones(batch, 5, dtype=torch.bool)
    return [latents, torch.full((batch,), 0.5), text, mask, numbers([TARGET] * batch)]


def at(frames, order):
    return Frames(*(part[:, order] for part in frames))


def steer(network, given, frames, encode=None):
    """What a ControlNet makes of inputs and frames."""
    latents = given[0]
    size = (FACTOR * latents.shape[3], FACTOR * latents.shape[2])
    return network.residuals(*given, network.encode_frames(frames, size, encode=encode), frames.numbers)
