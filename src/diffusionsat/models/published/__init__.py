"""The published networks (Khanna et al. 2024), on released diffusers: exact to the released weights.

Importing this takes diffusers (extra ``[published]``), which costs seconds; nothing else of the package does.
"""

from diffusionsat.errors import MissingExtraError

try:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
except ImportError as error:
    raise MissingExtraError("The published networks", "published") from error

from diffusionsat.models.published.controlnet import ControlNetModel
from diffusionsat.models.published.controlnet_3d import ControlNetModel3D
from diffusionsat.models.published.networks import PublishedControl, PublishedNetworks
from diffusionsat.models.published.unet import SatUNet

__all__ = [
    "AutoencoderKL",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTokenizer",
    "ControlNetModel",
    "ControlNetModel3D",
    "PublishedControl",
    "PublishedNetworks",
    "SatUNet",
]
