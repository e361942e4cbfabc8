import multiprocessing
import shutil

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS
from rio_cogeo.cogeo import cog_validate

from diffusionsat import RasterError
from diffusionsat.geo import publishing
from diffusionsat.geo.images import quiet_gdal
from diffusionsat.geo.publishing import RasterWriter, cloud_optimized, refuse_inputs
from diffusionsat.geo.rasters import ArrayRaster, open_raster

UTM = CRS.from_epsg(32632)
TURNED = Affine.translation(5e5, 5e6) @ Affine.rotation(20) @ Affine.scale(10, -10)
TAGS = {"SYNTHETIC": "YES", "SYNTHETIC_NOTE": 'Made, not "measured" & <ünreal>', "PROMPT": "ein Fluß"}


def pixels(dtype, shape=(3, 300, 260), seed=0):
    rng = np.random.Generator(np.random.Philox(seed))
    values = rng.integers(0, 250, shape).astype(dtype)
    return values, rng.random(shape) < 0.8


def blocks(height, width, side=128):
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield range(top, min(top + side, height)), range(left, min(left + side, width))


def writer(path, values, **more):
    given = {
        "bands": ("B04", "B03", "B02"),
        "crs": UTM,
        "transform": TURNED,
        "nodata": 0,
        "tags": TAGS,
    } | more
    size = {"width": values.shape[2], "height": values.shape[1], "dtype": values.dtype}
    return RasterWriter(path, path.with_name("work"), **size, **given)


def fill(made, values, valid, skip=()):
    for number, (rows, columns) in enumerate(blocks(*values.shape[1:])):
        place = slice(None), slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        if number not in skip:
            made.write(rows, columns, values[place], valid[place])
    return made


def everything(path):
    raster = open_raster(path)
    return raster.read(range(raster.height), range(raster.width))


@pytest.mark.parametrize(
    ("dtype", "nodata", "crs", "transform"),
    [
        (np.uint16, 0, UTM, TURNED),
        (np.int16, -9999, CRS.from_epsg(4326), Affine(0.001, 0, 7, 0, -0.001, 47)),
        (
            np.float32,
            np.nan,
            CRS.from_proj4("+proj=laea +lat_0=46 +lon_0=7 +units=m"),
            Affine(10, 0, 0, 0, -10, 0),
        ),
        (np.float64, None, None, Affine(2, 0, 5, 0, -2, 6)),
        (np.uint8, None, None, Affine.identity()),
    ],
)
def test_what_is_published_reads_back_as_it_was_written(tmp_path, dtype, nodata, crs, transform):
    values, valid = pixels(dtype)
    made = writer(tmp_path / "o.tif", values, nodata=nodata, crs=crs, transform=transform)
    fill(made, values, valid)
    assert not (tmp_path / "o.tif").exists()
    assert made.publish() == tmp_path / "o.tif"
    raster = open_raster(tmp_path / "o.tif")
    seen, known = everything(tmp_path / "o.tif")
    expected = values if nodata is None else np.where(valid, values, dtype(nodata))
    assert np.array_equal(seen, expected, equal_nan=True)
    assert np.array_equal(known, np.broadcast_to(valid.all(0), known.shape))
    assert (raster.dtype, raster.bands) == (dtype, ("B04", "B03", "B02"))
    assert raster.nodata == nodata or np.isnan([raster.nodata, nodata]).all()
    assert raster.crs == crs
    assert raster.transform.almost_equals(transform, precision=1e-9)
    assert raster.tags.items() >= {**TAGS, "TIFFTAG_IMAGEDESCRIPTION": TAGS["SYNTHETIC_NOTE"]}.items()
    with quiet_gdal(), rasterio.open(tmp_path / "o.tif") as file:
        assert [colour.name for colour in file.colorinterp] == ["red", "green", "blue"]
        assert file.mask_flag_enums[0] == [rasterio.enums.MaskFlags.per_dataset]
        assert file.overviews(1)
    if not transform.is_identity and nodata == 0:
        assert cog_validate(tmp_path / "o.tif", quiet=True)[0]


