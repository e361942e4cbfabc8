"""What a ControlNet is given: true to the record, to the sensor model, and to the random numbers alone."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import files

from diffusionsat.data import conditions, shards
from diffusionsat.data.conditions import Condition, Conditions, coarser, draw
from diffusionsat.data.crops import Crop
from diffusionsat.data.reading import Mixture
from diffusionsat.data.records import Frame, Record
from diffusionsat.data.sensors import DISPLAY_GAMMA, DISPLAY_WHITE, RGB, Scaling, display
from diffusionsat.data.series import Series
from diffusionsat.data.sources import Source
from diffusionsat.errors import ConfigError, DatasetError
from diffusionsat.metadata import Metadata

SIDE = 32
WHOLE = Crop(height=SIDE, width=SIDE, top=0, left=0, size=SIDE, factor=1)
REFLECTANCE = Scaling(gain=1e-4, nodata=0)
RED_EDGE, SWIR = 1500, 3000  # stored


class Given:
    """Random numbers that are given: of `coarser` the modulation, log SNR, places and noise."""

    def __init__(self, modulation, snr, phases=(0, 0), noise=None):
        self.uniforms, self.phases, self.noise = iter((modulation, np.log(snr))), phases, noise

    def uniform(self, low, high):
        value = next(self.uniforms)
        assert low <= value <= high
        return value

    def integers(self, high, size):
        assert max(self.phases) < high
        return np.array(self.phases)

    def standard_normal(self, shape, dtype):
        return self.noise(shape) if self.noise else np.zeros(shape, dtype)


def rng(seed):
    return np.random.Generator(np.random.Philox(seed))


def condition(values, valid=None, gsd=10.0):
    known = np.ones(values.shape[1:], bool) if valid is None else valid
    names = RGB[: len(values)]
    return Condition(values=values, valid=known, bands=names, metadata=Metadata(gsd=gsd), role="rgb")


def through_torch(values, factor, modulation):
    """Seen by the operators of `diffusion`, then on the grid as a ControlNet brings coarser frames there."""
    import torch
    import torch.nn.functional as F

    from diffusionsat.diffusion.operators import Blur, Compose, Decimate

    decimate = Decimate(factor)
    operator = Compose((Blur.from_modulation([modulation], decimate), decimate))
    light = operator(torch.from_numpy(values)[None].double() ** DISPLAY_GAMMA)
    back = F.interpolate(light ** (1 / DISPLAY_GAMMA), values.shape[1:], mode="bilinear", align_corners=False)
    return back[0].numpy()


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_coarser_is_the_sensor_model_on_the_grid(factor):
    values = rng(0).random((3, 48, 48)).astype(np.float32)
    seen = coarser(condition(values), factor, 10, Given(0.3, 200))
    np.testing.assert_allclose(seen.values, through_torch(values, factor, 0.3), atol=2e-5)
    assert seen.valid.all()
    assert seen.metadata.gsd == 10 * factor
    assert np.abs(seen.values - through_torch(values, factor, 0.2)).max() > 1e-3


def test_coarse_pixels_may_lie_anywhere():
    """Of a part of an image whose coarse pixels begin before it, as a window of a larger scene has them."""
    values = rng(0).random((3, 96, 96)).astype(np.float32)
    top, left = 24 + 3, 32 + 1
    part = np.ascontiguousarray(values[:, top : top + 48, left : left + 48])
    seen = coarser(condition(part), 4, 10, Given(0.3, 200, phases=(3, 1)))
    wanted = through_torch(values, 4, 0.3)[:, top : top + 48, left : left + 48]
    inner = slice(10, -10)
    np.testing.assert_allclose(seen.values[:, inner, inner], wanted[:, inner, inner], atol=2e-5)


@pytest.mark.parametrize(("reflectance", "share"), [(0.1, 1.0), (0.0, 0.5), (0.3, 2.0)])
def test_noise_has_the_variance_that_was_drawn(reflectance, share):
    """At the reference 0.1 the signal is SNR times its deviation; half of the variance is the signal's."""
    shown = (reflectance / DISPLAY_WHITE) ** (1 / DISPLAY_GAMMA)
    noise = rng(1)
    given = Given(0.3, 50, noise=lambda shape: np.abs(noise.standard_normal(shape, np.float32)))
    seen = coarser(condition(np.full((1, 200, 200), shown, np.float32)), 1, 10, given)
    # Half of a normal distribution, so that nothing is cut off at black: its square has the same mean.
    deviation = seen.values**DISPLAY_GAMMA * DISPLAY_WHITE - reflectance
    assert (deviation**2).mean() == pytest.approx(share * (0.1 / 50) ** 2, rel=0.03)


