"""Parts that the published captions share, and the caption that holds the numbers too.

A caption begins "a satellite image"; its other pieces are dropped independently, each with its own draw.
"""

from collections.abc import Callable
from typing import Any

from diffusionsat.data.published.draws import Draws, draws


def dropper(drop_pct: float, rng: Draws | None) -> Callable[[str], str]:
    """A function that returns a piece, or with probability ``drop_pct`` nothing; one draw a call."""
    source = draws(rng)
    return lambda piece: piece if source.random() > drop_pct else ""


def article(noun: str, corrected: bool) -> str:
    """A noun after "a", as published also before a vowel; corrected after "an" there."""
    return f"{'an' if corrected and noun[:1].lower() in set('aeiou') else 'a'} {noun}"


def answer(caption: str, tokenizer: Any, return_text: bool) -> Any:
    """The caption itself, or the tokenizer's ids of it, padded and cut to its length, (L,)."""
    if return_text:
        return caption
    return tokenizer(
        caption,
        max_length=tokenizer.model_max_length,
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    ).input_ids.squeeze()


def combine_text_and_metadata(
    text_caption: str, metadata: Any, tokenizer: Any, return_text: bool = False, *, corrected: bool = False
) -> Any:
    """A caption followed by the numbers in words: the ablation without metadata embedding.

    The published one writes the shifted longitude and latitude.

    Args:
        text_caption: The caption.
        metadata: Seven shifted numbers (7,), but the year as it is (``base_year=0``).
        tokenizer: Of transformers; unused with ``return_text``.
        return_text: Return the text and not the token ids.
        corrected: Write longitude and latitude in degrees, unshifted.
    """
    lon, lat, gsd, _, year, month, day = (float(number) for number in metadata)
    if corrected:
        lon, lat = lon - 180, lat - 90
    text = f"{text_caption} at a resolution of {round(gsd, 5)}. The longitude, latitude is {lon}, {lat}. "
    if year and month and day:
        text += f"The date is {year}, {month}, {day}"
    return answer(text, tokenizer, return_text)
