"""The published family behind the protocol that jobs use."""

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from diffusionsat.errors import ConfigError
from diffusionsat.models.encodings import published
from diffusionsat.models.networks import BANDS, Frames, Residuals, lost_word
from diffusionsat.models.published.controlnet import ControlNetModel
from diffusionsat.models.published.controlnet_3d import ControlNetModel3D
from diffusionsat.models.published.unet import SatUNet

# Bands of the released ControlNets by their number: pictures, and fMoW-Sentinel for super-resolution.
_SHOWN = {
    3: ("red", "green", "blue"),
    10: (
        *("red", "green", "blue", "rededge071", "rededge075", "rededge078"),
        *("nir", "nir08", "swir16", "swir22"),
    ),
}

# Reflectance that the 10-band net was shown as 0 and 1: means of fMoW-Sentinel less and plus two deviations.
_RANGES = (
    (-0.07942, 0.306672),
    (-0.030348, 0.254502),
    (-0.011619, 0.248495),
    (-0.063422, 0.31617),
    (-0.057073, 0.386154),
    (-0.066986, 0.43636),
    (-0.07037, 0.422889),
    (-0.075615, 0.47014),
    (-0.088858, 0.43529),
    (-0.092729, 0.342312),
)


class PublishedNetworks:
    """SatUNet with Stable Diffusion's autoencoder and CLIP; see `diffusionsat.models.networks.Networks`.

    Args:
        unet: Denoising network.
        vae: Images to latents and back.
        text_encoder: Tokens to states.
        tokenizer: Words to tokens.
    """

    def __init__(
        self, unet: SatUNet, vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
    ) -> None:
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        self.factor = self.multiple = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.latent_channels = unet.config["in_channels"]
        self.halo: int | None = None  # attention in the middle sees all
        self.max_tokens = text_encoder.config.max_position_embeddings
        # The tokenizer keeps the truncation of its last call; what is lost is seen without any.
        self._untruncated = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._untruncated.no_truncation()
        self._untruncated.no_padding()

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move everything; metadata is computed in float32 up to its sinusoid in any precision."""
        parts: tuple[nn.Module, ...] = (self.unet, self.vae, self.text_encoder)
        for network in parts:
            nn.Module.to(network, device, dtype).eval()

    def lost(self, prompt: str) -> str | None:
        """The first word of a prompt that does not fit; None if all of it does."""
        return lost_word(self._untruncated, prompt, self.max_tokens)

    @torch.inference_mode()
    def text(self, prompts: list[str]) -> tuple[Tensor, ...]:
        """Token states (B, T, width): padded to the longest that is possible and not masked, as published."""
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return (self.text_encoder(tokens.input_ids.to(self.text_encoder.device)).last_hidden_state,)

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        text: tuple[Tensor, ...],
        numbers: Tensor,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """Epsilon, v or x0, as the checkpoint's schedule says."""
        return self.unet(
            latents.to(self.unet.dtype),
            time,
            text[0],
            metadata=published(numbers),
            down_block_additional_residuals=residuals and residuals.skips,
            mid_block_additional_residual=residuals and residuals.middle,
        ).sample

    def encode(self, image: Tensor) -> Tensor:
        """Latents (B, 4, H/8, W/8), float32, the mode of the posterior, of an image in [-1, 1]."""
        (posterior,) = self.vae.encode(image.to(self.vae.dtype), return_dict=False)
        return posterior.mode().float() * self.vae.config["scaling_factor"]

    def decode(self, latents: Tensor) -> Tensor:
        """Image (B, 3, H, W), float32, of latents (B, 4, H/8, W/8)."""
        latents = (latents / self.vae.config["scaling_factor"]).to(self.vae.dtype)
        image = self.vae.decode(latents, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
        return image.float()


class PublishedControl:
    """A published ControlNet; see `diffusionsat.models.networks.Control`.

    The 2D network takes one frame; the 3D one any number of RGB frames, in their order. They know no masks:
    a pixel that is not valid is 0, and every frame must have every band.

    Args:
        network: What steers.
    """

    def __init__(self, network: ControlNetModel) -> None:
        count, self.network = network.config["conditioning_in_channels"], network
        if count not in _SHOWN:
            raise ConfigError(f"This ControlNet takes {count} bands; known are nets of 3 and of 10 bands.")
        self.slots = [BANDS.index(band) for band in _SHOWN[count]]
        self.ranges = dict(zip(self.slots, _RANGES, strict=True)) if count == len(_RANGES) else None
        self.sequence = isinstance(network, ControlNetModel3D)
        self.scale = network.config.get("conditioning_scale", 1)

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the network."""
        nn.Module.to(self.network, device, dtype).eval()

    def frames(self, frames: Frames, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """The condition as the network takes it; it is encoded at every step, as published."""
        count, wanted = frames.bands.shape[1], (size[0] // self.scale, size[1] // self.scale)
        if count == 0 or (count > 1 and not self.sequence):
            several = "one or more" if self.sequence else "one"
            raise ConfigError(f"There are {count} frames; this ControlNet takes {several}.")
        if not frames.bands[:, :, self.slots].all():
            names = ", ".join(BANDS[slot] for slot in self.slots)
            raise ConfigError(f"A frame lacks a band; this ControlNet takes {names}.")
        frames = _reduced(frames, wanted)
        values = torch.where(frames.valid[:, :, None], frames.values[:, :, self.slots], 0).nan_to_num(nan=0.0)
        if values.shape[:-3:-1] != wanted:
            raise ConfigError(
                f"frames are {values.shape[-1]}x{values.shape[-2]} pixels; for images of {size[0]}x{size[1]} "
                f"this ControlNet takes {wanted[0]}x{wanted[1]}."
            )
        return (values.transpose(1, 2) if self.sequence else values[:, 0],)

    def residuals(
        self,
        latents: Tensor,
        time: Tensor,
        text: tuple[Tensor, ...],
        numbers: Tensor,
        frames: tuple[Tensor, ...],
        frame_numbers: Tensor,
    ) -> Residuals:
        """What the network's call gives."""
        dtype, of_frames = self.network.dtype, published(frame_numbers).transpose(1, 2)
        to_skips, to_middle = self.network(
            latents.to(dtype),
            time,
            text[0],
            frames[0].to(dtype),
            metadata=published(numbers),
            cond_metadata=of_frames,
            return_dict=False,
        )
        return Residuals(to_skips, to_middle)


def _reduced(frames: Frames, size: tuple[int, int]) -> Frames:
    """Frames averaged to (width, height) where that is a whole number of times smaller; else as they are."""
    height, width = frames.valid.shape[-2:]
    factor = width // size[0]
    if factor < 2 or (width, height) != (size[0] * factor, size[1] * factor):
        return frames
    weight = frames.valid.flatten(0, 1)[:, None].to(frames.values)
    total = F.avg_pool2d(torch.where(weight > 0, frames.values.flatten(0, 1), 0).nan_to_num(nan=0.0), factor)
    share = F.avg_pool2d(weight, factor)
    shape = frames.bands.shape[:2]
    values = (total / share.clamp_min(1e-6)).unflatten(0, shape)
    return frames._replace(values=values, valid=(share[:, 0] > 0).unflatten(0, shape))
