"""What lies beside a result, and what a job reads, is neither written over nor removed."""

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from PIL import Image

from diffusionsat import ConfigError, RasterError, open_frame
from diffusionsat.geo.publishing import RasterWriter
from diffusionsat.geo.rasters import open_raster
from diffusionsat.tasks.edit import EditRequest
from diffusionsat.tasks.inpaint import InpaintRequest
from diffusionsat.tasks.restoring import restore, restore_to
from diffusionsat.tasks.upscale import UpscaleRequest

QUICK = {"steps": 2}


def picture(path, bands=("red", "green", "blue"), seed=0, dtype="uint8"):
    values = np.random.default_rng(seed).integers(60, 200, (len(bands), 24, 20)).astype(dtype)
    place = {"crs": "EPSG:32632", "transform": Affine(10, 0, 5e5, 0, -10, 5.2e6)}
    size = {"width": 20, "height": 24, "count": len(bands), "dtype": dtype}
    with rasterio.open(path, "w", driver="GTiff", **size, **place) as file:
        file.write(values)
        file.descriptions = bands
    return path


def edited(steered, path, **more):
    return EditRequest(image=path, prompt="sea", **QUICK, **more).job(steered)


def test_what_is_replaced_takes_neither_an_input_nor_another_image_along(steered, tmp_path):
    first = InpaintRequest(image=picture(tmp_path / "in.tif"), mask=np.eye(24, 20), **QUICK).job(steered)
    made = restore_to(first, tmp_path / "out.tif")
    theirs = picture(tmp_path / "out.spread.tif", seed=3)
    kept = made["measured"].read_bytes(), theirs.read_bytes()
    job = edited(steered, open_frame(made["measured"], scaling=1 / 255))
    job.details = False
    restore_to(job, tmp_path / "out.tif", overwrite=True)
    assert (made["measured"].read_bytes(), theirs.read_bytes()) == kept
    assert not made["invented"].exists()
    assert not made["support"].exists()


@pytest.mark.parametrize("name", ["in.tiff", "in.JPG"])
def test_a_world_file_stays_with_the_image_that_it_places(steered, tmp_path, name):
    path = tmp_path / name
    Image.new("RGB", (20, 24), (90, 90, 90)).save(path)
    world = tmp_path / ("in.tfw" if name.endswith("f") else "in.wld")
    world.write_text("10\n0\n0\n-10\n500005\n5199995\n")
    for image in (path, picture(tmp_path / "other.tif")):  # it need not be the input
        for overwrite in (False, True):
            with pytest.raises(RasterError, match=f"{world.name} says where .*{name} lies"):
                restore_to(edited(steered, image), tmp_path / "in.tif", overwrite=overwrite)
            with pytest.raises(RasterError, match=f"{world.name} says where .*{name} lies"):
                restore(edited(steered, image)).save(tmp_path / "in.tif", overwrite=overwrite)
    assert world.exists()


def test_a_scene_is_saved_over_nothing_that_it_was_made_of(steered, tmp_path):
    stem = "LC09_L2SP_196030_20230601_20230603_02_T1_SR_B"
    parts = [picture(tmp_path / f"{stem}{i}.TIF", ("",), i, "uint16") for i in (2, 3, 4)]
    mask = tmp_path / "mask.tif"
    Image.fromarray(np.eye(24, 20, dtype=np.uint8)).save(mask)
    whole = picture(tmp_path / "whole.tif")
    rasterio.shutil.copy(whole, tmp_path / "whole.vrt", driver="VRT")
    jobs = [
        (UpscaleRequest(frames=[open_frame(part) for part in parts], factor=2, **QUICK), parts),
        (InpaintRequest(image=tmp_path / "whole.vrt", mask=mask, **QUICK), [whole, mask]),
    ]
    for request, inputs in jobs:
        scene = restore(request.job(steered))
        for path in inputs:
            before = path.read_bytes()
            with pytest.raises(RasterError, match="over the input"):
                scene.save(path, overwrite=True)
            assert path.read_bytes() == before


