"""Features of rasters against those of their windows."""

import numpy as np
import pytest
import rasterio
from affine import Affine

from diffusionsat import Metadata, RasterError
from diffusionsat.tasks.feature_maps import map_features
from diffusionsat.tasks.features import Extractor, FeaturesRequest, features

REQUEST = FeaturesRequest(sigma=(0.25, 1.0), blocks=("up.3", "middle.1"))


def write(path, pixels, nodata=None):
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 3,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
    }
    place = {"crs": "EPSG:32632", "transform": Affine(10, 0, 400000, 0, -10, 5200000)}
    with rasterio.open(path, "w", **profile, **place, nodata=nodata) as file:
        file.write(np.moveaxis(pixels, 2, 0))
        file.colorinterp = [rasterio.enums.ColorInterp[name] for name in ("red", "green", "blue")]
    return path


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(1, 256, (300, 90, 3)).astype(np.uint8)


def test_a_small_raster_is_seen_as_an_image_is(sat, pixels, tmp_path):
    small = pixels[:61, :45]
    paths = map_features(sat, write(tmp_path / "in.tif", small), tmp_path / "out", REQUEST)
    wanted = features(sat, small, REQUEST)
    assert [p.stem for p in paths] == list(wanted.maps)
    for path in paths:
        stride = wanted.strides[path.stem]
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(file.read(), wanted.maps[path.stem])
            assert file.dtypes[0] == "float32"
            assert file.crs.to_epsg() == 32632
            assert file.transform == Affine(10 * stride, 0, 400000, 0, -10 * stride, 5200000)
            assert file.tags()["MODEL"] == "tiny@0"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in paths}


def test_a_large_raster_is_seen_in_windows(sat, pixels, tmp_path):
    (path, *_) = map_features(sat, write(tmp_path / "in.tif", pixels), tmp_path / "out", REQUEST)
    with rasterio.open(path) as file:
        found = file.read()
    assert path.stem == "up.3@0.25"
    assert found.shape[1:] == (75, 23)
    extractor = Extractor(sat, REQUEST)
    window = np.pad(pixels[64:300], [(0, 20), (0, 0), (0, 0)], mode="edge")  # of the rows from 128 to 255
    seen = extractor(window[None], [""], [Metadata()], [0], (64, 0))["up.3@0.25"][0]
    np.testing.assert_array_equal(found[:, 32:64], seen[:, 16:48])


def test_an_interrupted_map_goes_on(sat, pixels, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 2:
            raise Stop

    source = write(tmp_path / "in.tif", pixels)
    with pytest.raises(Stop):
        map_features(sat, source, tmp_path / "stopped", REQUEST, on_window=stop)
    assert not list((tmp_path / "stopped").glob("*.tif"))
    stopped = map_features(sat, source, tmp_path / "stopped", REQUEST)
    for a, b in zip(stopped, map_features(sat, source, tmp_path / "whole", REQUEST), strict=True):
        assert a.read_bytes() == b.read_bytes()
    with pytest.raises(RasterError, match="exists"):
        map_features(sat, source, tmp_path / "whole", REQUEST)
    assert not list((tmp_path / "whole").glob(".work*"))
    map_features(sat, source, tmp_path / "whole", REQUEST, overwrite=True)


def test_what_is_not_valid_and_what_is_known(sat, pixels, tmp_path):
    small = pixels[:64, :64].copy()
    small[:32] = 0
    source = write(tmp_path / "in.tif", small, nodata=0)
    (plain, *_) = map_features(sat, source, tmp_path / "plain", REQUEST)
    with rasterio.open(plain) as file:
        values = file.read()
        assert np.isnan(values[:, :8]).all()
        assert np.isfinite(values[:, 8:]).all()
    (known, *_) = map_features(sat, source, tmp_path / "known", REQUEST, known=True)
    with rasterio.open(known) as file:
        assert np.nanmax(np.abs(file.read() - values)) > 1e-3
    with rasterio.open(
        tmp_path / "grey.tif",
        "w",
        driver="GTiff",
        dtype="uint8",
        count=1,
        height=8,
        width=8,
        crs="EPSG:32632",
        transform=Affine(2, 0, 0, 0, -2, 0),
    ) as file:
        file.write(small[:8, :8, 0], 1)
        file.set_band_description(1, "nir")
    with pytest.raises(RasterError, match="has no red among its bands"):
        map_features(sat, tmp_path / "grey.tif", tmp_path / "out", REQUEST)
