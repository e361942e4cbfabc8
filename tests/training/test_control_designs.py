"""Published designs of a compact ControlNet, and its regression, in training and as jobs use them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusionsat import ConfigError, DiffusionSat, open_frame
from diffusionsat.checkpoints.layout import read_config
from diffusionsat.models.compact.designs import DESIGNS
from diffusionsat.models.networks import Frames
from diffusionsat.training import run as runs
from diffusionsat.training.families import make_family
from diffusionsat.training.recipe import read_recipe

SIZES = "model.sizes={condition_channels=[4,6,8]}"
DRAWN = (
    "data.procedural=true",
    "data.sources=[]",
    "data.sizes={32=1}",
    "data.batch_size=8",
    "data.condition_frames=3",
    "data.workers=1",
    "data.held_out=8",
    "run.images=32",
    "run.precision=fp32",
    "schedule.warm_up=8",
    "schedule.decay=8",
)


def recipe(tiny, output, *more):
    return read_recipe("compact/temporal", (*DRAWN, f"model.parts={tiny}", f"run.output={output}", *more))


def frame(seed, date):
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
    return open_frame(pixels, gsd=10, date=date)


@pytest.mark.parametrize("design", ["published-2d", "published-3d"])
def test_it_trains_and_is_used_by_jobs(tiny, tmp_path, design):
    fast = "optimiser.lr=0.3"  # so that four steps are seen in pixels
    folder = runs.run(recipe(tiny, tmp_path / "run", f"model.design={design}", SIZES, fast))
    assert read_config(folder).controls["temporal"]["design"] == design
    sat = DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")
    assert type(sat.control("temporal").network) is DESIGNS[design]
    assert (load_file(folder / "control-temporal.safetensors")["condition.conv_out.weight"] != 0).any()
    seen, others = ([frame(i, "2019-07"), frame(i + 1, "2021-03")] for i in (0, 2))
    ours, other, again = (sat.predict(f, on="2020-09", steps=2).pixels for f in (seen, others, seen[::-1]))
    assert (ours != other).any()
    assert (again == ours).all(), "their dates order them"
    more = recipe(tiny, tmp_path / "more", f"model.start={folder}")
    assert type(make_family(more).network) is DESIGNS[design]


@pytest.mark.parametrize("design", ["published-2d", "published-3d"])
def test_training_sees_what_jobs_see(tiny, tmp_path, design):
    """Some frames of a batch are absent, of which training computes nothing."""
    family = make_family(recipe(tiny, tmp_path / "run", f"model.design={design}", SIZES))
    for parameter in family.network.parameters():
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    job = runs.make_job(family.recipe, family, tmp_path, runs.start(family.recipe.run))
    batch = job.batch(0, 0)
    job.close()
    frames = Frames(*(part.clone() for part in batch.frames))
    frames.bands[::2, 1:], frames.bands[1] = False, False
    with torch.no_grad():
        ours = family.predict(family.network, batch.noise, batch.level, replace(batch, frames=tuple(frames)))
        known = (batch.noise, batch.level, *batch.text, batch.numbers)
        seen = family.network.encode_frames(frames, (32, 32))
        residuals = family.network.residuals(*known, seen, frames.numbers)
        steered = family.networks.denoiser(*known, residuals=residuals)
    torch.testing.assert_close(ours, steered, atol=1e-5, rtol=1e-4)
    assert (ours - family.networks.denoiser(*known)).abs().max() > 1e-3


def test_a_regression_can_be_told_to_take_one_step(tiny, tmp_path):
    folder = runs.run(recipe(tiny, tmp_path / "run", "objective.regression=true"))
    seen = [frame(0, "2019-07"), frame(1, "2021-03")]
    sat = DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")
    steps = []
    asked = sat.predict(seen, on="2020-09", steps=1, solver="euler", on_step=lambda s: steps.append(s.steps))
    assert steps == [1]
    config = json.loads((folder / "config.json").read_text())
    config["defaults"] |= {"steps": 1, "solver": "euler"}
    (folder / "config.json").write_text(json.dumps(config))
    sat = DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")
    assert (sat.predict(seen, on="2020-09").pixels == asked.pixels).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("model.design=published-2d", "model.start=x"), "has no model.start"),
        (("model.design=published-4d",), "model.design"),
        (("model.design=published-3d", "model.sizes={channels=[16,16]}"), "must be those of the denoiser"),
        (("model.design=published-3d", "model.sizes={fusion_heads=4}"), "model.sizes are not possible"),
    ],
)
def test_what_cannot_be(tiny, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        make_family(recipe(tiny, tmp_path / "run", *changes))


def test_a_denoiser_has_no_design():
    with pytest.raises(ConfigError, match=r"model.design is of a compact ControlNet"):
        read_recipe("tiny", ("model.design=published-2d",))