def test_if_the_image_cannot_be_replaced_its_layers_are_as_before(steered, tmp_path, monkeypatch):
    path, out = picture(tmp_path / "in.tif"), tmp_path / "out.tif"
    made = restore_to(UpscaleRequest(frames=path, factor=2, samples=2, **QUICK).job(steered), out)
    before = {name: each.read_bytes() for name, each in made.items()}
    made["samples"].unlink()
    published = RasterWriter.publish

    def failing(writer):
        if writer.path == out:
            raise RasterError("no more room")
        return published(writer)

    job = UpscaleRequest(frames=path, factor=2, samples=2, seed=9, **QUICK).job(steered)
    with monkeypatch.context() as patch:
        patch.setattr(RasterWriter, "publish", failing)
        with pytest.raises(RasterError, match="no more room"):
            restore_to(job, out, overwrite=True)
    assert not made["samples"].exists()
    assert all(made[name].read_bytes() == before[name] for name in before if name != "samples")
    restore_to(job, out, overwrite=True)
    assert all(each.read_bytes() != before[name] for name, each in made.items() if name != "support")


def test_a_saved_scene_leaves_no_layers_of_the_one_before(steered, tmp_path):
    path, out = picture(tmp_path / "in.tif"), tmp_path / "out.tif"
    made = restore_to(UpscaleRequest(frames=path, factor=2, samples=2, **QUICK).job(steered), out)
    restore(edited(steered, path)).save(out, overwrite=True)
    assert [each.exists() for name, each in made.items()] == [name == "image" for name in made]


def test_a_picture_keeps_no_place_of_the_one_before(steered, tmp_path):
    scene, out = restore(edited(steered, picture(tmp_path / "in.tif"))), tmp_path / "out.png"
    beside = tmp_path / "out.png.aux.xml"
    beside.write_text("<PAMDataset><SRS>EPSG:32633</SRS></PAMDataset>")
    with pytest.raises(RasterError, match=r"aux\.xml is there"):
        scene.save(out)
    scene.save(out, overwrite=True)
    assert not beside.exists()
    assert open_raster(out).crs.to_epsg() == 32632


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_a_hole_of_a_band_that_is_copied_stays_one(steered, tmp_path, dtype):
    path = picture(tmp_path / "in.tif", ("B04", "B03", "B02", "B08"), dtype="uint16")
    hole = np.zeros((24, 20), bool)
    hole[3:9, 4:8] = True
    with rasterio.open(path) as file:
        values, place = file.read().astype(dtype), {"crs": file.crs, "transform": file.transform}
    nodata = 0 if dtype == "uint16" else None
    values[3, hole] = np.nan if nodata is None else nodata
    size = {"width": 20, "height": 24, "count": 4, "dtype": dtype, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", **size, **place) as file:
        file.write(values)
        file.descriptions = ("B04", "B03", "B02", "B08")
    job = edited(steered, path)
    restore_to(job, tmp_path / "out.tif")
    restore(job).save(tmp_path / "saved.tif")
    for each in (tmp_path / "out.tif", tmp_path / "saved.tif"):
        with rasterio.open(each) as file:
            seen, there = file.read(), file.read_masks() > 0
            assert file.nodata == nodata
        assert there[:3].all()
        assert np.array_equal(seen[3], values[3], equal_nan=True)
        if nodata is not None:
            assert np.array_equal(there[3], ~hole)
        assert np.array_equal(open_raster(each).read(range(24), range(20))[1][3], ~hole)


def test_one_image_is_worked_on_and_several_are_refused(steered, tmp_path):
    several = [picture(tmp_path / f"{i}.tif", seed=i) for i in range(2)]
    with pytest.raises(ConfigError, match=r"edit works on one image, and 2 are given: .*0\.tif"):
        edited(steered, several)


def test_names_that_no_file_can_have(steered, tmp_path):
    job = edited(steered, picture(tmp_path / "in.tif"))
    with pytest.raises(RasterError, match="over 200 bytes"):
        restore_to(job, tmp_path / f"{'n' * 240}.tif")
    with pytest.raises(RasterError, match="cannot be read as a raster"):
        open_frame(picture(tmp_path / "in.tif").rename(tmp_path / "n\udcff.tif"))
