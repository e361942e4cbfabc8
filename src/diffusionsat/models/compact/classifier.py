"""The small satellite classifier: a residual network whose last layer is read by several heads.

It names land use in the classes of EuroSAT and UC Merced, and reads month, resolution and place. What it
knows lies in the layer `FEATURES`, the mean over the image of its last map, which distances between sets of
images are taken on.
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = "pooled"  # name of the layer before the heads
NUMBERS = {"month": 2, "log_gsd": 1, "place": 3}  # see `CompactClassifier.forward`
SMALLEST = 32  # pixels; below, the last map would be of less than 2 x 2


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
    )


class ResidualBlock(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))), as He et al. 2015."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(channels, channels), _convolution(channels, channels)
        nn.init.zeros_(self.second.get_parameter("1.weight"))  # the block begins as the identity

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to x, (B, C, H, W)."""
        return F.relu(x + self.second(F.relu(self.first(x))))


class CompactClassifier(nn.Module):
    """Images to features, and features to classes and numbers.

    Args:
        classes: Names of the classes of each label set.
        channels: Widths at a half, a quarter, ... of the image's size, one residual block each.
    """

    def __init__(
        self,
        *,
        classes: Mapping[str, Sequence[str]],
        channels: Sequence[int] = (32, 64, 128, 192),
    ) -> None:
        super().__init__()
        self.classes = {name: tuple(labels) for name, labels in classes.items()}
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        for i, (inputs, outputs) in enumerate(zip((12, *channels), channels, strict=False)):
            layers += [_convolution(inputs, outputs, 1 if i == 0 else 2), nn.ReLU(), ResidualBlock(outputs)]
        self.trunk = nn.Sequential(*layers)
        widths = {name: len(labels) for name, labels in self.classes.items()} | NUMBERS
        self.heads = nn.ModuleDict({name: nn.Linear(channels[-1], width) for name, width in widths.items()})

    @property
    def width(self) -> int:
        """Number of features."""
        return self.heads["place"].in_features  # pyright: ignore[reportReturnType]

    def features(self, image: Tensor) -> Tensor:
        """The layer `FEATURES`, (B, width), of images (B, 3, H, W) in [-1, 1], sides even and at least 32."""
        return self.trunk(image).mean((2, 3))

    def read(self, features: Tensor) -> dict[str, Tensor]:
        """What each head says of features, as `forward`."""
        return {name: head(features) for name, head in self.heads.items()}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """What each head says of images (B, 3, H, W) in [-1, 1].

        Returns:
            Logits (B, classes) by label set; ``month`` (B, 2), sine and cosine of the month's angle;
            ``log_gsd`` (B, 1), log10 of metres per pixel; ``place`` (B, 3), a vector from the Earth's centre.
        """
        return self.read(self.features(image))
