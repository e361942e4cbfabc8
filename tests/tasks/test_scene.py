import io
import json

import numpy as np
import pytest
import rasterio.errors
import rasterio.warp
from PIL import Image

from diffusionsat import Grid, Metadata, RasterError, Scene
from diffusionsat.geo.grids import ground_distance_m
from diffusionsat.geo.images import read_tags

PLACES = [
    (7.44, 46.95),
    (-58.4, -34.6),
    (179.9999, -17.0),
    (-180.0, 65.0),
    (30.0, 89.99),
    (-120.0, -89.99),
    (0.0, 90.0),
]
PROVENANCE = {
    "model": "tiny@0",
    "model_hash": "f" * 64,
    "prompt": "a <river> & Öl",
    "seed": 3,
    "steps": 4,
    "index": 0,
}
PROVENANCE |= {"created": "2026-01-02T03:04:05Z"}


def scene(lon=7.44, lat=46.95, gsd=10.0, size=(128, 96), **known):
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    metadata = Metadata(lon=lon, lat=lat, gsd=gsd, **known)
    grid = None if lon is None else Grid.around(lon, lat, gsd, width, height)
    return Scene(pixels=pixels, grid=grid, metadata=metadata, provenance=PROVENANCE)


@pytest.mark.parametrize("gsd", [0.5, 10.0, 7400.0])
@pytest.mark.parametrize("place", PLACES)
def test_geotiff_is_read_by_rasterio(tmp_path, place, gsd):
    made = scene(*place, gsd=gsd, date="2019-07")
    path = made.save(tmp_path / "x.tif")
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), np.moveaxis(made.pixels, 2, 0))
        assert [i.name for i in file.colorinterp] == ["red", "green", "blue"]
        assert file.overviews(1)
        column, row = file.width / 2, file.height / 2
        transform = rasterio.warp.transform(
            file.crs, "EPSG:4326", *([v] for v in file.transform @ (column, row))
        )
        assert ground_distance_m((transform[0][0], transform[1][0]), place) < gsd / 2
        assert file.res == (gsd, gsd)
        tags = file.tags()
    assert tags["SYNTHETIC"] == "YES"
    assert tags["PROMPT"] == PROVENANCE["prompt"]
    assert tags["SEED"] == "3"
    assert tags["MODEL_HASH"] == "f" * 64
    assert Metadata.from_json(tags["METADATA"]) == made.metadata
    assert not list(tmp_path.glob("*.aux.xml"))


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (256, 256), (272, 48), (1040, 528), (2048, 2048)])
def test_geotiff_is_cloud_optimized(tmp_path, size):
    validate = pytest.importorskip("rio_cogeo.cogeo", reason="rio-cogeo is not installed").cog_validate
    valid, errors, _ = validate(scene(size=size).save(tmp_path / "x.tif"))
    assert valid, errors


def test_png_with_world_file(tmp_path):
    made = scene()
    path = made.save(tmp_path / "x.png")
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), made.pixels)
        assert image.info["SYNTHETIC"] == "YES"
        assert image.info["PROMPT"] == PROVENANCE["prompt"]
        assert image.info["SEED"] == "3"
    with rasterio.open(path) as file:  # GDAL takes the transform from the world file
        assert file.transform.almost_equals(made.transform, 1e-6)
    made.save(path, overwrite=True)
    scene(lon=None, lat=None).save(path, overwrite=True)
    assert not (tmp_path / "x.pgw").exists()


def test_what_is_written_can_be_read_back(tmp_path):
    for name in ("x.tif", "x.png"):
        tags = read_tags(scene(date="2019").save(tmp_path / name))
        assert tags["synthetic"] is True
        assert tags["prompt"] == PROVENANCE["prompt"]
        assert tags["metadata"] == {"lon": 7.44, "lat": 46.95, "gsd": 10.0, "date": "2019"}
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.png")
    assert read_tags(tmp_path / "foreign.png") is None
    (tmp_path / "no.tif").write_bytes(b"II*\0")
    (tmp_path / "no.png").write_bytes(b"\x89PNG")
    for name in ("no.tif", "no.png"):
        with pytest.raises(RasterError, match="cannot be read"):
            read_tags(tmp_path / name)


