"""Texas housing: aerial and Sentinel-2 images of 2016 and 2018 of one parcel.

Records: ``tif.rgb-2016.npy``, ``tif.rgb-2018.npy``, ``tif.sentinel-2016.npy``, ``tif.sentinel-2018.npy`` and
``tif.metadata.json``. The Sentinel images have been enlarged to the grid of the aerial ones.
"""

import math
from typing import Any

from torch import Tensor

from diffusionsat.data.published.captions import answer, dropper
from diffusionsat.data.published.draws import Draws, draws
from diffusionsat.data.published.images import condition_image
from diffusionsat.data.published.normalisation import shifted_numbers
from diffusionsat.data.published.records import Record, array, field, number
from diffusionsat.data.published.samples import ControlSample, control_sample
from diffusionsat.errors import ConfigError

_METADATA = "tif.metadata.json"
_TARGETS = {"past": "tif.rgb-2016.npy", "future": "tif.rgb-2018.npy"}
_SENTINEL = 10.0  # as many metres of Sentinel-2 as of the aerial images


def texas_tokenize_caption(
    example: Record,
    tokenizer: Any,
    drop_pct: float = 0.5,
    is_train: bool = True,
    return_text: bool = False,
    *,
    corrected: bool = False,
    rng: Draws | None = None,
) -> Any:
    """A caption such as "a satlas satellite image of houses  built in 2014 covering 0.1929 acres".

    Args:
        example: Record.
        tokenizer: Of transformers; unused with ``return_text``.
        drop_pct: Probability that a piece is left out.
        is_train: Without effect, as published.
        return_text: Return the text and not the token ids.
        corrected: Write "texas", not "satlas", and single spaces.
        rng: Source of the draws; None is Python's module-level one.

    Returns:
        The text, or its token ids (L,).

    Raises:
        DatasetError: If the record lacks the year or the acres.
    """
    keep = dropper(drop_pct, rng)
    year, acres = int(number(example, _METADATA, "eff.year.built")), field(example, _METADATA, "acres")
    caption = (
        f"a{keep(' texas' if corrected else ' satlas')} satellite image"
        f"{keep(' of houses' if corrected else ' of houses ')}"
        f"{keep(f' built in {year}')}{keep(f' covering {acres} acres')}"
    )
    return answer(caption, tokenizer, return_text)


def texas_numerical_metadata(
    example: Record,
    img_key: str,
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

    Args:
        example: Record.
        img_key: Image.
        target_resolution: Side of the delivered image, pixels.
        num_metadata: Without effect; there are always seven.
        base_gsd: Metres per pixel of the stored aerial images.
        base_year: Year that counts as 0.
        base_lon: Degrees added to the longitude.
        base_lat: Degrees added to the latitude.
        corrected: Sentinel's gsd is that of the delivered pixels, where published ten times that; the cloud
            cover is NaN, where published 0. The dates stay one day for each year.

    Raises:
        DatasetError: If the record lacks something.
    """
    height, width = array(example, img_key, rank=3).shape[:2]
    coarser = _SENTINEL if "sentinel" in img_key and not corrected else 1.0
    return shifted_numbers(
        example,
        (number(example, _METADATA, "parcel.lon"), number(example, _METADATA, "parcel.lat")),
        coarser * base_gsd * min(height, width) / target_resolution,
        None,
        (2016, 9, 11) if "2016" in img_key else (2018, 11, 20),
        bases=(base_lon, base_lat, base_year),
        unknown=math.nan if corrected else 0.0,
    )


def texas_sample(
    example: Record,
    resolution: int,
    task: str = "random",
    num_cond: int = 3,
    *,
    corrected: bool = False,
    rng: Draws | None = None,
) -> ControlSample:
    """One aerial image as target; the other and the two of Sentinel-2 as conditions.

    Args:
        example: Record.
        resolution: Side of the images, pixels.
        task: "past" (2016), "future" (2018) or "random".
        num_cond: How many of the other images, in the order of their names.
        corrected: As for the caption and the numbers.
        rng: Source of the draws; None is Python's module-level one.

    Raises:
        ConfigError: If there is no such task.
        DatasetError: If the record lacks something.
    """
    if task not in (*_TARGETS, "random"):
        raise ConfigError(f"Texas housing has no task {task!r}. Its tasks are: past, future, random.")
    target = _TARGETS[draws(rng).choice(list(_TARGETS)) if task == "random" else task]
    others = sorted(key for key in example if key.endswith(".npy") and key != target)[:num_cond]
    images = [condition_image(array(example, key, rank=3), resolution) for key in (target, *others)]
    numbers = [
        texas_numerical_metadata(example, key, resolution, corrected=corrected) for key in (target, *others)
    ]
    caption = texas_tokenize_caption(example, None, return_text=True, corrected=corrected, rng=rng)
    return control_sample(images[0], images[1:], numbers, caption)
