"""Satlas, high resolution: images with the labels of many tasks.

Records: column and row of the tile in ``__key__``, ``rgb.npy`` (T, H, W, 3), ``info.json`` (task_name,
image_names) and ``targets.pyd``, a list with one dict of labels.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from diffusionsat.data.published.captions import answer, article, dropper
from diffusionsat.data.published.draws import Draws, draws
from diffusionsat.data.published.normalisation import shifted_numbers
from diffusionsat.data.published.places import mercator_to_geo
from diffusionsat.data.published.records import Record, array, day, field, items, name, number, text
from diffusionsat.data.published.tables import SATLAS_TASKS
from diffusionsat.errors import DatasetError

_QUADRANTS = ("top left", "top right", "bottom right", "bottom left")
_TOTALS = 0.33  # share of captions that count objects in the whole image
_COARSEST = 0.01  # least scale factor that is believed


def satlas_frame(example: Record, *, rng: Draws | None = None) -> tuple[str, np.ndarray]:
    """Name and pixels (H, W, 3) of the image that was labelled, the "anchor", or else of a random one.

    Args:
        example: Record.
        rng: Source of the draw; None is Python's module-level one.

    Raises:
        DatasetError: If the record lacks something, or names more images than it has.
    """
    names = items(example, "info.json", "image_names")
    images = array(example, "rgb.npy", rank=4)
    if not 0 < len(names) <= len(images):
        raise DatasetError(f"{name(example)} names {len(names)} images and has {len(images)}.")
    anchors = [i for i, image in enumerate(names) if "anchor" in image]
    chosen = anchors[0] if anchors else draws(rng).choice(range(len(names)))
    return names[chosen], images[len(images) - len(names) + chosen]


def satlas_tokenize_caption(
    example: Record,
    tokenizer: Any,
    drop_pct: float = 0.5,
    is_train: bool = True,
    return_text: bool = False,
    *,
    corrected: bool = False,
    rng: Draws | None = None,
) -> Any:
    """A caption such as "a satlas satellite image of 2 airplanes in the top left", or its token ids (L,).

    Args:
        example: Record.
        tokenizer: Of transformers; unused with ``return_text``.
        drop_pct: Probability that "satlas" is left out; what is seen never is.
        is_train: Without effect, as published.
        return_text: Return the text and not the token ids.
        corrected: Halve the width for left and right, where published the height; call the first plane of a
            binary mask by its own name, where published "road"; write "an" before a vowel; leave off " of "
            where nothing is seen, and spaces at the end.
        rng: Source of the draws; None is Python's module-level one.

    Raises:
        DatasetError: If the record lacks something or its task is not known.
    """
    task = text(example, "info.json", "task_name")
    if task not in SATLAS_TASKS:
        raise DatasetError(
            f"{name(example)} has the task {task!r}. Satlas's tasks are: {', '.join(SATLAS_TASKS)}."
        )
    seen = _SEEN[SATLAS_TASKS[task]["type"]](example, task, corrected, draws(rng))
    caption = f"a{dropper(drop_pct, rng)(' satlas')} satellite image of {', '.join(seen)}"
    if corrected:
        caption = caption.removesuffix(" of ").strip()
    return answer(caption, tokenizer, return_text)


def satlas_numerical_metadata(
    example: Record,
    img_name: str,
    target_resolution: int,
    num_metadata: int = 7,
    base_gsd: float = 1.0,
    base_year: int = 1980,
    base_lon: float = 180,
    base_lat: float = 90,
    *,
    corrected: bool = False,
) -> Tensor:
    """The seven shifted numbers, float32 (7,).

    As published the tile's column and row are divided by the resolution, so that every place comes to lie
    near longitude -180 and latitude 85.

    Args:
        example: Record.
        img_name: Name of the image, which ends with its date, as `satlas_frame` returns it.
        target_resolution: Side of the delivered image, pixels.
        num_metadata: Without effect; there are always seven.
        base_gsd: Metres per pixel of the stored image; 1 has tiles of zoom 17, another of zoom 13.
        base_year: Year that counts as 0.
        base_lon: Degrees added to the longitude.
        base_lat: Degrees added to the latitude.
        corrected: The place is the tile's north-western corner; the cloud cover is NaN, where published 0.

    Raises:
        DatasetError: If the record lacks something.
    """
    try:
        column, row = (int(part) for part in text(example, "__key__").split("_")[1:3])
    except ValueError:
        raise DatasetError(f"{name(example)} has a key that is not satlas_COLUMN_ROW_...") from None
    height, width = array(example, "rgb.npy", rank=4).shape[1:3]
    target = field(example, "targets.pyd", 0)
    scale = number(target, "scale_factor") if "scale_factor" in target else 1.0
    return shifted_numbers(
        example,
        mercator_to_geo((column, row), 17 if base_gsd == 1 else 13, 1 if corrected else target_resolution),
        base_gsd * min(height, width) / target_resolution / max(scale, _COARSEST),
        None,
        day(example, img_name.rsplit("_", 1)[-1]),
        bases=(base_lon, base_lat, base_year),
        unknown=math.nan if corrected else 0.0,
    )


def _objects(example: Record, task: str, corrected: bool, rng: Draws) -> list[str]:
    """Objects counted, by quadrant or in all."""
    by_quadrant = rng.random() > _TOTALS
    labels = array(example, "targets.pyd", 0, "labels", rank=1)
    if not by_quadrant:
        return _counted(example, task, labels)
    boxes = array(example, "targets.pyd", 0, "boxes", rank=2)
    if boxes.shape != (len(labels), 4):
        raise DatasetError(f"{name(example)} has boxes of shape {boxes.shape} for {len(labels)} labels.")
    height, width = array(example, "rgb.npy", rank=4).shape[1:3]
    right = (boxes[:, 0] + boxes[:, 2]) / 2 >= (width if corrected else height) / 2
    below = (boxes[:, 1] + boxes[:, 3]) / 2 >= height / 2
    found = []
    inside = (~right & ~below, right & ~below, right & below, ~right & below)
    for quadrant, mine in zip(_QUADRANTS, inside, strict=True):
        if counted := _counted(example, task, labels[mine]):
            found += [*counted[:-1], f"{counted[-1]} in the {quadrant}"]
    return found


def _counted(example: Record, task: str, labels: np.ndarray) -> list[str]:
    classes, counts = np.unique(labels, return_counts=True)
    return [
        f"{n} {_category(example, task, c)}{'s' if n > 1 else ''}"
        for c, n in zip(classes, counts, strict=True)
    ]


def _cover(example: Record, task: str, corrected: bool, rng: Draws) -> list[str]:
    """Share of each class of a map, whole percent."""
    image = array(example, "targets.pyd", 0, "im", rank=2)
    classes, counts = np.unique(image, return_counts=True)
    return [
        f"{round(100 * int(n) / image.size)}% {_category(example, task, c)}"
        for c, n in zip(classes, counts, strict=True)
        if c != 0
    ]


def _masks(example: Record, task: str, corrected: bool, rng: Draws) -> list[str]:
    """Share of each binary mask."""
    found = []
    for i, plane in enumerate(array(example, "targets.pyd", 0, "im", rank=3)):
        if n := np.count_nonzero(plane):
            category = "road" if i == 0 and not corrected else _category(example, task, i)
            found.append(f"{round(100 * n / plane.size, 2)}% {category}")
    return found


def _values(example: Record, task: str, corrected: bool, rng: Draws) -> list[str]:
    """Share of each value of a map, and the value in percent of 255."""
    image = array(example, "targets.pyd", 0, "im", rank=2)
    values, counts = np.unique(image, return_counts=True)
    return [
        f"{round(100 * int(n) / image.size, 2)}% area has "
        f"{round(int(value) / 255 * 100, 4)}% {task.replace('_', ' ')}"
        for value, n in zip(values, counts, strict=True)
        if value != 0
    ]


def _kinds(example: Record, task: str, corrected: bool, rng: Draws) -> list[str]:
    """What the image is, of one or several kinds."""
    suffix = {"park_sport": "recreational facility", "park_type": ""}.get(
        task, task.rpartition("_")[0].replace("_", " ")
    )
    labels = array(example, "targets.pyd", 0, "label", rank=1)
    return [f"{article(_category(example, task, label), corrected)} {suffix}" for label in labels]


_SEEN: dict[str, Callable[[Record, str, bool, Draws], list[str]]] = {
    "detect": _objects,
    "instance": _objects,
    "segment": _cover,
    "bin_segment": _masks,
    "regress": _values,
    "classification": _kinds,
}


def _category(example: Record, task: str, index: int) -> str:
    categories = SATLAS_TASKS[task]["categories"]
    if not 0 <= index < len(categories):
        raise DatasetError(
            f"{name(example)} has the class {index} of {task}; its classes are 0 to {len(categories) - 1}."
        )
    return categories[int(index)].replace("_", " ")
