"""The measures against makers of images whose virtues and faults are known."""

import numpy as np
import pytest
from colours import LABELS, ColourReader, colour_features, paint

from diffusionsat import ConfigError, Metadata, MetadataError
from diffusionsat.data.captions import PHRASES
from diffusionsat.evaluation import compact
from diffusionsat.evaluation.compact import UNSEEN, Plan
from diffusionsat.evaluation.sampling import rows

READER = ColourReader()


@pytest.fixture
def plan(data):
    return Plan(data=data, n=100)


def label_of(words):
    meant = {phrase: label for label in LABELS for phrase in PHRASES[label]} | UNSEEN
    return meant.get(words)


def obedient(asked, name):
    return np.stack([paint(metadata, label_of(words)) for words, metadata in asked])


def deaf(asked, name):
    """Ignores what is asked and paints what is asked for another image."""
    order = np.random.default_rng(5).permutation(len(asked))
    return obedient([asked[i] for i in order], name)


def noisy(sigma):
    """Obeys, with an error of its own for the colour of each image."""

    def make(asked, name):
        images = obedient(asked, name)
        return images + np.random.default_rng(0).normal(0, sigma, (len(images), 1, 1, 3))

    return make


def test_autoencoding(data):
    def one_off(pixels):
        assert len(pixels) <= 64
        return pixels + np.uint8(1)

    plan = Plan(data=data, n=100)
    eurosat, *others = compact.autoencoding(one_off, READER, plan)
    assert eurosat["psnr"] == pytest.approx(20 * np.log10(255))
    assert eurosat["read"] == eurosat["read_real"] == 1
    assert 0.99 < eurosat["ssim"] < 1
    assert (eurosat["source"], eurosat["n"]) == ("eurosat_rgb", 47)
    assert all("read" not in line for line in others)
    greyed = compact.autoencoding(lambda x: np.full_like(x, 62), READER, plan)[0]  # reads as Forest
    assert greyed["read"] == pytest.approx(np.mean([i % 5 == 1 for i in range(47)]))
    assert greyed["ssim"] < 0.9


@pytest.mark.parametrize("known", compact.METADATA)
def test_words_are_asked_in_every_phrase(plan, data, known):
    asked = []

    def record(given, name):
        asked.extend(given)
        return obedient(given, name)

    _, names = compact.word_images(record, plan, known=known)
    assert len(asked) == len(names) == 100 * (5 + 4)
    for label in LABELS:
        mine = [given for given, name in zip(asked, names, strict=True) if name == label]
        assert {words for words, _ in mine} == set(PHRASES[label])
        train = {s.metadata for s in rows(data, "eurosat_rgb", split="train") if s.label == label}
        wanted = {"none": {Metadata()}, "gsd": {Metadata(gsd=10)}, "rows": train}
        assert {metadata for _, metadata in mine} == wanted[known]


def test_words_of_an_unknown_kind(plan):
    with pytest.raises(ConfigError, match=r"metadata is 'place'. Give one of none, gsd, rows"):
        compact.word_images(obedient, plan, known="place")


def test_words_that_are_obeyed_and_not(plan):
    pixels, names = compact.word_images(obedient, plan)
    (line,) = compact.words(pixels, names, READER, plan)
    assert line["read"] == line["read_unseen"] == line["read_real"] == 1
    pixels[names == "Forest"] = pixels[names == "River"]
    pixels[names == "wheat"] = pixels[names == "woods"]
    (line,) = compact.words(pixels, names, READER, plan)
    assert line["classes"]["Forest"] == line["classes"]["wheat"] == 0
    assert line["read"] == pytest.approx(4 / 5)
    assert line["read_unseen"] == pytest.approx(3 / 4)


def test_usefulness(plan):
    pixels, names = compact.word_images(obedient, plan, known="rows")
    (line,) = compact.usefulness(pixels, names, colour_features, plan)
    assert line["n"] == 500
    assert line["read_by_generated"] == line["read_by_real"] == 1
    swapped = np.where(names == "Forest", "River", np.where(names == "River", "Forest", names))
    (line,) = compact.usefulness(pixels, swapped, colour_features, plan)
    share = np.mean([LABELS[i % 5] in ("Forest", "River") for i in range(47)])
    assert line["read_by_generated"] == pytest.approx(1 - share)
    assert line["read_by_real"] == 1


