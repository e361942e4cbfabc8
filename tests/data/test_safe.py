import shutil
import zipfile

import numpy as np
import pytest
import rasterio
from affine import Affine

from diffusionsat import RasterError
from diffusionsat.data.frames import open_frame
from diffusionsat.data.safe import read_safe

NAME = "S2B_MSIL2A_20230714T103629_N0509_R008_T32TLR_20230714T134500.SAFE"
TILE = "GRANULE/L2A_T32TLR_A033178_20230714T103630"
STEM = "T32TLR_20230714T103629"
METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>2023-07-14T10:36:29.024Z</PRODUCT_START_TIME>
      <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
    </Product_Info>
    <Product_Image_Characteristics>
      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">{steps}</BOA_QUANTIFICATION_VALUE>
        <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>{offsets}
    </Product_Image_Characteristics>
  </n1:General_Info>
  <n1:Quality_Indicators_Info>
    <Cloud_Coverage_Assessment>12.5</Cloud_Coverage_Assessment>
  </n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
"""
OFFSETS = (
    "<BOA_ADD_OFFSET_VALUES_LIST>"
    + '<BOA_ADD_OFFSET band_id="{}">-1000</BOA_ADD_OFFSET>' * 2
    + "</BOA_ADD_OFFSET_VALUES_LIST>"
)
BANDS = {10: ("B02", "B03", "B04", "B08"), 20: ("B02", "B05", "B8A", "B12", "SCL"), 60: ("B01", "B05", "B09")}


def image(path, metres, seed, empty=0):
    side = 1200 // metres
    values = np.random.Generator(np.random.Philox(seed)).integers(1, 9000, (1, side, side)).astype(np.uint16)
    values = values % 12 if "SCL" in path.name else values
    values[0, :empty] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG",
        count=1,
        height=side,
        width=side,
        dtype="uint8" if "SCL" in path.name else "uint16",
        crs="EPSG:32632",
        transform=Affine(metres, 0, 399_960, 0, -metres, 5_200_020),
        QUALITY=100,
        REVERSIBLE=True,
    ) as file:
        file.write(values)
    return values[0]


def product(folder, *, name=NAME, metadata=True, baseline="05.09", steps=10000, offsets=OFFSETS):
    """A small product of level 2A, and its images by band and metres."""
    root = folder / name
    made = {}
    for metres, bands in BANDS.items():
        for seed, band in enumerate(bands):
            path = root / TILE / "IMG_DATA" / f"R{metres}m" / f"{STEM}_{band}_{metres}m.jp2"
            made[band, metres] = image(path, metres, seed + metres)
    image(root / TILE / "QI_DATA" / "MSK_CLDPRB_20m.jp2", 20, 0)
    image(root / TILE / "IMG_DATA" / "R10m" / f"{STEM}_TCI_10m.jp2", 10, 1)
    (root / TILE / "MTD_TL.xml").write_text("<nothing/>")
    if metadata:
        text = METADATA.format(baseline=baseline, steps=steps, offsets=offsets)
        (root / "MTD_MSIL2A.xml").write_text(text)
    return root, made


def zipped(root):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
    return path


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_every_band_comes_from_its_finest_grid(tmp_path, form):
    root, made = product(tmp_path)
    frame = open_frame(root if form == "folder" else zipped(root))
    raster = frame.raster
    assert raster.bands == ("B01", "B02", "B03", "B04", "B05", "B08", "B8A", "B09", "B12", "SCL")
    assert frame.coarseness == (6, 1, 1, 1, 2, 1, 2, 6, 2, 2)
    assert (raster.width, raster.height, raster.dtype) == (120, 120, np.uint16)
    assert raster.transform == Affine(10, 0, 399_960, 0, -10, 5_200_020)
    values, valid = raster.read(range(120), range(120))
    for band, own, step in zip(raster.bands, values, frame.coarseness, strict=True):
        assert np.array_equal(own[::step, ::step], made[band, 10 * step])
        assert np.array_equal(own, np.kron(own[::step, ::step], np.ones((step, step))))
    assert valid[:-1].all()
    assert frame.common[:5] == ("coastal", "blue", "green", "red", "rededge071")
    metadata = frame.metadata
    assert (metadata.date, metadata.cloud_cover) == ("2023-07-14", 12.5)
    assert metadata.gsd == pytest.approx(10, rel=1e-3)
    assert (metadata.lon, metadata.lat) == pytest.approx((7.69, 46.94), abs=0.01)
    assert frame.sensor == "sentinel-2"
    assert (
        open_frame(root, date="2020", gsd=9).metadata.to_dict().items() >= {"date": "2020", "gsd": 9}.items()
    )


@pytest.mark.parametrize(
    ("more", "gain", "offset"),
    [
        ({}, 1e-4, -0.1),
        ({"offsets": "", "baseline": "03.01"}, 1e-4, 0),
        ({"offsets": "", "baseline": "05.10"}, 1e-4, -0.1),
        ({"steps": 20000}, 5e-5, -0.05),
        ({"metadata": False}, 1e-4, -0.1),
        ({"metadata": False, "name": NAME.replace("N0509", "N0301")}, 1e-4, 0),
        ({"metadata": False, "name": "renamed"}, 1e-4, -0.1),  # by the day in the images' names
    ],
)
def test_scaling_is_told_by_metadata_or_baseline(tmp_path, more, gain, offset):
    scaling = read_safe(product(tmp_path, **more)[0]).scaling
    assert (scaling.gain, scaling.offset, scaling.nodata) == (pytest.approx(gain), pytest.approx(offset), 0)


def test_zeros_are_not_valid_but_for_the_classes(tmp_path):
    root, _ = product(tmp_path)
    path = next(root.rglob("*_B02_10m.jp2"))
    path.unlink()
    image(path, 10, 0, empty=50)
    frame = open_frame(root)
    valid = frame.raster.read(range(120), range(120))[1]
    assert not valid[frame.raster.bands.index("B02"), :50].any()
    assert valid[frame.raster.bands.index("B02"), 50:].all()
    assert valid[frame.raster.bands.index("SCL")].all()


def test_what_is_no_product(tmp_path):
    root, _ = product(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RasterError, match="no image of a band"):
        open_frame(tmp_path / "empty")
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    with pytest.raises(RasterError, match=r"broken\.zip cannot be read"):
        open_frame(tmp_path / "broken.zip")
    (root / "MTD_MSIL2A.xml").write_text("<cut")
    with pytest.raises(RasterError, match=r"MTD_MSIL2A\.xml cannot be read"):
        open_frame(root)
    next(root.rglob("*_B05_20m.jp2")).write_bytes(b"no image")
    with pytest.raises(RasterError, match=r"B05_20m\.jp2 cannot be read as a raster"):
        open_frame(root)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_one_of_several_tiles_is_named(tmp_path, form):
    root, _ = product(tmp_path)
    other = root / "GRANULE/L2A_T32TLS_A033178_20230714T103630"
    shutil.copytree(root / TILE, other)
    for path in list(other.rglob("*.jp2")):
        path.rename(path.with_name(path.name.replace("T32TLR", "T32TLS")))
    image(next(other.rglob("*_B02_10m.jp2")), 10, seed=99)
    path = root if form == "folder" else zipped(root)
    with pytest.raises(RasterError, match=r"several tiles; its tiles are L2A_T32TLR.*, L2A_T32TLS.*--tile"):
        open_frame(path)
    with pytest.raises(RasterError, match="0 tiles 'T31TXX'"):
        open_frame(path, tile="T31TXX")
    whole = range(120), range(120)
    first, second = (open_frame(path, tile=tile) for tile in ("T32TLR", "t32tls"))
    assert first.raster.bands == second.raster.bands
    place = first.raster.bands.index("B02")
    one, two = (frame.raster.read(*whole)[0] for frame in (first, second))
    assert not np.array_equal(one[place], two[place])
    assert np.array_equal(np.delete(one, place, 0), np.delete(two, place, 0))
    assert second.metadata.cloud_cover == 12.5
