import numpy as np
import pytest

from diffusionsat import Cancelled, ConfigError, GenerateRequest, Guidance, Metadata
from diffusionsat.tasks.generate import batch_size, make_batch
from diffusionsat.tasks.selftest import selftest

BERN = Metadata(lon=7.44, lat=46.95, gsd=10, date="2019-07")


def test_same_seed_same_pixels(sat):
    one, again, other = (sat.generate("a river", BERN, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert (one.pixels != other.pixels).any()
    assert one.pixels.shape == (64, 64, 3)
    assert one.pixels.std() > 5


def test_image_i_is_the_same_whatever_n(sat):
    three, five = sat.generate("a river", BERN, n=3), sat.generate("a river", BERN, n=5)
    for a, b in zip(three, five, strict=False):
        assert np.abs(a.pixels.astype(int) - b.pixels).max() <= 1
    assert [s.provenance["index"] for s in five] == [0, 1, 2, 3, 4]
    assert (five[0].pixels != five[1].pixels).any()


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "forest"},
        {"metadata": BERN.replace(lat=-46.95)},
        {"metadata": BERN.replace(gsd=11)},
        {"metadata": BERN.replace(date="2019-01")},
        {"metadata": BERN.replace(cloud_cover=50)},
        {"guidance": 3.0},
        {"guidance": Guidance(text=2.0, metadata=1.0)},
        {"negative": "sea"},
        {"solver": "euler"},
        {"steps": 5},
    ],
    ids=lambda c: next(iter(c)),
)
def test_every_input_changes_the_image(sat, change):
    base = {"prompt": "a river", "metadata": BERN}
    assert (sat.generate(**base).pixels != sat.generate(**base | change).pixels).any()


def test_the_scene_lies_where_it_was_asked(sat):
    scene = sat.generate("", BERN, size=(96, 64))
    assert scene.pixels.shape == (64, 96, 3)
    assert scene.crs.to_epsg() == 32632
    assert scene.grid.centre == pytest.approx((7.44, 46.95), abs=1e-6)


def test_a_place_without_gsd_gets_the_models(sat):
    assert sat.generate("", Metadata(lon=1, lat=2)).metadata.gsd == 10
    assert sat.generate("", Metadata(lat=2)).grid is None


def test_a_mixed_batch_equals_single_images(sat):
    requests = [
        GenerateRequest(prompt=p, metadata=m, seed=s).resolved(sat)
        for p, m, s in (("a river", BERN, 1), ("", Metadata(), 2), ("sea forest town", Metadata(gsd=1), 3))
    ]
    together = make_batch(sat, [(r, 0) for r in requests])
    for request, scene in zip(requests, together, strict=True):
        alone = make_batch(sat, [(request, 0)])[0]
        assert np.abs(alone.pixels.astype(int) - scene.pixels).max() <= 1


def test_steps_are_told_and_can_be_stopped(sat):
    seen = []
    sat.generate("", steps=3, on_step=seen.append)
    assert [(s.step, s.steps) for s in seen] == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(Cancelled):
        sat.generate("", on_step=lambda _: False)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"solver": "magic"}, "Known are: euler, heun, midpoint, dpmpp-2m"),
        ({"size": (60, 64)}, "width is 60; the model makes multiples of 8 pixels. Give 56 or 64"),
        ({"size": (64, 3)}, "height is 3; .* Give 8 or 16"),
        ({"size": (0, 64)}, "Give 8 or more"),
        ({"size": (80_000, 80_000)}, "at most 67,108,864 pixels"),
        ({"steps": 0}, "steps is 0. Give a whole number from 1"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"n": 0}, "n is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"guidance": -2.0}, "guidance of the text is -2"),
        ({"prompt": 3}, "prompt is 3. Give text"),
        ({"size": 64}, "size is 64. Give .width, height."),
        ({"size": (64,)}, "size is .64,.. Give"),
        ({"solver": ["euler"]}, "solver is .'euler'."),
        ({"guidance": "2"}, "guidance of the text is '2'"),
        ({"metadata": {"lon": 1}}, "Give a Metadata"),
    ],
)
def test_impossible_options_are_refused(sat, options, says):
    with pytest.raises(ConfigError, match=says):
        sat.generate(**{"prompt": "", "metadata": BERN} | options)


def test_a_long_prompt_is_cut_with_a_warning(sat, caplog):
    long = "word " * 9_999 + "end"
    cut = sat.generate(long)
    assert "longer than the model's 16 tokens" in caplog.text
    np.testing.assert_array_equal(cut.pixels, sat.generate("word " * 14).pixels)
    with pytest.raises(ConfigError, match="--strict refuses"):
        sat.generate(long, strict=True)


def test_a_negative_prompt_wants_guidance(sat, caplog):
    sat.generate("", BERN, negative="sea", guidance=1.5)
    assert "negative" not in caplog.text
    sat.generate("", BERN, negative="sea", guidance=1)
    assert "the negative prompt does nothing" in caplog.text


def test_the_first_lost_word_is_named(sat):
    assert sat.networks.lost("a " * 14) is None
    assert sat.networks.lost("a " * 14 + "river field") == "river"
    assert sat.networks.lost("") is None


def test_batches_hold_a_fixed_number_of_pixels(sat):
    def count(size):
        return batch_size(GenerateRequest(size=size).resolved(sat))

    assert (count((64, 64)), count((256, 256)), count((1024, 1024))) == (64, 4, 1)


def test_known_answer(sat):
    assert selftest(sat)["ok"]
    sat.networks.denoiser.conv_out.bias.data += 0.5
    try:
        assert not selftest(sat)["ok"]
    finally:
        sat.networks.denoiser.conv_out.bias.data -= 0.5
