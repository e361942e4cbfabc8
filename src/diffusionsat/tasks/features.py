"""Features: the denoising network as a backbone, its maps at chosen blocks and noise levels.

An image is encoded, noise is added, and the network looks at it once under what is told; what its blocks give
on the way are the features. Source: Baranchuk et al. 2022; Tang et al. 2023 (DIFT).
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusionsat.diffusion.denoisers import input_scale
from diffusionsat.errors import ConfigError, DatasetError
from diffusionsat.files import writing
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.models.compact.denoiser import Block
from diffusionsat.models.compact.networks import CompactNetworks
from diffusionsat.models.encodings import numbers
from diffusionsat.noise_keys import check_seed, normal

if TYPE_CHECKING:
    from diffusionsat.data.sources import Source

MOST_SIGMA = 1000.0
_BATCH_PIXELS = 4 * 256 * 256  # of images and noise levels that are looked at together
_MOST_IMAGES = 64  # in a batch
_STAGES = ("down", "mid", "up")  # how the parts of a network that change the size of its maps are named


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesRequest:
    """What is looked at, and under what conditions.

    Args:
        prompt: What the network is told is to be seen; may be empty.
        metadata: What it is told about the image; nothing is a good choice for a classifier, which would
            otherwise read the place and not the image.
        sigma: Noise levels, 0 to 1000, for data of scale 1; each is a pass of the network.
        blocks: Names of modules of the denoising network; none are those of `default_blocks`.
        seed: Of the noise, which is the same at every level.
    """

    prompt: str = ""
    metadata: Metadata = field(default_factory=Metadata)
    sigma: tuple[float, ...] = (0.25,)
    blocks: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Features of one image.

    Args:
        maps: Dense maps by ``block@sigma``, float32 (C, h, w); their grid covers the image from its
            upper left corner, the last row and column perhaps in part.
        strides: Pixels of the image a side of one cell, by the same names.
    """

    maps: dict[str, np.ndarray]
    strides: dict[str, int]

    @property
    def pooled(self) -> dict[str, np.ndarray]:
        """Mean of each map over its cells, float32 (C,)."""
        return {
            name: values.mean((1, 2), dtype=np.float64).astype(np.float32)
            for name, values in self.maps.items()
        }


def denoising_network(sat: DiffusionSat) -> nn.Module:
    """The network whose blocks are looked into: `CompactDenoiser` or `SatUNet`."""
    networks: Any = sat.networks
    return networks.denoiser if isinstance(networks, CompactNetworks) else networks.unet


def block_names(sat: DiffusionSat) -> list[str]:
    """The parts of the way down, of the middle and of the way up, in that order; finer modules work too."""
    parts = dict(denoising_network(sat).named_children())
    names = []
    for stage in _STAGES:
        for name, part in parts.items():
            if name.startswith(stage):
                names += (
                    [f"{name}.{i}" for i in range(len(part))] if isinstance(part, nn.ModuleList) else [name]
                )
    return names


def default_blocks(sat: DiffusionSat) -> tuple[str, ...]:
    """The last part of the middle, and of every size of map on the way up."""
    names, network = block_names(sat), denoising_network(sat)
    middle = [name for name in names if name.startswith("mid")][-1]
    up = [name for name in names if name.startswith("up")]
    compact = isinstance(sat.networks, CompactNetworks)
    kinds = [isinstance(network.get_submodule(name), Block) for name in up] + [False]
    last = [name for i, name in enumerate(up) if not compact or (kinds[i] and not kinds[i + 1])]
    return (middle, *last)


def grain(sat: DiffusionSat) -> int:
    """Pixels of the image a side of one cell of the coarsest map."""
    if isinstance(sat.networks, CompactNetworks):
        return sat.multiple
    network: Any = denoising_network(sat)
    return sat.factor * 2 ** (len(network.config["block_out_channels"]) - 1)


