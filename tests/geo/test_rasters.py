import os
import pickle
import threading

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from diffusionsat import RasterError
from diffusionsat.geo.rasters import ArrayRaster, FileRaster, ground, open_raster, refined
from diffusionsat.geo.stacks import Stack, crop

UTM = CRS.from_epsg(32632)
PLACE = Affine(10, 0, 500_000, 0, -10, 5_000_000)
RNG = np.random.Generator(np.random.Philox(0))


def write(path, values, *, mask=None, descriptions=None, colours=None, **profile):
    """A GeoTIFF by rasterio alone."""
    count, height, width = values.shape
    profile = {"driver": "GTiff", "crs": UTM.to_wkt(), "transform": PLACE, **profile}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", count=count, height=height, width=width, dtype=values.dtype, **profile
        ) as file,
    ):
        file.write(values)
        for i, text in enumerate(descriptions or (), 1):
            file.set_band_description(i, text)
        if colours:
            file.colorinterp = [rasterio.enums.ColorInterp[name] for name in colours]
        if mask is not None:
            file.write_mask(mask)
    return path


def everything(raster):
    return raster.read(range(raster.height), range(raster.width))


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    top=st.integers(-12, 12),
    left=st.integers(-12, 12),
    height=st.integers(1, 15),
    width=st.integers(1, 15),
)
def test_a_rectangle_may_leave_the_raster(shape, top, left, height, width):
    values = np.arange(1, 1 + np.prod(shape), dtype=np.int32).reshape(shape)
    raster = ArrayRaster(values, [f"b{i}" for i in range(shape[0])], nodata=-7)
    seen, valid = raster.read(range(top, top + height), range(left, left + width))
    padded = np.pad(values, ((0, 0), (12, 30), (12, 30)), constant_values=-7)
    expected = padded[:, top + 12 : top + 12 + height, left + 12 : left + 12 + width]
    assert np.array_equal(seen, expected)
    assert np.array_equal(valid, expected != -7)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 17), st.integers(1, 17))
def test_blocks_are_the_whole(height, width, rows, columns):
    values = np.arange(height * width, dtype=np.float32).reshape(1, height, width)
    values[0, ::7, ::5] = np.nan
    raster = ArrayRaster(values, ["b"])
    tiles = [
        [
            raster.read(range(i, min(i + rows, height)), range(j, min(j + columns, width)))
            for j in range(0, width, columns)
        ]
        for i in range(0, height, rows)
    ]
    for part, whole in enumerate(everything(raster)):
        assert np.array_equal(
            np.concatenate([np.concatenate([t[part] for t in row], 2) for row in tiles], 1),
            whole,
            equal_nan=True,
        )


def test_a_file_is_read_as_rasterio_reads_it(tmp_path):
    values = RNG.integers(0, 5000, (3, 70, 90)).astype(np.uint16)
    turned = Affine.translation(5e5, 5e6) @ Affine.rotation(20) @ Affine.scale(10, -10)
    path = write(
        tmp_path / "a.tif",
        values,
        nodata=0,
        transform=turned,
        descriptions=["B2", "B3", "B4"],
        tiled=True,
        blockxsize=32,
        blockysize=32,
    )
    raster = open_raster(path)
    assert (raster.bands, raster.width, raster.height, raster.dtype, raster.nodata) == (
        ("B2", "B3", "B4"),
        90,
        70,
        np.uint16,
        0,
    )
    assert raster.crs == UTM
    assert raster.transform == turned
    seen, valid = raster.read(range(11, 50), range(3, 80))
    assert np.array_equal(seen, values[:, 11:50, 3:80])
    assert np.array_equal(valid, values[:, 11:50, 3:80] != 0)
    assert not list(tmp_path.glob("*.aux.xml"))


def test_what_is_valid_is_told_band_by_band(tmp_path):
    values = RNG.normal(size=(2, 8, 9)).astype(np.float32)
    values[0, 1, 2], values[1, 3, 4], values[0, 5, 5], values[1, 0, 0] = np.nan, np.inf, -9999, -np.inf
    raster = open_raster(write(tmp_path / "n.tif", values, nodata=-9999))
    expected = np.ones(values.shape, bool)
    expected[0, 1, 2] = expected[1, 3, 4] = expected[0, 5, 5] = expected[1, 0, 0] = False
    assert np.array_equal(everything(raster)[1], expected)
    assert np.array_equal(
        everything(open_raster(write(tmp_path / "nan.tif", values, nodata=np.nan)))[1], np.isfinite(values)
    )