def test_without_a_place_it_is_plain_pixels(tmp_path):
    made = scene(lon=None, lat=None)
    assert made.crs is None
    assert made.transform is None
    path = made.save(tmp_path / "x.tif")
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        file = rasterio.open(path)
    with file:
        assert file.crs is None
        assert file.tags()["SYNTHETIC"] == "YES"


@pytest.mark.parametrize("name", ["x.tif", "x.png"])
def test_existing_output_is_kept(tmp_path, name):
    path = scene().save(tmp_path / name)
    before = path.read_bytes()
    with pytest.raises(RasterError, match="exists"):
        scene(size=(32, 32)).save(path)
    assert path.read_bytes() == before
    scene(size=(32, 32)).save(path, overwrite=True)
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("name", "says"), [("x.jpg", "suffix '.jpg'"), ("no/x.tif", "does not exist"), ("", "is a folder|suffix")]
)
def test_output_that_cannot_be(tmp_path, name, says):
    with pytest.raises(RasterError, match=says):
        scene().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    from pathlib import Path

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RasterError, match="No space left on device"):
        scene().save(tmp_path / "x.tif")
    assert not list(tmp_path.iterdir())


def validated(item):
    pystac = pytest.importorskip("pystac", reason="pystac is not installed")
    pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    core = item | {"stac_extensions": []}  # the extensions' schemas are not on this disk
    pystac.Item.from_dict(json.loads(json.dumps(core))).validate()
    return item


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("gsd", [10.0, 7400.0])
def test_stac_item_is_valid(place, gsd):
    item = validated(scene(*place, gsd=gsd, date="2019-07-14", cloud_cover=5).to_stac(href="x.tif"))
    assert item["properties"]["synthetic"] is True
    assert item["properties"]["datetime"] == "2019-07-14T12:00:00Z"
    assert item["properties"]["eo:cloud_cover"] == 5
    assert item["properties"]["gsd"] == gsd
    _, south, _, north = item["bbox"]
    assert south <= place[1] <= north or place[1] == pytest.approx(north) or place[1] == pytest.approx(south)
    rings = item["geometry"]["coordinates"]
    rings = rings if item["geometry"]["type"] == "Polygon" else [ring for part in rings for ring in part]
    for ring in rings:
        assert ring[0] == ring[-1]
        assert all(-180 <= lon <= 180 and -90 <= lat <= 90 for lon, lat in ring)


def test_stac_across_the_antimeridian():
    item = scene(179.999, -17.0, gsd=10).to_stac()
    assert item["geometry"]["type"] == "MultiPolygon"
    west, _, east, _ = item["bbox"]
    assert 179.9 < west < 180
    assert -180 < east < -179.9


def test_stac_of_dates():
    def properties(**known):
        return validated(scene(**known).to_stac())["properties"]

    month = properties(date="2020-02")
    assert month["datetime"] is None
    assert (month["start_datetime"], month["end_datetime"]) == (
        "2020-02-01T00:00:00Z",
        "2020-02-29T23:59:59Z",
    )
    unknown = properties()
    assert unknown["datetime"] == PROVENANCE["created"]
    assert unknown["diffusionsat:date_known"] is False


def test_stac_without_a_place():
    item = validated(scene(lon=None, lat=None, date="2020-02-01").to_stac())
    assert item["geometry"] is None
    assert "bbox" not in item


def test_a_notebook_shows_the_picture():
    made = scene()
    with Image.open(io.BytesIO(made._repr_png_())) as image:
        assert image.size == (128, 96)
    html = made._repr_html_()
    assert "a &lt;river&gt; &amp; Öl" in html
    assert "synthetic" in html
    assert "pixels" not in repr(made)
