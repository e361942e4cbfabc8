import pickle

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS
from rasterio.warp import reproject

from diffusionsat import ConfigError, Grid, RasterError
from diffusionsat.geo.rasters import ArrayRaster, refined
from diffusionsat.geo.warping import on_grid

UTM = CRS.from_epsg(32632)
RNG = np.random.Generator(np.random.Philox(0))
GDAL = {"nearest": 0, "bilinear": 1, "cubic": 2, "area": 5}


def raster(values, *, valid=None, gsd=20.0, crs=UTM, corner=(500_000, 5_200_000)):
    transform = Affine.translation(*corner) @ Affine.scale(gsd, -gsd)
    return ArrayRaster(
        values, [f"b{i}" for i in range(len(values))], valid=valid, crs=crs, transform=transform
    )


def everything(one):
    return one.read(range(one.height), range(one.width))


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    return (np.sin(x / 5) * np.cos(y / 7))[None].astype(np.float32)


def by_gdal(source, grid, resampling):
    """The whole at once, by GDAL without its approximation of places."""
    out = np.full((len(source.values), grid.height, grid.width), np.nan, np.float32)
    reproject(
        np.where(source.valid, source.values, -9999).astype(np.float32),
        out,
        src_transform=source.transform,
        src_crs=source.crs.to_wkt(),
        src_nodata=-9999,
        dst_transform=grid.transform,
        dst_crs=grid.crs.to_wkt(),
        dst_nodata=np.nan,
        resampling=rasterio.enums.Resampling(GDAL[resampling]),
        tolerance=0,
    )
    return out


MERCATOR = Grid(CRS.from_epsg(3857), Affine(27, 3, 1_002_500, 2, -28, 5_933_900), 60, 50)
SHIFTED = Grid(UTM, Affine(17, 0, 500_111, 0, -17, 5_199_777), 70, 60)


@pytest.mark.parametrize("grid", [MERCATOR, SHIFTED], ids=["mercator", "shifted"])
@pytest.mark.parametrize(
    ("resampling", "limit"), [("nearest", 0), ("bilinear", 1e-3), ("cubic", 2e-3), ("area", 0.05)]
)
def test_pixels_are_those_of_gdal(grid, resampling, limit):
    source = raster(smooth(80, 90))
    made, valid = everything(on_grid(source, grid, resampling))
    expected = by_gdal(source, grid, resampling)
    inner = np.isfinite(expected) & valid
    assert inner.mean() > 0.3
    difference = np.abs(made - expected)[inner]
    if resampling == "nearest":
        assert (difference > 0).mean() < 2e-3  # ties
    else:
        # At the source's border GDAL gives cubic another kernel.
        assert np.quantile(difference, 0.98) < limit


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["nearest", "bilinear", "cubic", "area"]),
    st.sampled_from([MERCATOR, SHIFTED, Grid(UTM, Affine(130, 5, 500_000, 0, -140, 5_200_000), 12, 11)]),
    st.integers(7, 61),
    st.integers(7, 61),
)
def test_it_does_not_matter_which_rectangles_are_read(resampling, grid, rows, columns):
    values = np.random.Generator(np.random.Philox(1)).normal(size=(2, 80, 90))
    source = raster(values, valid=values < 1.5)
    warped = pickle.loads(pickle.dumps(on_grid(source, grid, resampling)))
    tiles = [
        [
            warped.read(range(i, min(i + rows, grid.height)), range(j, min(j + columns, grid.width)))
            for j in range(0, grid.width, columns)
        ]
        for i in range(0, grid.height, rows)
    ]
    for part, whole in enumerate(everything(warped)):
        joined = np.concatenate([np.concatenate([tile[part] for tile in row], 2) for row in tiles], 1)
        assert np.array_equal(joined, whole)


def test_upsampled_pixels_by_hand():
    source = raster(np.array([[[0.0, 8.0]]]))
    grid, _ = refined(source, 4)
    made, valid = everything(on_grid(source, grid))
    # Centres at 1/8, 3/8 … of a pixel; beyond the outer centres only one neighbour has a weight.
    assert made[0, 0].tolist() == [0, 0, 1, 3, 5, 7, 8, 8]
    assert valid.all()
    assert made.dtype == np.float64
    assert everything(on_grid(raster(np.ones((1, 2, 2), np.uint16)), grid))[0].dtype == np.float32


