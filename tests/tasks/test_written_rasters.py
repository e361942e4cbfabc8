"""What jobs write, as others read it: what is valid there, in which units, and that nothing is lost."""

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from pyproj import CRS

from diffusionsat import ConfigError, RasterError, open_frame
from diffusionsat.geo.rasters import ArrayRaster, open_raster
from diffusionsat.tasks.declouds import DecloudsRequest
from diffusionsat.tasks.edit import EditRequest
from diffusionsat.tasks.inpaint import InpaintRequest
from diffusionsat.tasks.inputs import files_of
from diffusionsat.tasks.predict import PredictRequest
from diffusionsat.tasks.restoring import restore, restore_to
from diffusionsat.tasks.upscale import UpscaleRequest

UTM = CRS.from_epsg(32632)
QUICK = {"steps": 2}
BANDS = ("B02", "B03", "B04", "B08")
GAP = np.zeros((24, 20), bool)
GAP[:5, :5] = True


def scene(path, *, gap=GAP, bands=BANDS, seed=0, metres=10.0, scale=1.0, offset=0.0):
    """A GeoTIFF of Sentinel-2's numbers, 0 where it has no data."""
    values = np.random.default_rng(seed).integers(1200, 1900, (len(bands), *gap.shape)).astype(np.uint16)
    values[:, gap] = 0
    profile = {"driver": "GTiff", "dtype": "uint16", "nodata": 0, "count": len(bands), "crs": UTM.to_wkt()}
    place = {"width": 20, "height": 24, "transform": Affine(metres, 0, 5e5, 0, -metres, 5.2e6)}
    with rasterio.open(path, "w", **profile, **place) as file:
        file.write(values)
        file.descriptions = bands
        file.scales, file.offsets = (scale,) * len(bands), (offset,) * len(bands)
    return path


def read(path):
    with rasterio.open(path) as file:
        return file.read(), file.read_masks() > 0


def test_a_gap_that_was_filled_is_seen_and_the_band_that_was_not_made_keeps_it(steered, tmp_path):
    path, out = scene(tmp_path / "in.tif"), tmp_path / "out.tif"
    job = InpaintRequest(image=path, feather=0, **QUICK).job(steered)
    restore_to(job, out)
    values, valid = read(out)
    assert valid[:3].all()
    assert np.array_equal(valid[3], ~GAP)  # for every reader, not for ours alone
    assert (values[:3, GAP] > 0).all()
    assert (values[3, GAP] == 0).all()
    again = open_frame(out)
    known = again.raster.read(range(24), range(20))[1]
    assert known[:3].all()
    assert np.array_equal(known[3], ~GAP)
    restore(job).save(tmp_path / "saved.tif")
    assert np.array_equal(read(tmp_path / "saved.tif")[1], valid)
    assert np.array_equal(read(tmp_path / "saved.tif")[0], values)


def test_an_edit_makes_nothing_where_there_is_no_data(steered, tmp_path):
    path, out, everywhere = scene(tmp_path / "in.tif"), tmp_path / "out.tif", np.ones((24, 20), bool)
    for mask in (None, everywhere):
        job = EditRequest(image=path, mask=mask, prompt="sea", **QUICK).job(steered)
        restore_to(job, out, overwrite=True)
        values, valid = read(out)
        assert np.array_equal(valid, np.broadcast_to(~GAP, valid.shape))
        assert (values[:, GAP] == 0).all()


def test_a_prediction_is_valid_where_any_frame_shows_something(steered, tmp_path):
    more = GAP.copy()
    more[10:, :3] = True
    frames = [
        open_frame(scene(tmp_path / "a.tif"), date="2020"),
        open_frame(scene(tmp_path / "b.tif", gap=more, seed=1), date="2022"),
    ]
    restore_to(PredictRequest(frames=frames, on="2023", **QUICK).job(steered), tmp_path / "out.tif")
    values, valid = read(tmp_path / "out.tif")
    assert np.array_equal(valid[:3], np.broadcast_to(~GAP, (3, 24, 20)))
    assert np.array_equal(valid[3], ~more)  # copied of the nearest
    assert (values[3, 10:, :3] == 0).all()


