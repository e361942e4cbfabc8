import sys
import types

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from diffusionsat import MissingExtraError, RasterError, open_frame
from diffusionsat.data.clouds import cloud_mask
from diffusionsat.geo.rasters import ArrayRaster

L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


def frame(bands, values):
    place = {"crs": CRS.from_epsg(32633), "transform": Affine(10, 0, 4e5, 0, -10, 5e6)}
    return open_frame(ArrayRaster(values, bands, nodata=0, **place))


def whole(mask):
    return mask.read(range(mask.height), range(mask.width))[0][0].astype(bool)


@pytest.mark.parametrize(
    ("band", "cloudy", "clear"),
    [
        ("SCL", (3, 8, 9, 10), (1, 2, 4, 5, 6, 7, 11)),
        # Landsat's own examples: 22280 high confidence cloud, 23888 cloud shadow, 21824 clear, 21952 water.
        ("QA_PIXEL", (22280, 23888, 54596), (21824, 21952)),
        ("CLM", (1,), ()),
    ],
)
def test_classes_and_flags(band, cloudy, clear):
    codes = np.array([*cloudy, *clear, 0], np.uint16)
    values = np.stack([np.full(len(codes), 900, np.uint16)] * 3 + [codes])[:, None]
    found = whole(cloud_mask(frame(["B04", "B03", "B02", band], values)))
    assert found.tolist() == [[code in cloudy for code in codes]]


def test_the_detector_sees_the_same_whatever_is_asked_for(monkeypatch):
    seen = []

    class Detector:
        def __init__(self, **_):
            pass

        def get_cloud_masks(self, light):
            seen.append(light.shape)
            return (light[..., 0] > 0.5).astype(np.int8)

    monkeypatch.setitem(sys.modules, "s2cloudless", types.SimpleNamespace(S2PixelCloudDetector=Detector))
    values = np.random.default_rng(0).integers(1, 9999, (13, 20, 24)).astype(np.uint16)
    mask = cloud_mask(frame(L1C, values))
    truth = values[0] > 5000
    assert np.array_equal(whole(mask), truth)
    assert np.array_equal(mask.read(range(3, 9), range(5, 7))[0][0] != 0, truth[3:9, 5:7])
    assert all(shape[-1] == 10 for shape in seen)


def test_without_the_detector_or_its_bands(monkeypatch):
    monkeypatch.setitem(sys.modules, "s2cloudless", None)
    values = np.ones((13, 4, 4), np.uint16)
    with pytest.raises(MissingExtraError, match=r"diffusionsat\[clouds\]"):
        cloud_mask(frame(L1C, values))
    with pytest.raises(RasterError, match="Nothing tells where"):
        cloud_mask(frame(L1C[1:4], values[1:4]))
