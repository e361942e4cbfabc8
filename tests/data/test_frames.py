import json
import logging
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from affine import Affine
from PIL import Image

from diffusionsat import Grid, Metadata, MetadataError, RasterError
from diffusionsat.data import sensors
from diffusionsat.data.frames import Frame, open_frame
from diffusionsat.data.sensors import LANDSAT_C2_L2, SENTINEL_2, Scaling
from diffusionsat.geo.images import save_png
from diffusionsat.geo.publishing import cloud_optimized
from diffusionsat.geo.rasters import ArrayRaster

SHARED = Path(__file__).parents[3] / "shared/data/rasters"
PLACE = Affine(10, 0, 500_000, 0, -10, 5_200_000)
RNG = np.random.Generator(np.random.Philox(0))


def write(
    path,
    *,
    count=3,
    dtype="uint16",
    descriptions=(),
    tags=None,
    high=5000,
    scale=None,
    values=None,
    **profile,
):
    """A GeoTIFF by rasterio alone."""
    if values is None:
        values = RNG.integers(1, high, (count, 20, 30)).astype(dtype)
    profile = {"crs": "EPSG:32632", "transform": PLACE, **profile}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(values),
        height=values.shape[1],
        width=values.shape[2],
        dtype=values.dtype,
        **profile,
    ) as file:
        file.write(values)
        file.update_tags(**(tags or {}))
        for i, text in enumerate(descriptions, 1):
            file.set_band_description(i, text)
        if scale:
            file.scales, file.offsets = [scale[0]] * len(values), [scale[1]] * len(values)
    return path


def item(path, asset=None, **properties):
    content = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "x",
        "geometry": {"type": "Point", "coordinates": [1, 2]},
        "properties": properties,
        "assets": asset or {},
    }
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (("B4", "B03", "b2"), ("red", "green", "blue")),
        (("B8A", "B11_20m", "B4, central wavelength 665 nm"), ("nir08", "swir16", "red")),
        (("665", "0.560", "band at 490 nm"), ("red", "green", "blue")),
        (("842 nm", "864.7 Nanometers", "2.19 um"), ("nir", "nir08", "swir22")),
        (("rededge1", "rededge2", "Coastal"), ("rededge071", "rededge075", "coastal")),
        (("B04", "SCL", "QA60"), ("red", "SCL", "QA60")),
    ],
)
def test_bands_are_known_by_number_name_or_wavelength(tmp_path, names, common):
    frame = open_frame(write(tmp_path / "a.tif", descriptions=names))
    assert frame.common == common
    assert frame.sensor == "sentinel-2"
    assert frame.scaling == SENTINEL_2
    own = {band.common: band.name for band in sensors.SENSORS["sentinel-2"]}
    assert frame.raster.bands == tuple(own.get(name, name) for name in common)


def test_numbers_that_are_no_wavelength_of_a_band():
    assert [sensors.band_of(name, None) for name in ("1", "2", "700000", "620 nm", "TCI_R", "B13", "")] == [
        None
    ] * 7
    assert sensors.sensor_of(("1", "2", "3")) is None
    assert sensors.sensor_of(("red", "nir")) is None
    assert sensors.sensor_of(("SR_B4", "SR_B6")) == "landsat-8"
    assert sensors.band_of("SR_B4", "landsat-5").common == "nir08"


def test_colours_as_they_are_shown_and_back():
    reflectance = np.linspace(0, sensors.DISPLAY_WHITE, 50)
    shown = sensors.shown(reflectance)
    assert shown[[0, -1]] == pytest.approx([0, 1])
    assert sensors.shown(np.array([0.1, -1, 9])) == pytest.approx([(0.1 / 0.3558) ** (2 / 3), 0, 1])
    assert sensors.unshown(shown) == pytest.approx(reflectance)


