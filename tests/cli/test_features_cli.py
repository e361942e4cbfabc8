"""`diffusionsat features` as a user runs it."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from diffusionsat.cli.features import command
from diffusionsat.errors import ConfigError, RasterError
from diffusionsat.tasks.features import FeaturesRequest, features


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)


def run(*words):
    return command.main([str(word) for word in words], standalone_mode=False)


def test_an_image(sat, tiny, image, tmp_path, capsys):
    Image.fromarray(image).save(tmp_path / "x.png")
    common = ("--model", tiny, "--precision", "fp32", "--device", "cpu")
    words = (tmp_path / "x.png", "--sigma", "0.1,0.5", "--blocks", "up.3", "--gsd", 10, *common)
    assert run(*words, "-o", tmp_path / "x.npz") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["maps"]["up.3@0.5"][0] == 16
    from diffusionsat import Metadata

    request = FeaturesRequest(sigma=(0.1, 0.5), blocks=("up.3",), metadata=Metadata(gsd=10.0))
    with np.load(tmp_path / "x.npz") as held:
        for name, values in features(sat, image, request).maps.items():
            np.testing.assert_array_equal(held[name], values)
    with pytest.raises(RasterError, match="exists"):
        run(*words, "-o", tmp_path / "x.npz")
    with pytest.raises(RasterError, match=r"it is \.npz, or a folder"):
        run(*words, "-o", tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="has no block 'nothing'"):
        run(tmp_path / "x.png", "--blocks", "nothing", *common, "-o", tmp_path / "y.npz")
    assert not (tmp_path / "y.npz").exists()


def test_a_data_set(tiny, image, tmp_path, capsys):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    row = {"key": "a", "image": out.getvalue(), "width": 32, "height": 32, "label": None, "caption": "x"}
    row |= {"lon": None, "lat": None, "gsd": 10.0, "cloud_cover": 0.0, "date": None}
    parquet.write_table(pa.Table.from_pylist([row, row | {"key": "b"}]), tmp_path / "test.parquet")
    assert run(tmp_path, "--model", tiny, "-o", tmp_path / "f.parquet") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    held = parquet.read_table(tmp_path / "f.parquet")
    assert held["key"].to_pylist() == ["a", "b"]
    vectors = np.array(held["middle.1@0.25"].to_pylist())
    assert vectors.shape == (2, 32)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4  # noise of their own
    assert held.schema.metadata[b"model"] == b"tiny@0"


def test_a_raster(sat, tiny, image, tmp_path, capsys):
    Image.fromarray(image).save(tmp_path / "x.png")
    common = ("--blocks", "up.3", "--model", tiny, "--precision", "fp32", "--device", "cpu")
    assert run(tmp_path / "x.png", "--sigma", "0.5", *common, "-o", tmp_path / "maps") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["path"] == str(tmp_path / "maps/up.3@0.5.tif")
    assert (tmp_path / "maps/up.3@0.5.tif").is_file()
