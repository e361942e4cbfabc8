"""Warnings of what a model is asked that lies beyond what it has learnt from."""

import logging
from collections.abc import Sequence

import numpy as np

from diffusionsat.checkpoints.facts import Learnt
from diffusionsat.metadata import Metadata
from diffusionsat.tasks.views import View

log = logging.getLogger(__name__)

_TOLERANCE = 1.1  # of a range's ends: 9.9 m are 10
_BLOCK, _PLACES = 64, (0.25, 0.75)  # pixels of a side, and where along each side values are looked at
_BLACK = 1e-3  # of light: what is darker is no measurement of ground by daylight


def warn(
    model: str, learnt: Learnt, metadata: Metadata, size: tuple[int, int], views: Sequence[View]
) -> None:
    """Say what of a job is beyond what a network has learnt from; see `beyond` and `out_of_range`.

    Args:
        model: Its name.
        learnt: What it has learnt from.
        metadata: Of the image that is to be made.
        size: Its width and height, pixels.
        views: What is given.
    """
    for sentence in beyond(learnt, metadata, size, [view.metadata for view in views]):
        log.warning("%s: %s", model, sentence)
    for view in views:
        if bands := out_of_range(view):
            log.warning(
                "%s: most values of %s are darker or brighter than what the model is shown; if they are no "
                "such reflectance, give scaling=, or write the bands' scale and offset into the file",
                view.raster.name,
                ", ".join(bands),
            )


def beyond(
    learnt: Learnt, metadata: Metadata, size: tuple[int, int], frames: Sequence[Metadata]
) -> list[str]:
    """Sentences about numbers out of the ranges that a network has learnt from; none if all are within.

    Args:
        learnt: The ranges.
        metadata: Of the image that is to be made.
        size: Its width and height, pixels.
        frames: Metadata of what is given.
    """
    ratios = sorted({round(f.gsd / metadata.gsd, 3) for f in frames if f.gsd and metadata.gsd})
    asked = [
        ("the result has {:.4g} m per pixel", metadata.gsd, learnt.gsd),
        ("{:g} frames are given", len(frames) or None, learnt.frames),
        *(("a frame's pixels are {:.3g} of the result's wide", each, learnt.factor) for each in ratios),
        ("the image's shorter side is {:g} pixels", min(size), learnt.side and (learnt.side, np.inf)),
    ]
    found = []
    for words, value, known in asked:
        if value is None or known is None:
            continue
        low, high = known
        if value * _TOLERANCE < low or value > high * _TOLERANCE:
            ends = f"{low:g} and more" if high == np.inf else f"{low:g} to {high:g}"
            found.append(f"{words.format(value)}, where the model has learnt from {ends}")
    return found


def out_of_range(view: View) -> list[str]:
    """Bands of a frame of which most values, in four blocks, are darker or brighter than can be shown."""
    raster, found = view.raster, []
    shown = [i for i, slot in enumerate(view.slots) if slot is not None]
    light: list[list[np.ndarray]] = [[] for _ in shown]
    for row in _PLACES:
        for column in _PLACES:
            top, left = (
                max(0, round(share * length) - _BLOCK // 2)
                for share, length in ((row, raster.height), (column, raster.width))
            )
            rows = range(top, min(top + _BLOCK, raster.height))
            values, valid = raster.read(rows, range(left, min(left + _BLOCK, raster.width)))
            lit = view.radiometry.light(np.where(valid, values, 0))
            for place, band in enumerate(shown):
                light[place].append(lit[band][valid[band]])
    for place, band in enumerate(shown):
        values = np.concatenate(light[place])
        if values.size and np.mean((values < _BLACK) | (values > 1)) > 0.5:
            found.append(raster.bands[band])
    return found
