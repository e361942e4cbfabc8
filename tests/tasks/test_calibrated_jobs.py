"""What jobs say of their certainty, and of inputs that the model does not know."""

import json
import logging
import shutil

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from diffusionsat import DiffusionSat, Metadata
from diffusionsat.checkpoints.facts import Calibration, Facts, Learnt, add_calibrations
from diffusionsat.data.frames import open_frame
from diffusionsat.diffusion.sensors import PRESETS
from diffusionsat.geo.rasters import ArrayRaster, open_raster
from diffusionsat.tasks.inputs import Subject
from diffusionsat.tasks.limits import beyond
from diffusionsat.tasks.measuring import Measurement
from diffusionsat.tasks.restoring import restore, restore_to
from diffusionsat.tasks.upscale import UpscaleRequest

PLACE = {"crs": CRS.from_epsg(32632), "transform": Affine(10, 0, 5e5, 0, -10, 5.2e6)}
ONE = Calibration(
    conditions={"task": "upscale", "factor": 2, "consistency": "off", "steps": 2},
    samples=3,
    scale=1.5,
    quantile=2.0,
    floor=0.01,
    level=0.9,
    places=30,
    data="ab",
)
ASKED = {"factor": 2, "consistency": "off", "steps": 2}


def picture(seed=0, side=24, **more):
    values = np.random.default_rng(seed).integers(60, 200, (3, side, side)).astype(np.uint8)
    return open_frame(ArrayRaster(values, ["red", "green", "blue"], **PLACE, **more), date="2021-05")


@pytest.fixture(scope="module")
def calibrated(steered_folder, tmp_path_factory):
    folder = shutil.copytree(steered_folder, tmp_path_factory.mktemp("calibrated") / "model")
    sat = DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")
    add_calibrations(folder, sat.checkpoint, (ONE,))
    return sat


def test_the_interval_and_the_spread_are_calibrated(calibrated, caplog):
    scene = calibrated.upscale(picture(), samples=3, **ASKED)
    assert "no calibration" not in caplog.text
    job = UpscaleRequest(frames=picture(), **ASKED).job(calibrated)
    latents = [job.sample(i).solve() for i in range(3)]
    rows = range(48)
    each = np.stack([job.renderer.decode(one, rows, rows) for one in latents]).astype(np.float64)
    deviation, mean = each.std(0, ddof=1), each.mean(0)
    half = 2.0 * (deviation + 0.01)
    low, high = scene.interval
    assert low.shape == high.shape == (3, 48, 48)
    assert np.abs(scene.spread - 255 * 1.5 * deviation).max() < 1e-2
    assert np.abs(low - 255 * np.clip(mean - half, 0, 1)).max() < 0.51  # the mean is written in 8 bits
    assert np.abs(high - 255 * np.clip(mean + half, 0, 1)).max() < 0.51
    assert (low <= scene.raster.values).all()
    assert (scene.raster.values <= high).all()
    said = scene.to_stac()["properties"]["diffusionsat:calibration"]
    assert (said["level"], said["quantile"], said["places"]) == (0.9, 2.0, 30)


def test_on_disk_the_interval_is_a_file_that_tells_its_level(calibrated, tmp_path):
    made = restore_to(
        UpscaleRequest(frames=picture(), samples=4, **ASKED).job(calibrated), tmp_path / "a.tif"
    )
    assert made["interval"] == tmp_path / "a.interval.tif"
    raster = open_raster(made["interval"])
    names = [f"{colour}_{end}" for end in ("low", "high") for colour in ("red", "green", "blue")]
    assert list(raster.bands) == names
    assert json.loads(raster.tags["DIFFUSIONSAT"])["calibration"]["level"] == 0.9
    scene = restore(UpscaleRequest(frames=picture(), samples=4, **ASKED).job(calibrated))
    assert np.array_equal(raster.read(range(48), range(48))[0], scene.layer("interval"))


@pytest.mark.parametrize("other", [{"samples": 2}, {"samples": 3, "steps": 3}, {"samples": 3, "factor": 3}])
def test_without_a_calibration_no_interval_is_invented(calibrated, caplog, other):
    scene = calibrated.upscale(picture(), **ASKED | other)
    assert "no calibration for such a job" in caplog.text
    assert list(scene.layers) == ["spread", "samples", "measured", "invented", "support"]
    assert scene.provenance["calibration"] is None


