"""What a compact ControlNet is given of a record: the image itself, coarser or with a hole, and other dates.

Values are as they are shown, 0 to 1: 8-bit colours / 255, reflectance through the display stretch. What is
drawn for an example depends on its random numbers alone.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffusionsat.data.crops import Crop
from diffusionsat.data.holes import hole
from diffusionsat.data.records import Frame, Record
from diffusionsat.data.sensors import (
    DISPLAY_GAMMA,
    DISPLAY_WHITE,
    RGB,
    SENSORS,
    Scaling,
    has,
    locate,
    shown,
    stretch,
)
from diffusionsat.errors import ConfigError
from diffusionsat.metadata import Metadata

BANDS = tuple(band.common for band in SENSORS["sentinel-2"])  # what a ControlNet knows
_NIR = {"nir", "nir08"}
_FACTORS = (2, 10)
_SMALLEST = 4  # pixels a side of the coarsest image
_MODULATION = (0.15, 0.45)  # at the coarse grid's Nyquist frequency; Sentinel-2 has 0.22 to 0.38
_SNR = (30.0, 200.0)  # at _REFERENCE
_REFERENCE = 0.1  # reflectance at which half of the noise's variance is the photons'


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """An image that an example is conditioned on, on the grid of the example's pixels.

    Args:
        values: Reflectance, or shares of the display range, 0 to 1, float32 (bands, size, size); unknown 0.
            Of `Conditions` always as shown.
        valid: Where all bands are known, bool (size, size).
        bands: Their names.
        metadata: Of these pixels.
        role: Its part in the record.
    """

    values: np.ndarray
    valid: np.ndarray
    bands: tuple[str, ...]
    metadata: Metadata
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is given, drawn for every example anew.

    Where neither the image itself nor another date was drawn, the image is given after all, coarser or with a
    hole by the ratio of their shares, so that a record of a single date teaches something too.

    Args:
        coarse: Share of the images that are given themselves, as a sensor sees them whose pixels are 2 to 10
            times coarser.
        holes: Share of the images that are given themselves, with a hole of 5 to 80 % of their area.
        holes_from: Names of sources whose masks are of clouds; half of the holes are then cut from these.
        dates: Share of the images with other dates to which some of these are given.
        coarse_dates: Share of these, of which the other dates are as coarse as the image would be.
        most: At most so many other dates are given; 1 to this many.
        nothing: Share of the images to which nothing is given.
        series: Names of the sources in which rows of one place are the dates of a sequence.

    Raises:
        ConfigError: If a number is no share, or ``coarse`` and ``holes`` are together more than 1.
    """

    coarse: float = 0.0
    holes: float = 0.0
    holes_from: tuple[str, ...] = ()
    dates: float = 0.0
    coarse_dates: float = 0.0
    most: int = 4
    nothing: float = 0.1
    series: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shares = (self.coarse, self.holes, self.dates, self.coarse_dates, self.nothing)
        if not all(0 <= share <= 1 for share in shares) or self.coarse + self.holes > 1 or self.most < 1:
            raise ConfigError(
                f"{self} cannot be. Give shares from 0 to 1; coarse and holes are of the same images and "
                "together at most 1; most is at least 1."
            )
        if not self.coarse + self.holes + self.dates:
            raise ConfigError("Nothing would ever be given. Give coarse, holes or dates a share.")
        if self.holes_from and not self.holes:
            raise ConfigError("holes_from names masks, but holes is 0. Give it a share.")