class Extractor:
    """What takes the features of a request of batches of images.

    Args:
        sat: The model.
        request: Blocks, noise levels and seed; words and metadata may differ from image to image.

    Raises:
        ConfigError: If a block, a noise level, the seed or the prompt is not possible.
    """

    def __init__(self, sat: DiffusionSat, request: FeaturesRequest) -> None:
        self.sat, self.seed = sat, check_seed(request.seed)
        self.sigmas = _checked_sigmas(request.sigma)
        self.blocks = request.blocks or default_blocks(sat)
        network = denoising_network(sat)
        known = dict(network.named_modules())
        for name in self.blocks:
            if name not in known or not name:
                there = ", ".join(block_names(sat))
                raise ConfigError(
                    f"The model {sat.config.name} has no block {name!r}. It has {there}, and their modules."
                )
        self.modules = {name: known[name] for name in dict.fromkeys(self.blocks)}
        self.strides: dict[str, int] = {}

    @torch.inference_mode()
    def __call__(
        self,
        pixels: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Metadata],
        indices: Sequence[int],
        corner: tuple[int, int] = (0, 0),
    ) -> dict[str, np.ndarray]:
        """Dense maps of images of one size.

        Args:
            pixels: uint8 (B, H, W, 3).
            prompts: One an image.
            metadata: One an image.
            indices: Of each image in its job, which the noise depends on.
            corner: Row and column of the upper left pixel on the plane of the noise, multiples of `grain`.

        Returns:
            By ``block@sigma``, levels of one block together, float32 (B, C, h, w).
        """
        height, width = pixels.shape[1:3]
        factor = self.sat.factor
        beyond = [(0, -side % grain(self.sat)) for side in (height, width)]
        padded = np.pad(pixels, [(0, 0), *beyond, (0, 0)], mode="edge")
        x0 = self.sat.encode(padded)
        rows, columns = (
            range(c // factor, c // factor + n) for c, n in zip(corner, x0.shape[2:], strict=True)
        )
        noise = np.stack(
            [
                normal(self.seed, i, "initial", 0, channels=x0.shape[1], rows=rows, columns=columns)
                for i in indices
            ]
        )
        maps = self._maps(x0, torch.from_numpy(noise).to(x0.device), prompts, metadata)
        found = {}
        for name, values in maps.items():
            stride = padded.shape[1] // values.shape[2]
            self.strides[name] = stride
            cells = values[..., : -(-height // stride), : -(-width // stride)]
            found[name] = np.ascontiguousarray(cells.float().cpu().numpy())
        return found

    def _maps(
        self, x0: Tensor, noise: Tensor, prompts: Sequence[str], metadata: Sequence[Metadata]
    ) -> dict[str, Tensor]:
        sat, levels, count = self.sat, self.sigmas, len(x0)
        prediction, time = sat.config.prediction, sat.schedule.time
        latents = torch.cat([(x0 + sigma * noise) / input_scale(prediction, sigma) for sigma in levels])
        times = torch.tensor([time(sigma) for sigma in levels], dtype=torch.float32, device=x0.device)
        words = tuple(torch.cat([part] * len(levels)) for part in sat.networks.text(list(prompts)))
        known = numbers(list(metadata)).to(x0.device).repeat(len(levels), 1)
        with _listening(self.modules) as heard:
            sat.networks.predict(latents, times.repeat_interleave(count), words, known)
        found = {}
        for block in self.modules:
            if block not in heard or heard[block].ndim != 4:
                raise ConfigError(
                    f"The block {block!r} gives no map. Give one of {', '.join(block_names(sat))}."
                )
            parts = heard[block].split(count)
            found |= {f"{block}@{sigma:g}": part for sigma, part in zip(levels, parts, strict=True)}
        return found


@contextlib.contextmanager
def _listening(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What some modules give while the block lasts; of several outputs the first."""
    heard: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def hear(_module: nn.Module, _given: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            if isinstance(output, Tensor):
                heard[name] = output

        return hear

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def features(sat: DiffusionSat, image: np.ndarray, request: FeaturesRequest | None = None) -> Features:
    """Features of one image.

    Args:
        sat: The model.
        image: uint8 (H, W, 3), of any size; it is continued to what the network takes.
        request: What to look at.

    Raises:
        ConfigError: If an option is not possible, or the image is none.
    """
    request = request or FeaturesRequest()
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ConfigError(f"The image is {pixels.dtype} {pixels.shape}. Give uint8 (height, width, 3).")
    extractor = Extractor(sat, request)
    maps = extractor(pixels[None], [request.prompt], [request.metadata], [0])
    return Features({name: values[0] for name, values in maps.items()}, extractor.strides)


def features_of(
    sat: DiffusionSat, source: "Source", request: FeaturesRequest | None = None, *, known: bool = False
) -> Iterator[dict[str, Any]]:
    """Pooled features of the images of a data set that have colours, in its order.

    Image i gets the noise of index i; runs of images of one size are looked at together.

    Args:
        sat: The model.
        source: The data set.
        request: What to look at.
        known: Tell the network what the data set knows of each image, where the request says nothing.

    Yields:
        A row an image: ``key``, ``frame``, ``label``, and by ``block@sigma`` float32 (C,).

    Raises:
        ConfigError: If an option is not possible.
        DatasetError: If an image cannot be read.
    """
    request = request or FeaturesRequest()
    extractor = Extractor(sat, request)
    waiting: list[tuple[int, dict[str, Any], np.ndarray, Metadata]] = []
    for index in np.flatnonzero(source.images.colour).tolist():
        record = source.record(index)
        number = int(source.images.frame[index])
        pixels = record.frames[number].rgb()
        told = request.metadata
        if known:
            told = record.frames[number].metadata.replace(**request.metadata.to_dict())
        if waiting and (pixels.shape != waiting[0][2].shape or len(waiting) == _batch(pixels, extractor)):
            yield from _rows(extractor, request.prompt, waiting)
            waiting = []
        waiting.append((index, {"key": record.key, "frame": number, "label": record.label}, pixels, told))
    if waiting:
        yield from _rows(extractor, request.prompt, waiting)


def _batch(pixels: np.ndarray, extractor: Extractor) -> int:
    seen = pixels.shape[0] * pixels.shape[1] * len(extractor.sigmas)
    return max(1, min(_MOST_IMAGES, _BATCH_PIXELS // seen))


def _rows(
    extractor: Extractor, prompt: str, waiting: Sequence[tuple[int, dict[str, Any], np.ndarray, Metadata]]
) -> Iterator[dict[str, Any]]:
    indices, about, pixels, told = zip(*waiting, strict=True)
    maps = extractor(np.stack(pixels), [prompt] * len(waiting), told, indices)
    pooled = {name: values.mean((2, 3), dtype=np.float64).astype(np.float32) for name, values in maps.items()}
    for i, row in enumerate(about):
        yield row | {name: values[i] for name, values in pooled.items()}


def write_features(
    path: Path, rows: Iterator[dict[str, Any]], about: dict[str, str], *, overwrite: bool = False
) -> int:
    """Write rows of `features_of` as Parquet, whole or not at all.

    Args:
        path: Where.
        rows: At least one.
        about: What the file's metadata say, such as the model and the noise levels.
        overwrite: Replace an existing file.

    Returns:
        Rows written.

    Raises:
        DatasetError: If there are no rows.
        RasterError: If the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    first = next(rows, None)
    if first is None:
        raise DatasetError("The data set has no image in colours to take features of.")
    vectors = {name: len(value) for name, value in first.items() if isinstance(value, np.ndarray)}
    schema = pa.schema(
        {"key": pa.string(), "frame": pa.int32(), "label": pa.string()}
        | {name: pa.list_(pa.float32(), width) for name, width in vectors.items()},
        metadata=about,
    )
    count, group = 0, [first]

    def table() -> Any:
        columns = {name: [row[name] for row in group] for name in schema.names}
        return pa.Table.from_pydict(columns, schema)

    with writing(path, overwrite=overwrite) as partial, parquet.ParquetWriter(partial, schema) as file:
        for row in rows:
            group.append(row)
            if len(group) == 256:
                file.write_table(table())
                count, group = count + len(group), []
        if group:
            file.write_table(table())
    return count + len(group)


def _checked_sigmas(sigmas: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(sigma) for sigma in sigmas)
    if not values or not all(math.isfinite(s) and 0 <= s <= MOST_SIGMA for s in values):
        raise ConfigError(f"sigma is {list(sigmas)}. Give noise levels from 0 to {MOST_SIGMA:g}.")
    return tuple(dict.fromkeys(values))
