"""Evaluations whose images answer to true ones: faults that are planted must be seen."""

import functools
import io
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusionsat import ConfigError
from diffusionsat.errors import CheckpointError, DatasetError
from diffusionsat.evaluation import contest, geography, paired, run, working
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.run import TASKS, evaluate
from diffusionsat.evaluation.trials import WHOLE
from diffusionsat.execution import executor
from diffusionsat.metrics import pairs

pytest.importorskip("matplotlib", reason="the extra [eval] is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
from pyarrow import parquet  # noqa: E402

SIDE, PLACES, DATES = 32, 8, ("2020-01", "2020-04", "2020-07")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight places at three dates, of single rows; the fields of a corner change from date to date."""
    folder, rng = tmp_path_factory.mktemp("sequences"), np.random.default_rng(0)
    rows = []
    for place in range(PLACES):
        fields = rng.uniform(60, 190, (8, 8, 3))
        for date in DATES:
            fields[:4, :4] = rng.uniform(60, 190, (4, 4, 3))
            pixels = fields.repeat(4, 0).repeat(4, 1) + rng.normal(0, 4, (SIDE, SIDE, 3))
            out = io.BytesIO()
            Image.fromarray(pixels.round().astype(np.uint8)).save(out, "PNG")
            row = {"key": f"{place}-{date}", "image": out.getvalue(), "width": SIDE, "height": SIDE}
            row |= {"lon": 10.0 * place, "lat": 45.0, "gsd": 10.0, "date": date, "cloud_cover": None}
            rows.append(row | {"label": None, "caption": "fields"})
    parquet.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    file = tmp_path_factory.mktemp("network") / "pooled.pt"
    pooling = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(pooling).save(str(file))
    file.with_suffix(".json").write_text("{}")
    return str(file)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(contest, "bootstrap", functools.partial(contest.bootstrap, count=50))


@pytest.fixture
def asking(data, network, tmp_path):
    return EvaluateRequest(
        task="", data=(str(data),), images=tmp_path / "images", size=SIDE, features=(network,)
    )


def judge(request, answer, folder):
    """The report of what is answered to each trial."""
    task, asked = TASKS[request.task], run.cases(request)
    request.images.mkdir()
    for row in range(len(asked)):
        pixels = answer(task.trial(request, asked, row))
        Image.fromarray(pixels).save(request.images / f"{row:06d}.png")
    return evaluate(request, folder / "report")


def line(told, table, **about):
    (found,) = [row for row in told["tables"][table] if about.items() <= row.items()]
    return found


def test_a_shift_of_colour_is_seen_in_what_was_sharpened(asking, tmp_path):
    def shifted(trial):
        return (trial.truth + np.array([25, 0, 0])).clip(0, 255).astype(np.uint8)

    told = judge(replace(asking, task="upscale"), shifted, tmp_path)
    model, bicubic = (line(told, "pairs", set=name) for name in ("model", "bicubic"))
    error = (25 / 255) ** 2 / 3  # of one colour in three
    assert model["psnr"]["value"] == pytest.approx(-10 * np.log10(error), abs=0.05)
    assert model["ssim"]["value"] > bicubic["ssim"]["value"]  # the detail is right
    assert model["angle_deg"]["low"] > 2 * bicubic["angle_deg"]["high"]
    assert model["reflectance"]["value"] == pytest.approx(25 / 255 / 3, rel=0.5)  # both sensors' blur, too
    assert model["noise_residual"]["low"] > 5
    assert line(told, "pairs", set="mean colour")["ssim"]["value"] < 0.5
    gain = line(told, "against baselines", baseline="bicubic", features="pooled")
    assert gain["psnr_gain"]["value"] == pytest.approx(model["psnr"]["value"] - bicubic["psnr"]["value"])
    assert {*told["files"], "report.json"} == {p.name for p in (tmp_path / "report").iterdir()}
    scores = parquet.read_table(tmp_path / "report/scores.parquet")
    assert scores.num_rows == PLACES * len(DATES)
    assert np.mean(scores["model/whole/psnr"]) == pytest.approx(model["psnr"]["value"])
    assert all(row["answer"] == "right" for row in told["tables"]["self-check"])
    (note,) = told["notes"]
    assert "disagrees with its measurement" in note


def test_a_part_of_the_earth_where_it_is_worse_is_seen(asking, tmp_path, monkeypatch):
    monkeypatch.setattr(geography, "LEAST", 6)
    row = iter(run.cases(replace(asking, task="upscale")).cases)

    def shifted(trial):  # by more in the east
        return (trial.truth + (20 if next(row).metadata.lon < 30 else 60)).clip(0, 255).astype(np.uint8)

    told = judge(replace(asking, task="upscale"), shifted, tmp_path)
    tests = {x["score"]: x["p_value"] for x in told["tables"]["no particular bias"] if x["by"] == "cell"}
    assert set(tests) == {"psnr", "psnr_gain"}
    assert all(p < 0.06 for p in tests.values())  # of eight places there are few orders
    parts = {x["part"]: x["psnr"] for x in told["tables"]["geography"] if x["by"] == "cell"}
    assert parts["lon 60..90 lat 42..90"]["high"] < parts["lon 0..30 lat 42..90"]["low"] - 5
    cells = json.loads((tmp_path / "report/geography.geojson").read_text())["features"]
    assert {cell["properties"]["n"] for cell in cells} == {6}
    assert (tmp_path / "report/geography.png").exists()


def test_a_network_that_was_taught_by_people_judges_where_it_is_given(asking, tmp_path):
    class Judge(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a - b).abs().mean((1, 2, 3), keepdim=True)

    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(Judge()).save(str(tmp_path / "judge.pt"))
    request = replace(asking, task="inpaint", n=4, lpips=tmp_path / "judge.pt")
    told = judge(request, lambda trial: (trial.truth + 10).astype(np.uint8), tmp_path)
    scores = parquet.read_table(tmp_path / "report/scores.parquet")
    asked = run.cases(request)
    for row, found in enumerate(scores["model/hole/lpips"].to_pylist()):
        gone = TASKS["inpaint"].trial(request, asked, row).parts["hole"]
        assert found == pytest.approx(2 * 10 / 255 * gone.mean(), rel=1e-5)
    assert line(told, "pairs", set="model", references="with")["lpips"]["value"] > 0
    assert len(told["protocol"]["lpips"]) == 64
    with pytest.raises(CheckpointError, match="cannot be read as TorchScript"):
        evaluate(replace(request, lpips=tmp_path / "none.pt"), tmp_path / "other")


def test_the_truth_sharpened_agrees_with_its_measurement(asking, tmp_path):
    told = judge(replace(asking, task="upscale"), lambda trial: trial.truth, tmp_path)
    model = line(told, "pairs", set="model")
    assert model["noise_residual"]["value"] == pytest.approx(1, abs=0.25)  # 8 bits add some to the noise
    assert model["mse"]["value"] == 0
    assert model["improvement"]["value"] > 0.8
    assert model["hallucination"]["value"] < 0.1
    (note,) = told["notes"]
    assert note.startswith(f"{PLACES * len(DATES)} images of model are the true ones to the last bit, whole:")
    shown = json.loads((tmp_path / "report/report.json").read_text())
    assert line(shown, "pairs", set="model")["psnr"] is None  # infinite


def test_a_predictor_that_copies_the_nearest_date_is_the_copy(asking, tmp_path):
    request = replace(asking, task="predict")
    told, asked = judge(request, lambda trial: trial.shown, tmp_path), run.cases(request)
    copy = "copy of the nearest date"
    for frames in ("1", "2"):
        for part in ("whole", "changed"):
            model, baseline = (
                line(told, "pairs", set=name, part=part, frames=frames) for name in ("model", copy)
            )
            assert {**model, "set": ""} == {**baseline, "set": ""}
            said = {"baseline": copy, "part": part, "frames": frames}
            gains = [row for row in told["tables"]["against baselines"] if said.items() <= row.items()]
            assert gains
            assert all(row["psnr_gain"] == {"value": 0, "low": 0, "high": 0} for row in gains)
    plain = [line(told, "pairs", set="mean colour", part="whole", frames=n) for n in ("1", "2")]
    trials = [TASKS["predict"].trial(request, asked, row) for row in range(len(asked))]
    for count, found in zip((1, 2), plain, strict=True):
        errors = [
            ((t.truth / 255.0 - np.mean([x for x, _ in t.given], (0, 1, 2)) / 255) ** 2).mean()
            for t in trials
            if len(t.given) == count
        ]
        assert found["mse"]["value"] == pytest.approx(np.mean(errors), rel=0.01)  # of whole numbers
    whole, changed = (line(told, "pairs", set=copy, part=p, frames="1") for p in ("whole", "changed"))
    assert changed["psnr"]["high"] < whole["psnr"]["low"] - 3
    assert line(told, "more frames", part="changed")["psnr_gain"]["value"] == 0
    assert told["protocol"]["n"] == 2 * PLACES * len(DATES)


def test_frames_are_of_other_dates_the_nearest_first(asking):
    request = replace(asking, task="predict")
    asked = run.cases(request)
    for row, case in enumerate(asked.cases):
        dates = [metadata.date for _, metadata in asked.frames(row)]
        months = [int(date[5:]) for date in dates]
        mine = case.metadata.month
        assert case.metadata.date not in dates
        assert abs(months[0] - mine) == min(abs(m - mine) for m in {1, 4, 7} - {mine})
        assert all(metadata.lon == case.metadata.lon for _, metadata in asked.frames(row))


def test_more_dates_are_compared_with_one_where_there_are_both():
    images = [(0, 0), (0, 1), (0, 2)]
    places, asked = np.repeat(["a", "b", "c"], 2), SimpleNamespace(picked=np.repeat(images, 2, 0))
    columns = {
        "model/changed/psnr": np.array([10, 12, 20, 23, np.nan, np.nan])
    }  # nothing changed in the last
    asked.counts = np.array([1, 4] * 3)
    (found,) = contest._more_frames(columns, asked, places, 0, ("changed",), [])
    assert (found["frames"], found["n"]) == ("4 against 1", 2)
    assert found["psnr_gain"]["value"] == 2.5
    asked.counts = np.array([2, 4] * 3)
    assert contest._more_frames(columns, asked, places, 0, ("changed",), []) == []


def test_images_without_other_dates_stand_beside_those_with_them(asking, data, tmp_path):
    rows = parquet.read_table(data / "test.parquet").to_pylist()[:9]  # more than are scored together
    rows = [row | {"key": str(i), "lon": 100.0 + i, "date": DATES[0]} for i, row in enumerate(rows)]
    (tmp_path / "single").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "single/test.parquet")
    request = replace(asking, task="inpaint", data=(str(tmp_path / "single"), *asking.data))
    told = judge(request, lambda trial: trial.truth, tmp_path)
    copy = line(told, "pairs", set="copy of the nearest date", references="with")
    assert copy["n"] == PLACES * len(DATES)
    assert line(told, "pairs", set="model", references="without")["n"] == PLACES * len(DATES) + 9


@pytest.mark.parametrize("task", ["inpaint", "declouds"])
def test_holes_are_judged_inside_alone(asking, tmp_path, task):
    def filled(trial):  # right in the hole, and wrong everywhere else
        return np.where(trial.parts["hole"][..., None], trial.truth, 0).astype(np.uint8)

    request = replace(asking, task=task, n=8)
    told = judge(request, filled, tmp_path)
    for references in ("with", "without"):
        assert line(told, "pairs", set="model", references=references)["mse"]["value"] == 0
    sets = {row["set"] for row in told["tables"]["pairs"] if row.get("references") == "without"}
    assert sets == {"model", "mean colour around"}
    asked = run.cases(request)
    trials = [TASKS[task].trial(request, asked, row) for row in range(len(asked))]
    holes = [trial.parts["hole"] for trial in trials]
    assert all(0.04 < gone.mean() < 0.81 for gone in holes)
    assert all((trial.shown[gone] == 0).all() for trial, gone in zip(trials, holes, strict=True))
    assert all((a == b).all() for a, b in zip(holes[::2], holes[1::2], strict=True))  # with, without
    assert not all((a == b).all() for a, b in zip(holes[::2], holes[2::2], strict=False))


def test_a_metric_with_its_sign_turned_is_seen(asking, tmp_path, monkeypatch):
    turned = {**paired._PAIRS, "ssim": lambda *given: -pairs.ssim(*given[:2], data_range=1, mask=given[3])}
    monkeypatch.setattr(paired, "_PAIRS", turned)
    told = judge(replace(asking, task="upscale", n=4), lambda trial: trial.truth, tmp_path)
    assert [r["figure"] for r in told["tables"]["self-check"] if r["answer"] == "WRONG"] == ["ssim"]
    assert any("ssim of whole does not get worse" in note for note in told["notes"])


@pytest.mark.parametrize("task", ["upscale", "predict", "inpaint"])
def test_a_model_is_measured(asking, steered_folder, tmp_path, task):
    request = replace(asking, task=task, images=None, model=str(steered_folder), n=2, samples=4)
    request = replace(request, steps=1, device="cpu", precision="fp32")
    told = evaluate(request, tmp_path / "report")
    part = TASKS[task].parts[0]
    found = [row for row in told["tables"]["samples"] if row["part"] == part]
    skill = [x["value"] if isinstance(x := row["spread_skill"], dict) else x for row in found]
    assert all(0 < x < 10 for x in skill)
    assert all(sum(row[f"rank {i}"] for i in range(5)) == pytest.approx(1) for row in found)
    figures = {x["figure"]: x["answer"] for x in told["tables"]["self-check"] if x["part"] == WHOLE}
    for figure in ("crps", "spread_skill", "interval_coverage", "ause", "rank_unevenness"):
        assert figures[figure] == "right"
    mean, one = (
        parquet.read_table(tmp_path / "report/scores.parquet")[f"{kind}/{part}/mse"].to_numpy()
        for kind in ("model", "one_sample")
    )
    assert np.mean(mean) < np.mean(one)
    if task == "upscale":
        assert line(told, "pairs", set="model")["noise_residual"]["value"] < 1.5


def test_the_protocol_says_how_strongly_frames_steered(asking, steered_folder, tmp_path):
    folder = shutil.copytree(steered_folder, tmp_path / "model")
    (folder / "facts.json").write_text('{"guidance": {"temporal": 2.0}}')
    request = replace(asking, task="predict", images=None, model=str(folder), n=2, dates=(1,), steps=1)
    request = replace(request, device="cpu", precision="fp32")
    own, asked, other = (
        evaluate(one, tmp_path / name)["protocol"]
        for name, one in (
            ("own", request),
            ("asked", replace(request, frames_guidance=2.0)),
            ("other", replace(request, frames_guidance=1.0)),
        )
    )
    assert own["sampling"]["guidance"]["frames"] == 2
    assert own["hash"] == asked["hash"] != other["hash"]
    scores = [parquet.read_table(tmp_path / name / "scores.parquet") for name in ("own", "asked", "other")]
    assert scores[0].equals(scores[1])
    assert not scores[0].equals(scores[2])


def test_ergas_takes_the_factor_where_something_is_made_finer(asking):
    request = replace(asking, task="upscale", factor=4)
    image, truth = np.full((SIDE, SIDE, 3), 120, np.uint8), np.full((SIDE, SIDE, 3), 100, np.uint8)
    for task, expected in (("upscale", 5.0), ("predict", 20.0)):  # 100 / ratio * 20 / 100
        trial = SimpleNamespace(
            truth=truth, parts={"changed": np.ones((SIDE, SIDE), bool)}, shown=truth[::4, ::4]
        )
        found = TASKS[task].compare(request, [image], [trial], [])
        assert found[WHOLE, "ergas"] == pytest.approx(expected)


def test_two_processes_say_the_same(asking, steered_folder, tmp_path):
    request = replace(asking, task="upscale", images=None, model=str(steered_folder), n=12, steps=1)
    request = replace(request, device="cpu", precision="fp32")
    evaluate(request, tmp_path / "one")
    with executor(2) as execute:
        evaluate(request, tmp_path / "two", execute=execute)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_images_are_kept_for_what_was_given_alone(asking, monkeypatch):
    config = SimpleNamespace(name="a", version="1", licence="none")
    sat = SimpleNamespace(
        config=config, checkpoint="ab", precision="fp32", device=SimpleNamespace(type="cpu")
    )
    monkeypatch.setattr(working, "model_of", lambda request: sat)
    work = SimpleNamespace(complete=lambda folder, identity, count, compute: identity)
    asked = run.cases(replace(asking, task="upscale"))

    def identity(**change):
        request = replace(asking, task="upscale", **change)
        return working.Work.images(work, request, TASKS["upscale"], "settings", asked, (), 8)[0]

    assert identity() == identity()
    assert identity() != identity(given="sentinel")


def test_what_cannot_be(asking, steered_folder, tmp_path):
    model = replace(asking, images=None, model=str(steered_folder), device="cpu")
    for change, said in (
        ({"task": "upscale", "factor": 5}, "factor is 5 for images of 32 px"),
        ({"task": "upscale", "consistency": "some"}, "consistency is 'some'"),
        ({"task": "upscale", "samples": 0}, "samples is 0"),
        ({"task": "predict", "control": "none"}, "control is 'none'"),
        ({"task": "predict", "n": 40}, "40 images are wanted"),
        ({"task": "predict", "dates": (0, 1)}, r"dates is \[0, 1\]"),
        ({"task": "upscale", "references": -1}, "references is -1"),
        ({"task": "predict", "factor": 2}, "predict does not know factor"),
        ({"task": "inpaint", "clip": tmp_path}, "inpaint does not know clip"),
    ):
        with pytest.raises(ConfigError, match=said):
            evaluate(replace(model, **change), tmp_path / "report")
    asking.images.mkdir()
    for name in ("000000", "000001"):
        Image.new("RGB", (SIDE, SIDE)).save(asking.images / f"{name}.png")
    with pytest.raises(DatasetError, match="24 are asked for"):
        evaluate(replace(asking, task="upscale"), tmp_path / "report")