@pytest.mark.parametrize(
    ("dtype", "high", "descriptions", "more", "scaling"),
    [
        ("uint16", 5000, ("B4", "B3", "B2"), {}, SENTINEL_2),
        ("int16", 5000, ("B4", "B3", "B2"), {}, SENTINEL_2),
        ("uint8", 255, (), {}, None),
        ("uint8", 255, ("B4", "B3", "B2"), {}, None),
        ("float32", 2, ("B4", "B3", "B2"), {}, Scaling(gain=1.0)),
        ("float32", 5000, ("B4", "B3", "B2"), {}, Scaling()),
        ("uint16", 5000, ("red", "green", "blue"), {"nodata": 7}, Scaling(nodata=7)),
        ("uint16", 5000, ("red", "green", "blue"), {"scale": (2e-4, -0.2)}, Scaling(gain=2e-4, offset=-0.2)),
    ],
)
def test_what_numbers_mean(tmp_path, caplog, dtype, high, descriptions, more, scaling):
    with caplog.at_level(logging.INFO):
        frame = open_frame(
            write(tmp_path / "a.tif", dtype=dtype, high=high, descriptions=descriptions, **more)
        )
    assert frame.scaling == scaling
    assumed = scaling is not None and "scale" not in more
    assert bool(caplog.records) == assumed  # what is assumed is said
    given = open_frame(tmp_path / "a.tif", scaling=0.5)
    assert given.scaling == Scaling(gain=0.5)


@pytest.mark.parametrize(
    ("name", "descriptions", "sensor", "date", "scaling"),
    [
        (
            "T32TLR_20230714T103031_B04_10m.tif",
            (None,),
            "sentinel-2",
            "2023-07-14",
            sensors.sentinel2_scaling("N0509"),
        ),
        (
            "LC09_L2SP_195028_20230714_20230720_02_T1_SR_B4.tif",
            (None,),
            "landsat-9",
            "2023-07-14",
            LANDSAT_C2_L2,
        ),
        (
            "LC09_L2SP_195028_20230714_20230720_02_T1.tif",
            ("SR_B4", "SR_B3", "SR_B2"),
            "landsat-9",
            "2023-07-14",
            LANDSAT_C2_L2,
        ),
        ("LC08_L1TP_195028_20190714_20200827_02_T1_B4.tif", (None,), "landsat-8", "2019-07-14", Scaling()),
        ("LC81950282016060LGN00.tif", ("B4", "B3", "B2"), "landsat-8", "2016-02-29", Scaling()),
        (
            "m_3709957_se_14_060_20190904.tif",
            ("red", "green", "blue", "nir"),
            "naip",
            "2019-09-04",
            Scaling(),
        ),
    ],
)
def test_names_of_files(tmp_path, name, descriptions, sensor, date, scaling):
    path = write(tmp_path / name, count=len(descriptions), descriptions=[d for d in descriptions if d])
    frame = open_frame(path)
    assert (frame.sensor, frame.metadata.date, frame.scaling) == (sensor, date, scaling)
    assert frame.common[0] == "red"


def test_what_is_known_better_goes_before(tmp_path, caplog):
    path = write(
        tmp_path / "S2A_32TLR_20200101_0_L2A.tif",
        descriptions=("B4", "B3", "B2"),
        tags={"TIFFTAG_DATETIME": "2010:01:01 00:00:00"},
    )

    def date():
        return open_frame(path).metadata.date

    plain = write(
        tmp_path / "plain.tif",
        tags={"TIFFTAG_DATETIME": "2010:01:01 00:00:00"},
        descriptions=("B4", "B3", "B2"),
    )
    assert open_frame(plain).metadata.date == "2010-01-01"
    assert "plain.tif: the date 2010-01-01 is its time stamp" in caplog.text
    caplog.clear()
    assert open_frame(plain, date="2011").metadata.date == "2011"
    assert date() == "2020-01-01"
    assert "time stamp" not in caplog.text
    with rasterio.open(path, "r+") as file:
        file.update_tags(ACQUISITIONDATETIME="2018-05-06T10:00:00Z")
    assert date() == "2018-05-06"
    with rasterio.open(path, "r+") as file:
        file.update_tags(ACQUISITIONDATETIME="2018-05")
        file.update_tags(ns="IMAGERY", CLOUDCOVER="35")
    assert (date(), open_frame(path).metadata.cloud_cover) == ("2018-05", 35)
    with rasterio.open(path, "r+") as file:
        file.update_tags(METADATA=Metadata(date="2017-03", cloud_cover=5).to_json())
    assert (date(), open_frame(path).metadata.cloud_cover) == ("2017-03", 5)
    item(path.with_suffix(".json"), datetime="2016-02-03T10:00:00Z", gsd=77, **{"eo:cloud_cover": 33})
    frame = open_frame(path)
    assert (frame.metadata.date, frame.metadata.cloud_cover) == ("2016-02-03", 33)
    with rasterio.open(path, "r+") as file:
        file.update_tags(SYNTHETIC="YES")
    assert (date(), open_frame(path).metadata.cloud_cover) == ("2017-03", 5)  # the item is of another image
    centre = rasterio.warp.transform("EPSG:32632", "EPSG:4326", [500_150], [5_199_900])  # not of the item
    assert (frame.metadata.lon, frame.metadata.lat) == pytest.approx((centre[0][0], centre[1][0]))
    assert frame.metadata.gsd == pytest.approx(10, rel=1e-3)
    better = open_frame(path, date="2015", lon=3, lat=None, gsd=5, cloud_cover=0).metadata
    assert (better.date, better.lon, better.gsd, better.cloud_cover) == ("2015", 3, 5, 0)
    assert better.lat == frame.metadata.lat
    again = open_frame(frame, cloud_cover=1)
    assert again.metadata == frame.metadata.replace(cloud_cover=1)
    with pytest.raises(MetadataError, match="cloud_cover is 300"):
        open_frame(path, cloud_cover=300)


