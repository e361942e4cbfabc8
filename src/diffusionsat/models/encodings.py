"""Metadata as numbers for networks: the published encoding, and the features of the extended one.

Both start from the seven numbers of `Metadata.numbers` as a float32 tensor (B, 7), NaN where unknown, and
stay in float32: half precision cannot hold a longitude.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusionsat.metadata import NUMBERS, Metadata

_MAX_GSD = 1.0  # metres; the published normalisation (PUBLISHED_MODEL: 10 m becomes 10,000)
_FIRST_YEAR, _YEARS = 1980, 120


def numbers(metadata: Metadata | Sequence[Metadata]) -> Tensor:
    """The seven numbers of each metadata, float32 (B, 7), in people's units, NaN where unknown."""
    many = [metadata] if isinstance(metadata, Metadata) else metadata
    return torch.tensor([m.numbers for m in many], dtype=torch.float32).reshape(-1, 7)


def published(numbers: Tensor) -> Tensor:
    """The seven normalised numbers that the published networks take, (B, 7) float32; 0 where unknown.

    So the published encoding cannot tell unknown from longitude -180, latitude -90, no cloud or 1980.
    Source: Khanna et al. 2024, section 3.1, with the constants of the released code.

    Args:
        numbers: As `numbers` returns them, (B, 7).
    """
    lon, lat, gsd, cloud, year, month, day = numbers.float().unbind(-1)
    normalised = torch.stack(
        [
            (lon + 180) / 360 * 1000,
            (lat + 90) / 180 * 1000,
            gsd / _MAX_GSD * 1000,
            cloud / 100 * 1000,
            (year - _FIRST_YEAR) / _YEARS * 1000,
            month / 12 * 1000,
            day / 31 * 1000,
        ],
        dim=-1,
    )
    return normalised.nan_to_num(nan=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """How fine the extended features are; each scale is twice as fine as the one before.

    Args:
        place: Scales on the unit sphere; the finest has a wavelength of 40,000 km / 2**(place - 1).
        angle: Scales of longitude or latitude alone.
        gsd: Scales of log10(gsd); the coarsest has a period of 8 decades.
        cloud_cover: Scales of cloud cover; the coarsest has a period of 200 percent.
        year: Scales of the year; the coarsest has a period of 200 years.
        season: Harmonics of the year's circle.
    """

    place: int = 8
    angle: int = 4
    gsd: int = 6
    cloud_cover: int = 4
    year: int = 4
    season: int = 4


def published_features(numbers: Tensor, bandwidth: Bandwidth) -> dict[str, tuple[Tensor, Tensor]]:
    """The published encoding in the form of `extended`: each number like a timestep, 0 where unknown.

    Args:
        numbers: As `numbers` returns them, (B, 7).
        bandwidth: Not asked for.

    Returns:
        As `extended`; every field counts as known.
    """
    known = torch.ones(len(numbers), dtype=torch.bool, device=numbers.device)
    columns = published(numbers).unbind(-1)
    return {name: (timestep(column), known) for name, column in zip(NUMBERS, columns, strict=True)}


def timestep(value: Tensor, features: int = 128) -> Tensor:
    """Sines and cosines of a number from 0 to 1000, as Vaswani et al. 2017 have it, (B, features) float32."""
    half = features // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=value.device) / half)
    angles = value.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def extended(numbers: Tensor, bandwidth: Bandwidth) -> dict[str, tuple[Tensor, Tensor]]:
    """Features of each field and whether the field is known.

    Place lies on the unit sphere, so that nothing jumps at 180 degrees and every longitude is the same at a
    pole; the day of the year lies on a circle. ``sun``, the sine of the sun's elevation at noon, tells a
    northern from a southern summer.

    Args:
        numbers: As `numbers` returns them, (B, 7).
        bandwidth: How fine the features are.

    Returns:
        For each field its features (B, F), finite everywhere, and a mask (B,), True where it is known.
    """
    lon, lat, gsd, cloud, year, month, day = numbers.float().unbind(-1)
    lon, lat = torch.deg2rad(lon), torch.deg2rad(lat)
    sphere = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=-1)
    # A month alone counts as its middle.
    season = 2 * torch.pi * ((month - 1) * 30.4375 + day.nan_to_num(nan=15.7) - 0.5) / 365.25
    declination = -0.4091 * torch.cos(season + 0.1721)  # 23.44 degrees, lowest ten days before the new year
    log_gsd = gsd.log10()
    # Longitude alone fades out towards a pole, where it means nothing; below 87 degrees it is whole.
    fade = (20 * lat.cos()).nan_to_num(nan=1.0).clamp(0, 1)
    features = {
        "lon": _waves(lon, bandwidth.angle) * fade[:, None],
        "lat": _waves(lat, bandwidth.angle),
        "place": torch.cat([sphere, _waves(sphere, bandwidth.place)], dim=-1),
        "gsd": torch.cat([log_gsd[:, None] / 4, _waves(log_gsd * torch.pi / 4, bandwidth.gsd)], dim=-1),
        "cloud_cover": torch.cat(
            [cloud[:, None] / 100, _waves(cloud * torch.pi / 100, bandwidth.cloud_cover)], dim=-1
        ),
        "year": torch.cat(
            [(year[:, None] - 2000) / 50, _waves((year - 2000) * torch.pi / 100, bandwidth.year)], dim=-1
        ),
        "season": torch.cat(
            [f(k * season)[:, None] for k in range(1, bandwidth.season + 1) for f in (torch.sin, torch.cos)],
            dim=-1,
        ),
        "sun": torch.cos(lat - declination)[:, None],
    }
    return {name: (f.nan_to_num(nan=0.0), f.isfinite().all(-1)) for name, f in features.items()}