def test_a_valid_number_that_equals_nodata_stays_valid(tmp_path):
    values = np.zeros((3, 40, 40), np.uint16)
    fill(writer(tmp_path / "o.tif", values), values, np.ones(values.shape, bool)).publish()
    assert everything(tmp_path / "o.tif")[1].all()


def test_some_bands_decide_what_is_valid_and_readers_are_told_the_units(tmp_path):
    values, valid = pixels(np.uint16)
    more = {"deciding": ("B04", "B02"), "scales": [(1e-4, -0.1), (2e-4, 0), (1, 0)]}
    fill(writer(tmp_path / "o.tif", values, **more), values, valid).publish()
    with rasterio.open(tmp_path / "o.tif") as file:  # each band by nodata, of which a mask would know nothing
        assert np.array_equal(file.read_masks() > 0, valid & (values != 0))
        assert np.array_equal(file.read(2), np.where(valid[1], values[1], 0))
        assert (file.scales, file.offsets) == ((1e-4, 2e-4, 1), (-0.1, 0, 0))
    alike, folders = np.broadcast_to(valid[0], valid.shape), (tmp_path / "alike", tmp_path / "none")
    for folder in folders:
        folder.mkdir()
    fill(writer(folders[0] / "o.tif", values, **more), values, alike).publish()
    with rasterio.open(folders[0] / "o.tif") as file:
        assert file.mask_flag_enums[0] == [rasterio.enums.MaskFlags.per_dataset]
        assert np.array_equal(file.read_masks() > 0, alike)
    fill(writer(folders[1] / "o.tif", values, nodata=None, **more), values, valid).publish()
    with rasterio.open(folders[1] / "o.tif") as file:
        assert np.array_equal(file.read_masks(2) > 0, valid[0] & valid[2])
    raster = open_raster(tmp_path / "o.tif").take([1, 2])
    assert raster.scales == ((2e-4, 0), (1, 0))


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 700), (3, 513, 2)])
def test_small_and_narrow_rasters(tmp_path, shape):
    values, valid = pixels(np.uint16, shape)
    fill(writer(tmp_path / "o.tif", values, nodata=None), values, valid).publish()
    assert np.array_equal(everything(tmp_path / "o.tif")[0], values)


def test_nothing_is_published_before_all_is_there(tmp_path):
    values, valid = pixels(np.uint16)
    made = fill(writer(tmp_path / "o.tif", values), values, valid, skip=(4,))
    with pytest.raises(RasterError, match="not complete: the pixel in row 128, column 128 was not made"):
        made.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    again = writer(tmp_path / "o.tif", values)  # as after a restart
    missing = [block for block in blocks(300, 260) if not again.has(*block)]
    assert missing == [(range(128, 256), range(128, 256))]
    fill(again, values, valid, skip=(0, 1, 2, 3, 5, 6, 7, 8)).publish()
    assert np.array_equal(everything(tmp_path / "o.tif")[0], np.where(valid, values, 0))


def _write(made, values, valid, rows, columns):
    place = slice(None), slice(rows.start, rows.stop), slice(columns.start, columns.stop)
    made.write(rows, columns, values[place], valid[place])


def test_several_processes_write_one_raster(tmp_path):
    values, valid = pixels(np.uint16)
    made = writer(tmp_path / "o.tif", values)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_write, [(made, values, valid, *block) for block in blocks(300, 260)])
    made.publish()
    one = tmp_path / "one"
    one.mkdir()
    fill(writer(one / "o.tif", values), values, valid).publish()
    assert (tmp_path / "o.tif").read_bytes() == (one / "o.tif").read_bytes()