def test_what_is_not_known_spoils_nothing():
    values, valid = rng(0).random((3, 48, 48)).astype(np.float32), np.ones((48, 48), bool)
    valid[8:16, 20:24] = False
    one, other = (
        coarser(condition(np.where(valid, values, filled), valid), 4, 10, Given(0.3, 200))
        for filled in (np.float32(0), np.float32(1))
    )
    assert not one.valid[8:16, 20:24].any()
    assert 0.5 < one.valid.mean() < 1
    blocks = one.valid.reshape(12, 4, 12, 4)
    assert (blocks.all((1, 3)) == blocks.any((1, 3))).all(), "coarse pixels are known or not"
    np.testing.assert_allclose(one.values, other.values, atol=1e-4)
    assert not one.values[:, ~one.valid].any()


def test_coarse_bands_become_as_much_coarser():
    values = rng(0).random((2, 64, 64)).astype(np.float32)
    native = coarser(condition(values, gsd=20.0), 3, 10, Given(0.3, 200))
    alike = coarser(condition(values, gsd=10.0), 6, 10, Given(0.3, 200))
    np.testing.assert_array_equal(native.values, alike.values)
    assert native.metadata.gsd == alike.metadata.gsd == 60
    assert coarser(condition(values, gsd=60.0), 3, 10, Given(0.3, 200)) is None, "three pixels would be left"
    assert coarser(condition(values, gsd=None), 3, None, Given(0.3, 200)).metadata.gsd is None


