"""Larger images are drawn layout first; see `diffusionsat.tasks.drawing`."""

import json
import shutil

import numpy as np
import pytest

from diffusionsat import Cancelled, CheckpointError, DiffusionSat, GenerateRequest, Metadata
from diffusionsat.tasks import drawing
from diffusionsat.tasks.drawing import stages
from diffusionsat.tasks.generate import make_batch

BERN = Metadata(lon=7.44, lat=46.95, gsd=10, date="2019-07")


def with_defaults(tiny, folder, **defaults):
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config["defaults"] |= defaults
    (folder / "config.json").write_text(json.dumps(config))
    return DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")


@pytest.fixture
def layout_first(tiny, tmp_path):
    return with_defaults(tiny, tmp_path / "model", layout=32)


@pytest.mark.parametrize(
    ("size", "layout", "made"),
    [
        ((256, 256), 64, [(64, 64), (128, 128), (256, 256)]),
        ((240, 200), 64, [(128, 112), (240, 200)]),
        ((240, 240), 64, [(64, 64), (128, 128), (240, 240)]),
        ((96, 96), 64, [(96, 96)]),
        ((1024, 128), 64, [(512, 64), (1024, 128)]),
        ((256, 256), 0, [(256, 256)]),
    ],
)
def test_stages(size, layout, made):
    assert stages(size, layout, 16) == made


def test_each_stage_is_told_the_ground_it_shows(layout_first, monkeypatch):
    told, steps, whole = [], [], layout_first.conditioned

    def conditioned(prompts, metadata, *rest):
        told.append(metadata[0].gsd)
        return whole(prompts, metadata, *rest)

    monkeypatch.setattr(layout_first, "conditioned", conditioned)
    scene = layout_first.generate("a river", BERN, size=(128, 128), steps=4, on_step=steps.append)
    assert told == [40, 20, 10]
    assert [(s.step, s.steps) for s in steps] == [(n, 8) for n in range(1, 9)]  # 4, then half of them twice
    assert [s.latents.shape[-1] * layout_first.factor for s in steps] == [32] * 4 + [64] * 2 + [128] * 2
    assert (scene.metadata, scene.pixels.shape) == (BERN, (128, 128, 3))
    assert scene.grid.centre == pytest.approx((7.44, 46.95), abs=1e-6)


def test_stopping_tells_of_all_stages(layout_first):
    with pytest.raises(Cancelled, match="stopped after step 5 of 8"):
        layout_first.generate(size=(128, 128), steps=4, on_step=lambda info: info.step < 5)


def test_windows_see_what_the_whole_sees(tiny, tmp_path, monkeypatch):
    sat = with_defaults(tiny, tmp_path / "model", layout=64)

    def made():
        return sat.generate("a river", BERN, size=(192, 128), seed=3).pixels.astype(int)

    whole = made()
    monkeypatch.setattr(drawing, "_WHOLE_PIXELS", 0)
    monkeypatch.setattr(drawing, "_STRIP", 32)
    assert np.abs(made() - whole).max() <= 1


def test_the_middle_of_a_doubled_image_is_kept():
    image = np.zeros((64, 64, 3), np.float32)
    image[32:] = 200
    twice = drawing._doubled(image, (120, 96))
    assert twice.shape == (96, 120, 3)
    assert twice[:44].max() == 0
    assert twice[52:].min() == pytest.approx(200, abs=1e-3)


def test_a_layout_that_cannot_be_is_refused(tiny, tmp_path):
    guides = ({"interval": (3, 1)}, {"rescale": 7})
    for n, wrong in enumerate(({"layout": 3}, {"layout": -64}, {"redraw": 0}, {"redraw": 1.5}, *guides)):
        with pytest.raises(CheckpointError, match=rf"defaults.{next(iter(wrong))}"):
            with_defaults(tiny, tmp_path / str(n), **wrong)


def test_a_larger_image_shows_the_ground_of_the_smaller():
    sat = DiffusionSat.from_pretrained("compact", device="cpu", precision="fp32")
    coarse = sat.generate("crop fields", BERN.replace(gsd=20), size=(64, 64), seed=5).pixels.astype(float)
    fine = sat.generate("crop fields", BERN, size=(128, 128), seed=5).pixels.astype(float)
    halved = fine.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.corrcoef(halved.ravel(), coarse.ravel())[0, 1] > 0.9
    assert (
        np.abs(np.diff(fine, axis=1)).mean() > 1.2 * np.abs(np.diff(coarse.repeat(2, 1), axis=1)).mean() / 2
    )


def test_the_batch_is_not_seen():
    sat = DiffusionSat.from_pretrained("compact", device="cpu", precision="fp32")
    request = GenerateRequest(prompt="a town", metadata=BERN, size=(256, 256), steps=5, seed=4).resolved(sat)
    together = make_batch(sat, [(request, i) for i in range(3)])
    alone = [make_batch(sat, [(request, i)])[0] for i in range(3)]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1
