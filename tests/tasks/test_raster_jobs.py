"""The jobs on rasters, on a tiny model of random weights: what must hold whatever the weights."""

import json
import os
import signal

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from pyproj import CRS

from diffusionsat import Cancelled, ConfigError, DiffusionSat, Guidance, Metadata, RasterError
from diffusionsat.checkpoints.facts import Facts
from diffusionsat.data.frames import open_frame
from diffusionsat.data.sensors import RGB
from diffusionsat.diffusion.operators import Blur, Compose, Decimate
from diffusionsat.diffusion.sensors import PRESETS
from diffusionsat.execution import executor
from diffusionsat.geo.publishing import RasterWriter
from diffusionsat.geo.rasters import ArrayRaster, open_raster
from diffusionsat.tasks.declouds import DecloudsRequest
from diffusionsat.tasks.edit import EditRequest
from diffusionsat.tasks.inpaint import InpaintRequest
from diffusionsat.tasks.predict import PredictRequest
from diffusionsat.tasks.restoring import restore, restore_to
from diffusionsat.tasks.upscale import UpscaleRequest, consistency
from diffusionsat.tasks.views import view_of
from diffusionsat.testing import analytic_model

UTM = CRS.from_epsg(32632)
QUICK = {"steps": 2, "prompt": "a river"}