def test_place(plan, data):
    (perfect,) = compact.place(obedient, plan, samples=3)
    assert perfect["r2"] == pytest.approx(1)
    assert perfect["spread_skill"] == pytest.approx(0) or np.isnan(perfect["spread_skill"])
    (line,) = compact.place(noisy(20), plan, samples=8)
    assert line["n"] == 47
    assert line["r2_single"] < line["r2"] < 1
    assert line["spread_skill"] == pytest.approx(3, rel=0.1)  # (M + 1)^½, as the truth is the centre
    (ignorant,) = compact.place(deaf, plan, samples=2)
    assert ignorant["r2"] < 0.2
    with pytest.raises(ConfigError, match="1 samples of each row"):
        compact.place(obedient, plan, samples=1)


def test_what_class_and_neighbours_let_expect(plan, data):
    (line,) = compact.place(obedient, plan, samples=2)
    train, test = rows(data, "eurosat_rgb", split="train"), rows(data, "eurosat_rgb")
    by_class, by_neighbours = [], []
    for sample in test:
        same = [s for s in train if s.label == sample.label]
        colours = np.array([s.pixels().mean((0, 1)) for s in same])
        km = 111.195 * np.abs([s.metadata.lon - sample.metadata.lon for s in same])  # on the equator
        nearest = np.argsort(km, kind="stable")[:10]
        weights = 1 / (km[nearest] + 1)
        by_class.append(colours.mean(0))
        by_neighbours.append(weights @ colours[nearest] / weights.sum())
    truth = np.array([s.pixels().mean((0, 1)) for s in test])
    for predicted, key in ((by_class, "r2_class"), (by_neighbours, "r2_neighbours")):
        shares = 1 - ((predicted - truth) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
        assert line[key] == pytest.approx(shares.mean(), abs=1e-3)
    assert line["r2_neighbours"] > line["r2_class"] + 0.1


def test_season(plan):
    lines = {line["field"]: line for line in compact.season(obedient, READER, plan)}
    assert list(lines) == ["month", "place", "gsd"]
    for line in lines.values():
        assert line["controllability"]["value"] == pytest.approx(1, abs=1e-6)
    assert lines["month"]["error_real"] < 0.01
    assert lines["month"]["error_shuffled"] == pytest.approx(3, abs=0.5)  # of two random months
    for line in compact.season(deaf, READER, plan):
        assert abs(line["controllability"]["value"]) < 0.35, line

    def average(asked, name):
        return np.stack([paint(Metadata(date="2004-06", gsd=50.0))] * len(asked))

    for line in compact.season(average, READER, plan):  # near to everything, and obeys nothing
        assert line["controllability"]["value"] == pytest.approx(0, abs=1e-9)


def test_distances(plan):
    def autoencode(pixels):
        return pixels + np.uint8(3)

    (line,) = compact.distances(obedient, autoencode, colour_features, plan)
    assert line["n"] == 23
    assert line["frechet_generated"] == pytest.approx(line["frechet_real"])
    assert line["kernel_generated"] == line["kernel_real"]

    def shifted(asked, name):
        return obedient(asked, name) + np.uint8(20)

    (worse,) = compact.distances(shifted, autoencode, colour_features, plan)
    assert worse["frechet_real"] == line["frechet_real"]
    assert worse["frechet_generated"] > worse["frechet_autoencoded"]


def test_distances_with_a_field_untold(plan):
    told = []

    def record(asked, name):
        told.append((name, {(m.gsd, m.lat) for _, m in asked}))
        return obedient(asked, name)

    compact.distances(record, lambda x: x, colour_features, plan, unknown=("gsd", "lat"))
    assert told == [("frechet_eurosat_rgb_no_gsd_no_lat", {(None, None)})]
    with pytest.raises(MetadataError, match="no field 'colour'"):
        compact.distances(record, lambda x: x, colour_features, plan, unknown=("colour",))
    with pytest.raises(ConfigError, match="There are 20 rows of eurosat_rgb"):
        compact.distances(record, lambda x: x, colour_features, Plan(data=plan.data, n=10))