def test_frames_without_colours_help_whatever_their_date(steered, tmp_path):
    colours = open_frame(scene(tmp_path / "a.tif"), date="2020")
    infrared = open_frame(scene(tmp_path / "b.tif", bands=("B08",), metres=5.0), date="2022")
    job = UpscaleRequest(frames=[infrared, colours], factor=2, **QUICK).job(steered)
    assert job.measurement.frame.raster.name == colours.raster.name
    assert len(job.views) == 2
    job = PredictRequest(frames=[infrared, colours], on="2022", **QUICK).job(steered)
    assert job.frame.raster.name == colours.raster.name


def test_of_equally_fine_frames_the_latest_is_sharpened(steered, tmp_path):
    frames = [
        open_frame(scene(tmp_path / "old.tif", metres=9.999), date="2020"),
        open_frame(scene(tmp_path / "new.tif", metres=10.0), date="2022"),
        open_frame(scene(tmp_path / "coarse.tif", metres=20.0), date="2023"),
    ]
    assert UpscaleRequest(frames=frames, factor=2, **QUICK).job(steered).metadata.date == "2022"


def test_readers_are_told_the_units_of_the_input_and_ours_read_the_same_reflectance(steered, tmp_path):
    path, out = scene(tmp_path / "in.tif", scale=1e-4, offset=-0.1), tmp_path / "out.tif"
    job = UpscaleRequest(frames=path, factor=2, samples=2, **QUICK).job(steered)
    made = restore_to(job, out)
    told = {}
    for name, each in made.items():
        with rasterio.open(each) as file:
            told[name] = file.scales[0], file.offsets[0]
    whole, difference = (1e-4, -0.1), (1e-4, 0)
    assert told == {
        "image": whole,
        "measured": whole,
        "invented": difference,
        "spread": difference,
        "samples": whole,
        "support": (1, 0),
    }
    scene_ = restore(job)
    scene_.save(tmp_path / "saved.tif")
    for each in (out, tmp_path / "saved.tif"):
        frame = open_frame(each)
        assert (frame.scaling.gain, frame.scaling.offset) == whole
        assert (frame.sensor, frame.raster.scales) == ("sentinel-2", (whole,) * 3)


def test_a_band_of_another_unit_keeps_it(steered, tmp_path):
    """A mask beside reflectance, in one file."""
    path, out = scene(tmp_path / "in.tif", bands=(*BANDS[:3], "SCL")), tmp_path / "out.tif"
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-4, 1e-4, 1e-4, 1), (-0.1, -0.1, -0.1, 0)
    job = PredictRequest(frames=[open_frame(path, date="2020")], on="2021", **QUICK).job(steered)
    made = restore_to(job, out)
    for each in (made["image"], restore(job).save(tmp_path / "saved.tif")):
        with rasterio.open(each) as file:
            assert file.scales == (1e-4, 1e-4, 1e-4, 1)
            assert file.offsets == (-0.1, -0.1, -0.1, 0)


def test_a_folder_that_is_in_the_way_is_left_alone(steered, tmp_path):
    path, out = scene(tmp_path / "in.tif"), tmp_path / "out.tif"
    own = tmp_path / ".out.tif.work/notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    job = UpscaleRequest(frames=path, factor=2, **QUICK).job(steered)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="no work of this program"):
            restore_to(job, out, overwrite=overwrite)
    assert own.read_text() == "mine"
    own.unlink()
    assert restore_to(job, out)["image"] == out


