"""Blocks of the Earth and distances, against brute force on the sphere."""

import math

import numpy as np
import pytest

from diffusionsat.data.splits import EARTH_RADIUS_KM, Blocks, nearest_km
from diffusionsat.errors import ConfigError


def sphere(lon, lat):
    lon, lat = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def distance_km(a, b):
    """By the chord between two points, which has no trouble with small angles."""
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.linalg.norm(sphere(*a) - sphere(*b), axis=-1) / 2)


def everywhere(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(-180, 180, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))], axis=1)


def test_shares_and_areas():
    splits = [Blocks(buffer_km=0, test=0.2, validation=0.1).split(*place) for place in everywhere(20_000)]
    assert splits.count("test") / 20_000 == pytest.approx(0.2, abs=0.02)
    assert splits.count("validation") / 20_000 == pytest.approx(0.1, abs=0.02)


def test_a_block_has_one_split_and_about_its_area():
    blocks = Blocks(block_km=500, buffer_km=0, test=0.5)
    grid = everywhere(200_000)
    cells = {}
    for lon, lat in grid:
        band = min(int((lat + 90) / blocks._height), blocks._bands - 1)
        column = int((lon + 180) / blocks._width(band))
        cells.setdefault((band, column), []).append(blocks.split(lon, lat))
    assert all(len(set(splits)) == 1 for splits in cells.values())
    earth_km2 = 4 * math.pi * EARTH_RADIUS_KM**2
    areas = np.array([len(splits) for splits in cells.values()]) / len(grid) * earth_km2
    assert np.quantile(areas, 0.05) > 0.7 * 500**2
    assert np.quantile(areas, 0.95) < 1.3 * 500**2


@pytest.mark.parametrize("around", [(0.0, 0.0), (179.9, 10.0), (-30.0, 71.0), (12.0, 89.0), (50.0, -88.5)])
def test_train_keeps_the_buffer_and_no_more(around):
    blocks = Blocks(block_km=100, buffer_km=20, test=0.3)
    plain = Blocks(block_km=100, buffer_km=0, test=0.3)
    rng = np.random.default_rng(1)
    lat = np.clip(around[1] + rng.uniform(-2, 2, 30_000), -90, 90)
    lon = around[0] + rng.uniform(-2, 2, 30_000) / np.maximum(0.02, np.cos(np.radians(lat)))
    dense = np.stack([(lon + 180) % 360 - 180, lat], axis=1)
    others = np.array([place for place in dense if plain.split(*place) == "test"])
    left_out = kept = 0
    inner = [p for p in dense[:1500] if abs(p[1] - around[1]) < 1.5 and plain.split(*p) == "train"]
    for place in inner:
        nearest = distance_km(place, others.T).min()
        if blocks.split(*place) is None:
            left_out += 1
            assert nearest < 20 + 8, "left out although test ground is far"
        else:
            kept += 1
            assert nearest >= 20, "kept although test ground is near"
    assert min(left_out, kept) > 50


def test_it_is_the_same_on_both_sides_of_the_antimeridian():
    blocks = Blocks(buffer_km=30)
    for lat in np.linspace(-89, 89, 40):
        assert blocks.split(180.0, lat) == blocks.split(-180.0, lat)


def test_text_goes_by_its_hash():
    blocks = Blocks(test=0.25)
    splits = [blocks.of_text(f"set/{i}") for i in range(4000)]
    assert splits.count("test") / 4000 == pytest.approx(0.25, abs=0.03)
    assert splits == [blocks.of_text(f"set/{i}") for i in range(4000)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_km": 0},
        {"buffer_km": -1},
        {"buffer_km": 200},
        {"test": -0.1},
        {"test": 0.6, "validation": 0.6},
    ],
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(ConfigError, match="Give"):
        Blocks(**wrong)


def test_nearest_distance_is_the_least_of_all():
    ours, theirs = everywhere(2500, 2), everywhere(700, 3)
    wanted = min(distance_km(place, theirs.T).min() for place in ours)
    assert nearest_km(ours, theirs) == pytest.approx(wanted, rel=1e-9)
    assert nearest_km(theirs, ours) == pytest.approx(wanted, rel=1e-9)


def test_nearest_distance_of_neighbours_of_same_place_and_of_none():
    a = np.array([[7.0, 46.0], [179.9999, 0.0]])
    assert nearest_km(a, np.array([[-179.9999, 0.0]])) == pytest.approx(0.0222390, rel=1e-4)
    assert nearest_km(a, a[:1]) == 0
    assert nearest_km(a, np.empty((0, 2))) is None
