"""Holes: of every size and shape, half of them real clouds where there are masks, the same every time."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from diffusionsat.data.conditions import Conditions
from diffusionsat.data.holes import cloud_masks, hole
from diffusionsat.data.reading import Mixture
from diffusionsat.data.series import Series
from diffusionsat.data.sources import Source
from diffusionsat.errors import ConfigError


def rng(seed):
    return np.random.Generator(np.random.Philox(seed))


def png(array):
    out = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_holes_of_every_size_and_shape():
    holes = np.stack([hole(64, rng(seed)) for seed in range(300)])
    shares = holes.mean((1, 2))
    assert shares.min() > 0.04
    assert shares.max() < 0.82
    assert np.histogram(shares, 5, (0.05, 0.8))[0].min() > 30, "of every size"
    boxes = [one.any(0).sum() * one.any(1).sum() == one.sum() for one in holes]
    assert np.mean(boxes) == pytest.approx(0.25, abs=0.08)
    clouds = holes[~np.array(boxes)]
    edges = (clouds[:, 1:] != clouds[:, :-1]).mean((1, 2))
    assert edges.max() < 0.25, "clouds, not noise"
    assert edges.max() > 8 * edges.min(), "large and small ones"
    assert np.array_equal(hole(64, rng(5)), holes[5])


def test_half_of_the_holes_are_parts_of_the_masks():
    """Of a mask that is cloudy in its left half every part is so up to a straight line, whichever way up."""
    mask = np.arange(60)[None] < np.full((50, 1), 30)
    holes = [hole(32, rng(seed), [mask]) for seed in range(300)]
    assert all(0.04 < one.mean() < 0.82 for one in holes)
    sides = []
    for one in holes:
        along = next((line for line in (one, one.T) if (line == line[0]).all()), None)
        if along is not None and (np.diff(along[0].astype(int)) != 0).sum() == 1:
            sides.append((along is one, bool(along[0, 0])))
    assert len(sides) / len(holes) == pytest.approx(0.5, abs=0.1)
    assert len(set(sides)) == 4, "turned and mirrored"
    assert len({one.mean() for one in holes}) > 100, "of many sizes"
    assert np.array_equal(hole(32, rng(5), [mask]), holes[5])


def test_masks_without_enough_cloud_are_no_holes():
    clear = np.zeros((40, 40), bool)
    clear[3, 3:20] = True
    for seed in range(30):
        assert 0.04 < hole(32, rng(seed), [clear]).mean() < 0.82


def test_masks_of_several_dates_are_taken_apart():
    dates = np.zeros((3 * 16, 16))
    dates[:8] = 255
    dates[40:, :4] = 128  # shadow
    one, two = cloud_masks([png(dates)])
    assert one.shape == two.shape == (16, 16)
    assert one[:8].all()
    assert two[8:, :4].all()
    assert (one.sum(), two.sum()) == (128, 32)
    assert cloud_masks([png(np.full((20, 30), 255))])[0].shape == (20, 30)


@pytest.fixture
def sources(tmp_path):
    """Chips of one colour: with a mask of stripes, without a mask, and without anything cloudy in it."""
    stripes = np.zeros((16, 16))
    stripes[:, ::2] = 255
    for name, mask in (("striped", png(stripes)), ("plain", None), ("clear", png(np.zeros((16, 16))))):
        rows = []
        for i in range(40):
            about = {"date": "2020", "gsd": 10.0, "cloud_cover": None, "width": 16, "height": 16}
            image = png(np.full((16, 16, 3), 200))
            frame = {"image": image, "format": "png", "bands": ["red", "green", "blue"], "scale": "", **about}
            place = {"lon": 10.5 + i, "lat": 50.5, "label": None, "caption": "a field"}
            rows.append({"key": f"{name}{i}", "mask": mask, "frames": [frame], **place})
        (tmp_path / name).mkdir()
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name / "train.parquet")
    return [Source(tmp_path / name) for name in ("striped", "plain", "clear")]


def mixture(sources, *names):
    given = Conditions(holes=1, nothing=0, holes_from=names)
    return Mixture(sources, seed=2, sizes={16: 1}, companions=given)


def holes(mixture):
    return [~mixture.example(p, 16).frames[0].valid for p in range(80)]


def test_sources_give_their_masks(sources):
    some = sources[0].images.held_out.sum()
    assert 0 < some < 40
    assert len(sources[0].masks()) == 40 - some, "without those of places that are held out"
    assert sources[1].masks() == []
    drawn, real, again = (holes(mixture(sources, *n)) for n in ((), ("striped",), ("striped",)))
    assert all(np.array_equal(a, b) for a, b in zip(real, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(real, drawn, strict=True))


@pytest.mark.parametrize("name", ["plain", "clear", "absent", "series"])
def test_names_without_clouds_are_refused(sources, name):
    sources = [*sources, Series(Source(sources[0].address, name="series"))]
    with pytest.raises(ConfigError, match=f"holes_from has '{name}'"):
        mixture(sources, "striped", name)