def test_a_saved_scene_replaces_no_input_and_leaves_nothing_stale(steered, tmp_path):
    path, out = scene(tmp_path / "in.tif"), tmp_path / "out.tif"
    made = steered.upscale(path, factor=2, **QUICK)
    link = tmp_path / "link.tif"
    link.hardlink_to(path)
    for each in (path, link):
        with pytest.raises(RasterError, match="over the input"):
            made.save(each, overwrite=True)
    out.write_bytes(b"old")
    stale = [tmp_path / name for name in ("out.tif.aux.xml", "out.tif.ovr", "out.tfw")]
    for each in stale:
        each.write_text("old")
    made.save(out, overwrite=True)
    assert not any(each.exists() for each in stale)


def test_the_sources_of_a_vrt_are_inputs(steered, tmp_path):
    path = scene(tmp_path / "in.tif")
    rasterio.shutil.copy(path, tmp_path / "in.vrt", driver="VRT")
    frame = open_frame(tmp_path / "in.vrt")
    job = UpscaleRequest(frames=frame, factor=2, **QUICK).job(steered)
    with pytest.raises(RasterError, match=r"over the input .*in\.tif"):
        restore_to(job, path, overwrite=True)


def test_networks_are_shown_no_gap_of_the_frame_that_is_sharpened(steered, tmp_path):
    frames = [open_frame(scene(tmp_path / f"{year}.tif", seed=year), date=str(year)) for year in (2020, 2022)]
    job = UpscaleRequest(frames=frames, factor=2, **QUICK).job(steered)
    other, sharpened = (view.read(range(-8, 48), range(40))[0] for view in job.views)
    shown = [i for i in range(len(sharpened)) if not np.isnan(sharpened[i]).all()]
    assert len(shown) == len(BANDS)
    assert np.isfinite(sharpened[shown]).all()
    assert np.isnan(other[shown][:, 8:18, :10]).all()
    beside = sharpened[shown][:, 8:18, 10:14].mean((1, 2))
    assert np.abs(sharpened[shown][:, 8:18, :10].mean((1, 2)) - beside).max() < 0.1


@pytest.mark.parametrize("how", ["soft", "hard"])
def test_what_is_made_in_a_gap_does_not_brighten_its_rim(steered, how):
    values = np.full((3, 24, 20), 1500, np.uint16)
    values[:, GAP] = 0
    place = {"crs": UTM, "transform": Affine(10, 0, 5e5, 0, -10, 5.2e6), "nodata": 0}
    frame = open_frame(ArrayRaster(values, BANDS[:3], **place))
    job = UpscaleRequest(frames=frame, factor=4, consistency=how, **QUICK).job(steered)
    rows, columns = range(96), range(80)
    light = np.full((3, 96, 80), job.output.radiometry.light(np.full((3, 1, 1), 1500))[0, 0, 0], np.float32)
    gap = GAP.repeat(4, 0).repeat(4, 1)
    light[:, gap] = 0  # as made there, and not seen
    made = job.output.radiometry.stored(job.finish(light[None], rows, columns)[0])
    assert np.abs(made[:, ~gap] - 1500).max() < 1  # 200 and more without
    assert np.abs(job.measured(rows, columns)[:, ~gap] - 1500).max() < 1
    assert (job.measured(rows, columns)[:, gap] == 0).all()