def relative(numbers: Tensor, frames: Tensor, bandwidth: Bandwidth) -> dict[str, tuple[Tensor, Tensor]]:
    """Features of how condition frames differ from the image that is to be made.

    ``days`` is the frame's date less the image's: nearly linear within a month, logarithmic beyond, with the
    year's circle. Where a month is unknown it is the years' difference. ``gsd_ratio`` is the logarithm of the
    frame's gsd over the image's.

    Args:
        numbers: Of the image, (N, 7), as `numbers` returns them.
        frames: Of a frame of it, (N, 7).
        bandwidth: How fine the features are.

    Returns:
        As `extended`: features (N, F), finite everywhere, and a mask (N,), True where both are known.
    """
    image, frame = numbers.float(), frames.float()
    years = 365.25 * (frame[:, 4] - image[:, 4])
    days = _day_number(frame[:, 4:]) - _day_number(image[:, 4:])
    days = torch.where(days.isfinite(), days, years)[:, None]
    distance = torch.asinh(days / 30)  # 8 is a century
    waves = _waves(distance * torch.pi / 8, bandwidth.year)
    ratio = (frame[:, 2] / image[:, 2]).log2()[:, None]
    season = 2 * torch.pi * days / 365.25
    harmonics = [f(k * season) for k in range(1, bandwidth.season + 1) for f in (torch.sin, torch.cos)]
    features = {
        "days": torch.cat([distance / 5, waves, *harmonics], dim=-1),
        "gsd_ratio": torch.cat([ratio / 4, _waves(ratio * torch.pi / 8, bandwidth.gsd)], dim=-1),
    }
    return {name: (f.nan_to_num(nan=0.0), f.isfinite().all(-1)) for name, f in features.items()}


def _day_number(date: Tensor) -> Tensor:
    """Days of the Gregorian calendar of (year, month, day), (N, 3) to (N,); a month alone is its middle.

    Source: Howard Hinnant, "chrono-compatible low-level date algorithms"; the year starts in March.
    """
    year, month, day = date.unbind(-1)
    march = (month + 9) % 12
    year = year - (march >= 10).to(year.dtype)
    leaps = (year / 4).floor() - (year / 100).floor() + (year / 400).floor()
    return 365 * year + leaps + ((153 * march + 2) / 5).floor() + day.nan_to_num(nan=15.7)


def _waves(x: Tensor, scales: int) -> Tensor:
    """Sines and cosines of x at 1, 2, 4, ... times its frequency, flattened to (B, F)."""
    angles = x.reshape(len(x), x.shape[1:].numel(), 1) * 2.0 ** torch.arange(scales, device=x.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


ENCODINGS = {"extended": extended, "published": published_features}