def draw(
    conditions: Conditions,
    record: Record,
    target: int,
    drawn: Crop,
    pixels: np.ndarray,
    rng: np.random.Generator,
    masks: Sequence[np.ndarray] = (),
) -> tuple[Condition, ...]:
    """Conditions of an example.

    Args:
        conditions: How often what is given.
        record: Of the example.
        target: Which of its frames the example is.
        drawn: Crop of that frame.
        pixels: The example's, uint8 (size, size, 3).
        rng: Source of randomness.
        masks: Of ``conditions.holes_from``.
    """
    u, factor = rng.random(3), int(rng.integers(*_FACTORS, endpoint=True))
    if u[0] < conditions.nothing:
        return ()
    factor = max(1, min(factor, drawn.size // _SMALLEST))
    fine = drawn.metadata(record.frames[target].metadata).gsd
    itself, others = _views(record.frames, target)
    beside = bool(others) and u[2] < conditions.dates
    way = _way(conditions, u[1], beside)
    given: list[Condition] = []
    if way is not None:
        seen = _see(record, itself, drawn, rng, (target, pixels))
        if way == "hole":
            outside = ~hole(drawn.size, rng, masks)
            given += _perhaps_joined([_where(one, outside) for one in seen], rng)
        else:
            # From several looks, whose pixels lie in other places, a finer image can be computed.
            for _ in range(1 if rng.random() < 0.75 else int(rng.integers(2, 5))):
                given += _perhaps_joined(_coarser(seen, factor, fine, rng), rng)
    if beside or (way is None and others):
        count = int(rng.integers(1, min(conditions.most, len(others)) + 1))
        coarse = rng.random() < conditions.coarse_dates
        for i in rng.permutation(len(others))[:count]:
            seen = _see(record, others[i], drawn, rng)
            given += _perhaps_joined(_coarser(seen, factor, fine, rng) if coarse else seen, rng)
    return tuple(given)


def _way(conditions: Conditions, u: float, beside: bool) -> str | None:
    """How the image itself is given: ``"coarse"``, with a ``"hole"``, or not at all."""
    either = conditions.coarse + conditions.holes
    if u >= either and not beside and either:
        u = (u - either) / (1 - either) * either
    return "coarse" if u < conditions.coarse else "hole" if u < either else None


def _views(frames: Sequence[Frame], target: int) -> tuple[list[int], list[list[int]]]:
    """Which frames show what the target shows, and which show each of the other dates.

    Frames of one date that follow one another are one view, until a band comes again.
    """
    views: list[list[int]] = []
    seen: set[str] = set()
    for i, frame in enumerate(frames):
        names = set(_places(frame.bands, frame.sensor))
        if views and frames[i - 1].metadata.date == frame.metadata.date and not names & seen:
            views[-1].append(i)
            seen |= names
        else:
            views.append([i])
            seen = names
    itself = next(view for view in views if target in view)
    date = frames[target].metadata.date
    return itself, [
        view
        for view in views
        if view is not itself and (date is None or frames[view[0]].metadata.date != date)
    ]


@functools.cache
def _places(bands: tuple[str, ...], sensor: str) -> dict[str, int]:
    """Position of every band that a ControlNet knows."""
    return {name: locate(bands, (name,), sensor)[0] for name in BANDS if has(bands, (name,), sensor)}


def _see(
    record: Record,
    view: Sequence[int],
    drawn: Crop,
    rng: np.random.Generator,
    cut: tuple[int, np.ndarray] | None = None,
) -> list[Condition]:
    """What is given of a view: some of its bands, those of one resolution together."""
    frames = [record.frames[i] for i in view]
    kept = _some([name for f in frames for name in _places(f.bands, f.sensor)], rng)
    groups: dict[float | None, list[Condition]] = {}
    for i, frame in zip(view, frames, strict=True):
        names = [name for name in _places(frame.bands, frame.sensor) if name in kept]
        if names:
            one = _cut(frame, names, drawn, cut[1] if cut and cut[0] == i else None)
            groups.setdefault(frame.metadata.gsd, []).append(one)
    return [_joined(group) for group in groups.values()]


def _some(names: Sequence[str], rng: np.random.Generator) -> set[str]:
    """The bands that are given of those there are: all, colours, colours with near infrared, or any."""
    u, chances = rng.random(), rng.random(len(names))
    if u < 0.25:
        kept = {*RGB}
    elif u < 0.4:
        kept = {*RGB} | _NIR
    elif u < 0.85:
        kept = {*names}
    else:
        kept = {name for name, chance in zip(names, chances, strict=True) if chance < 0.7}
    return kept & {*names} or {*names}


def _cut(frame: Frame, names: Sequence[str], drawn: Crop, cut: np.ndarray | None) -> Condition:
    """Some bands of a frame as they are shown, where the crop is; ``cut`` if that was done already."""
    places, known = [_places(frame.bands, frame.sensor)[name] for name in names], frame.metadata
    plain = frame.bands == RGB and frame.scaling is None
    if plain and cut is None:
        stored = frame.pixels()
        if stored.dtype == np.uint8 and stored.shape[:2] == (drawn.height, drawn.width):
            cut = drawn.cut(stored)
    if plain and cut is not None:
        values, valid = cut[..., places] / np.float32(255), np.ones(cut.shape[:2], bool)
        metadata = drawn.metadata(known)
    else:
        values, everywhere = _shown(frame, places)
        values, valid, metadata = drawn.cut_other(values, everywhere, known)
    if metadata.gsd is not None and known.gsd is not None:
        # Interpolation makes more pixels and shows no more.
        metadata = metadata.replace(gsd=max(metadata.gsd, known.gsd))
    return Condition(
        values=np.ascontiguousarray(np.moveaxis(values, 2, 0), np.float32),
        valid=np.ascontiguousarray(valid),
        bands=tuple(names),
        metadata=metadata,
        role=frame.role,
    )


def _shown(frame: Frame, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Some bands of a frame as they are shown, float32 (H, W, bands), and where all are known, (H, W)."""
    scaling = frame.scaling or Scaling()
    stored = frame.pixels()[..., list(places)]
    if scaling.gain is not None:
        reflectance, known = scaling.reflectance(stored)
        values = shown(reflectance)
    else:
        known = scaling.valid(stored)
        values = (stored if stored.dtype == np.uint8 else stretch(stored, known)) / np.float32(255)
    return values, np.all(known, axis=2)


def _perhaps_joined(seen: list[Condition], rng: np.random.Generator) -> list[Condition]:
    """Bands of several resolutions by themselves, or together as if interpolated; each is as likely."""
    return [_joined(seen)] if len(seen) > 1 and rng.random() < 0.5 else seen


def _joined(group: Sequence[Condition]) -> Condition:
    """Several bands as one image, of the finest's metadata, known where all are."""
    first = min(group, key=lambda one: one.metadata.gsd or 0)
    return replace(
        first,
        values=np.concatenate([one.values for one in group]),
        valid=np.all([one.valid for one in group], axis=0),
        bands=tuple(name for one in group for name in one.bands),
    )


def _where(one: Condition, known: np.ndarray) -> Condition:
    valid = one.valid & known
    return replace(one, values=np.where(valid, one.values, np.float32(0)), valid=valid)


def _coarser(
    seen: Sequence[Condition], factor: int, fine: float | None, rng: np.random.Generator
) -> list[Condition]:
    """All of them as `coarser` gives them, without those of which too little would be left."""
    return [one for one in (coarser(each, factor, fine, rng) for each in seen) if one is not None]


def coarser(one: Condition, factor: int, fine: float | None, rng: np.random.Generator) -> Condition | None:
    """An image as a sensor of coarser pixels sees it, interpolated on the grid that it was on.

    The model of `diffusionsat.diffusion.sensors`, in light. Modulation, noise and the place of the coarse
    pixels are drawn. At its edges the image goes on mirrored. Bands that are coarser than the grid already
    become coarser by as much.

    Args:
        one: The image.
        factor: How many times coarser.
        fine: Metres per pixel of the grid; None if unknown.
        rng: Source of randomness.

    Returns:
        None if fewer than four pixels a side would be left.
    """
    modulation, snr = rng.uniform(*_MODULATION), math.exp(rng.uniform(*np.log(_SNR)))
    gsd, size = one.metadata.gsd, one.values.shape[1]
    native = 1.0 if gsd is None or fine is None else gsd / fine
    whole = max(1, round(native)) * factor
    phases = rng.integers(whole, size=2)
    if size // whole < _SMALLEST:
        return None
    down, across = (_sampling(size, whole, int(phase), modulation) for phase in phases)
    up, along = (_interpolation(size, whole, int(phase)) for phase in phases)
    light = down @ one.values**DISPLAY_GAMMA @ across.T
    variance = (_REFERENCE / snr / DISPLAY_WHITE) ** 2 / 2 * (1 + light * (DISPLAY_WHITE / _REFERENCE))
    light += np.sqrt(variance) * rng.standard_normal(light.shape, np.float32)
    coarse = np.clip(light, 0, 1) ** (1 / DISPLAY_GAMMA)
    known = down @ one.valid.astype(np.float32) @ across.T > 1 - 1e-4
    weight = up @ known.astype(np.float32) @ along.T
    values = up @ (coarse * known) @ along.T / np.maximum(weight, 1e-3)
    rows, columns = ((np.arange(size) + phase) // whole for phase in phases)
    valid = known[rows[:, None], columns]
    return replace(
        one,
        values=np.where(valid, values, 0).astype(np.float32),
        valid=valid,
        metadata=one.metadata.replace(gsd=None if gsd is None else gsd * factor),
    )


def _sampling(length: int, factor: int, phase: int, modulation: float) -> np.ndarray:
    """Blur and decimation along an axis, (coarse, length) float32; coarse pixels begin ``phase`` before it.

    The same as `operators.Blur.from_modulation` with `operators.Decimate`, without torch.
    """
    angle = math.pi / (2 * factor)
    left = min(1.0, modulation * factor * math.sin(angle))  # over the mean's own, 1 / (factor sin(angle))
    sigma = factor * math.sqrt(-2 * math.log(left)) / math.pi
    offsets = np.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1)
    kernel = np.exp(-(offsets**2) / (2 * max(sigma, 1e-6) ** 2))
    count = -(-(length + phase) // factor)
    places = (np.arange(count * factor)[:, None] - phase + offsets) % (2 * length)
    places = np.minimum(places, 2 * length - 1 - places)
    places += length * np.repeat(np.arange(count), factor)[:, None]
    weights = np.broadcast_to(kernel / kernel.sum() / factor, places.shape)
    matrix = np.bincount(places.ravel(), weights.ravel(), count * length)
    return matrix.reshape(count, length).astype(np.float32)


def _interpolation(length: int, factor: int, phase: int) -> np.ndarray:
    """Linear interpolation back along an axis, (length, coarse) float32, the outermost pixels continued."""
    count = -(-(length + phase) // factor)
    places = np.clip((np.arange(length) + phase + 0.5) / factor - 0.5, 0, count - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count))).astype(np.float32)
