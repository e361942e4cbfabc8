"""`diffusionsat evaluate`, `compare` and `audit` as a user runs them."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from diffusionsat.cli import audit, compare, evaluate
from diffusionsat.errors import ConfigError, DatasetError, DiffusionSatError, RasterError

pytest.importorskip("matplotlib", reason="the extra [eval] is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
from pyarrow import parquet  # noqa: E402


def run(command, *words):
    return command.main([str(word) for word in words], standalone_mode=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of twelve images, and a feature network."""
    import torch

    folder, rng, rows = tmp_path_factory.mktemp("data"), np.random.default_rng(0), []
    for i in range(12):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(out, "PNG")
        row = {"key": f"{i}", "image": out.getvalue(), "width": 64, "height": 64, "lon": 7.0 + i, "lat": 47.0}
        rows.append(
            row | {"gsd": 10.0, "cloud_cover": None, "date": None, "label": None, "caption": "a river"}
        )
    (folder / "set").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), folder / "set/test.parquet")
    pooling = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(pooling).save(str(folder / "pooled.pt"))
    (folder / "pooled.json").write_text("{}")
    return folder


def test_two_models_are_measured_and_compared(folder, tiny, tmp_path, capsys):
    from diffusionsat.testing import tiny_checkpoint

    other = tiny_checkpoint(tmp_path / "other", seed=1)
    common = ("generate", "--data", folder / "set", "-n", 6, "--steps", 1, "--features", folder / "pooled.pt")
    for model, name in ((tiny, "a"), (other, "b")):
        assert run(evaluate.command, *common, "--model", model, "-o", tmp_path / name) == 0
    a, b = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert a["protocol"] == b["protocol"]
    assert "tiny@1" in (tmp_path / "b/report.md").read_text()
    assert run(compare.command, tmp_path / "a", tmp_path / "b") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any(line["figure"] == "frechet_distance" and line["a"] != line["b"] for line in lines)
    assert run(compare.command, tmp_path / "a", tmp_path / "b", "--markdown") == 0
    assert "| pooled generated | frechet_distance | ↓ |" in capsys.readouterr().out
    assert run(evaluate.command, *common, "--model", tiny, "--seed", 1, "-o", tmp_path / "c") == 0
    with pytest.raises(ConfigError, match="protocols differ"):
        run(compare.command, tmp_path / "a", tmp_path / "c")
    assert run(compare.command, tmp_path / "a", tmp_path / "c", "--anyway") == 0
    with pytest.raises(DatasetError, match="no report"):
        run(compare.command, tmp_path / "a", tmp_path)


def test_images_from_elsewhere_answer_cases(folder, tiny, tmp_path, capsys):
    common = ("generate", "--data", folder / "set", "--size", 64, "--features", folder / "pooled.pt")
    assert (
        run(evaluate.command, *common, "-n", 6, "--model", tiny, "--cases", "-o", tmp_path / "w.geojsonl")
        == 0
    )
    wanted = [json.loads(line) for line in (tmp_path / "w.geojsonl").read_text().splitlines()]
    assert [feature["properties"]["id"] for feature in wanted] == [f"{i:06d}" for i in range(6)]
    assert all(feature["properties"]["prompt"] == "a river" for feature in wanted)
    (tmp_path / "made").mkdir()
    for feature in wanted:
        level = int(feature["geometry"]["coordinates"][0])
        Image.new("RGB", (64, 64), (level, 9, 9)).save(tmp_path / f"made/{feature['properties']['id']}.png")
    assert run(evaluate.command, *common, "--images", tmp_path / "made", "-o", tmp_path / "out") == 0
    told = json.loads((tmp_path / "out/report.json").read_text())
    assert told["matched"]
    scores = parquet.read_table(tmp_path / "out/scores.parquet").to_pydict()
    assert scores["lon"] == [feature["geometry"]["coordinates"][0] for feature in wanted]
    with pytest.raises(ConfigError, match="exclude each other"):
        run(evaluate.command, *common, "--images", tmp_path / "made", "--model", tiny, "-o", tmp_path / "x")


def test_what_is_given_to_others_to_sharpen(folder, tmp_path, capsys):
    common = ("upscale", "--data", folder / "set", "--features", folder / "pooled.pt", "-n", 3)
    assert run(evaluate.command, *common, "--cases", "-o", tmp_path / "asked") == 0
    (tmp_path / "made").mkdir()
    for i in range(3):
        image = Image.open(tmp_path / f"asked/{i:06d}/given-0.png")
        assert image.size == (16, 16)
        assert json.loads((tmp_path / f"asked/{i:06d}/given-0.json").read_text())["gsd"] == 40
        image.resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / f"made/{i:06d}.png")
    assert run(evaluate.command, *common, "--images", tmp_path / "made", "-o", tmp_path / "out") == 0
    pairs = json.loads((tmp_path / "out/report.json").read_text())["tables"]["pairs"]
    scores = {row["set"]: row["psnr"] for row in pairs}
    assert scores["model"] == scores["bicubic"] != scores["mean colour"]