def sentinel(height=24, width=20, seed=0, date="2020-06-01", nodata=True, times=1):
    """A smooth 12-bit raster of four bands of Sentinel-2, a corner of it without data."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(1200, 1900, (4, height // 4 + 2, width // 4 + 2))
    values = coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width] + rng.uniform(-40, 40, (4, height, width))
    values = (times * values.round()).astype(np.uint16)
    if nodata:
        values[:, :5, :5] = 0
    raster = ArrayRaster(
        values,
        ["B02", "B03", "B04", "B08"],
        crs=UTM,
        transform=Affine(10, 0, 500000, 0, -10, 5200000),
        nodata=0,
        name=f"s2-{date}",
    )
    return open_frame(raster, date=date)


def as_file(frame, path):
    raster = frame.raster
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=raster.width,
        height=raster.height,
        count=len(raster.bands),
        dtype=raster.dtype,
        nodata=raster.nodata,
        crs=raster.crs.to_wkt(),
        transform=raster.transform,
    ) as file:
        file.write(raster.values)
        file.descriptions = raster.bands
        file.update_tags(ACQUISITIONDATETIME=f"{frame.metadata.date}T10:00:00Z")
    return path


def through_the_sensor(light, factor):
    """What Sentinel-2 sees of (3, H, W), by a blur and a mean of blocks."""
    models = [PRESETS["sentinel-2"][band] for band in ("B04", "B03", "B02")]
    decimate = Decimate(factor)
    operator = Compose((Blur.from_modulation([m.modulation for m in models], decimate), decimate))
    return operator(torch.from_numpy(light)[None].double())[0].numpy()


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_upscaled_it_nests_and_gives_the_input_back(steered, factor):
    frame = sentinel()
    scene = steered.upscale(frame, factor=factor, consistency="hard", **QUICK)
    raster = scene.raster
    assert (raster.width, raster.height) == (20 * factor, 24 * factor)
    assert raster.bands == ("B04", "B03", "B02")
    assert raster.dtype == np.uint16
    assert raster.nodata == 0
    assert raster.crs == UTM
    assert raster.transform.almost_equals(Affine(10 / factor, 0, 500000, 0, -10 / factor, 5200000))
    assert scene.metadata.gsd == pytest.approx(10 / factor, rel=1e-3)
    whole = frame.raster.valid[[2, 1, 0]].all(0)
    assert np.array_equal(raster.valid[0], whole.repeat(factor, 0).repeat(factor, 1))
    assert (raster.values[raster.valid] != 0).all()
    seen = through_the_sensor(raster.values.astype(np.float64), factor)
    inner = whole.copy()  # the blur looks a pixel or two into the corner without data
    inner[:8, :8] = False
    assert np.abs(seen - frame.raster.values[[2, 1, 0]])[:, inner].max() < 1.5  # numbers are whole


def test_consistency_is_measured_and_can_be_off(steered):
    frame = sentinel(nodata=False)
    residuals = {}
    for how in ("hard", "soft", "off"):
        job = UpscaleRequest(frames=frame, factor=4, consistency=how, **QUICK).job(steered)
        residuals[how] = consistency(job, restore(job).raster)
    assert residuals["hard"].noise < residuals["soft"].noise < 1 < residuals["off"].noise
    assert residuals["hard"].noise < 0.2
    assert residuals["hard"].reflectance < 1e-4
    assert residuals["hard"].angle < 0.2
    assert residuals["off"].reflectance > 1e-3


@pytest.mark.parametrize("times", [1, 5])  # 5 is past what is shown white, as roofs, snow and clouds are
@pytest.mark.parametrize("factor", [2, 4, 10])
def test_softly_consistent_is_within_the_noise_however_bright(steered, times, factor):
    frame = sentinel(nodata=False, times=times)
    job = UpscaleRequest(frames=frame, factor=factor, consistency="soft", **QUICK).job(steered)
    assert consistency(job, restore(job).raster).noise < 1


def test_what_is_known_better_reaches_what_the_network_is_shown(steered):
    bare = np.zeros((3, 24, 20), np.uint8) + np.arange(20, dtype=np.uint8)
    frames = [ArrayRaster(bare, RGB, name=name) for name in ("a", "b")]
    told = Metadata(lon=7.0, lat=46.0, gsd=10.0, cloud_cover=30.0)
    job = UpscaleRequest(frames=frames[:1], factor=2, metadata=told, **QUICK).job(steered)
    assert (job.views[0].metadata, job.metadata.gsd) == (told, 5)
    dated = [open_frame(f, date=f"202{i}") for i, f in enumerate(frames)]
    predicted = PredictRequest(frames=dated, on="2023", metadata=told, **QUICK).job(steered)
    assert [v.metadata for v in predicted.views] == [
        Metadata(lon=7.0, lat=46.0, date=f"202{i}") for i in (0, 1)
    ]
    filled = InpaintRequest(image=dated[0], mask=bare[0] > 5, references=dated[1:], metadata=told, **QUICK)
    assert [v.metadata.lon for v in filled.job(steered).views] == [7.0, 7.0]


def test_measured_and_invented_are_the_pixels(steered):
    scene = steered.upscale(sentinel(), factor=4, **QUICK)
    total = scene.measured.astype(np.float64) + scene.invented
    assert np.array_equal(np.rint(total)[scene.raster.valid], scene.raster.values[scene.raster.valid])
    assert scene.support.dtype == np.uint8
    assert (scene.support[:20, :20] == 0).all()
    assert (scene.support[30:, 30:] == 1).all()
    again = through_the_sensor(scene.measured.astype(np.float64), 4)[:, 8:, 8:]
    assert np.abs(again - sentinel().raster.values[[2, 1, 0], 8:, 8:]).max() < 1


def test_the_order_of_frames_means_nothing(steered):
    frames = [sentinel(seed=i, date=f"2020-0{i + 1}-01") for i in range(3)]
    first = steered.upscale(frames, factor=2, **QUICK)
    second = steered.upscale(frames[::-1], factor=2, **QUICK)
    assert np.array_equal(first.raster.values, second.raster.values)
    assert first.metadata.date == "2020-03-01"
    alone = steered.upscale(frames[2], factor=2, **QUICK)
    assert not np.array_equal(first.raster.values, alone.raster.values)


def test_other_bands_keep_their_means(steered):
    frame = sentinel(nodata=False)
    scene = steered.upscale(frame, factor=4, all_bands=True, **QUICK)
    assert scene.raster.bands == ("B04", "B03", "B02", "B08")
    assert scene.provenance["not_generated"] == ["B08"]
    means = scene.raster.values[3].reshape(24, 4, 20, 4).mean((1, 3))
    assert np.abs(means - frame.raster.values[3]).max() <= 0.5


def test_classes_and_flags_are_repeated_and_hide_nothing(steered):
    values = np.full((4, 8, 10), 90, np.uint8)
    values[3] = np.random.default_rng(0).choice([0, 4, 9], (8, 10))
    raster = ArrayRaster(
        values, ["red", "green", "blue", "SCL"], crs=UTM, transform=Affine(10, 0, 0, 0, -10, 0)
    )
    frame = open_frame(raster.without(0, range(4)))
    scene = steered.upscale(frame, factor=2, all_bands=True, **QUICK)
    assert np.array_equal(scene.raster.values[3], values[3].repeat(2, 0).repeat(2, 1))
    assert scene.raster.valid[:3].all()
    assert scene.provenance["bands_copied"] == ["SCL"]


def test_arrays_are_images_and_64_bits_are_refused(steered):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3)).astype(np.uint8)
    for source in (pixels, [pixels]):
        assert steered.upscale(source, factor=2, **QUICK).pixels.shape == (32, 48, 3)
    assert steered.edit(pixels, "a river", steps=2).pixels.shape == pixels.shape
    wide = open_frame(np.moveaxis(pixels, 2, 0).astype(np.int64), bands=("red", "green", "blue"))
    with pytest.raises(RasterError, match=r"int64.*at most 32 bits"):
        steered.upscale(wide, factor=2, **QUICK)


def test_work_is_taken_up_only_by_the_very_job(steered, tmp_path):
    """Masks, what is known of the frames, and which band is which, are part of a job."""
    frame, holes = rgb(), [np.zeros((40, 52), bool) for _ in range(2)]
    holes[0][5:9], holes[1][5:10] = True, True
    clouds = [DecloudsRequest(image=frame, mask=holes[0], grow=grow, **QUICK) for grow in (0, 2)]
    dated = [open_frame(rgb(), date=date) for date in ("2019", "2020")]
    named = [open_frame(rgb(), bands=bands) for bands in (("red", "green", "blue"), ("blue", "green", "red"))]
    pairs = [
        [InpaintRequest(image=frame, mask=hole, **QUICK) for hole in holes],
        [EditRequest(image=frame, mask=hole, **QUICK) for hole in holes],
        clouds,
        [PredictRequest(frames=[one], on="2023", **QUICK) for one in dated],
        [EditRequest(image=one, **QUICK) for one in named],
    ]
    for one, other in pairs:
        assert one.job(steered).identity == one.job(steered).identity != other.job(steered).identity

    def stop(share):
        return share < 0.3

    path = tmp_path / "out.tif"
    with pytest.raises(Cancelled):
        restore_to(pairs[0][0].job(steered), path, on_share=stop)
    with pytest.raises(ConfigError, match="unfinished work of another job"):
        restore_to(pairs[0][1].job(steered), path)


def test_an_image_that_is_replaced_takes_its_layers_along(steered, tmp_path, monkeypatch):
    path, frame = tmp_path / "out.tif", sentinel(nodata=False)
    (tmp_path / "out.interval.tif").write_bytes(b"somebody's")
    request = {"frames": frame, "factor": 2, **QUICK}
    made = restore_to(UpscaleRequest(**request, samples=2).job(steered), path)
    assert {"spread", "measured", "invented", "support"} <= made.keys()
    kept, real = path.read_bytes(), RasterWriter.publish
    (tmp_path / "out.wld").write_text("1\n0\n0\n-1\n0\n0\n")

    def failing(self):
        if self.path.name == "out.support.tif":
            raise RasterError("no more room")
        return real(self)

    job = UpscaleRequest(**request, seed=4).job(steered)
    with monkeypatch.context() as patch:
        patch.setattr(RasterWriter, "publish", failing)
        with pytest.raises(RasterError, match="no more room"):
            restore_to(job, path, overwrite=True)
    assert path.read_bytes() == kept
    restore_to(job, path, overwrite=True)
    assert path.read_bytes() != kept
    left = {file.name for file in tmp_path.iterdir()}
    layers = ("interval", "invented", "measured", "support")
    assert left == {"out.tif", *(f"out.{name}.tif" for name in layers)}
    assert (tmp_path / "out.interval.tif").read_bytes() == b"somebody's"


def test_samples_differ_and_the_result_is_their_mean(steered):
    frame = sentinel(nodata=False)
    scene = steered.upscale(frame, factor=2, samples=3, consistency="off", seed=5, **QUICK)
    jobs = UpscaleRequest(frames=frame, factor=2, consistency="off", seed=5, **QUICK).job(steered)
    each = np.stack([restore(jobs.sample(i)).raster.values for i in range(3)]).astype(np.float64)
    assert np.abs(each.mean(0) - scene.raster.values).max() <= 1
    assert scene.samples.dtype == scene.raster.values.dtype
    assert np.array_equal(scene.samples, each)
    assert np.abs(each.std(0, ddof=1) - scene.spread).max() <= 2
    assert scene.spread.mean() > 1


def test_a_sample_is_given_as_it_would_be_alone(steered, tmp_path):
    hole = np.zeros((24, 24), bool)
    hole[8:14, 8:14] = True
    there = np.broadcast_to(~np.eye(24, dtype=bool), (3, 24, 24))
    asked = {"image": rgb(24, 24, valid=there), "mask": hole, "feather": 2, **QUICK}
    job = InpaintRequest(samples=2, **asked).job(steered)
    made = restore_to(job, tmp_path / "out.tif")
    each = open_raster(made["samples"])
    assert each.bands == ("red_1", "green_1", "blue_1", "red_2", "green_2", "blue_2")
    values, valid = each.read(range(24), range(24))
    assert np.array_equal(values[valid], restore(job).layer("samples")[valid])
    alone = InpaintRequest(**asked).job(steered)
    for i in range(2):
        wanted = restore(alone.sample(i)).raster
        mine = slice(3 * i, 3 * i + 3)
        assert np.array_equal(valid[mine], wanted.valid)
        assert np.array_equal(values[mine][wanted.valid], wanted.values[wanted.valid])
    assert (values[:3] != values[3:])[:, hole].any()
    job.apart = False
    assert "samples" not in job.layers


def test_on_disk_it_is_the_same_by_any_number_of_workers(steered, tmp_path):
    path = as_file(sentinel(48, 40), tmp_path / "in.tif")

    def job():
        job = UpscaleRequest(frames=path, factor=3, **QUICK).job(steered)
        job.window, job.overlap, job.block = 64, 32, 60
        return job

    expected = restore(job())
    assert len(job().plan) > 4
    for workers in (1, 2):
        with executor(workers) as execute:
            made = restore_to(job(), tmp_path / f"{workers}.tif", execute=execute)
        assert sorted(made) == ["image", "invented", "measured", "support"]
        image = open_raster(made["image"])
        values, valid = image.read(range(image.height), range(image.width))
        assert np.array_equal(valid, expected.raster.valid)
        assert np.array_equal(values[valid], expected.raster.values[valid])
        assert image.tags["SYNTHETIC"] == "YES"
        assert json.loads(image.tags["DIFFUSIONSAT"])["inputs"] == {str(path): open_raster(path).digest()}
    assert not list(tmp_path.glob(".*"))


def test_stopped_it_goes_on(steered, tmp_path):
    path, out = as_file(sentinel(), tmp_path / "in.tif"), tmp_path / "out.tif"
    request = UpscaleRequest(frames=path, factor=4, **QUICK)
    with pytest.raises(Cancelled):
        restore_to(request.job(steered), out, on_share=lambda share: share < 0.2)
    assert not out.exists()
    shares = []
    restore_to(request.job(steered), out, on_share=shares.append)
    assert shares[0] > 0.2
    assert shares[-1] == 1
    again = open_raster(out).read(range(96), range(80))[0]
    assert np.array_equal(again, restore(request.job(steered)).raster.values)
    other = UpscaleRequest(frames=path, factor=4, seed=1, **QUICK)
    with pytest.raises(RasterError, match="exists"):
        restore_to(other.job(steered), out)
    with pytest.raises(RasterError, match="over the input"):
        restore_to(other.job(steered), path, overwrite=True)


def test_unfinished_work_of_another_job_is_kept(steered, tmp_path):
    path, out = as_file(sentinel(), tmp_path / "in.tif"), tmp_path / "out.tif"
    with pytest.raises(Cancelled):
        restore_to(UpscaleRequest(frames=path, **QUICK).job(steered), out, on_share=lambda _: False)
    other = UpscaleRequest(frames=path, seed=1, **QUICK).job(steered)
    with pytest.raises(ConfigError, match="another job"):
        restore_to(other, out)
    restore_to(other, out, overwrite=True)
    assert out.exists()


def rgb(height=40, width=52, seed=3, date="2021-05-02", **place):
    values = np.random.default_rng(seed).integers(0, 255, (3, height, width)).astype(np.uint8)
    place = {"crs": UTM, "transform": Affine(1, 0, 4e5, 0, -1, 5e6)} | place
    return open_frame(ArrayRaster(values, ["red", "green", "blue"], name=f"rgb-{date}", **place), date=date)


def test_inpainting_leaves_the_rest_to_the_last_bit(steered):
    frame, mask = rgb(), np.zeros((40, 52), bool)
    mask[10:20, 15:30] = True
    scene = steered.inpaint(frame, mask, feather=3, **QUICK)
    near = np.zeros_like(mask)
    near[7:23, 12:33] = True
    assert np.array_equal(scene.raster.values[:, ~near], frame.raster.values[:, ~near])
    assert not np.array_equal(scene.raster.values[:, mask], frame.raster.values[:, mask])
    assert set(np.unique(scene.support[~near])) == {2}
    assert set(np.unique(scene.support[mask])) == {0}
    assert set(np.unique(scene.support[near & ~mask])) == {1}
    total = np.rint(scene.measured.astype(np.float64) + scene.invented)
    assert np.array_equal(total, scene.raster.values)
    assert (scene.measured[:, mask] == 0).all()
    assert (scene.invented[:, ~near] == 0).all()


def test_what_lies_in_the_hole_is_not_looked_at(steered):
    mask = np.zeros((40, 52), bool)
    mask[10:20, 15:30] = True
    frame, other = rgb(), rgb()
    other.raster.values[:, mask] = 7
    first = steered.inpaint(frame, mask, feather=0, **QUICK).raster.values
    assert np.array_equal(first, steered.inpaint(other, mask, feather=0, **QUICK).raster.values)
    helped = steered.inpaint(frame, mask, references=[rgb(seed=9, date="2020-05-01")], feather=0, **QUICK)
    assert not np.array_equal(first, helped.raster.values)


def test_without_a_mask_gaps_are_filled_and_other_bands_stay(steered):
    frame = sentinel()
    scene = steered.inpaint(frame, feather=0, **QUICK)
    assert scene.raster.bands == ("B02", "B03", "B04", "B08")
    assert scene.raster.valid[:3].all()
    assert np.array_equal(scene.raster.valid[3], frame.raster.valid[3])
    assert np.array_equal(scene.raster.values[3], frame.raster.values[3])
    assert (scene.raster.values[:3, :5, :5] > 0).all()
    assert np.array_equal(scene.raster.values[:, 5:, 5:], frame.raster.values[:, 5:, 5:])
    assert scene.provenance["bands_copied"] == ["B08"]


def test_polygons_mark_pixels_whose_centre_they_hold(steered, tmp_path):
    frame = rgb()
    corners = [(400010.2, 4999970.2), (400030.2, 4999970.2), (400030.2, 4999985.2), (400010.2, 4999985.2)]
    from pyproj import Transformer

    to_degrees = Transformer.from_crs(UTM, 4326, always_xy=True)
    ring = [list(to_degrees.transform(*corner)) for corner in (*corners, corners[0])]
    path = tmp_path / "hole.geojson"
    path.write_text(json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}))
    scene = steered.inpaint(frame, path, feather=0, **QUICK)
    hole = np.zeros((40, 52), bool)
    hole[15:30, 10:30] = True
    assert np.array_equal(scene.support == 0, hole)


def test_clouds_are_found_by_their_classes(steered):
    frame = sentinel(nodata=False)
    classes = np.full((1, 24, 20), 4, np.uint16)
    classes[0, 8:12, 6:10] = 9
    raster = frame.raster
    both = ArrayRaster(
        np.concatenate([raster.values, classes]),
        [*raster.bands, "SCL"],
        crs=UTM,
        transform=raster.transform,
        nodata=0,
    )
    scene = steered.declouds(open_frame(both, date="2020-06-01", cloud_cover=7), grow=1, feather=0, **QUICK)
    hole = np.zeros((24, 20), bool)
    hole[7:13, 5:11] = True
    assert np.array_equal(scene.support == 0, hole)
    assert scene.metadata.cloud_cover == 0
    assert np.array_equal(scene.raster.values[4], classes[0])
    with pytest.raises(RasterError, match="Nothing tells where"):
        steered.declouds(frame, **QUICK)


def test_an_edit_starts_from_the_image(steered):
    frame = rgb()
    near, far = (
        np.abs(
            steered.edit(frame, "forest", strength=s, steps=20, guidance=1).raster.values.astype(int)
            - steered.decode(steered.encode(np.moveaxis(frame.raster.values, 0, 2)[None]))[0].transpose(
                2, 0, 1
            )
        ).mean()
        for s in (0.05, 1.0)
    )
    assert near < far / 2
    mask = np.zeros((40, 52), bool)
    mask[:20] = True
    scene = steered.edit(frame, "forest", mask=mask, feather=0, steps=4)
    assert np.array_equal(scene.raster.values[:, 20:], frame.raster.values[:, 20:])
    with pytest.raises(ConfigError, match="strength is 0"):
        steered.edit(frame, "forest", strength=0)
    for feather in (-1, 65, 2.5):
        with pytest.raises(ConfigError, match=r"feather is .* Give pixels, 0 to 64"):
            steered.edit(frame, "forest", mask=mask, feather=feather, steps=4)


def test_inverted_noise_gives_the_image_back(steered):
    frame = rgb(64, 64)
    noise = steered.invert(frame, steps=60, solver="heun", prompt="forest")
    assert noise.shape == (1, 4, 16, 16)
    how = {"strength": 1, "guidance": 1, "steps": 60, "solver": "heun"}
    again = steered.edit(frame, "forest", latents=noise, **how)
    seen = steered.decode(steered.encode(np.moveaxis(frame.raster.values, 0, 2)[None]))[0]  # all that can be
    error = np.abs(np.moveaxis(again.raster.values, 0, 2).astype(float) - seen).mean()
    assert error < 0.05 * seen.std()
    other = steered.edit(frame, "forest", **how)  # from the seed's noise
    assert np.abs(np.moveaxis(other.raster.values, 0, 2).astype(float) - seen).mean() > 10 * error
    assert again.provenance["latents"] != other.provenance.get("latents")
    with pytest.raises(ConfigError, match=r"strength is 0\.6 and samples is 1"):
        steered.edit(frame, "forest", latents=noise)
    with pytest.raises(ConfigError, match=r"latents are \(4, 8, 16\), but the image needs \(4, 16, 16\)"):
        steered.edit(frame, "forest", latents=noise[:, :, :8], **how)
    with pytest.raises(ConfigError, match="Give finite ones"):
        steered.edit(frame, "forest", latents=noise / 0, **how)


def test_prediction_lies_on_the_nearest_frame(steered):
    frames = [sentinel(seed=1, date="2019-01-01"), sentinel(seed=2, date="2020-01-01", nodata=False)]
    scene = steered.predict(frames, on="2020-03", **QUICK)
    assert scene.metadata.date == "2020-03"
    assert scene.metadata.cloud_cover == 0
    assert np.array_equal(scene.raster.values[3], frames[1].raster.values[3])
    assert scene.raster.valid.all()
    other = steered.predict(frames[::-1], on="2020-03", **QUICK)
    assert np.array_equal(scene.raster.values, other.raster.values)
    later = steered.predict(frames, on="2025-03", **QUICK)
    assert not np.array_equal(scene.raster.values[:3], later.raster.values[:3])


def test_frames_steer_as_strongly_as_their_controlnet_does_best_with(steered, monkeypatch):
    asked = {"frames": [sentinel()], "on": "2021-03", **QUICK}
    plain = steered.predict(**asked)
    assert "frames" not in plain.provenance["guidance"]
    monkeypatch.setitem(steered.__dict__, "facts", Facts(guidance={"temporal": 2.0}))
    strong = steered.predict(**asked)
    assert strong.provenance["guidance"] == plain.provenance["guidance"] | {"frames": 2.0}
    assert not np.array_equal(strong.pixels, plain.pixels)
    text = plain.provenance["guidance"]["text"]
    rescale = plain.provenance["guidance"]["rescale"]
    for frames, same in ((2.0, strong), (1.0, plain)):
        wanted = Guidance(text=text, frames=frames, rescale=rescale)
        scene = steered.predict(**asked, guidance=wanted)
        assert np.array_equal(scene.pixels, same.pixels)
        assert scene.provenance["guidance"] == same.provenance["guidance"]
    alone = steered.upscale(sentinel(), factor=2, **QUICK)
    assert "frames" not in alone.provenance["guidance"]


def test_a_pixel_without_a_number_spoils_no_other(steered):
    frame = sentinel(nodata=False)
    values = frame.raster.values.astype(np.float32)
    values[2, 20, 15] = np.nan
    raster = ArrayRaster(values, frame.raster.bands, crs=UTM, transform=frame.raster.transform)
    scene = steered.upscale(open_frame(raster, scaling=1e-4), factor=2, **QUICK)
    assert np.isfinite(scene.raster.values[:, scene.raster.valid[0]]).all()
    assert (~scene.raster.valid[0]).sum() == 4


def test_without_a_crs_pixels_alone_count(steered):
    frame = rgb(crs=None, transform=None)
    scene = steered.upscale(frame, factor=2, **QUICK)
    assert scene.raster.crs is None
    assert scene.grid is None
    assert (scene.raster.width, scene.raster.height) == (104, 80)
    with pytest.raises(RasterError, match="they must be of one"):
        steered.upscale([frame, rgb(30, 30, crs=None, transform=None)], factor=2, **QUICK)
    sharp = rgb(80, 104, seed=4, crs=None, transform=None)  # of the result's size
    helped = steered.upscale(frame, references=[sharp], factor=2, **QUICK)
    assert (helped.raster.width, helped.raster.height) == (104, 80)
    assert not np.array_equal(helped.raster.values, scene.raster.values)
    seen, _ = view_of(sharp, frame.raster, 2).read(range(80), range(104))
    coarse, _ = view_of(frame, frame.raster, 2).read(range(80), range(104))
    assert np.array_equal(seen, view_of(sharp, sharp.raster).read(range(80), range(104))[0], equal_nan=True)
    assert not np.array_equal(seen, coarse, equal_nan=True)


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (UpscaleRequest(), ConfigError, "no image"),
        (UpscaleRequest(frames=rgb(), factor=1), ConfigError, "2 to 10"),
        (UpscaleRequest(frames=rgb(), factor=2.0), ConfigError, "2 to 10"),
        (UpscaleRequest(frames=rgb(), consistency="firm"), ConfigError, "off, soft, hard"),
        (UpscaleRequest(frames=rgb(), samples=0), ConfigError, "samples is 0"),
        (UpscaleRequest(frames=rgb(), control="x"), ConfigError, "super-resolution, temporal"),
        (InpaintRequest(image=rgb(), mask=np.zeros((40, 52))), RasterError, "marks no pixel"),
        (InpaintRequest(image=rgb(), mask=np.ones((40, 50))), RasterError, "40x52|50x40"),
        (InpaintRequest(image=rgb(), mask=np.ones((40, 52)), feather=-1), ConfigError, "0 to 64"),
        (DecloudsRequest(image=rgb(), mask=np.ones((40, 52)), grow=-1), ConfigError, "grow is -1"),
        (PredictRequest(frames=rgb(), on=""), ConfigError, "no date to predict"),
        (PredictRequest(frames=rgb(date=None), on="2020"), ConfigError, "has no date"),
        (PredictRequest(frames=rgb(), on="2020", control=""), ConfigError, "needs a ControlNet"),
    ],
)
def test_bad_requests_are_refused(steered, request_, error, words):
    with pytest.raises(error, match=words):
        request_.job(steered)


def test_frames_of_other_ground_are_refused(steered):
    far = rgb(transform=Affine(1, 0, 7e5, 0, -1, 5e6))
    with pytest.raises(RasterError, match="other ground"):
        steered.predict([rgb(), far], on="2022", **QUICK)


def test_without_colours_it_is_refused(steered):
    frame = open_frame(sentinel().raster.take([2, 3]))
    with pytest.raises(RasterError, match="no green band"):
        steered.upscale(frame, factor=2)


def test_metadata_can_be_known_better(steered):
    job = UpscaleRequest(frames=sentinel(), metadata=Metadata(date="2022", cloud_cover=3), factor=2).job(
        steered
    )
    assert (job.metadata.date, job.metadata.cloud_cover) == ("2022", 3)
    assert job.metadata.gsd == pytest.approx(5, rel=1e-3)


def test_one_image_in_which_no_pixel_is_known(steered):
    frame = sentinel()
    frame.raster.values[:] = 0
    frame.raster.valid[:] = False
    with pytest.raises(RasterError, match="no valid pixel"):
        steered.upscale(frame, factor=2, **QUICK)


def test_a_single_pixel(steered):
    frame = rgb(1, 1)
    scene = steered.upscale(frame, factor=2, **QUICK)
    assert scene.raster.values.shape == (3, 2, 2)


def test_published_controlnets_do_the_same_jobs(published):
    folder = published.parent
    sat = DiffusionSat.from_pretrained(
        published,
        device="cpu",
        precision="fp32",
        controlnets={"sr": folder / "superres", "texas": folder / "texas"},
    )
    rng = np.random.default_rng(0)
    names = ["B04", "B03", "B02", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
    values = rng.integers(500, 2500, (10, 16, 16)).astype(np.uint16)
    place = {"crs": UTM, "transform": Affine(10, 0, 5e5, 0, -10, 5.2e6), "nodata": 0}
    scene = sat.upscale(ArrayRaster(values, names, **place), factor=4, control="sr", **QUICK)
    assert scene.raster.bands == ("B04", "B03", "B02")
    assert scene.raster.values.shape == (3, 64, 64)
    scene = sat.predict(
        [rgb(64, 64), rgb(64, 64, seed=4, date="2019-01-01")], on="2020", control="texas", **QUICK
    )
    assert scene.raster.values.shape == (3, 64, 64)
    with pytest.raises(RasterError, match="shown reflectance"):
        sat.upscale(rgb(16, 16), factor=4, control="sr", **QUICK)


@pytest.mark.slow
@pytest.mark.enable_socket
def test_on_a_dask_cluster_that_loses_a_worker_it_is_the_same(tmp_path):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    path = as_file(sentinel(160, 160), tmp_path / "in.tif")

    def job():
        job = UpscaleRequest(frames=path, factor=4, steps=2).job(analytic_model())
        job.window, job.overlap, job.block = 64, 16, 128
        return job

    expected = restore(job()).raster
    killed = []

    def kill_once(share):
        if share > 0.3 and not killed:
            pid = next(iter(cluster.workers.values())).pid
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, executor(dask=cluster.scheduler_address) as execute:
        restore_to(job(), tmp_path / "out.tif", execute=execute, on_share=kill_once)
    assert killed
    values, valid = open_raster(tmp_path / "out.tif").read(range(640), range(640))
    assert np.array_equal(values[valid], expected.values[valid])
    assert np.array_equal(valid, expected.valid)
