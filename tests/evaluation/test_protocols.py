"""The published tables as protocols: each is dry-run on a fake of its release, made by `prepare`."""

import importlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusionsat.cli import evaluate
from diffusionsat.data.adapters import ADAPTERS
from diffusionsat.data.preparing import Job, prepare
from diffusionsat.errors import ConfigError
from diffusionsat.evaluation import run
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.protocols import read_protocol, shipped
from diffusionsat.training import recipe

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("rasterio", reason="rasterio is not installed")
pytest.importorskip("matplotlib", reason="the extra [eval] is not installed")

SIZE = 32
MAKERS = {  # data set -> what makes a fake of its release, and the split that its good images are in
    "fmow-rgb": ("fmow", "make_rgb", "train"),
    "fmow-temporal": ("fmow", "make_rgb", "train"),
    "fmow-pairs": ("fmow", "make_pairs", "train"),
    "xbd": ("xbd", "make", "train"),
    "texas-housing": ("webdataset", None, None),
}


@pytest.fixture
def larger(monkeypatch):
    """Images of releases, eight times larger than the fakes' are elsewhere."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "data")
    from fakes import files

    drawn = files.pixels

    def pixels(seed, shape, *more):
        found = drawn(seed, shape, *more)
        return found.repeat(8, 0).repeat(8, 1)

    for name in ("files", "fmow", "xbd", "webdataset"):
        module = importlib.import_module(f"fakes.{name}")
        if hasattr(module, "pixels"):
            monkeypatch.setattr(module, "pixels", pixels)


def release(name, root):
    module, function, split = MAKERS[name]
    fakes = importlib.import_module(f"fakes.{module}")
    if name != "texas-housing":
        getattr(fakes, function)(root)
        if name == "fmow-rgb":  # two views of one place are asked for, two of another compared with
            fakes.view(root, "train", "zoo", 0, 7, fakes.about("zoo", 0, 7, "2018-07-09", "ESP"))
        return split
    for i in range(3):
        fakes.shard(root / f"train-{i:06d}.tar", [fakes.texas(f"texas_{i}")])
    return None


@pytest.mark.usefixtures("larger")
@pytest.mark.parametrize("name", shipped())
def test_a_protocol_is_asked_of_its_release(name, tmp_path, steered_folder):
    protocol = read_protocol(name)
    assert protocol.prepare in ADAPTERS
    (tmp_path / "raw").mkdir()
    split = release(protocol.prepare, tmp_path / "raw")
    job = Job(dataset=protocol.prepare, sources=(tmp_path / "raw",))
    with ThreadPoolExecutor(1) as executor:
        prepare(job, tmp_path / "made", executor, at_once=1)
    told = json.loads((tmp_path / "made/index.json").read_text())
    split = split or max(told["records"], key=lambda name: told["records"][name])
    options = protocol.options() | {"size": SIZE, "split": split, "n": 2}
    if protocol.task == "upscale":
        options["factor"] = 4
    request = EvaluateRequest(data=(str(tmp_path / "made"),), model="tiny", **options)
    asked = run.cases(request)
    assert len(asked) >= 2
    task = run.TASKS[protocol.task]
    if protocol.task == "generate":
        assert all(case.metadata.gsd for case in asked.cases)
        assert asked.pixels(range(1)).shape == (1, SIZE, SIZE, 3)
        return
    trials = [task.trial(request, asked, row) for row in range(len(asked))]
    made = {"pixels": np.stack([trial.truth for trial in trials])}
    scores = task.score(request, asked, range(len(asked)), made, [])
    assert all(np.isinf(scores["model/whole/psnr"]))
    copy = "copy_of_the_nearest_date/whole/psnr"
    if protocol.task == "predict" or protocol.references:
        assert not np.isnan(scores[copy]).any()
        for row, case in enumerate(asked.cases):
            for _, known in asked.frames(row):
                assert (known.date < case.metadata.date) == (protocol.direction == "earlier")
    if protocol.given:
        assert all(trial.shown.shape == (SIZE // 4, SIZE // 4, 3) for trial in trials)
        assert np.isfinite(scores["bicubic/whole/psnr"]).all()
        roles = {asked.record(row)[0].frames[asked.record(row)[1]].role for row in range(len(asked))}
        assert roles == {"rgb"}
    request = replace(request, model=str(steered_folder), steps=1, device="cpu", precision="fp32")
    told = run.evaluate(replace(request, features=("compact-classifier",)), tmp_path / "report")
    (line,) = [x for x in told["tables"]["pairs"] if (x["set"], x["part"]) == ("model", "whole")][:1]
    assert np.isfinite(line["psnr"]["value"] if isinstance(line["psnr"], dict) else line["psnr"])


def test_published_figures_stand_in_the_report_and_options_count_more(tmp_path, tiny, capsys):
    import io

    import pyarrow as pa
    from pyarrow import parquet

    rng, rows = np.random.default_rng(0), []
    for i in range(8):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 40, 3)).astype(np.uint8)).save(out, "PNG")
        row = {"key": f"{i}", "image": out.getvalue(), "width": 40, "height": 32, "lon": 1.0 * i, "lat": 0.0}
        rows.append(row | {"gsd": 1.0, "date": None, "cloud_cover": None, "label": None, "caption": None})
    pooling = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(pooling).save(str(tmp_path / "pooled.pt"))
    (tmp_path / "pooled.json").write_text("{}")
    (tmp_path / "set").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "set/val.parquet")
    words = ["table-1", "--data", tmp_path / "set", "--model", tiny, "--size", 32, "-n", 3, "--steps", 1]
    words += ["--split", "val", "--features", tmp_path / "pooled.pt", "--device", "cpu"]
    words += ["-o", tmp_path / "out"]
    assert evaluate.command.main([str(word) for word in words], standalone_mode=False) == 0
    told = json.loads((tmp_path / "out/report.json").read_text())
    said = told["protocol"]
    assert (said["n"], said["sampling"]["steps"], said["sampling"]["solver"]) == (3, 1, "euler")
    assert said["crop"].startswith("the whole image")
    (table,) = [rows for title, rows in told["tables"].items() if title.startswith("published: Khanna")]
    assert {"method": "DiffusionSat", "fid": 15.8, "inception_score": 6.69, "clip": 17.2} in table
    assert "| DiffusionSat |" in (tmp_path / "out/report.md").read_text()


def test_what_is_no_protocol(tmp_path):
    with pytest.raises(ConfigError, match=r"no protocol 'mine.toml'.*table-1"):
        read_protocol("mine.toml")
    (tmp_path / "p.toml").write_text(
        'title = "x"\nprepare = "xbd"\ntask = "predict"\nsize = 64\nfitt = "whole"\n'
    )
    with pytest.raises(ConfigError, match=r"p.toml:5.*Did you mean 'fit'"):
        read_protocol(str(tmp_path / "p.toml"))
    request = EvaluateRequest(task="predict", data=("x",), model="m")
    for change in ({"fit": "round"}, {"direction": "up"}):
        with pytest.raises(ConfigError, match="Give one of"):
            run.cases(replace(request, **change))
    assert not any(name.startswith("evaluation") for name in recipe.shipped())
