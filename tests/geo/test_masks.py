import json
import pickle

import numpy as np
import pytest
import rasterio.features
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from scipy import ndimage

from diffusionsat import RasterError
from diffusionsat.geo.masks import Gaps, Grown, Masked, open_mask
from diffusionsat.geo.rasters import ArrayRaster

UTM = CRS.from_epsg(32633)


def raster(height=30, width=40, seed=0, crs=UTM, transform=None):
    values = np.random.default_rng(seed).integers(0, 5, (2, height, width)).astype(np.int16)
    place = transform or Affine(10, 0, 4e5, 0, -10, 5e6)
    return ArrayRaster(values, ["a", "b"], crs=crs, transform=place, nodata=0, name="image.tif")


def whole(mask):
    values, valid = mask.read(range(mask.height), range(mask.width))
    assert valid.all()
    return values[0].astype(bool)


def degrees(*corners):
    to_degrees = Transformer.from_crs(UTM, 4326, always_xy=True)
    ring = [list(to_degrees.transform(4e5 + 10 * x, 5e6 - 10 * y)) for x, y in corners]
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def test_an_array_marks_what_is_not_zero():
    marks = np.zeros((30, 40))
    marks[3:5, 7:20] = -2.5
    assert np.array_equal(whole(open_mask(marks != 0, raster())), marks != 0)


def test_an_array_marks_nothing_where_it_is_nan_or_masked_itself():
    values = np.zeros((30, 40), np.float32)
    values[2:5, 3:9], values[20:] = 0.5, np.nan
    marked = np.zeros((30, 40), bool)
    marked[2:5, 3:9] = True
    assert np.array_equal(whole(open_mask(values, raster())), marked)
    covered = np.ma.MaskedArray(np.where(marked, 1, 7), mask=~marked)
    assert np.array_equal(whole(open_mask(covered, raster())), marked)


@pytest.mark.parametrize("west", [179.97, -180.03, 359.97 - 180])
def test_polygons_on_both_sides_of_the_antimeridian(west):
    grid = Affine(0.001, 0, west, 0, -0.001, 10.02)
    halves = [[(179.98, 180), (10.0, 10.01)], [(-180, -179.99), (10.0, 10.01)]]
    rings = [[[(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1]), (x[0], y[0])]] for x, y in halves]
    shape = {"type": "MultiPolygon", "coordinates": rings}
    found = whole(open_mask(shape, raster(40, 60, crs=CRS.from_epsg(4326), transform=grid)))
    wanted = np.zeros((40, 60), bool)
    wanted[10:20, 10:40] = True
    assert np.array_equal(found, wanted)


def test_gaps_are_where_any_of_the_bands_has_none():
    image = raster()
    assert np.array_equal(whole(Gaps(image, [1])), image.values[1] == 0)
    assert np.array_equal(whole(Gaps(image, [0, 1])), (image.values == 0).any(0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 29), st.integers(1, 30), st.integers(0, 39), st.integers(1, 40))
def test_polygons_are_drawn_as_a_whole_whatever_is_asked_for(top, height, left, width):
    shapes = [degrees((3.2, 4.4), (30.1, 2.2), (25.3, 28.9)), degrees((33, 1), (39, 1), (39, 9))]
    mask = open_mask({"type": "GeometryCollection", "geometries": shapes}, raster())
    drawn = rasterio.features.rasterize(
        mask.shapes, (30, 40), transform=Affine(10, 0, 4e5, 0, -10, 5e6), dtype="uint8"
    )
    rows, columns = range(top, min(30, top + height)), range(left, min(40, left + width))
    values, _ = mask.read(rows, columns)
    assert np.array_equal(values[0], drawn[top : rows.stop, left : columns.stop])


@pytest.mark.parametrize("name", ["urn:ogc:def:crs:EPSG::32633", "urn:ogc:def:crs:OGC:1.3:CRS84", None])
def test_polygons_are_in_the_crs_that_their_file_names(name):
    corners = [(3.2, 4.4), (30.1, 2.2), (25.3, 28.9)]
    shape = degrees(*corners)
    if name and "32633" in name:
        ring = [[4e5 + 10 * x, 5e6 - 10 * y] for x, y in corners]
        shape = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    told = {"crs": {"type": "name", "properties": {"name": name}}} if name else {}
    features = [{"type": "Feature", "properties": {}, "geometry": shape}]
    mask = open_mask({"type": "FeatureCollection", "features": features} | told, raster())
    assert np.array_equal(whole(mask), whole(open_mask(degrees(*corners), raster())))


def test_a_mask_on_another_grid_is_laid_on_the_raster(caplog):
    coarse = np.zeros((1, 15, 20), np.uint8)
    coarse[0, 4:6, 3:9] = 9
    there = ArrayRaster(coarse, ["m"], crs=UTM, transform=Affine(20, 0, 4e5, 0, -20, 5e6), name="m.tif")
    assert np.array_equal(whole(open_mask(there, raster())), coarse[0].repeat(2, 0).repeat(2, 1) != 0)
    assert "m.tif lies on another grid than" in caplog.text


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.integers(0, 20), st.integers(1, 10))
def test_growing_is_a_dilation_with_a_square(by, top, height):
    marks = np.random.default_rng(by).random((30, 40)) < 0.02
    marks[0, 0] = True
    grown = Grown(open_mask(marks, raster()), by)
    truth = ndimage.binary_dilation(marks, np.ones((2 * by + 1, 2 * by + 1))) if by else marks
    values, _ = grown.read(range(top, top + height), range(40))
    assert np.array_equal(values[0] != 0, truth[top : top + height])


def test_masked_pixels_are_not_valid():
    image, marks = raster(), np.zeros((30, 40), bool)
    marks[:, :7] = True
    hidden = Masked(image, open_mask(marks, image))
    values, valid = hidden.read(range(-2, 30), range(40))
    assert np.array_equal(valid[:, 2:], (image.values != 0) & ~marks)
    assert not valid[:, :2].any()
    assert np.array_equal(values[:, 2:], image.values)
    assert pickle.loads(pickle.dumps(hidden)).take([1]).bands == ("b",)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((30, 40)), "marks no pixel"),
        (np.ones((30, 41)), "41x30 pixels"),
        (np.ones((1, 30, 40)), r"\(rows, columns\)"),
        ({"type": "Point", "coordinates": [0, 0]}, "no polygon"),
        ({"type": "Polygon", "coordinates": [[[0, "x"]]]}, "cannot be read"),
        (degrees((100, 100), (120, 100), (120, 120)), "marks no pixel"),
        (degrees((1, 1), (5, 1), (5, 5)) | {"crs": {"properties": {"name": "EPSG:1"}}}, "a CRS that cannot"),
        ("nothing.tif", "no file"),
        ("nothing.geojson", "cannot be read as GeoJSON"),
    ],
)
def test_what_is_no_mask_is_refused(source, words):
    with pytest.raises(RasterError, match=words):
        open_mask(source, raster())


def test_polygons_need_a_crs(tmp_path):
    path = tmp_path / "hole.json"
    path.write_text(json.dumps(degrees((1, 1), (5, 1), (5, 5))))
    with pytest.raises(RasterError, match="has no CRS"):
        open_mask(path, raster(crs=None))
