"""What prepared data hold, in numbers and in two pictures: a map of the places, and histograms."""

import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diffusionsat.data.splits import nearest_km
from diffusionsat.files import write_bytes

FILES = ("summary.json", "map.png", "histograms.png")
COLOURS = {"train": (31, 119, 180), "test": (214, 39, 40), "validation": (44, 160, 44)}
_OTHERS = ((148, 103, 189), (140, 86, 75), (227, 119, 194), (127, 127, 127))  # the publisher's other splits
_INK, _GRID, _PAPER = (60, 60, 60), (222, 222, 222), (255, 255, 255)

Images = Sequence[Mapping[str, Any]]  # as `sources.scan` lists them, each with its ``split``


def summarise(images: Images) -> dict[str, Any]:
    """Counts, places, dates, resolution and sizes of images.

    Returns:
        A dictionary that JSON can hold; quantities as their minimum, quartiles and maximum, ``nearest_km`` as
        the smallest distance between train and every other split.
    """
    splits = sorted({image["split"] for image in images})
    places = {split: _places([image for image in images if image["split"] == split]) for split in splits}
    dates = [image["date"] for image in images if image["date"]]
    return {
        "images": dict(Counter(image["split"] for image in images)),
        "records": dict(Counter(image["split"] for image in images if image["frame"] == 0)),
        "with_place": int(sum(image["lon"] is not None for image in images)),
        "places": {split: len(np.unique(where, axis=0)) for split, where in places.items()},
        "bounds": _bounds(np.concatenate(list(places.values()))),
        "nearest_km": {
            f"train-{split}": None
            if (km := nearest_km(places["train"], places[split])) is None
            else round(km, 3)
            for split in splits
            if split != "train" and "train" in splits
        },
        "with_date": len(dates),
        "dates": [min(dates), max(dates)] if dates else None,
        "years": dict(sorted(Counter(date[:4] for date in dates).items())),
        "months": dict(sorted(Counter(date[5:7] for date in dates if len(date) >= 7).items())),
        "gsd_m": _quartiles([image["gsd"] for image in images]),
        "cloud_cover_percent": _quartiles([image["cloud_cover"] for image in images]),
        "shorter_side_px": _quartiles([min(image["width"], image["height"]) for image in images]),
        "roles": dict(sorted(Counter(image["role"] for image in images).items())),
    }


def write(folder: Path, told: Mapping[str, Any], images: Images) -> None:
    """Write a summary and its pictures.

    Raises:
        RasterError: If a file cannot be written.
    """
    content = json.dumps(told, indent=1) + "\n"
    pictures = (_png(draw_map(images)), _png(draw_histograms(images)))
    for name, file in zip(FILES, (content.encode(), *pictures), strict=True):
        write_bytes(folder / name, file, overwrite=True)


def draw_map(images: Images, width: int = 1080) -> Image.Image:
    """The places on a grid of longitude and latitude, in the colours of their splits."""
    places = {split: _places([i for i in images if i["split"] == split]) for split in _splits(images)}
    west, south, east, north = _frame(np.concatenate(list(places.values())))
    scale = width / (east - west)
    height = max(160, round((north - south) * scale))
    picture = Image.new("RGB", (width + 60, height + 60), _PAPER)
    pen = ImageDraw.Draw(picture)

    def at(lon: float, lat: float) -> tuple[float, float]:
        return 45 + (lon - west) * scale, 15 + (north - lat) * scale

    step = _step(max(east - west, north - south))
    for k in range(math.ceil(west / step), math.floor(east / step) + 1):
        x, _ = at(k * step, north)
        pen.line([(x, 15), (x, 15 + height)], _GRID)
        pen.text((x, 18 + height), f"{k * step:g}°", _INK, anchor="mt")
    for k in range(math.ceil(south / step), math.floor(north / step) + 1):
        _, y = at(west, k * step)
        pen.line([(45, y), (45 + width, y)], _GRID)
        pen.text((40, y), f"{k * step:g}°", _INK, anchor="rm")
    pen.rectangle([45, 15, 45 + width, 15 + height], outline=_INK)
    x = 45
    for split, colour in _splits(images).items():
        for lon, lat in np.unique(places[split], axis=0):
            px, py = at(lon, lat)
            pen.ellipse([px - 1.5, py - 1.5, px + 1.5, py + 1.5], fill=colour)
        text = f"{split}: {len(places[split])} images with a place"
        pen.rectangle([x, 41 + height, x + 9, 50 + height], fill=colour)
        pen.text((x + 14, 46 + height), text, _INK, anchor="lm")
        x += 34 + round(pen.textlength(text))
    return picture