def test_items_beside_an_image(tmp_path):
    path = write(tmp_path / "a.tif", crs=None)
    bands = [{"name": f"B{i}", "common_name": name} for i, name in enumerate(("nir", "red", "green"))]
    asset = {
        "href": "./a.tif",
        "eo:bands": bands,
        "raster:bands": [{"scale": 1e-4, "offset": -0.1, "nodata": 0}] * 3,
    }
    item(
        tmp_path / "z.json",
        {"other": {"href": "b.tif"}, "image": asset},
        datetime="2022-05-01T00:00:00Z",
        gsd=30,
    )
    item(tmp_path / "0.json", {"other": {"href": "b.tif"}}, datetime="1999-01-01T00:00:00Z")
    (tmp_path / "1.json").write_text("[1, 2")
    frame = open_frame(path)
    assert frame.common == ("nir", "red", "green")
    assert frame.scaling == Scaling(gain=1e-4, offset=-0.1, nodata=0)
    assert frame.metadata == Metadata(lon=1, lat=2, gsd=30, date="2022-05-01")
    item(tmp_path / "item.json", datetime="2021-01-01T00:00:00Z", **{"eo:cloud_cover": 4})
    assert open_frame(path, bands=("red", "green", "blue")).metadata.date == "2021-01-01"


def test_element_84_has_taken_the_offset_away(tmp_path):
    path = write(tmp_path / "a.tif", count=1)
    asset = {
        "href": "a.tif",
        "bands": [{"eo:common_name": "red", "raster:scale": 1e-4, "raster:offset": -0.1}],
    }
    for applied, offset in ((True, 0), (False, -0.1)):
        item(tmp_path / "a.json", {"red": asset}, **{"earthsearch:boa_offset_applied": applied})
        frame = open_frame(path)
        assert frame.common == ("red",)
        assert frame.scaling == Scaling(gain=1e-4, offset=offset)


def test_bands_may_be_named_or_chosen(tmp_path):
    path = write(tmp_path / "a.tif", count=4, descriptions=("B2", "B3", "B4", "B8"))
    values = open_frame(path).raster.read(range(20), range(30))[0]
    chosen = open_frame(path, bands=("B4", "B2"))
    assert chosen.raster.bands == ("B04", "B02")
    assert np.array_equal(chosen.raster.read(range(20), range(30))[0], values[[2, 0]])
    assert open_frame(path, bands=("665", "560", "490", "nir")).common == ("red", "green", "blue", "nir")
    with pytest.raises(RasterError, match=r"has 4 band\(s\): B2, B3, B4, B8. bands= names 1: B9"):
        open_frame(path, bands=("B9",))
    chosen = open_frame(path, bands=("red", "490 nm"))
    assert chosen.raster.bands == ("B04", "B02")
    assert np.array_equal(chosen.raster.read(range(20), range(30))[0], values[[2, 0]])


