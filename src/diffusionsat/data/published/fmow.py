"""Functional Map of the World: RGB images, their sequences, and pairs with Sentinel-2.

Records: ``metadata.json`` (img_filename, gsd, cloud_cover in percent, timestamp, country_code), the class as
``output.cls`` (index) or ``category.txt``, and ``input.npy``; a sequence has ``input-0.npy``,
``metadata-0.json`` and so on; a pair has ``rgb.npy`` and ``multispectral.npy``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from diffusionsat.data.published.captions import answer, article, dropper
from diffusionsat.data.published.draws import Draws, draws
from diffusionsat.data.published.images import condition_image, sentinel_image
from diffusionsat.data.published.normalisation import shifted_numbers
from diffusionsat.data.published.places import centroid, polygons
from diffusionsat.data.published.records import Record, array, day, field, name, number, text
from diffusionsat.data.published.samples import ControlSample, control_sample
from diffusionsat.data.published.tables import COUNTRIES, FMOW_CATEGORIES
from diffusionsat.errors import DatasetError

_SENTINEL_GSD = 10.0  # metres


def fmow_category(example: Record) -> str:
    """The class of a record, with underscores.

    Raises:
        DatasetError: If the record names none.
    """
    if "output.cls" not in example:
        return text(example, "category.txt").strip()
    label = int(number(example, "output.cls"))
    if not 0 <= label < len(FMOW_CATEGORIES):
        raise DatasetError(
            f"{name(example)}: output.cls is {label}; fMoW's classes are 0 to {len(FMOW_CATEGORIES) - 1}."
        )
    return FMOW_CATEGORIES[label]


def fmow_tokenize_caption(
    example: Record,
    tokenizer: Any,
    md_key: str = "metadata.json",
    drop_pct: float = 0.1,
    is_train: bool = True,
    return_text: bool = False,
    *,
    corrected: bool = False,
    rng: Draws | None = None,
) -> Any:
    """A caption such as "a fmow satellite image of a zoo in Germany", or its token ids (L,).

    Args:
        example: Record.
        tokenizer: Of transformers; unused with ``return_text``.
        md_key: Which metadata names the country.
        drop_pct: Probability that a piece is left out.
        is_train: Without effect, as published.
        return_text: Return the text and not the token ids.
        corrected: Write "an" before a vowel.
        rng: Source of the draws; None is Python's module-level one.

    Raises:
        DatasetError: If the record lacks the class or the country.
    """
    keep = dropper(drop_pct, rng)
    noun = fmow_category(example).replace("_", " ")
    code = text(example, md_key, "country_code")
    caption = (
        f"a{keep(' fmow')} satellite image"
        f"{keep(' of ' + article(noun, corrected))}{keep(' in ' + COUNTRIES.get(code, code))}"
    )
    return answer(caption, tokenizer, return_text)


def fmow_numerical_metadata(
    example: Record,
    meta_df: Any,
    target_resolution: int,
    num_metadata: int = 7,
    rgb_key: str = "input.npy",
    md_key: str = "metadata.json",
    base_year: int = 1980,
    base_lon: float = 180,
    base_lat: float = 90,
) -> Tensor:
    """The seven shifted numbers, float32 (7,); the place is the centre of the polygon in fMoW's table.

    Args:
        example: Record.
        meta_df: Table with the columns category, location_id, image_id and polygon (well-known text): a
            DataFrame, a structured array, or a mapping from those three to the polygon, which is quicker.
        target_resolution: Side of the delivered image, pixels.
        num_metadata: Without effect; there are always seven.
        rgb_key: Image.
        md_key: Its metadata.
        base_year: Year that counts as 0.
        base_lon: Degrees added to the longitude.
        base_lat: Degrees added to the latitude.

    Raises:
        DatasetError: If the record lacks something, or not exactly one row of the table is its own.
    """
    height, width = array(example, rgb_key, rank=3).shape[:2]
    wkt = _polygon(example, meta_df, text(example, md_key, "img_filename"))
    try:
        place = centroid(polygons(wkt))
    except ValueError as error:
        raise DatasetError(f"{name(example)}: its polygon in fMoW's table cannot be read: {error}.") from None
    return shifted_numbers(
        example,
        place,
        number(example, md_key, "gsd") * min(height, width) / target_resolution,
        number(example, md_key, "cloud_cover") / 100,
        day(example, text(example, md_key, "timestamp")),
        bases=(base_lon, base_lat, base_year),
        unknown=0.0,
    )


def fmow_temporal_images(
    example: Record,
    img_transform: Callable[[Any], Tensor],
    num_frames: int = 3,
    is_random: bool = True,
    stack_tensor: bool = True,
    channel_first: bool = False,
    *,
    corrected: bool = False,
    rng: Draws | None = None,
) -> tuple[Tensor | list[Tensor], list[str]]:
    """Images of a sequence, the target first, and the keys of their metadata.

    With enough views they are drawn at random; with fewer they are taken in the order of their names
    ("input-10" before "input-2"), and the first is repeated: the target, which then stands among its own
    conditions.

    Args:
        example: Record.
        img_transform: From an array (H, W, 3) to a tensor (C, R, R).
        num_frames: Images wanted, the target counted.
        is_random: Draw them; else they are the first.
        stack_tensor: Return one tensor.
        channel_first: Return (C, T, R, R) and not (T, C, R, R).
        corrected: Never repeat the target: too few views are drawn at random too, and the others repeated.
        rng: Source of the draws; None is Python's module-level one.

    Raises:
        DatasetError: If a view lacks its metadata; or if there is no view, or corrected only one.
    """
    views = sorted(k for k in example if k.startswith("input-") and k.endswith(".npy"))
    if len(views) < (2 if corrected else 1):
        raise DatasetError(f"{name(example)} has {len(views)} views, too few for a target and conditions.")
    if is_random and (corrected or len(views) >= num_frames):
        chosen = draws(rng).sample(views, min(num_frames, len(views)))
    else:
        chosen = views[:num_frames]
    fill = chosen[1:] if corrected else views[:1]
    chosen += [fill[i % len(fill)] for i in range(num_frames - len(chosen))]
    keys = [view.replace("input", "metadata").replace(".npy", ".json") for view in chosen]
    for key in keys:
        field(example, key)
    images = [img_transform(array(example, view, rank=3)) for view in chosen]
    if not stack_tensor:
        return images, keys
    return torch.stack(images, dim=1 if channel_first else 0), keys


def fmow_temporal_sample(
    example: Record,
    meta_df: Any,
    resolution: int,
    num_cond: int = 3,
    *,
    corrected: bool = False,
    rng: Draws | None = None,
) -> ControlSample:
    """One view of a sequence as target, ``num_cond`` others as conditions.

    The caption's country is that of the first view; all views of a sequence lie in one.

    Args:
        example: Record.
        meta_df: As for `fmow_numerical_metadata`.
        resolution: Side of the images, pixels.
        num_cond: Condition images.
        corrected: As for `fmow_temporal_images` and `fmow_tokenize_caption`.
        rng: Source of the draws; None is Python's module-level one.

    Raises:
        DatasetError: If the record lacks something.
    """
    images, keys = fmow_temporal_images(
        example,
        lambda image: condition_image(image, resolution),
        num_cond + 1,
        stack_tensor=False,
        corrected=corrected,
        rng=rng,
    )
    numbers = [
        fmow_numerical_metadata(
            example,
            meta_df,
            resolution,
            rgb_key=key.replace("metadata", "input").replace(".json", ".npy"),
            md_key=key,
        )
        for key in keys
    ]
    first = sorted(k for k in example if k.startswith("metadata-") and k.endswith(".json"))[0]
    caption = fmow_tokenize_caption(
        example, None, md_key=first, return_text=True, corrected=corrected, rng=rng
    )
    return control_sample(images[0], list(images[1:]), numbers, caption)


def fmow_sentinel_sample(
    example: Record,
    meta_df: Any,
    resolution: int,
    cond_resolution: int,
    *,
    corrected: bool = False,
    rng: Draws | None = None,
) -> ControlSample:
    """The RGB image as target, ten bands of Sentinel-2 as condition.

    As published the condition has the target's date and cloud cover, and 10 m whatever its size.

    Args:
        example: Record.
        meta_df: As for `fmow_numerical_metadata`.
        resolution: Side of the target, pixels.
        cond_resolution: Side of the condition, pixels.
        corrected: The condition's date and cloud cover are unknown, its gsd that of its pixels.
        rng: Source of the draws; None is Python's module-level one.

    Raises:
        DatasetError: If the record lacks something.
    """
    numbers = fmow_numerical_metadata(example, meta_df, resolution, rgb_key="rgb.npy")
    bands = array(example, "multispectral.npy", rank=3)
    condition = numbers.clone()
    condition[2] = _SENTINEL_GSD
    if corrected:
        condition[2] *= min(bands.shape[:2]) / cond_resolution
        condition[3:] = torch.nan
    return control_sample(
        condition_image(array(example, "rgb.npy", rank=3), resolution),
        [sentinel_image(bands, cond_resolution)],
        [numbers, condition],
        fmow_tokenize_caption(example, None, return_text=True, corrected=corrected, rng=rng),
    )


def _polygon(example: Record, table: Any, filename: str) -> str:
    """The polygon of an image in fMoW's table, well-known text."""
    for part in ("_rgb", ".jpg", "_ms.tif"):
        filename = filename.replace(part, "")
    try:
        location, image = (int(part) for part in filename.split("_")[-2:])
    except ValueError:
        raise DatasetError(
            f"{name(example)}: img_filename {filename!r} does not end in a location's and an image's number."
        ) from None
    category = fmow_category(example)
    if isinstance(table, Mapping):
        rows = [table[category, location, image]] if (category, location, image) in table else []
    else:
        mine = (table["category"] == category) & (table["location_id"] == location)
        rows = list(table[mine & (table["image_id"] == image)]["polygon"])
    if len(rows) != 1:
        raise DatasetError(
            f"{name(example)}: fMoW's table has {len(rows)} rows of {category}, location {location}, "
            f"image {image}; it must have one."
        )
    return str(rows[0])