def test_if_one_layer_cannot_be_made_none_is_published(steered, tmp_path, monkeypatch):
    job = UpscaleRequest(frames=scene(tmp_path / "in.tif"), factor=2, samples=2, **QUICK).job(steered)
    out = tmp_path / "out.tif"
    out.write_bytes(b"old")
    from diffusionsat.geo import publishing

    joined = publishing._cloud_optimize

    def fail_once(source, *rest):
        if "spread" in source:
            raise RasterError("The rectangles cannot be joined: no room.")
        joined(source, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_cloud_optimize", fail_once)
        with pytest.raises(RasterError, match="no room"):
            restore_to(job, out, overwrite=True)
    assert out.read_bytes() == b"old"
    assert not (tmp_path / "out.spread.tif").exists()
    restore_to(job, out, overwrite=True)
    assert open_raster(out).width == 40


def test_a_job_that_ended_between_two_files_goes_on_without_overwriting(steered, tmp_path, monkeypatch):
    job = UpscaleRequest(frames=scene(tmp_path / "in.tif"), factor=2, samples=2, **QUICK).job(steered)
    out, late = tmp_path / "out.tif", tmp_path / "out.support.tif"  # the last but the image itself
    from diffusionsat.geo import publishing

    published, done = publishing.RasterWriter.publish, []

    def fail_later(writer):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(writer.path)
        return published(writer)

    with monkeypatch.context() as patch:
        patch.setattr(publishing.RasterWriter, "publish", fail_later)
        with pytest.raises(KeyboardInterrupt):
            restore_to(job, out)
    assert [path.exists() for path in (*done, out)] == [True, True, False]
    before = [read(path) for path in done]
    late.write_bytes(b"another's")
    with pytest.raises(RasterError, match=rf"{late.name} .*--overwrite"):
        restore_to(job, out)
    late.unlink()
    made = restore_to(job, out)
    assert all(path.exists() for path in made.values())
    for path, (values, valid) in zip(done, before, strict=True):
        assert np.array_equal(read(path)[0], values)
        assert np.array_equal(read(path)[1], valid)
    with pytest.raises(RasterError, match="--overwrite"):
        restore_to(job, out)


def test_without_a_cloud_there_is_nothing_to_do(steered):
    values = np.full((5, 8, 8), 1500, np.uint16)
    values[4] = 4  # vegetation
    raster = ArrayRaster(values, [*BANDS, "SCL"], crs=UTM, transform=Affine(10, 0, 5e5, 0, -10, 5.2e6))
    with pytest.raises(RasterError, match="SCL of array marks no pixel: there is no cloud"):
        DecloudsRequest(image=raster, **QUICK).job(steered)


def test_files_of_single_bands_of_a_scene_are_one_image(steered, tmp_path):
    scale, offset = 2e-4, -0.05
    whole = scene(tmp_path / "whole.tif", scale=scale, offset=offset)
    landsat = "LC09_L2SP_195027_20200601_20200603_02_T1"
    names = {f"T32TLR_20200601T101031_{band}_10m": band for band in BANDS}
    names |= {f"{landsat}_SR_B{i}": band for i, band in ((2, "B02"), (3, "B03"), (4, "B04"), (5, "B08"))}
    with rasterio.open(whole) as file:
        for name, band in names.items():
            with rasterio.open(tmp_path / f"{name}.tif", "w", **file.profile | {"count": 1}) as single:
                single.write(file.read([BANDS.index(band) + 1]))
                single.scales, single.offsets = (scale,), (offset,)
    one = open_frame(whole, date="2020-06-01")
    for start, bands in (("T32", BANDS), ("LC09", ("SR_B2", "SR_B3", "SR_B4", "SR_B5"))):
        files = sorted(tmp_path.glob(f"{start}*.tif"), reverse=True)
        job = UpscaleRequest(frames=files, factor=2, all_bands=True, **QUICK).job(steered)
        assert (len(job.views), job.metadata.date, job.metadata.gsd) == (
            1,
            "2020-06-01",
            pytest.approx(5, rel=1e-3),
        )
        assert set(job.output.bands) == set(bands)
        assert sorted(files_of([job.measurement.frame])) == sorted(files)
        assert set(job.output.scales) == {(scale, offset)}
        made = restore(job).raster
        if start == "T32":
            asked = UpscaleRequest(frames=[one], factor=2, all_bands=True, **QUICK)
            assert np.array_equal(made.values, restore(asked.job(steered)).raster.values)
    level_1 = [f.rename(tmp_path / f"LC81950272020153LGN00_B{f.stem[-1]}.tif") for f in files]
    asked = UpscaleRequest(frames=level_1, factor=2, all_bands=True, **QUICK)
    assert set(asked.job(steered).output.bands) == set(bands)
    twice = [*level_1, level_1[0]]
    with pytest.raises(RasterError, match="has no"):
        UpscaleRequest(frames=twice, factor=2, **QUICK).job(steered)