def test_an_internal_mask_and_an_alpha_band_tell_what_is_valid(tmp_path):
    values = RNG.integers(0, 255, (4, 20, 30)).astype(np.uint8)
    mask = RNG.random((20, 30)) < 0.5
    masked = open_raster(write(tmp_path / "m.tif", values[:3], mask=mask, photometric="rgb"))
    seen, valid = everything(masked)
    assert masked.bands == ("red", "green", "blue")
    assert np.array_equal(seen, values[:3])
    assert (seen[valid] == 0).any()  # a zero is a number like others
    assert np.array_equal(valid, np.broadcast_to(mask, valid.shape))
    values[3] = np.where(mask, 200, 0)
    with_alpha = open_raster(write(tmp_path / "a.tif", values, colours=("red", "green", "blue", "alpha")))
    assert with_alpha.bands == ("red", "green", "blue")
    assert np.array_equal(everything(with_alpha)[1], valid)
    blue = with_alpha.take([2], ["B02"])
    assert blue.bands == ("B02",)
    assert np.array_equal(everything(blue)[0], values[2:3])


def test_a_number_may_mean_nothing_in_some_bands(tmp_path):
    values = np.array([[[0, 1]], [[0, 2]], [[3, 0]]], np.uint16)
    raster = open_raster(write(tmp_path / "z.tif", values)).without(0, [0, 2])
    assert everything(raster)[1].tolist() == [[[False, True]], [[True, True]], [[True, False]]]
    assert everything(raster.take([1, 2]))[1].tolist() == [[[True, True]], [[True, False]]]
    assert raster.nodata is None


@pytest.mark.parametrize(
    ("count", "dtype", "descriptions", "colours", "names"),
    [
        (3, "uint8", None, ("gray", "undefined", "undefined"), ("red", "green", "blue")),
        (3, "uint16", None, ("gray", "undefined", "undefined"), ("band1", "band2", "band3")),
        (4, "uint16", None, ("red", "green", "blue", "undefined"), ("red", "green", "blue", "undefined")),
        (2, "uint16", ("B04", None), None, ("B04", "band2")),
    ],
)
def test_names_of_bands(tmp_path, count, dtype, descriptions, colours, names):
    path = write(
        tmp_path / "n.tif", np.ones((count, 2, 2), dtype), descriptions=descriptions, colours=colours
    )
    assert open_raster(path).bands == names


def test_without_a_crs_there_is_no_grid(tmp_path):
    path = tmp_path / "plain.png"
    Image.fromarray(np.full((4, 5, 3), 9, np.uint8)).save(path)
    raster = open_raster(path)
    assert raster.crs is raster.grid is None
    assert raster.transform.is_identity
    path.with_suffix(".pgw").write_text("2\n0\n0\n-2\n101\n199\n")
    assert open_raster(path).transform == Affine(2, 0, 100, 0, -2, 200)
    grid, transform = refined(open_raster(path), 4)
    assert grid is None
    assert transform == Affine(0.5, 0, 100, 0, -0.5, 200)


def test_our_png_tells_its_crs(tmp_path):
    from diffusionsat.geo.grids import Grid
    from diffusionsat.geo.images import save_png

    grid = Grid.around(7.4, 46.9, 10, 30, 20)
    pixels = RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    save_png(tmp_path / "a.png", pixels, grid, {"SYNTHETIC": "YES"}, overwrite=False)
    raster = open_raster(tmp_path / "a.png")
    assert raster.crs == grid.crs
    assert raster.transform.almost_equals(grid.transform)
    (tmp_path / "a.pgw").unlink()
    assert open_raster(tmp_path / "a.png").transform.almost_equals(grid.transform)
    assert np.array_equal(everything(raster)[0], np.moveaxis(pixels, 2, 0))