def answers(folder, names, mode="RGB", size=(64, 64)):
    folder.mkdir()
    for i, name in enumerate(names):
        Image.new(mode, size, {"RGB": (i, 9, 9), "RGBA": (i, 9, 9, 90)}.get(mode, 9 * i)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("names", "mode", "message"),
    [
        ([f"{i:06d}.tif" for i in range(6)], "I;16", r"mode I;16, not 8 bits a colour"),
        ([f"{i:06d}.tif" for i in range(6)], "F", r"mode F, not 8 bits a colour"),
        ([f"{i:06d}.png" for i in range(6)], "RGBA", r"parts of it are transparent"),
        (["000000.png", "000001.png", "000003.png"], "RGB", r"named by numbers, but no 000002"),
    ],
)
def test_answers_that_would_be_judged_wrongly_are_refused(folder, tmp_path, names, mode, message):
    common = ("generate", "--data", folder / "set", "--size", 64, "--features", folder / "pooled.pt")
    images = answers(tmp_path / "made", names, mode)
    with pytest.raises(DatasetError, match=message):
        run(evaluate.command, *common, "--images", images, "-o", tmp_path / "out")
    assert not (tmp_path / "out/report.json").exists()


def test_images_that_answer_no_cases_are_told_to_be_a_set(folder, tmp_path, capsys):
    common = ("generate", "--data", folder / "set", "--size", 64, "--features", folder / "pooled.pt")
    images = answers(tmp_path / "made", ["a.png", "b.png", "c.png"])
    assert run(evaluate.command, *common, "--images", images, "-o", tmp_path / "out") == 0
    told = json.loads((tmp_path / "out/report.json").read_text())
    assert not told["matched"]
    assert any("judged as a set" in note for note in told["notes"])
    assert any("No training images of set were looked at" in note for note in told["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", 24), "size is 24"),
        (("--clip", "nowhere"), "nowhere holds no CLIP model"),
        (("--seed", -1), "seed is -1"),
        (("--vary", "sampling", "--most-steps", 1), "most_steps is 1. Give at least 5"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(folder, tiny, tmp_path, options, message):
    common = (
        "generate",
        "--data",
        folder / "set",
        "-n",
        2,
        "--features",
        folder / "pooled.pt",
        "--model",
        tiny,
    )
    with pytest.raises(DiffusionSatError, match=message):
        run(evaluate.command, *common, *options, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inputs_do_not_go_into_a_file(folder, tmp_path):
    (tmp_path / "asked").write_text("mine")
    with pytest.raises(RasterError, match=r"is a file\. Give a folder for the inputs of upscale"):
        run(evaluate.command, "upscale", "--data", folder / "set", "--cases", "-o", tmp_path / "asked")
    assert (tmp_path / "asked").read_text() == "mine"


def test_reports_of_any_name_and_damaged_ones(folder, tiny, tmp_path, capsys):
    common = ("generate", "--data", folder / "set", "-n", 2, "--steps", 1, "--features", folder / "pooled.pt")
    for name in ("table", "of"):
        assert run(evaluate.command, *common, "--model", tiny, "-o", tmp_path / name) == 0
    capsys.readouterr()
    assert run(compare.command, tmp_path / "table", tmp_path / "of") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["table"] for line in lines} >= {"quality", "colours"}
    assert all({"./table", "./of"} <= line.keys() for line in lines)
    (tmp_path / "of/scores.parquet").write_bytes(b"no parquet")
    with pytest.raises(DatasetError, match=r"scores\.parquet cannot be read"):
        run(compare.command, tmp_path / "table", tmp_path / "of")
    told = json.loads((tmp_path / "of/report.json").read_text())
    (tmp_path / "of/report.json").write_text(json.dumps({k: v for k, v in told.items() if k != "protocol"}))
    with pytest.raises(DatasetError, match="no report that can be read"):
        run(compare.command, tmp_path / "table", tmp_path / "of")


def test_an_audit(tiny, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    words = (tmp_path / "x.png", "--gsd", 10, "--fields", "gsd", "--noises", 2, "--sigma", 1, "--model", tiny)
    assert run(audit.command, *words) == 0
    (said,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (said["field"], said["claimed"], said["candidates"]) == ("gsd", "10 m", 14)
    assert run(audit.command, *words, "--all") == 0
    assert len(capsys.readouterr().out.splitlines()) == 15