def test_known_pixels_have_no_spread(steered):
    hole = np.zeros((24, 24), bool)
    hole[8:14, 8:14] = True
    scene = steered.inpaint(picture(), hole, feather=2, samples=2, steps=2)
    near = np.zeros_like(hole)
    near[6:16, 6:16] = True
    assert (scene.spread[:, ~near] == 0).all()
    assert (scene.spread[:, hole] > 0).mean() > 0.9
    assert scene.spread[:, near & ~hole].mean() < scene.spread[:, hole].mean()


def test_one_sample_says_nothing_of_calibrations(calibrated, caplog):
    scene = calibrated.upscale(picture(), **ASKED)
    assert "calibration" not in scene.provenance
    assert "calibration" not in caplog.text


LEARNT = Learnt(network="super-resolution", gsd=(1.0, 100.0), side=64, frames=(1, 3), factor=(1, 8))


@pytest.mark.parametrize(
    ("gsd", "size", "frames", "says"),
    [
        (10, (64, 90), [10, 80], []),
        (0.95, (64, 64), [0.95], []),
        (None, (500, 500), [None, 10], []),
        (0.5, (64, 64), [], ["0.5 m per pixel", "1 to 100"]),
        (300, (64, 64), [300], ["300 m per pixel"]),
        (10, (30, 90), [], ["shorter side is 30 pixels", "64 and more"]),
        (10, (64, 64), [10] * 4, ["4 frames", "1 to 3"]),
        (10, (64, 64), [10, 100], ["10 of the result's wide", "1 to 8"]),
        (10, (64, 64), [2, 10], ["0.2 of the result's wide"]),
    ],
)
def test_numbers_beyond_what_was_learnt(gsd, size, frames, says):
    found = beyond(LEARNT, Metadata(gsd=gsd), size, [Metadata(gsd=each) for each in frames])
    assert len(found) == bool(says)
    assert all(words in found[0] for words in says)
    assert beyond(Learnt(network="x"), Metadata(gsd=gsd), size, []) == []


def test_jobs_warn_of_what_their_controlnet_has_not_learnt(steered, monkeypatch, caplog):
    monkeypatch.setitem(steered.__dict__, "facts", Facts(learnt=(LEARNT,)))
    UpscaleRequest(frames=picture(side=40), **ASKED).job(steered)
    assert "learnt from" not in caplog.text
    UpscaleRequest(frames=[picture(i, side=20) for i in range(4)], **ASKED).job(steered)
    assert "tiny: 4 frames are given" in caplog.text
    assert "tiny: the image's shorter side is 40 pixels" in caplog.text


@pytest.mark.parametrize(("brightness", "warned"), [(0.1, False), (0.6, True), (1e-5, True)])
def test_values_that_cannot_be_shown_are_told(steered, caplog, brightness, warned):
    values = np.random.default_rng(0).uniform(0.8, 1.2, (3, 32, 32)).astype(np.float32) * brightness
    raster = ArrayRaster(values, ["B04", "B03", "B02"], **PLACE, name="odd")
    with caplog.at_level(logging.WARNING):
        UpscaleRequest(frames=open_frame(raster, scaling=1.0), **ASKED).job(steered)
    assert ("odd: most values of B04, B03, B02 are darker or brighter" in caplog.text) == warned


def test_the_products_picture_is_seen_by_the_products_sensor():
    """Red of the true-colour image is band 4, so that its blur is band 4's."""
    frame = picture()
    seen = {}
    for bands in (("red", "green", "blue"), ("B04", "B03", "B02")):
        one = open_frame(ArrayRaster(frame.raster.values, bands, **PLACE), sensor="sentinel-2")
        subject = Subject.of(one)
        measurement = Measurement(frame=one, colours=subject.colours, radiometry=subject.radiometry, factor=4)
        seen[bands[0]] = measurement.sensor(32, 32)
    ramp = np.random.default_rng(0).random((1, 3, 32, 32))
    import torch

    first, second = (one.operator.linear(torch.from_numpy(ramp)) for one in seen.values())
    assert torch.equal(first, second)
    modulation = [PRESETS["sentinel-2"][band].modulation for band in ("B04", "B03", "B02")]
    assert len(set(modulation)) > 1