def test_scales_that_differ_are_no_reflectance_unless_told(tmp_path):
    path = write(tmp_path / "a.tif", count=4, descriptions=("B2", "B3", "B4", "SCL"))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-4, 1e-4, 1e-4, 1), (-0.1, -0.1, -0.1, 0)
    assert open_frame(path).scaling == Scaling(gain=1e-4, offset=-0.1)
    with rasterio.open(path, "r+") as file:
        file.offsets = (-0.1, -0.1, 0, 0)
    with pytest.raises(
        RasterError, match=r"different scales.*0.0001 and -0.1, 0.0001 and 0.0. Give scaling="
    ):
        open_frame(path)
    assert open_frame(path, bands=("B2", "B3")).scaling == Scaling(gain=1e-4, offset=-0.1)
    assert open_frame(path, scaling=1e-4).scaling == Scaling(gain=1e-4)
    with pytest.raises(RasterError, match=r"has the bands band1, band2, none of which is known.*B01, B02"):
        open_frame(write(tmp_path / "b.tif", count=2))
    with pytest.raises(RasterError, match="sensor is 'spot'"):
        open_frame(path, sensor="spot")


def test_reflectance_zero_is_not_valid_though_other_bands_may_be_zero(tmp_path):
    values = np.ones((2, 4, 5), np.uint16)
    values[:, 1, 1] = 0
    frame = open_frame(write(tmp_path / "a.tif", values=values, descriptions=("B4", "QA60")))
    valid = frame.raster.read(range(4), range(5))[1]
    assert valid[1].all()
    assert valid[0].sum() == 19
    assert not valid[0, 1, 1]
    assert frame.raster.nodata is None  # what is written keeps the input's


def test_pictures_with_and_without_a_place(tmp_path):
    pixels = RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    frame = open_frame(tmp_path / "a.jpg")
    assert (frame.common, frame.scaling, frame.sensor) == (("red", "green", "blue"), None, None)
    assert frame.metadata == Metadata()
    grid = Grid.around(7.4, 46.9, 10, 30, 20)
    tags = {"SYNTHETIC": "YES", "METADATA": Metadata(lon=7.4, lat=46.9, gsd=10, date="2020").to_json()}
    save_png(tmp_path / "b.png", pixels, grid, tags, overwrite=False)
    frame = open_frame(tmp_path / "b.png")
    assert frame.raster.grid.crs == grid.crs
    assert frame.metadata.date == "2020"
    assert (frame.metadata.lon, frame.metadata.lat, frame.metadata.gsd) == pytest.approx(
        (7.4, 46.9, 10), rel=1e-3
    )
    Image.fromarray(pixels[..., 0]).convert("P").save(tmp_path / "c.png")
    with pytest.raises(RasterError, match="palette"):
        open_frame(tmp_path / "c.png")


def test_arrays_datasets_and_rasters(tmp_path):
    pixels = RNG.integers(0, 255, (4, 5, 3)).astype(np.uint8)
    assert np.array_equal(open_frame(pixels).raster.read(range(4), range(5))[0], np.moveaxis(pixels, 2, 0))
    counts = RNG.random((2, 4, 5)).astype(np.float32)
    frame = open_frame(counts, bands=("B04", "B08"), lon=7, lat=46, gsd=10, date="2020-07-01")
    assert frame.scaling == Scaling(gain=1.0)
    assert frame.metadata == Metadata(lon=7, lat=46, gsd=10, date="2020-07-01")
    with pytest.raises(RasterError, match="has no band names"):
        open_frame(counts)
    with rasterio.open(
        write(tmp_path / "S2A_32TLR_20200101_0_L2A.tif", descriptions=("B4", "B3", "B2"))
    ) as file:
        assert open_frame(file).metadata.date == "2020-01-01"
    assert open_frame(ArrayRaster(counts, ("red", "nir"))).common == ("red", "nir")