def draw_histograms(images: Images) -> Image.Image:
    """Five small histograms: resolution, year, month, cloud cover, shorter side."""
    gsd = [image["gsd"] for image in images if image["gsd"]]
    years = [int(image["date"][:4]) for image in images if image["date"]]
    months = [int(image["date"][5:7]) for image in images if len(image["date"] or "") >= 7]
    cover = [image["cloud_cover"] for image in images if image["cloud_cover"] is not None]
    sides = [min(image["width"], image["height"]) for image in images]
    panels = (
        ("gsd, m", *_bins(gsd, logarithmic=True)),
        ("year", *_whole(years)),
        ("month", *_whole(months, range(1, 13))),
        ("cloud cover, percent", *_bins(cover)),
        ("shorter side, pixels", *_bins(sides, logarithmic=True)),
    )
    picture = Image.new("RGB", (3 * 320 + 20, 2 * 200 + 20), _PAPER)
    pen = ImageDraw.Draw(picture)
    for i, (title, counts, labels) in enumerate(panels):
        _panel(pen, 20 + i % 3 * 320, 20 + i // 3 * 200, title, counts, labels, len(images))
    return picture


def _panel(
    pen: ImageDraw.ImageDraw,
    left: int,
    top: int,
    title: str,
    counts: np.ndarray,
    labels: tuple[str, ...],
    images: int,
) -> None:
    wide, high = 280, 130
    known = int(counts.sum())
    pen.text((left, top), f"{title} (known of {known} of {images} images)", _INK)
    pen.line([(left, top + 20 + high), (left + wide, top + 20 + high)], _INK)
    bar = wide / max(1, len(counts))
    for k, count in enumerate(counts):
        tall = high * count / max(1, counts.max())
        if count:
            box = [
                left + k * bar + 1,
                top + 20 + high - max(1, tall),
                left + (k + 1) * bar - 1,
                top + 20 + high,
            ]
            pen.rectangle(box, fill=COLOURS["train"])
    for k, label in enumerate(labels):
        x = left + wide * (k / (len(labels) - 1) if len(labels) > 1 else 0.5)
        pen.text(
            (x, top + 24 + high), label, _INK, anchor=("lt", "mt", "rt")[(k > 0) + (k == len(labels) - 1)]
        )


def _bins(values: Sequence[float], *, logarithmic: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    if not values:
        return np.zeros(1, int), ()
    low, high = min(values), max(values)
    if high - low <= 1e-6 * abs(high):
        return np.array([len(values)]), (f"{low:g}",)
    scaled = np.log(values) if logarithmic else np.array(values)
    middle = math.sqrt(low * high) if logarithmic else (low + high) / 2
    return np.histogram(scaled, 20)[0], tuple(f"{value:.3g}" for value in (low, middle, high))


def _whole(values: Sequence[int], span: range | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    if not values:
        return np.zeros(1, int), ()
    span = span or range(min(values), max(values) + 1)
    counts = np.bincount(np.array(values) - span.start, minlength=len(span))
    return counts, (str(span.start), str(span.stop - 1)) if len(span) > 1 else (str(span.start),)


def _splits(images: Images) -> dict[str, tuple[int, int, int]]:
    names = sorted({image["split"] for image in images}, key=lambda split: (split != "train", split))
    others = iter(_OTHERS * len(names))
    return {split: COLOURS.get(split) or next(others) for split in names}


def _places(images: Images) -> np.ndarray:
    known = [(image["lon"], image["lat"]) for image in images if None not in (image["lon"], image["lat"])]
    return np.array(known, np.float64).reshape(-1, 2)


def _bounds(places: np.ndarray) -> list[float] | None:
    """West, south, east, north."""
    return [*places.min(0).tolist(), *places.max(0).tolist()] if len(places) else None


def _frame(places: np.ndarray) -> tuple[float, float, float, float]:
    """What a map shows: the places with a margin, at least a degree, at most the Earth."""
    bounds = _bounds(places)
    if bounds is None:
        return -180, -90, 180, 90
    west, south, east, north = bounds
    margin = max(0.5, 0.05 * max(east - west, north - south))
    west, south = max(-180, west - margin), max(-90, south - margin)
    return west, south, min(180, east + margin), min(90, north + margin)


def _step(extent: float) -> float:
    """A round distance between grid lines, some five of them."""
    return next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15) if extent / step <= 8), 30)


def _quartiles(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [round(float(q), 4) for q in np.quantile(known, (0, 0.25, 0.5, 0.75, 1))] if known else None


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
