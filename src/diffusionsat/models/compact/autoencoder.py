"""The compact variational autoencoder: RGB in [-1, 1] to latents at a quarter of the size, and back.

It has no attention and its norms act on one pixel at a time, so every output pixel depends on a bounded
neighbourhood only. A large image decoded in tiles with a border of `CompactAutoencoder.halo` latent pixels is
therefore equal to the image decoded whole.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FACTOR = 4  # pixels of the image per pixel of the latents, along each side


class PixelNorm(nn.Module):
    """Layer norm over the channels of each pixel, (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        channels_last = x.permute(0, 2, 3, 1)
        normed = F.layer_norm(channels_last, self.weight.shape, self.weight.to(x.dtype))
        return normed.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(norm(x)))); the last convolution starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = PixelNorm(channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to x, (B, C, H, W)."""
        return x + self.conv_out(F.silu(self.conv_in(self.norm(x))))


def _stage(channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))


class CompactAutoencoder(nn.Module):
    """Encoder and decoder between images and latents a quarter of their size.

    The image's pixels are folded two by two into channels at the ends (as in Shi et al. 2016), so that no
    convolution runs at full size; this makes an image about four times as cheap as a plain f4 autoencoder.

    Args:
        latent_channels: Channels of the latents.
        encoder_channels: Widths at half and at a quarter of the image's size.
        encoder_blocks: Residual blocks at each of these sizes.
        decoder_channels: Widths at half and at a quarter of the image's size.
        decoder_blocks: Residual blocks at each of these sizes.
    """

    latent_shift: Tensor
    latent_scale: Tensor

    def __init__(
        self,
        *,
        latent_channels: int = 4,
        encoder_channels: tuple[int, int] = (64, 96),
        encoder_blocks: tuple[int, int] = (1, 2),
        decoder_channels: tuple[int, int] = (80, 160),
        decoder_blocks: tuple[int, int] = (3, 3),
    ) -> None:
        super().__init__()
        half, quarter = encoder_channels
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, half, 3, padding=1),
            _stage(half, encoder_blocks[0]),
            nn.Conv2d(half, quarter, 4, stride=2, padding=1),
            _stage(quarter, encoder_blocks[1]),
            PixelNorm(quarter),
            nn.Conv2d(quarter, 2 * latent_channels, 3, padding=1),
        )
        half, quarter = decoder_channels
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, quarter, 3, padding=1),
            _stage(quarter, decoder_blocks[1]),
            nn.Conv2d(quarter, 4 * half, 1),
            nn.PixelShuffle(2),
            _stage(half, decoder_blocks[0]),
            PixelNorm(half),
            nn.Conv2d(half, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        # Statistics of the latents over the training images: the denoiser sees (mean - shift) / scale.
        self.register_buffer("latent_shift", torch.zeros(latent_channels))
        self.register_buffer("latent_scale", torch.ones(latent_channels))

    @property
    def halo(self) -> int:
        """Latent pixels around a tile that its decoded pixels, or its latents, depend on."""
        stages = (self.encoder[4], self.encoder[2]), (self.decoder[1], self.decoder[4])
        reach = []
        for quarter, half in stages:
            assert isinstance(quarter, nn.Sequential)
            assert isinstance(half, nn.Sequential)
            # One pixel a convolution; those at half the image's size count half.
            reach.append(1 + 2 * len(quarter) + -(-(2 * len(half) + 1) // 2))
        return 1 + max(reach[0], reach[1] - 1)  # the encoder's strided convolution takes one more

    def moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the raw latents, (B, C, H/4, W/4), of an image (B, 3, H, W) in [-1, 1]."""
        mean, log_variance = self.encoder(image).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def decode_raw(self, latents: Tensor) -> Tensor:
        """Image (B, 3, 4h, 4w), about [-1, 1], of raw latents (B, C, h, w)."""
        return self.decoder(latents)

    def encode(self, image: Tensor) -> Tensor:
        """Latents of mean 0 and variance about 1, (B, C, H/4, W/4), of an image (B, 3, H, W) in [-1, 1]."""
        mean, _ = self.moments(image)
        return (mean - self.latent_shift[:, None, None]) / self.latent_scale[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        """Image (B, 3, 4h, 4w), about [-1, 1], of latents as `encode` makes them."""
        return self.decode_raw(latents * self.latent_scale[:, None, None] + self.latent_shift[:, None, None])
