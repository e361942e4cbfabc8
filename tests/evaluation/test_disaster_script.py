"""Before and after a disaster: models that do it rightly, and that leave all as it was."""

import io
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diffusionsat import DiffusionSat

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
SCRIPT = Path(__file__).parents[2] / "scripts/measure_disaster.py"
FLOODED = np.array([-60, -20, 40])


def layout(number):
    """Four grey fields that tell one place from another."""
    greys = np.random.default_rng(number).integers(80, 180, (2, 2, 1))
    return np.broadcast_to(greys.repeat(32, 0).repeat(32, 1), (64, 64, 3))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("disaster") / "harvey_pairs"
    folder.mkdir()
    for split, numbers in (("train", range(40)), ("test", range(40, 52))):
        rows = []
        for number in numbers:
            frames = []
            for date, change in (("", 0), ("2017-08-31", FLOODED)):
                png = io.BytesIO()
                Image.fromarray((layout(number) + change).astype(np.uint8)).save(png, "png")
                frame = {"image": png.getvalue(), "format": "png", "bands": ["red", "green", "blue"]}
                frame |= {"date": date, "gsd": 0.5, "cloud_cover": None, "width": 64, "height": 64}
                frames.append(frame | {"scale": "display uint8"})
            rows.append({"key": str(number), "lon": -95.6, "lat": 29.8, "frames": frames})
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize(("does", "share"), [(True, 1.0), (False, 0.0)])
def test_what_is_made_is_told(pairs, steered_folder, tmp_path, monkeypatch, capsys, does, share):
    asked = []

    def predict(sat, frames, *, on, prompt, **options):
        asked.append((on, prompt, frames[0].metadata.date))
        change = FLOODED if "after" in prompt else -FLOODED
        values, _ = frames[0].raster.read(range(64), range(64))
        pixels = values.transpose(1, 2, 0) + does * change
        return SimpleNamespace(pixels=pixels.astype(np.uint8))

    monkeypatch.setattr(DiffusionSat, "predict", predict)
    words = ["--model", steered_folder, "--data", pairs, "--features", "compact-classifier"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words), "--sheet", str(tmp_path / "sheet.png")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["asked"] for line in lines] == ["after", "before"]
    assert [line["said_of_generated"] for line in lines] == [share, share]
    assert [line["said_of_real"] for line in lines] == [1, 1]
    for line in lines:
        assert line["similarity_to_own_ground"]["value"] > line["similarity_to_other_ground"]["value"]
    assert asked[0][1].endswith("after Hurricane Harvey, flooded or damaged")
    assert (asked[0][0], asked[0][2]) == ("2017-08-31", "2016")
    assert (asked[-1][0], asked[-1][2]) == ("2016", "2017-08-31")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 64, 6 * 64)
