"""xBD: images before and after a disaster.

Records: ``pre-input.npy``, ``post-input.npy``, and ``pre-metadata.json``, ``post-metadata.json``, which are
xBD's labels (metadata.gsd, metadata.capture_date, metadata.disaster_type, features.lng_lat[].wkt).
"""

import math
from typing import Any

from torch import Tensor

from diffusionsat.data.published.captions import answer, article, dropper
from diffusionsat.data.published.draws import Draws, draws
from diffusionsat.data.published.images import condition_image
from diffusionsat.data.published.normalisation import shifted_numbers
from diffusionsat.data.published.places import Polygon, centroid, polygons
from diffusionsat.data.published.records import Record, array, day, field, items, name, number, text
from diffusionsat.data.published.samples import ControlSample, control_sample
from diffusionsat.errors import ConfigError, DatasetError

_TARGETS = {"past": "pre", "future": "post"}
_OTHER = {"pre": "post", "post": "pre"}


def xbd_tokenize_caption(
    example: Record,
    tokenizer: Any,
    md_key: str = "post-metadata.json",
    drop_pct: float = 0.1,
    is_train: bool = True,
    return_text: bool = False,
    *,
    corrected: bool = False,
    rng: Draws | None = None,
) -> Any:
    """A caption such as "a fmow satellite image after being affected by a flooding natural disaster".

    Args:
        example: Record.
        tokenizer: Of transformers; unused with ``return_text``.
        md_key: Metadata of the image, whose name tells before from after.
        drop_pct: Probability that a piece is left out.
        is_train: Without effect, as published.
        return_text: Return the text and not the token ids.
        corrected: Write "xbd", not "fmow", and "an" before a vowel.
        rng: Source of the draws; None is Python's module-level one.

    Returns:
        The text, or its token ids (L,).

    Raises:
        DatasetError: If the record lacks the disaster's type.
    """
    keep = dropper(drop_pct, rng)
    disaster = article(text(example, md_key, "metadata", "disaster_type"), corrected)
    when = "before" if md_key.startswith("pre") else "after"
    caption = (
        f"a{keep(' xbd' if corrected else ' fmow')} satellite image"
        f"{keep(f' {when} being affected by {disaster} natural disaster')}"
    )
    return answer(caption, tokenizer, return_text)


def xbd_numerical_metadata(
    example: Record,
    target_resolution: int,
    num_metadata: int = 7,
    rgb_key: str = "post-input.npy",
    md_key: str = "post-metadata.json",
    base_year: int = 1980,
    base_lon: float = 180,
    base_lat: float = 90,
    *,
    corrected: bool = False,
) -> Tensor:
    """The seven shifted numbers, float32 (7,); the place is that of the first building.

    Without a building in this image it is that of the other image; without any it is unknown.

    Args:
        example: Record.
        target_resolution: Side of the delivered image, pixels.
        num_metadata: Without effect; there are always seven.
        rgb_key: Image.
        md_key: Its metadata.
        base_year: Year that counts as 0.
        base_lon: Degrees added to the longitude.
        base_lat: Degrees added to the latitude.
        corrected: The place is the centre of all buildings; it and the cloud cover are NaN where unknown,
            where published 0; the resolution is the panchromatic band's where the record says it.

    Raises:
        DatasetError: If the record lacks something.
    """
    height, width = array(example, rgb_key, rank=3).shape[:2]
    moment, _, rest = md_key.partition("-")
    buildings = _buildings(example, md_key) or _buildings(example, f"{_OTHER.get(moment, moment)}-{rest}")
    chosen = buildings if corrected else buildings[:1]
    # "gsd" is that of the multispectral bands; the images were sharpened to the panchromatic one's.
    sharpened = corrected and "pan_resolution" in field(example, md_key, "metadata")
    kind = "pan_resolution" if sharpened else "gsd"
    return shifted_numbers(
        example,
        centroid([polygon for building in chosen for polygon in building]) if chosen else None,
        number(example, md_key, "metadata", kind) * min(height, width) / target_resolution,
        None,
        day(example, text(example, md_key, "metadata", "capture_date")),
        bases=(base_lon, base_lat, base_year),
        unknown=math.nan if corrected else 0.0,
    )


def xbd_sample(
    example: Record,
    resolution: int,
    task: str = "past",
    *,
    corrected: bool = False,
    rng: Draws | None = None,
) -> ControlSample:
    """The image before or after the disaster as target, the other as condition.

    Args:
        example: Record.
        resolution: Side of the images, pixels.
        task: "past" (before), "future" (after) or "random".
        corrected: As for the caption and the numbers.
        rng: Source of the draws; None is Python's module-level one.

    Raises:
        ConfigError: If there is no such task.
        DatasetError: If the record lacks something.
    """
    if task not in (*_TARGETS, "random"):
        raise ConfigError(f"xBD has no task {task!r}. Its tasks are: past, future, random.")
    target = _TARGETS[draws(rng).choice(list(_TARGETS)) if task == "random" else task]
    moments = (target, _OTHER[target])
    images = [condition_image(array(example, f"{m}-input.npy", rank=3), resolution) for m in moments]
    numbers = [
        xbd_numerical_metadata(
            example,
            resolution,
            rgb_key=f"{m}-input.npy",
            md_key=f"{m}-metadata.json",
            corrected=corrected,
        )
        for m in moments
    ]
    caption = xbd_tokenize_caption(
        example, None, md_key=f"{target}-metadata.json", return_text=True, corrected=corrected, rng=rng
    )
    return control_sample(images[0], images[1:], numbers, caption)


def _buildings(example: Record, md_key: str) -> list[list[Polygon]]:
    """The polygons of each building in an image."""
    found = []
    for i in range(len(items(example, md_key, "features", "lng_lat"))):
        wkt = text(example, md_key, "features", "lng_lat", i, "wkt")
        try:
            found.append(polygons(wkt))
        except ValueError as error:
            raise DatasetError(f"{name(example)}: building {i} of {md_key}: {error}.") from None
    return found