def test_a_masked_array_keeps_its_mask(tmp_path):
    path = write(tmp_path / "a.tif", count=3, nodata=7, descriptions=("B04", "B03", "B02"))
    with rasterio.open(path, "r+") as file:
        values = file.read()
        values[:, 3:6, 2:9] = 7
        file.write(values)
    with rasterio.open(path) as file:
        given = file.read(masked=True)
    rows, columns = range(20), range(30)
    frame = open_frame(given, bands=("B04", "B03", "B02"))
    assert np.array_equal(frame.raster.read(rows, columns)[1], open_frame(path).raster.read(rows, columns)[1])
    picture = np.ma.MaskedArray(np.full((4, 5, 3), 9, np.uint8), mask=np.eye(4, 5)[..., None] * np.ones(3))
    assert np.array_equal(open_frame(picture).raster.read(range(4), range(5))[1][0], np.eye(4, 5) == 0)
    loose = np.ma.MaskedArray(np.array([[[1.0, np.nan, 3.0]]], np.float32), mask=[[[True, False, False]]])
    assert open_frame(loose, bands=["B04"]).raster.valid.tolist() == [[[False, False, True]]]


def test_a_place_beyond_180_degrees_is_one_of_the_other_side(tmp_path):
    far = {"crs": "EPSG:4326", "transform": Affine(1e-3, 0, 190.0, 0, -1e-3, 5.0)}
    known = open_frame(write(tmp_path / "a.tif", descriptions=("B04", "B03", "B02"), **far)).metadata
    assert (known.lon, known.lat) == (pytest.approx(-169.985), pytest.approx(4.99))


def test_tags_make_numbers_read_in_the_same_way(tmp_path):
    raster = ArrayRaster(RNG.integers(1, 99, (1, 9, 9)).astype(np.uint16), ("B04",))
    for scaling in (Scaling(gain=1e-4, offset=-0.1), LANDSAT_C2_L2, Scaling(), None):
        frame = Frame(raster=raster, sensor="sentinel-2", scaling=scaling)
        (tmp_path / "o.tif").write_bytes(cloud_optimized(raster, frame.tags()))
        read = open_frame(tmp_path / "o.tif")
        told = read.scaling and (read.scaling.gain, read.scaling.offset)
        assert told == (scaling and (scaling.gain, scaling.offset))
        assert read.sensor == "sentinel-2"
    for foreign in ("no json", "[1]", '{"scaling": {"x": 1}}', '{"sensor": "spot"}'):
        (tmp_path / "o.tif").write_bytes(
            cloud_optimized(raster, {"RADIOMETRY": foreign, "METADATA": foreign})
        )
        assert open_frame(tmp_path / "o.tif").scaling == SENTINEL_2


@pytest.mark.skipif(not SHARED.is_dir(), reason="the rasters of shared/data are not here")
def test_real_rasters():
    def frame(name, **more):
        return open_frame(SHARED / name, **more)

    romania = frame("s2_l2a_utm34n_31bands.tif")
    assert romania.scaling == SENTINEL_2
    assert romania.common[:5] == ("coastal", "blue", "green", "red", "rededge071")
    values, valid = romania.raster.read(range(158), range(141))
    assert 0.5 < valid[3].mean() < 1  # zero corners
    assert np.array_equal(valid[3], values[3] != 0)
    czechia = frame("s2_12bands_webmercator.tif")
    assert czechia.raster.bands == sensors.SENTINEL_2_L2A
    assert czechia.metadata.gsd == pytest.approx(10 * np.cos(np.radians(49.784)), rel=2e-3)
    california = frame("s2_kenneth_fire_20250109_float64.tif")
    assert (california.common, california.scaling) == (("red", "green", "blue"), None)
    assert frame("s2_kenneth_fire_20250109_float64.tif", bands=("B8", "B12")).common == ("nir", "swir22")
    bahamas = frame("landsat7_rgb_utm18n_nodata0.tif")
    assert 0.5 < bahamas.raster.read(range(718), range(791))[1].mean() < 0.8
    with pytest.raises(RasterError, match="none of which is known"):
        frame("landsat5_b4_utm22n_nodata255.tif")
    band4 = frame("landsat5_b4_utm22n_nodata255.tif", bands=("SR_B4",), sensor="landsat-5", date="1988-08-14")
    assert band4.common == ("nir08",)