def test_rasters_are_read_in_threads_and_other_processes(tmp_path):
    values = RNG.integers(0, 5000, (2, 64, 64)).astype(np.uint16)
    raster = pickle.loads(
        pickle.dumps(open_raster(write(tmp_path / "a.tif", values, tiled=True, blockxsize=16, blockysize=16)))
    )
    wrong = []

    def read(seed):
        rng = np.random.Generator(np.random.Philox(seed))
        for _ in range(50):
            top, left = rng.integers(0, 50, 2)
            rows, columns = range(top, top + 14), range(left, left + 14)
            if not np.array_equal(raster.read(rows, columns)[0], values[:, top : top + 14, left : left + 14]):
                wrong.append((top, left))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_corrupt_tile_is_told_with_its_place(tmp_path):
    values = RNG.integers(0, 5000, (1, 96, 96)).astype(np.uint16)
    path = write(tmp_path / "a.tif", values, tiled=True, blockxsize=32, blockysize=32, compress="deflate")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2  # of nine compressed tiles one after the other
    content[middle : middle + 600] = b"\xff" * 600
    path.write_bytes(content)
    raster = open_raster(path)
    assert np.array_equal(raster.read(range(32), range(32))[0], values[:, :32, :32])
    with pytest.raises(RasterError, match=r"a\.tif cannot be read at rows 0 to 95, columns 0 to 95"):
        everything(raster)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_not_a_byte_of_a_deflated_tile_can_change_unseen(tmp_path, interleave):
    values = (np.arange(96) // 3 + RNG.integers(0, 9, (2, 96, 96))).astype(np.uint8)
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate", "sparse_ok": True}
    values[:, :32, 64:] = 0  # a tile that is not written
    path = write(tmp_path / "a.tif", values, interleave=interleave, **tiles)
    assert np.array_equal(everything(open_raster(path))[0], values)
    with rasterio.open(path) as file:
        place, size = (
            int(file.get_tag_item(f"BLOCK_{what}_1_2", "TIFF", bidx=2)) for what in ("OFFSET", "SIZE")
        )
    whole = path.read_bytes()
    for at in range(place + 2, place + size, 17):
        content = bytearray(whole)
        content[at] ^= 0x10
        path.write_bytes(content)
        raster = open_raster(path)
        assert np.array_equal(raster.read(range(64), range(96))[0], values[:, :64])
        with pytest.raises(RasterError, match=r"rows 64 to 95, columns 0 to 95: the tile in row 2, column 1"):
            raster.read(range(64, 96), range(96))
    if interleave == "band":  # the other band's tile is whole
        assert np.array_equal(raster.take([0]).read(range(96), range(96))[0], values[:1])


def test_a_raster_that_names_others_is_read_from_them(tmp_path):
    path = write(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8))
    rasterio.shutil.copy(path, tmp_path / "a.vrt", driver="VRT")
    assert set(open_raster(tmp_path / "a.vrt").files) == {path, tmp_path / "a.vrt"}
    assert open_raster(path).files == (path,)


@pytest.mark.parametrize("change", ["remove", "touch", "grow"])
def test_a_file_that_changes_while_it_is_read(tmp_path, change):
    path = write(tmp_path / "a.tif", np.ones((1, 600, 600), np.uint8))
    raster = open_raster(path)
    raster.read(range(1), range(1))
    if change == "remove":
        path.unlink()
    elif change == "touch":
        os.utime(path, ns=(1, 1))
    else:
        path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(RasterError, match=r"a\.tif (cannot be read: No such file|has changed while)"):
        raster.read(range(300, 310), range(600))
    with pytest.raises(RasterError, match=r"a\.tif (cannot be read: No such file|has changed while)"):
        raster.digest()