def test_an_invalid_neighbour_does_not_bleed():
    values = np.full((1, 9, 9), 100, np.uint16)
    values[0, 4, 4] = 65535
    source = raster(values, valid=values < 1000)
    for resampling in ("nearest", "bilinear", "cubic", "area"):
        for factor in (2, 3, 5):
            made, valid = everything(on_grid(source, refined(source, factor)[0], resampling))
            assert made[valid] == pytest.approx(100, abs=1e-3)
            hole = ~valid[0]
            assert hole[4 * factor : 5 * factor, 4 * factor : 5 * factor].all()
            hole[4 * factor : 5 * factor, 4 * factor : 5 * factor] = False
            assert not hole.any()


def test_bands_have_their_own_validity():
    values = np.stack([np.full((6, 6), 1.0), np.full((6, 6), 2.0)])
    valid = np.ones(values.shape, bool)
    valid[1, :, :3] = False
    made, known = everything(
        on_grid(raster(values, valid=valid), Grid(UTM, Affine(10, 0, 5e5, 0, -10, 52e5), 12, 12))
    )
    assert known[0].all()
    assert known[1].tolist() == [[False] * 6 + [True] * 6] * 12
    assert (made[1][known[1]] == 2).all()


@pytest.mark.parametrize("factor", [2, 3, 7])
def test_area_is_the_mean_of_what_a_pixel_covers(factor):
    values = RNG.normal(size=(1, 6 * factor, 4 * factor))
    source = raster(values)
    grid = Grid(UTM, source.transform @ Affine.scale(factor), 4, 6)
    expected = values.reshape(1, 6, factor, 4, factor).mean((2, 4))
    assert everything(on_grid(source, grid, "area"))[0] == pytest.approx(expected)
    valid = np.zeros(values.shape, bool)
    valid[0, :, ::2] = True
    half = everything(on_grid(raster(values, valid=valid), grid, "area"))[0]
    weights = valid.reshape(1, 6, factor, 4, factor)
    by_hand = (values.reshape(weights.shape) * weights).sum((2, 4)) / weights.sum((2, 4))
    assert half == pytest.approx(np.where(weights.mean((2, 4)) >= 0.5, by_hand, 0))


def test_a_coarser_grid_has_no_aliases():
    stripes = np.tile([0.0, 1.0], (64, 32))[None]
    coarse = Grid(UTM, raster(stripes).transform @ Affine.scale(8), 8, 8)
    for resampling in ("bilinear", "cubic", "area"):
        assert everything(on_grid(raster(stripes), coarse, resampling))[0][:, 1:-1, 1:-1] == pytest.approx(
            0.5
        )


def test_its_own_grid_leaves_a_raster_itself():
    source = raster(smooth(5, 6))
    assert on_grid(source, source.grid) is source


def test_nearest_keeps_dtype_and_nodata():
    source = ArrayRaster(
        np.array([[[3, 9]]], np.int16), ["c"], crs=UTM, transform=Affine(10, 0, 0, 0, -10, 0), nodata=9
    )
    warped = on_grid(source, refined(source, 2)[0], "nearest")
    assert (warped.dtype, warped.nodata) == (np.int16, 9)
    made, valid = everything(warped)
    assert made.tolist() == [[[3, 3, 9, 9]] * 2]
    assert valid.tolist() == [[[True, True, False, False]] * 2]


def test_much_finer_rasters_are_read_in_parts():
    class Watched(ArrayRaster):
        most = 0

        def _read(self, rows, columns):
            self.most = max(self.most, len(rows) * len(columns))
            return super()._read(rows, columns)

    source = Watched(
        np.ones((1, 2400, 2400), np.uint8), ["b"], crs=UTM, transform=Affine(1, 0, 5e5, 0, -1, 5e6)
    )
    made, valid = everything(on_grid(source, Grid(UTM, Affine(400, 0, 5e5, 0, -400, 5e6), 6, 6), "area"))
    assert (made == 1).all()
    assert valid.all()
    assert source.most < 2400 * 2400 / 4


def test_what_cannot_be_warped():
    source = raster(smooth(5, 6))
    far = Grid(CRS.from_epsg(32733), Affine(10, 0, 5e5, 0, -10, 8e6), 20, 20)
    with pytest.raises(
        RasterError,
        match=r"array shows other ground: it covers longitude 9\.0000 .* asked for is longitude 15",
    ):
        on_grid(source, far)
    beside = Grid(UTM, source.transform @ Affine.translation(6, 0), 4, 4)
    with pytest.raises(RasterError, match="shows other ground"):
        on_grid(source, beside)
    with pytest.raises(RasterError, match="has no CRS"):
        on_grid(ArrayRaster(np.ones((1, 2, 2)), ["b"]), far)
    with pytest.raises(ConfigError, match="resampling is 'lanczos'"):
        on_grid(source, far, "lanczos")