def test_what_cannot_be_is_refused(tmp_path):
    values, valid = pixels(np.float32)
    made = writer(tmp_path / "o.tif", values, nodata=None)
    block = range(128), range(128)
    values[1, 5, 5], valid[1, 5, 5] = np.nan, True
    with pytest.raises(RasterError, match="rows 0 to 127, columns 0 to 127 is not finite"):
        made.write(*block, values[:, :128, :128], valid[:, :128, :128])
    valid[1, 5, 5] = False
    made.write(*block, values[:, :128, :128], valid[:, :128, :128])
    for wrong in (values[:2, :128, :128], values[:, :128, :127], values[:, :128, :128].astype(np.float64)):
        with pytest.raises(RasterError, match="is expected"):
            made.write(*block, wrong, valid[:, :128, :128])
    with pytest.raises(RasterError, match="is expected"):
        made.write(range(256, 384), range(128), values[:, :128, :128], valid[:, :128, :128])


def test_an_existing_file_is_kept_unless_it_may_be_replaced(tmp_path, monkeypatch):
    path, other = (
        tmp_path / "o.tif",
        tmp_path / "other/o.tif",
    )  # what is damaged GDAL may remember by its name
    other.parent.mkdir()
    values, valid = pixels(np.uint16)
    for each in (path, other):
        each.write_bytes(b"before")
        with pytest.raises(RasterError, match="exists"):
            writer(each, values)
    made, damaged = (fill(writer(each, values, overwrite=True), values, valid) for each in (path, other))
    (damaged.folder / "0-128-0-128.tif").write_bytes(b"damaged")
    with pytest.raises(RasterError, match="cannot be joined"):
        damaged.publish()
    assert other.read_bytes() == b"before"
    with monkeypatch.context() as patch:
        patch.setattr(
            publishing.shutil,
            "move",
            lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")),
        )
        with pytest.raises(RasterError, match="No space left"):
            made.publish()
    assert path.read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.tif", "other", "work"]
    made.publish()
    assert np.array_equal(everything(path)[0], np.where(valid, values, 0))


def test_stale_files_beside_a_replaced_one_go(tmp_path):
    path = tmp_path / "o.tif"
    stale = [tmp_path / name for name in ("o.tif.aux.xml", "o.tif.ovr", "o.tif.msk", "o.tfw")]
    kept = [tmp_path / name for name in ("o.png", "o.pgw", "o.json", "p.tfw")]
    for each in (path, *stale, *kept):
        each.write_text("old")
    values, valid = pixels(np.uint16)
    fill(writer(path, values, overwrite=True), values, valid).publish()
    assert not any(each.exists() for each in stale)
    assert all(each.exists() for each in kept)
    path.unlink()
    stale[0].write_text("old")
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(RasterError, match=r"o\.tif\.aux\.xml is there and would change how"):
        writer(path, values)


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "dots", "folder"])
def test_an_output_that_is_an_input_is_refused(tmp_path, link):
    source = tmp_path / "in.tif"
    source.write_bytes(b"precious")
    output = tmp_path / "out.tif"
    if link == "symlink":
        output.symlink_to(source)
    elif link == "hardlink":
        output.hardlink_to(source)
    elif link == "same":
        output = source
    elif link == "dots":
        (tmp_path / "a").mkdir()
        output = tmp_path / "a" / ".." / "in.tif"
    else:
        source = tmp_path / "scene.SAFE"
        source.mkdir()
        output = source / "out.tif"
    with pytest.raises(RasterError, match="would be written over the input"):
        writer(output, pixels(np.uint16)[0], overwrite=True, inputs=[source])
    refuse_inputs(tmp_path / "other.tif", [source])


def test_bytes_of_a_raster_in_memory(tmp_path):
    values, valid = pixels(np.uint16)
    content = cloud_optimized(
        ArrayRaster(values, ("B04", "B03", "B02"), valid=valid, crs=UTM, transform=TURNED), TAGS
    )
    (tmp_path / "o.tif").write_bytes(content)
    seen, known = everything(tmp_path / "o.tif")
    assert np.array_equal(seen, values)
    assert np.array_equal(known[0], valid.all(0))