def test_what_is_no_raster(tmp_path):
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(RasterError, match="cannot be read as a raster"):
        open_raster(tmp_path / "text.tif")
    with pytest.raises(RasterError, match="is no file"):
        open_raster(tmp_path / "absent.tif")
    with pytest.raises(RasterError, match="int is no raster"):
        open_raster(7)
    with pytest.raises(RasterError, match="complex64"):
        open_raster(write(tmp_path / "c.tif", np.ones((1, 2, 2), np.complex64)))
    path = write(tmp_path / "p.tif", np.ones((1, 2, 2), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {1: (9, 9, 9)})
    with pytest.raises(RasterError, match="palette"):
        open_raster(path)
    with pytest.raises(RasterError, match="2 band name"):
        ArrayRaster(np.ones((1, 2, 2)), ["a", "b"])
    with pytest.raises(RasterError, match="bool"):
        ArrayRaster(np.ones((1, 2, 2), bool), ["a"])


def vrt(of):
    band = f'<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>{of}</SourceFilename>'
    inner = f"{band}<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
    return f'<VRTDataset rasterXSize="2" rasterYSize="2">{inner}</VRTDataset>'.encode()


def test_only_what_is_called_a_vrt_names_other_files(tmp_path):
    of = write(tmp_path / "a.tif", np.full((1, 2, 2), 7, np.uint8))
    (tmp_path / "a.vrt").write_bytes(vrt(of))
    assert (everything(open_raster(tmp_path / "a.vrt"))[0] == 7).all()
    (tmp_path / "b.tif").write_bytes(vrt(of))
    with pytest.raises(RasterError, match=r"b\.tif is a VRT, which names other files.*Call it \.vrt"):
        open_raster(tmp_path / "b.tif")
    for name, first in (("c.jpg", b"\xff\xd8\xff\xe0"), ("d.png", b"\x89PNG\r\n\x1a\n")):
        (tmp_path / name).write_bytes(first + vrt(of))
        with pytest.warns(NotGeoreferencedWarning), rasterio.open(tmp_path / name) as file:
            assert file.driver == "VRT"  # as GDAL takes it, if it may
        with pytest.raises(RasterError, match=rf"{name} cannot be read as a raster"):
            open_raster(tmp_path / name)


def test_a_file_of_overviews_that_a_raster_names_is_not_opened(tmp_path):
    path, other = (write(tmp_path / f"{n}.tif", np.full((1, 64, 64), 7, np.uint8)) for n in "ab")
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(other))
    raster = open_raster(path)
    everything(raster)
    opened = {os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")}
    assert str(path.resolve()) in opened
    assert str(other.resolve()) not in opened


def test_open_datasets_of_files_and_of_memory(tmp_path):
    values = RNG.integers(0, 9, (1, 5, 6)).astype(np.int16)
    path = write(tmp_path / "a.tif", values, nodata=3)
    with rasterio.open(path) as file:
        raster = open_raster(file)
        assert open_raster(raster) is raster
    assert isinstance(raster, FileRaster)
    with MemoryFile(path.read_bytes()) as memory, memory.open() as file:
        held = open_raster(file)
    for each in (raster, held):
        assert np.array_equal(everything(each)[0], values)
        assert np.array_equal(everything(each)[1], values != 3)
    with pytest.raises(RasterError, match="closed"):
        open_raster(file)


def test_what_is_open_and_no_file_is_read_as_a_file_is(tmp_path):
    values = RNG.integers(1, 255, (4, 24, 30)).astype(np.uint8)
    values[3, 2:9, 3:7] = 0
    path = write(tmp_path / "a.tif", values, colours=("red", "green", "blue", "alpha"))
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="IMAGERY", CLOUDCOVER="12")
    as_file = open_raster(path)
    with MemoryFile(path.read_bytes()) as memory, memory.open() as file, WarpedVRT(file) as warped:
        others = [open_raster(file), open_raster(warped)]
    with rasterio.open(path, "r+") as file:
        others.append(open_raster(file))
    for each in others:
        assert each.bands == as_file.bands == ("red", "green", "blue")
        (found, valid), (wanted, there) = everything(each), everything(as_file)
        assert np.array_equal(valid, there)
        assert np.array_equal(found[valid], wanted[valid])
    assert others[0].tags["CLOUDCOVER"] == others[2].tags["CLOUDCOVER"] == "12"
    both = write(tmp_path / "b.tif", values[:1].astype(np.uint16))
    rasterio.shutil.copy(both, tmp_path / "two.vrt", driver="VRT")
    text = (tmp_path / "two.vrt").read_text()
    (tmp_path / "two.vrt").write_text(
        text.replace("</VRTDataset>", '<VRTRasterBand dataType="Byte" band="2"/></VRTDataset>')
    )
    with pytest.raises(RasterError, match="several types, uint16, uint8"):
        open_raster(tmp_path / "two.vrt")


def test_refined_pixels_nest_exactly():
    turned = Affine.translation(5e5, 5e6) @ Affine.rotation(33) @ Affine.scale(10, -10)
    raster = ArrayRaster(np.ones((1, 7, 9)), ["b"], crs=UTM, transform=turned)
    for factor in range(2, 11):
        grid, transform = refined(raster, factor)
        assert (grid.width, grid.height, grid.transform) == (9 * factor, 7 * factor, transform)
        for corner in ((0, 0), (9, 0), (4, 5), (9, 7)):
            there = transform @ (corner[0] * factor, corner[1] * factor)
            assert there == pytest.approx(turned @ corner, abs=1e-6)


