import numpy as np
import pytest

from diffusionsat import DatasetError
from diffusionsat.data import sensors
from diffusionsat.data.sensors import LANDSAT_C2_L2, SENTINEL_2, Scaling, identify, locate, sentinel2_scaling


def test_reflectance_of_sentinel_2_by_processing_baseline():
    stored = np.array([[[0, 1000, 2500]]], np.uint16)
    before, valid = sentinel2_scaling("N0301").reflectance(stored)
    after, _ = sentinel2_scaling("05.09").reflectance(stored)
    assert valid.tolist() == [[[False, True, True]]]
    assert before[0, 0].tolist() == pytest.approx([0, 0.1, 0.25])
    assert after[0, 0].tolist() == pytest.approx([0, 0, 0.15], abs=1e-7)
    assert before.dtype == after.dtype == np.float32
    assert sentinel2_scaling("04.00").offset == sentinel2_scaling(date="2022-01-25").offset == -0.1
    assert sentinel2_scaling("03.01", "2023-01-01").offset == sentinel2_scaling(date="2022-01-24").offset == 0
    assert sentinel2_scaling("05.09", harmonized=True) == SENTINEL_2


def test_reflectance_of_landsat_collection_2():
    # USGS: 7273 is 0, 43636 is 1 within a step of the scale.
    values, valid = LANDSAT_C2_L2.reflectance(np.array([[[0], [7273], [43636]]], np.uint16))
    assert values[0, :, 0].tolist() == pytest.approx([0, 0, 1], abs=3e-5)
    assert valid[0, :, 0].tolist() == [False, True, True]


def test_a_nan_pixel_does_not_spoil_its_patch():
    stored = np.full((4, 4, 2), 0.2, np.float32)
    stored[1, 2, 0], stored[3, 3, 1] = np.nan, np.inf
    values, valid = Scaling(gain=1.0).reflectance(stored)
    assert (~valid).sum() == 2
    assert values[valid] == pytest.approx(0.2)
    assert np.isfinite(values).all()
    mean, std = sensors.statistics(values, valid)
    assert mean == pytest.approx([0.2, 0.2])
    normal = sensors.normalise(values, valid, mean, std)
    assert np.abs(normal).max() < 1e-5
    shown = sensors.display(np.dstack([values, values[..., :1]]), np.dstack([valid, valid[..., :1]]))
    assert shown[1, 2].tolist() == [0, 174, 0]  # 255 * (0.2 / 0.3558) ** (1 / 1.5) = 173.7
    assert (shown == 174).sum() == 4 * 4 * 3 - 3


def test_normalised_bands_have_zero_mean_and_unit_deviation():
    rng = np.random.default_rng(0)
    values = rng.normal((0.1, 0.4), (0.02, 0.1), (64, 64, 2)).astype(np.float32)
    valid = rng.random(values.shape) < 0.7
    normal = sensors.normalise(np.where(valid, values, 1e6), valid, *sensors.statistics(values, valid))
    for band in range(2):
        known = normal[..., band][valid[..., band]]
        assert known.mean() == pytest.approx(0, abs=1e-5)
        assert known.std() == pytest.approx(1, abs=1e-5)
    assert (normal[~valid] == 0).all()
    empty = sensors.statistics(values, np.zeros_like(valid))
    assert [e.tolist() for e in empty] == [[0, 0], [1, 1]]


def test_display_agrees_with_the_formula_of_the_training_sets():
    reflectance = np.array([[[-0.1, 0.0, 0.1], [0.3558, 0.5, 0.05]]])
    shown = sensors.display(reflectance, np.ones(reflectance.shape, bool))
    assert shown.tolist() == [[[0, 0, 109], [255, 255, 69]]]  # 255 * (r / 0.3558) ** (1 / 1.5)


def test_counts_are_stretched_by_percentiles_of_valid_pixels():
    counts = np.arange(101, dtype=np.uint16).reshape(101, 1, 1) * 10
    valid = np.ones(counts.shape, bool)
    valid[50] = False
    shown = sensors.stretch(counts, valid)[:, 0, 0]
    assert shown[:2].tolist() == [0, 0]
    assert shown[-2:].tolist() == [255, 255]
    assert shown[50] == 0
    assert shown[25] == pytest.approx(255 * 23 / 96, abs=1)
    assert sensors.stretch(counts[:0], valid[:0]).shape == (0, 1, 1)


def test_bands_are_found_by_either_name():
    assert locate(("B2", "B3", "B4", "B8A"), ("red", "green", "blue", "B8A")) == [2, 1, 0, 3]
    assert locate(("red", "nir"), ("nir", "red")) == [1, 0]
    assert locate(("SR_B4", "SR_B5"), ("red",), "landsat-8") == [0]
    assert locate(("SR_B4", "SR_B3"), ("red",), "landsat-5") == [1]
    with pytest.raises(DatasetError, match="no band 'blue' among B04, B03"):
        locate(("B04", "B03"), ("blue",))


def test_sensors_have_their_bands():
    assert len(sensors.SENTINEL_2_L1C) == 13
    assert len(sensors.SENTINEL_2_L2A) == 12
    for bands in sensors.SENSORS.values():
        by_name = {band.common: band.wavelength_nm for band in bands}
        assert by_name["blue"] < by_name["green"] < by_name["red"]
        assert len({band.name for band in bands}) == len(bands)


@pytest.mark.parametrize(
    ("name", "sensor", "date", "offset", "band"),
    [
        (
            "S2A_MSIL1C_20160808T181452_N0204_R041_T12SVC_20160808T181447.SAFE",
            "sentinel-2",
            "2016-08-08",
            0,
            None,
        ),
        ("S2C_MSIL2A_20250301T103629_N0511_R008_T32TLR_x", "sentinel-2", "2025-03-01", -0.1, None),
        ("T32TLR_20190714T103031_B8A_20m", "sentinel-2", "2019-07-14", 0, "B8A"),
        ("T32TLR_20230714T103031_B04_10m", "sentinel-2", "2023-07-14", -0.1, "B04"),
        ("S2A_32TLR_20230714_0_L2A", "sentinel-2", "2023-07-14", 0, None),
        ("LC09_L2SP_195028_20230714_20230720_02_T1_SR_B4", "landsat-9", "2023-07-14", -0.2, "SR_B4"),
        ("LT05_L2SP_195028_19880814_20200827_02_T1", "landsat-5", "1988-08-14", -0.2, None),
        ("LC08_L1TP_195028_20190714_20200827_02_T1_B4", "landsat-8", "2019-07-14", None, "SR_B4"),
        ("LE07_L1GT_195028_20030101_20170101_01_T2", "landsat-7", "2003-01-01", None, None),
        ("LC81950282016060LGN00_B5", "landsat-8", "2016-02-29", None, "SR_B5"),
        ("LT51950281988001XXX03_B10", "landsat-5", "1988-01-01", None, "SR_B10"),
        ("m_2508008_nw_17_1_20151013", "naip", "2015-10-13", None, None),
        ("m_3709957_se_14_060_20190904", "naip", "2019-09-04", None, None),
        ("T32TLR_20190714T103031_TCI_10m", "sentinel-2", "2019-07-14", None, None),
    ],
)
def test_file_names_tell_sensor_date_and_scaling(name, sensor, date, offset, band):
    product = identify(name)
    assert (product.sensor, product.date, product.band) == (sensor, date, band)
    assert (product.scaling and product.scaling.offset) == offset


def test_other_file_names_tell_nothing():
    assert identify("IMG_20190714") is None
    assert identify("harbour") is None