def sequence(key="q", dates=("2020-01-05", "2020-04-05", "2021-07-05"), other="2020-04-05"):
    """Per date RGB with the date's number in blue and near infrared; once reflectance of 20 m bands too."""
    ramp = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=2) * 7
    frames = []
    for i, date in enumerate(dates):
        known = Metadata(lon=1.5, lat=0, gsd=10, date=date, cloud_cover=10.0 * i)
        colours = np.concatenate([ramp, np.full((SIDE, SIDE, 1), 100 + 20 * i)], axis=2).astype(np.uint8)
        nir = np.full((SIDE, SIDE, 1), 200 + 20 * i, np.uint8)
        for pixels, bands in ((colours, RGB), (nir, ("B08",))):
            frames.append(
                Frame(content=files.npy(pixels), format="npy", name=key, metadata=known, bands=bands)
            )
        if date == other:
            coarse = np.full((SIDE // 2, SIDE // 2, 2), (RED_EDGE, SWIR), np.uint16)
            coarse[0, 0] = 0
            frames.append(
                Frame(
                    content=files.npy(coarse),
                    format="npy",
                    name=key,
                    metadata=known.replace(gsd=20),
                    bands=("B05", "B11"),
                    role="bands",
                    scaling=REFLECTANCE,
                )
            )
    return Record(key=key, source="s", frames=tuple(frames), licence="l", place=key)


RECORD = sequence()
TARGETS = (0, 2, 5)  # of its frames, those with colours


def drawn(given, target=2, seeds=range(200), record=RECORD):
    pixels = record.frames[target].rgb()
    return [draw(given, record, target, WHOLE, pixels, rng(seed)) for seed in seeds]


def number(frame):
    """Which date a frame shows, by its colours and near infrared."""
    found = set()
    for band, base in (("blue", 100), ("nir", 200)):
        if band in frame.bands:
            value = 255 * np.median(frame.values[frame.bands.index(band)][frame.valid])
            found.add(round((value - base) / 20))
    (one,) = found or {None}
    return one


def test_other_dates_are_given_as_they_are():
    dates = [f.metadata.date for f in RECORD.frames]
    counts, together = Counter(), Counter()
    for frames in drawn(Conditions(dates=1, most=2, nothing=0), target=0):
        told = {f.metadata.date for f in frames}
        counts[len(told)] += 1
        together[len(frames)] += 1
        assert dates[0] not in told
        for f in frames:
            assert f.valid.shape == (SIDE, SIDE)
            assert number(f) in (None, sorted(set(dates)).index(f.metadata.date))
            assert (f.metadata.lon, f.metadata.lat) == pytest.approx((1.5, 0))
            assert f.metadata.cloud_cover == {"2020-04-05": 10, "2021-07-05": 20}[f.metadata.date]
            for band, value in (("red", "row"), ("green", "column")):
                if band in f.bands:
                    ramp = np.arange(SIDE) * 7 / np.float32(255)
                    wanted = np.broadcast_to(ramp[:, None] if value == "row" else ramp, (SIDE, SIDE))
                    np.testing.assert_allclose(
                        f.values[f.bands.index(band)][f.valid], wanted[f.valid], atol=1e-6
                    )
    assert counts[1] > 60
    assert counts[2] > 60
    assert together[3] > 20, "bands of another resolution may come by themselves"


def test_reflectance_is_shown_and_coarse_bands_say_so():
    shown = display(np.array([RED_EDGE, SWIR]) * 1e-4, np.ones(2, bool)) / 255
    seen = Counter()
    for frames in drawn(Conditions(dates=1, most=1, nothing=0), target=5):
        for f in frames:
            for band, value in zip(("rededge071", "swir16"), shown, strict=True):
                if band in f.bands:
                    np.testing.assert_allclose(f.values[f.bands.index(band)][f.valid], value, atol=0.5 / 255)
                    np.testing.assert_allclose(
                        f.valid, np.add.outer(np.arange(SIDE), np.arange(SIDE)) > 1, atol=1
                    )
                    assert not f.valid[0, 0]
                    seen["red" in f.bands or "nir" in f.bands, f.metadata.gsd] += 1
    assert set(seen) == {(False, 20), (True, 10)}, "alone, or beside finer ones that give the gsd"


def test_any_bands_are_given():
    sets = Counter(
        tuple(sorted(band for f in frames for band in f.bands))
        for frames in drawn(Conditions(coarse=1, nothing=0), seeds=range(400))
        if len({f.metadata.gsd for f in frames}) == len(frames)
    )
    everything = tuple(sorted((*RGB, "nir", "rededge071", "swir16")))
    assert sets[tuple(sorted(RGB))] > 40
    assert sets[tuple(sorted((*RGB, "nir")))] > 20
    assert sets[everything] > 25
    assert len(sets) > 10


def test_itself_coarser():
    pixels = RECORD.frames[2].rgb() / np.float32(255)
    factors = Counter()
    for frames in drawn(Conditions(coarse=1, nothing=0)):
        assert frames
        for f in frames:
            assert number(f) in (None, 1)
            assert f.metadata.date == "2020-04-05"
            factor = f.metadata.gsd / 10
            factors[factor] += 1
            if "red" in f.bands:
                inner = slice(12, -12)
                error = f.values[f.bands.index("red")][inner, inner] - pixels[inner, inner, 0]
                assert np.abs(error).max() < 0.12, "a ramp stays one"
    assert set(factors) >= set(range(2, 9)), "up to four pixels a side"
    looks = Counter(len(f) for f in drawn(Conditions(coarse=1, nothing=0), target=0) if "red" in f[0].bands)
    assert 0.15 < (looks[2] + looks[3] + looks[4]) / looks.total() < 0.35


def test_itself_with_a_hole():
    colours = np.moveaxis(RECORD.frames[0].rgb(), 2, 0) / np.float32(255)
    for frames in drawn(Conditions(holes=1, nothing=0), target=0):
        (f,) = frames
        assert f.metadata == RECORD.frames[0].metadata
        assert 0.04 < 1 - f.valid.mean() < 0.83
        assert not f.values[:, ~f.valid].any()
        for band, values in zip(f.bands, f.values, strict=True):
            wanted = np.full((SIDE, SIDE), 200 / 255) if band == "nir" else colours[RGB.index(band)]
            np.testing.assert_allclose(values[f.valid], wanted[f.valid], atol=1e-6)


def test_shares_of_what_is_given():
    given = Conditions(coarse=0.3, holes=0.2, dates=0.6, coarse_dates=0.25, most=1, nothing=0.1)
    kinds = Counter()
    for frames in drawn(given, target=0, seeds=range(1500)):
        own = [f for f in frames if f.metadata.date == "2020-01-05"]
        other = [f for f in frames if f.metadata.date != "2020-01-05" and "blue" in f.bands]
        kinds["nothing"] += not frames
        kinds["hole"] += any(not f.valid.all() for f in own)
        kinds["coarse"] += any(f.metadata.gsd > 10 for f in own)
        kinds["dates"] += len(frames) > len(own)
        kinds["coarse date"] += any(f.metadata.gsd > 20 for f in other)
        kinds["sharp date, coarse itself"] += any(f.metadata.gsd == 10 for f in other) and any(
            f.metadata.gsd > 10 for f in own
        )
    # Where neither was drawn, 0.5 * 0.4 of the images, the image is given after all.
    wanted = {"nothing": 0.1, "hole": 0.9 * 0.28, "coarse": 0.9 * 0.42, "dates": 0.9 * 0.6}
    for kind, share in wanted.items():
        assert kinds[kind] / 1500 == pytest.approx(share, abs=0.04), kind
    assert 0.05 < kinds["coarse date"] / 1500 < 0.9 * 0.6 * 0.27
    assert kinds["sharp date, coarse itself"] > 100


def test_a_record_of_one_date_shows_itself():
    single = sequence(dates=("2020-01-05",))
    for frames in drawn(Conditions(holes=0.1, dates=1, nothing=0), target=0, record=single):
        assert [f.metadata.date for f in frames] == ["2020-01-05"]
        assert not frames[0].valid.all()
    assert not any(drawn(Conditions(dates=1, nothing=0), target=0, record=single))


def test_dates_that_are_not_known_are_other_dates():
    """Frames in a row are one view until a band comes again; cloudy and clear pairs without dates are two."""
    undated = sequence(dates=(None, None), other="")
    numbers = {
        number(f) for frames in drawn(Conditions(dates=1, nothing=0), 0, record=undated) for f in frames
    }
    assert numbers == {1, None} - {None}
    same = sequence(dates=("2020", "2020"), other="")
    assert not any(drawn(Conditions(dates=1, nothing=0), 0, record=same)), "of one date, they would tell it"


def test_turned_and_reduced_like_the_image():
    crop = Crop(height=SIDE, width=SIDE, top=4, left=6, size=8, factor=2, turns=1, mirrored=True)
    pixels = crop.cut(RECORD.frames[0].rgb())
    for seed in range(40):
        for f in draw(Conditions(dates=1, nothing=0), RECORD, 0, crop, pixels, rng(seed)):
            for band in {"red", "green"} & {*f.bands}:
                error = f.values[f.bands.index(band)] * 255 - pixels[..., RGB.index(band)]
                assert np.abs(error).max() <= 1
            assert f.metadata.gsd == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"coarse": 0.6, "holes": 0.6},
        {"dates": -0.1},
        {"most": 0, "dates": 1},
        {"nothing": 1},
        {"dates": 1, "holes_from": ("a",)},
    ],
)
def test_shares_that_cannot_be(wrong):
    with pytest.raises(ConfigError):
        Conditions(**wrong)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("conditions")
    (root / "series").mkdir()
    shards.write_shard(root / "series/train.parquet", [sequence(f"q{i}") for i in range(30)], None, "")
    months = []
    for place in range(12):
        for month in (3, 1, 2):
            pixels = np.full((8, 8, 3), 20 * month, np.uint8)
            known = Metadata(lon=place + 0.5, lat=1.5, gsd=7400, date=f"2004-{month:02d}")
            frame = Frame(content=files.npy(pixels), format="npy", name="m", metadata=known)
            key = f"m{place}-{month}"
            months.append(Record(key=key, source="m", frames=(frame,), licence="l", place=key))
    order = rng(0).permutation(len(months))
    (root / "months").mkdir()
    shards.write_shard(root / "months/train.parquet", [months[i] for i in order], None, "")
    return root


