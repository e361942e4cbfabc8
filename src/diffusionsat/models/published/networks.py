"""The published family behind the protocol that jobs use."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from diffusionsat.models.encodings import published
from diffusionsat.models.networks import lost_word
from diffusionsat.models.published.unet import SatUNet


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

    def predict(self, latents: Tensor, time: Tensor, text: tuple[Tensor, ...], numbers: Tensor) -> Tensor:
        """Epsilon, v or x0, as the checkpoint's schedule says."""
        return self.unet(latents.to(self.unet.dtype), time, text[0], metadata=published(numbers)).sample

    def encode(self, image: Tensor) -> Tensor:
        """Latents (B, 4, H/8, W/8), float32, the mode of the posterior, of an image in [-1, 1]."""
        (posterior,) = self.vae.encode(image.to(self.vae.dtype), return_dict=False)
        return posterior.mode().float() * self.vae.config["scaling_factor"]

    def decode(self, latents: Tensor) -> Tensor:
        """Image (B, 3, H, W), float32, of latents (B, 4, H/8, W/8)."""
        latents = (latents / self.vae.config["scaling_factor"]).to(self.vae.dtype)
        image = self.vae.decode(latents, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
        return image.float()
