"""Rasters that lie nowhere, elsewhere or on other grids, and such as are damaged while jobs work on them."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.control import GroundControlPoint

from diffusionsat import RasterError
from diffusionsat.data.frames import open_frame
from diffusionsat.geo.rasters import ArrayRaster, open_raster
from diffusionsat.tasks.predict import PredictRequest
from diffusionsat.tasks.restoring import restore, restore_to
from diffusionsat.tasks.upscale import UpscaleRequest

UTM, NEXT = CRS.from_epsg(32632), CRS.from_epsg(32633)
PLACE = {"crs": UTM, "transform": Affine(10, 0, 5e5, 0, -10, 5.2e6)}


def dated(year, crs, transform, side=48, name="raster"):
    values = np.full((3, side, side), 100, np.uint8)
    values[:, side // 2 :] = 140
    raster = ArrayRaster(values, ["red", "green", "blue"], crs=crs, transform=transform, name=name)
    return open_frame(raster, date=str(year))


def test_frames_of_two_crs_are_brought_to_one_with_a_notice(steered, caplog):
    x, y = Transformer.from_crs(UTM, NEXT, always_xy=True).transform(5e5 + 240, 5.2e6 - 240)
    other = dated(2019, NEXT, Affine(10, 0, x - 600, 0, -10, y + 600), side=120, name="next")
    job = PredictRequest(frames=[dated(2021, **PLACE), other], on="2022").job(steered)
    assert "next lies on another grid than raster and is warped to it" in caplog.text
    assert [view.raster.crs for view in job.views] == [UTM, UTM]
    values, valid = job.views[0].raster.read(range(48), range(48))
    assert valid.all()  # it covers more
    assert values[0, [0, 47], 24] == pytest.approx([100, 140], abs=1e-3)  # north is up


def test_a_frame_that_shows_nothing_there_is_told(steered, caplog):
    values = np.zeros((3, 48, 48), np.uint8)
    values[:, :10] = 9  # north of the other
    bare = ArrayRaster(
        values,
        ["red", "green", "blue"],
        crs=UTM,
        nodata=0,
        name="bare",
        transform=Affine(10, 0, 5e5, 0, -10, 5.2e6 + 200),
    )
    frames = [dated(2021, **PLACE), open_frame(bare, date="2019")]
    PredictRequest(frames=frames, on="2022").job(steered)
    assert "bare shows nothing of the ground of raster: there all of it is nodata" in caplog.text
    assert "raster shows nothing" not in caplog.text


def test_a_raster_of_ground_control_points_is_refused(tmp_path):
    corners = [GroundControlPoint(r, c, 5e5 + 10 * c, 5.2e6 - 10 * r) for r in (0, 9) for c in (0, 9)]
    path = tmp_path / "points.tif"
    size = {"width": 9, "height": 9, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, gcps=corners, crs="EPSG:32632") as file:
        file.write(np.ones((3, 9, 9), np.uint8))
    with pytest.raises(RasterError, match=r"by 4 ground control points and has no grid.*gdalwarp"):
        open_frame(path)


def test_a_frame_without_a_crs_cannot_be_laid_on_one_that_has_one(steered):
    frames = [dated(2021, **PLACE, name="placed"), dated(2019, None, None, name="bare")]
    with pytest.raises(RasterError, match=r"bare has no CRS, but placed has.*-a_srs EPSG:… bare"):
        PredictRequest(frames=frames, on="2022").job(steered)
    with pytest.raises(RasterError, match="bare has no CRS, but placed has"):
        PredictRequest(frames=frames, on="2018").job(steered)


def test_world_files_that_disagree_are_refused(steered):
    east = PLACE["transform"] @ Affine.translation(100, 0)
    frames = [dated(2021, None, PLACE["transform"], name="here"), dated(2019, None, east, name="there")]
    with pytest.raises(RasterError, match="world files say that they show different ground"):
        PredictRequest(frames=frames, on="2022").job(steered)
    near = PLACE["transform"] @ Affine.translation(0.2, 0)
    for other in (near, None):
        PredictRequest(frames=[frames[0], dated(2019, None, other, name="near")], on="2022").job(steered)


def file_of(path, side=384):
    """Tiles of noise; six by six of them."""
    values = np.random.default_rng(0).integers(60, 200, (3, side, side)).astype(np.uint8)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8"}
    place = {"crs": "EPSG:32632", "transform": PLACE["transform"], "photometric": "RGB"}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    with rasterio.open(path, "w", **profile, **place, **tiles) as file:
        file.write(values)
    return path


def test_a_corrupt_tile_in_the_middle_leaves_nothing_half_written(steered, tmp_path):
    path, out = file_of(tmp_path / "in.tif"), tmp_path / "out.tif"
    out.write_bytes(b"the old file")
    with rasterio.open(path) as file:
        place = int(file.get_tag_item("BLOCK_OFFSET_3_5", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[place : place + 16] = b"\xff" * 16
    path.write_bytes(content)
    job = UpscaleRequest(frames=path, factor=2, steps=1).job(steered)
    with pytest.raises(RasterError, match=r"in\.tif cannot be read at rows"):
        restore_to(job, out, overwrite=True)
    assert out.read_bytes() == b"the old file"


def test_a_raster_that_vanishes_meanwhile_is_told_and_the_work_goes_on_when_it_is_back(steered, tmp_path):
    path, out = file_of(tmp_path / "in.tif", side=48), tmp_path / "out.tif"
    expected = restore(UpscaleRequest(frames=path, factor=2, steps=2).job(steered)).raster.values
    away = tmp_path / "away.tif"

    def hide(share):
        if path.exists():
            path.rename(away)

    with pytest.raises(RasterError, match=r"in\.tif cannot be read: No such file"):
        restore_to(UpscaleRequest(frames=path, factor=2, steps=2).job(steered), out, on_share=hide)
    assert not out.exists()
    away.rename(path)
    shares = []
    made = restore_to(
        UpscaleRequest(frames=path, factor=2, steps=2).job(steered), out, on_share=shares.append
    )
    assert shares[0] > 0.4  # the first half was kept
    assert np.array_equal(open_raster(made["image"]).read(range(96), range(96))[0], expected)
