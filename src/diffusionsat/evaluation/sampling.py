"""Real images cut to what a model makes, and generated images for a list of requests, resumable."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from diffusionsat.data.parquet import Sample, read_samples
from diffusionsat.errors import DatasetError
from diffusionsat.evaluation.cases import central, reduction
from diffusionsat.evaluation.units import Arrays, complete
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.generate import GenerateRequest, Resolved, batch_size, make_batch

Asked = Sequence[tuple[str, Metadata]]  # prompt and metadata of each image
Make = Callable[[Asked, str], np.ndarray]  # and the name of the job, to uint8 (N, H, W, 3)

MOST_CLOUD = 60  # percent; above it an image shows no land


def rows(
    data: Path, source: str, *, split: str = "test", count: int | None = None, seed: int = 0
) -> list[Sample]:
    """Rows of a data set, all of them or a random choice, in the order of the file.

    Args:
        data: Folder with one folder a data set.
        source: Name of the data set.
        split: ``"test"`` or ``"train"``.
        count: How many; None, or more than there are, is all.
        seed: Of the choice.

    Raises:
        DatasetError: If the set is absent or cannot be read, or has no row without cloud.
    """
    samples = read_samples(data / source / f"{split}.parquet", source)
    clear = [s for s in samples if (s.metadata.cloud_cover or 0) < MOST_CLOUD]
    if not clear:
        raise DatasetError(f"{data / source} has no row of {split} to measure on.")
    if count is None or count >= len(clear):
        return clear
    chosen = np.random.Generator(np.random.Philox(seed)).permutation(len(clear))[:count]
    return [clear[i] for i in sorted(chosen)]


def centrals(samples: Sequence[Sample], size: int) -> tuple[np.ndarray, list[Metadata]]:
    """Central squares of many images at a size, each reduced by the largest of 4, 2 and 1 that fits.

    Args:
        samples: The images.
        size: Side in pixels.

    Returns:
        Pixels, uint8 (N, size, size, 3), and metadata with the gsd that they have.

    Raises:
        DatasetError: If an image is too small.
    """
    squares, metadata = [], []
    for sample in samples:
        pixels = sample.pixels()
        least = min(pixels.shape[:2])
        if least < size:
            raise DatasetError(
                f"{sample.source}/{sample.key} is {least} pixels small; {size} are asked for. "
                "Take a smaller size."
            )
        factor = reduction(least, size)
        squares.append(central(pixels, size, factor))
        gsd = sample.metadata.gsd
        metadata.append(sample.metadata.replace(gsd=None if gsd is None else gsd * factor))
    return np.stack(squares), metadata


def maker(
    sat: DiffusionSat,
    template: GenerateRequest,
    folder: Path | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Make:
    """What measures make images with: a function of prompts with metadata, and of the name of the job.

    Image i of a job gets the noise of index i of the template's seed, and images are made in batches of one
    shape by position, so the result depends on the list alone. A job that was stopped goes on where it was.

    Args:
        sat: The model.
        template: Size, seed, steps, solver and guidance of every image.
        folder: Where each job keeps its batches, in a folder of its name; None keeps nothing.
        on_batch: Called with the images done and all of them.

    Returns:
        Function to uint8 (N, H, W, 3). It raises ConfigError if a request is not possible, DatasetError if
        the job's folder holds images of another model or of other requests.
    """

    def make(asked: Asked, name: str) -> np.ndarray:
        requests = [replace(template, prompt=words, metadata=known).resolved(sat) for words, known in asked]
        count = batch_size(requests[0])
        units = range(-(-len(requests) // count))

        def compute(unit: int) -> Arrays:
            start = unit * count
            return {"pixels": make_part(sat, requests[start : start + count], start)}

        def told(_: str, done: int, __: int) -> None:
            if on_batch:
                on_batch(min(done * count, len(requests)), len(requests))

        if folder is None:
            parts = []
            for unit in units:
                parts.append(compute(unit)["pixels"])
                told(name, len(parts), len(units))
        else:
            identity = [sat.checkpoint, sat.precision, sat.device.type, [asdict(r) for r in requests]]
            kept = complete(folder / name, identity, len(units), compute, threads=None, on_unit=told)
            parts = [kept.part(unit, "pixels") for unit in units]
        return np.concatenate(parts)

    return make


def make_part(sat: DiffusionSat, requests: Sequence[Resolved], start: int) -> np.ndarray:
    """Images of requests whose first has an index, uint8 (N, H, W, 3), in a batch that is always full."""
    count = batch_size(requests[0])
    images = [(request, start + i) for i, request in enumerate(requests)]
    filled = images + images[-1:] * (count - len(images))
    return np.stack([scene.pixels for scene in make_batch(sat, filled)])[: len(images)]