def mixture(root, given):
    sources = [Source(root / "series"), Series(Source(root / "months"))]
    return Mixture(sources, seed=3, sizes={8: 1}, companions=given)


def same(one, other, frames=True):
    assert (one.key, one.metadata, one.caption) == (other.key, other.metadata, other.caption)
    assert np.array_equal(one.pixels, other.pixels)
    pairs = list(zip(one.frames, other.frames, strict=False))
    equal = len(one.frames) == len(other.frames) and all(
        a.metadata == b.metadata and a.bands == b.bands and np.array_equal(a.values, b.values)
        for a, b in pairs
    )
    assert equal == frames


def test_examples_depend_on_their_position_alone(root):
    given = Conditions(coarse=0.4, holes=0.4, dates=0.7)
    one, again = mixture(root, given), mixture(root, given)
    wanted = [one.example(p, 8) for p in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for example, p in zip(pool.map(lambda p: again.example(p, 8), range(40)), range(40), strict=True):
            same(example, wanted[p])
    other = [one.example(p, 8, again=1) for p in range(40)]
    for a, b in zip(wanted, other, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert (a.key, a.metadata, a.caption) == (b.key, b.metadata, b.caption)
    assert sum(len(a.frames) != len(b.frames) for a, b in zip(wanted, other, strict=True)) > 10
    same(one.example(7, 8, again=1), again.example(7, 8, again=1))


def test_rows_of_a_place_are_a_sequence(root):
    source = Source(root / "months")
    series = Series(source)
    assert len(series.records) == 12
    assert np.array_equal(np.sort(series.images.frames), np.full(36, 3))
    assert series.images.held_out.sum() == source.images.held_out.sum() > 0
    held = {source.record(i).key: out for i, out in enumerate(source.images.held_out)}
    assert all(held[series.record(i).key] == out for i, out in enumerate(series.images.held_out))
    one = Mixture([series], seed=0, sizes={8: 1}, companions=Conditions(dates=1, most=3, nothing=0))
    keys = set()
    for p in range(40):
        example = one.example(p, 8)
        assert example.pixels.max() == 20 * example.metadata.month
        keys.add(example.key)
        for f in example.frames:
            assert (f.metadata.lon, f.metadata.lat) == (example.metadata.lon, example.metadata.lat)
            assert f.metadata.month != example.metadata.month
            np.testing.assert_allclose(f.values * 255, 20 * f.metadata.month, atol=1e-4)
    assert len(keys) > 20
    with pytest.raises(DatasetError, match="holds sequences already"):
        Series(Source(root / "series"))
    with pytest.raises(DatasetError, match="No source has images"):
        Mixture([source], seed=0, sizes={8: 1}, companions=Conditions(dates=1))


def test_bands_are_those_of_the_networks():
    from diffusionsat.models.networks import BANDS

    assert sorted(conditions.BANDS) == sorted(BANDS)