def test_ground_metres_of_a_pixel_at_the_centre():
    # A degree of longitude at latitude 60 is 55.8 km, of latitude 111.4 km (WGS84).
    degrees = ArrayRaster(
        np.ones((1, 10, 10)), ["b"], crs=CRS.from_epsg(4326), transform=Affine(1e-3, 0, 20, 0, -1e-3, 60.005)
    )
    lon, lat, gsd = ground(degrees.grid)
    assert (lon, lat) == pytest.approx((20.005, 60))
    assert gsd == pytest.approx(np.sqrt(55.80 * 111.41), rel=1e-3)
    mercator = ArrayRaster(
        np.ones((1, 10, 10)), ["b"], crs=CRS.from_epsg(3857), transform=Affine(10, 0, 0, 0, -10, 8399788)
    )
    assert ground(mercator.grid)[2] == pytest.approx(5.0, rel=5e-3)  # 10 * cos(60°)
    drawing = 'LOCAL_CS["drawing",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    nowhere = ArrayRaster(np.ones((1, 2, 2)), ["b"], crs=CRS.from_wkt(drawing))
    assert ground(nowhere.grid) is None


def nested():
    fine = ArrayRaster(np.arange(72, dtype=np.uint16).reshape(1, 6, 12), ["B04"], crs=UTM, transform=PLACE)
    coarse = ArrayRaster(
        np.arange(8, dtype=np.uint16).reshape(1, 2, 4),
        ["B01"],
        crs=UTM,
        transform=PLACE @ Affine.scale(3),
        nodata=5,
    )
    return fine, coarse


def test_a_stack_repeats_coarse_pixels():
    fine, coarse = nested()
    stack = Stack([coarse, fine], "scene")
    assert (stack.bands, stack.coarseness, stack.width, stack.height) == (("B01", "B04"), (3, 1), 12, 6)
    whole, valid = everything(stack)
    assert np.array_equal(whole[0], np.kron(coarse.values[0], np.ones((3, 3))))
    assert np.array_equal(whole[1], fine.values[0])
    assert np.array_equal(valid[0], whole[0] != 5)
    for rows, columns in (
        (range(1, 5), range(2, 11)),
        (range(4, 5), range(7, 8)),
        (range(-2, 9), range(-1, 20)),
    ):
        seen = stack.read(rows, columns)[0]
        inside = [
            slice(max(0, -r.start), max(0, -r.start) + min(r.stop, n) - max(r.start, 0))
            for r, n in ((rows, 6), (columns, 12))
        ]
        assert np.array_equal(
            seen[:, inside[0], inside[1]],
            whole[:, max(rows.start, 0) : rows.stop, max(columns.start, 0) : columns.stop],
        )
    one = stack.take([0], ["coastal"])
    assert (one.bands, one.coarseness, one.width) == (("coastal",), (3,), 12)
    assert np.array_equal(everything(one)[0][0], whole[0])


def test_a_stack_refuses_other_ground():
    fine, coarse = nested()
    moved = ArrayRaster(
        coarse.values, ["B01"], crs=UTM, transform=coarse.transform @ Affine.translation(1, 0)
    )
    other = ArrayRaster(coarse.values, ["B01"], crs=CRS.from_epsg(32633), transform=coarse.transform)
    for wrong in (
        moved,
        other,
        ArrayRaster(coarse.values[:, :, :3], ["B01"], crs=UTM, transform=coarse.transform),
    ):
        with pytest.raises(RasterError, match="do not lie on those"):
            Stack([fine, wrong], "scene")


def test_a_crop_keeps_coarse_pixels_whole():
    stack = Stack(list(nested()), "scene")
    part = crop(stack, range(1, 2), range(4, 8))
    assert (part.height, part.width, part.coarseness) == (3, 6, (1, 3))
    assert part.transform == PLACE @ Affine.translation(3, 0)
    assert np.array_equal(everything(part)[0], everything(stack)[0][:, :3, 3:9])
    assert np.array_equal(everything(part.take([1]))[0], everything(stack)[0][1:, :3, 3:9])
    assert not part.read(range(-1, 0), range(6))[1].any()  # what lies beyond is not of the part
    with pytest.raises(RasterError, match="lie outside"):
        crop(stack, range(6, 9), range(3))


def test_digests_tell_pixels_apart(tmp_path):
    values = np.ones((1, 4, 4), np.uint8)
    path = write(tmp_path / "a.tif", values)
    a, b = open_raster(path), open_raster(write(tmp_path / "b.tif", values + 1))
    assert a.digest() == open_raster(path).digest() != b.digest()
    hidden = ArrayRaster(values, ["b"], valid=values > 1)
    assert (
        len(
            {
                raster.digest()
                for raster in (ArrayRaster(values, ["b"]), ArrayRaster(values + 1, ["b"]), hidden)
            }
        )
        == 3
    )
    assert Stack([a], "x").digest() != Stack([b], "x").digest()
