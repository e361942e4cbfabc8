"""Whole evaluations: faults that are planted must be seen, and numbers must not depend on how."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusionsat import ConfigError, Metadata, RasterError
from diffusionsat.errors import CheckpointError, DatasetError
from diffusionsat.evaluation import quality, report, run
from diffusionsat.evaluation.cases import every
from diffusionsat.evaluation.elsewhere import Reading
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.run import cases, evaluate
from diffusionsat.evaluation.units import on_threads
from diffusionsat.execution import executor
from diffusionsat.metrics.probes import great_circle_km

pytest.importorskip("matplotlib", reason="the extra [eval] is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
from pyarrow import parquet  # noqa: E402

SIDE, N = 32, 80
LABELS = ("Forest", "River", "Highway")


def paint(metadata, label, rng):
    """Colours tell class, gsd and longitude; a pattern of no mean tells the image."""
    colour = [40 + 60 * LABELS.index(label), 60 + 40 * np.log10(metadata.gsd), 128 + metadata.lon]
    pattern = rng.uniform(-20, 20, (8, 8, 1))
    pattern = (pattern - pattern.mean()).repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
    return np.round(np.array(colour) + pattern + rng.normal(0, 3, 3)).clip(0, 255).astype(np.uint8)


class Colours(torch.nn.Module):
    """Mean colours, and whatever a linear probe needs to read from them."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean = image.mean((2, 3))
        quarters = torch.nn.functional.adaptive_avg_pool2d(image, 2).flatten(1)
        return torch.cat([mean, mean * mean, quarters], 1)

    @torch.jit.export
    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Of red alone."""
        return -((features[:, :1] * 255 - torch.tensor([40.0, 100.0, 160.0])) ** 2) / 50


@pytest.fixture(scope="module", autouse=True)
def no_shipped_classifier():
    """It reads satellite images, and says nothing of painted ones."""

    def absent(folder=None):
        raise CheckpointError("no classifier")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load_classifier", absent)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("painted"), np.random.default_rng(0)
    for split, count in (("train", 120), ("test", 2 * N)):
        rows = []
        for i in range(count):
            lon, lat = float(rng.choice([-45, 45]) + rng.uniform(-14, 14)), float(rng.uniform(1, 18))
            known = {"lon": lon, "lat": lat, "gsd": float(10 ** rng.uniform(0, 2))}
            label = LABELS[i % 3]
            out = io.BytesIO()
            Image.fromarray(paint(Metadata(**known), label, rng)).save(out, "PNG")
            row = {"key": f"{split}-{i}", "image": out.getvalue(), "width": SIDE, "height": SIDE, **known}
            rows.append(row | {"cloud_cover": None, "date": None, "label": label, "caption": None})
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    file = tmp_path_factory.mktemp("network") / "colours.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(Colours()).save(str(file))
    file.with_suffix(".json").write_text('{"mean": [0, 0, 0], "std": [1, 1, 1]}')
    return str(file)


@pytest.fixture(scope="module")
def wanted(data, network):
    request = EvaluateRequest(
        task="generate", data=(str(data),), model="-", size=SIDE, n=N, features=(network,)
    )
    return request, cases(request).cases


@pytest.fixture(scope="module")
def good(wanted, tmp_path_factory):
    """Folder of the report of images that are as good as real ones, and what it says."""
    folder = tmp_path_factory.mktemp("good")
    told = judge(wanted, honest(wanted[1]), folder)
    return folder / "report", told


def judge(wanted, images, folder):
    """The report of some images, by the titles of its tables."""
    request, _ = wanted
    (folder / "images").mkdir()
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"images/{i:06d}.png")
    asking = replace(request, model=None, images=folder / "images")
    return evaluate(asking, folder / "report")


def honest(asked, seed=7):
    rng = np.random.default_rng(seed)
    return [paint(case.metadata, case.label, rng) for case in asked]


def every_case(folder):
    return every(run.open_sources([folder], "train"), size=SIDE, most=1000, seed=0).cases


def line(told, table, **about):
    (found,) = [row for row in told["tables"][table] if about.items() <= row.items()]
    return found


def test_honest_images_are_as_good_as_real_ones(wanted, good):
    folder, told = good
    made, real = (line(told, "quality", set=name) for name in ("generated", "real"))
    assert made["frechet_distance"] < 3 * real["frechet_distance"] + 1e-3
    assert made["kernel_distance"]["low"] < 0.01
    assert made["coverage"] > 0.8
    assert 2.3 < min(made["inception_score"], real["inception_score"]) < 3  # of three classes, in eights
    assert made["inception_score"] == pytest.approx(real["inception_score"], rel=0.05)
    colours = line(told, "colours")
    assert all(
        colours[name]["low"] <= 0.5 and colours[name]["high"] >= -0.5 for name in ("red", "green", "blue")
    )
    assert line(told, "memorisation", set="generated")["exact_copies"] == 0
    assert line(told, "memorisation", set="generated")["share_below"] < 0.3
    train = [(c.metadata.lon, c.metadata.lat) for c in every_case(wanted[0].data[0])]
    apart = [
        great_circle_km(*np.array(train).T, *(np.full(len(train), x) for x in (m.lon, m.lat))).min()
        for m in (case.metadata for case in wanted[1])
    ]
    found = line(told, "memorisation", set="real")
    assert found["nearest_place_km"] == pytest.approx(min(apart), rel=1e-3)
    assert min(apart) < found["median_place_km"] < max(apart)
    (words,) = told["tables"]["words"]
    assert words["read"]["value"] == words["read_real"] == 1
    assert words["read_by_chance"] == pytest.approx(1 / 3, abs=0.05)
    for field in ("place", "gsd"):
        assert line(told, "controllability", field=field)["controllability"]["value"] > 0.95
    assert line(told, "no particular bias", by="cell")["p_value"] > 0.01
    assert {row["part"] for row in told["tables"]["geography"] if row["by"] == "continent"} >= {"ocean"}
    assert not any("hardly" in note or "copies" in note or "more" in note for note in told["notes"])
    assert any(note.startswith("Nothing is said of month, year, cloud cover") for note in told["notes"])
    assert all(row["answer"] == "right" for row in told["tables"]["self-check"])
    checked = line(told, "self-check", figure="inception_score")
    assert (checked["real"], checked["spoiled"]) == (pytest.approx(real["inception_score"]), 1)
    taught = line(told, "usefulness", real="100%")["by_generated"]
    assert taught == {"value": 1, "low": 1, "high": 1}
    scores = parquet.read_table(folder / "scores.parquet")
    assert scores.num_rows == N
    assert scores["key"].to_pylist() == [case.key for case in wanted[1]]
    held = json.loads((folder / "report.json").read_text())
    assert {*held["files"], "report.json"} == {p.name for p in folder.iterdir()}
    for file in held["files"]:
        if file.endswith(".png"):
            Image.open(folder / file).verify()


def test_copies_of_training_images_are_seen(wanted, data, tmp_path):
    train = parquet.read_table(data / "train.parquet")["image"].to_pylist()[:N]
    images = [np.asarray(Image.open(io.BytesIO(content))) for content in train]
    told = judge(wanted, images, tmp_path)
    found = line(told, "memorisation", set="generated")
    assert found["exact_copies"] > 0.8 * N  # a tenth of the places was never trained on
    assert found["near_copies"] >= found["exact_copies"]
    assert found["distance_ratio"] < 0.01
    assert found["share_below"] > 0.8
    assert any(note.startswith("The model copies") for note in told["notes"])


def test_a_colour_shift_is_seen(wanted, tmp_path):
    told = judge(
        wanted,
        [np.clip(x + np.array([15, 0, 0]), 0, 255).astype(np.uint8) for x in honest(wanted[1])],
        tmp_path,
    )
    colours = line(told, "colours")
    assert colours["red"]["low"] > 10
    assert abs(colours["green"]["value"]) < 2
    assert [note for note in told["notes"] if " of 255 " in note] == [
        f"Images are {colours['red']['value']:.1f} of 255 more red than the real ones."
    ]
    made, real = (line(told, "quality", set=name) for name in ("generated", "real"))
    assert made["frechet_distance"] > 1.5 * real["frechet_distance"]
    assert made["coverage"] < real["coverage"] - 0.2


def test_a_model_that_ignores_what_it_is_told_is_seen(wanted, tmp_path):
    order = np.random.default_rng(3).permutation(N)
    told = judge(wanted, honest([wanted[1][i] for i in order]), tmp_path)
    for field in ("place", "gsd"):
        assert abs(line(told, "controllability", field=field)["controllability"]["value"]) < 0.4
    assert {note.partition(" is hardly heeded")[0] for note in told["notes"]} >= {"place", "gsd"}
    (words,) = told["tables"]["words"]
    assert abs(words["read"]["value"] - words["read_by_chance"]) < 0.2
    assert line(told, "quality", set="generated")["coverage"] > 0.8  # the pictures as such are good


def test_a_place_where_the_model_is_worse_is_seen(wanted, tmp_path):
    images = honest(wanted[1])
    for pixels, case in zip(images, wanted[1], strict=True):
        if case.metadata.lon > 0:
            pixels[:] = 255 - pixels
    told = judge(wanted, images, tmp_path)
    assert line(told, "no particular bias", by="cell")["p_value"] < 0.001
    west, east = sorted(
        (r for r in told["tables"]["geography"] if r["by"] == "cell"), key=lambda r: r["part"]
    )
    assert east["realism"]["low"] > west["realism"]["high"]
    cells = json.loads((tmp_path / "report/geography.geojson").read_text())["features"]
    assert len({cell["properties"]["n"] for cell in cells}) == 1  # equal numbers
    assert [cell["properties"]["realism"] > 0.05 for cell in cells] == [False, True]


def test_a_metric_with_its_sign_turned_is_seen(wanted, tmp_path, monkeypatch):
    true = quality.frechet_distance
    monkeypatch.setattr(quality, "frechet_distance", lambda a, b: -true(a, b))
    told = judge(wanted, honest(wanted[1]), tmp_path)
    wrong = [row["figure"] for row in told["tables"]["self-check"] if row["answer"] == "WRONG"]
    assert wrong == ["frechet_distance"]
    assert any("frechet_distance on colours does not get worse" in note for note in told["notes"])


def test_images_that_answer_no_case(wanted, tmp_path):
    request, asked = wanted
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(honest(asked)):
        Image.fromarray(pixels).save(tmp_path / f"images/picture-{i}.png")
    told = evaluate(replace(request, model=None, n=None, images=tmp_path / "images"), tmp_path / "report")
    assert set(told["tables"]) == {"quality", "colours", "self-check", "memorisation"}
    assert not told["matched"]
    (tmp_path / "images/picture-0.png").write_bytes(b"no picture")
    for size in (None, SIDE):
        asking = replace(request, model=None, n=None, size=size, images=tmp_path / "images")
        with pytest.raises(DatasetError, match=r"picture-0\.png cannot be read as an image"):
            evaluate(asking, tmp_path / f"report-{size}")


@pytest.mark.parametrize("n", [N, None])
def test_every_case_wants_its_answer(wanted, tmp_path, n):
    request, asked = wanted
    for i, pixels in enumerate(honest(asked[:-1])):
        Image.fromarray(pixels).save(tmp_path / f"{i:06d}.png")
    with pytest.raises(DatasetError, match=f"holds {N - 1} images; {N} are asked for"):
        evaluate(replace(request, model=None, n=n, images=tmp_path), tmp_path / "report")


@pytest.fixture(scope="module")
def large(tmp_path_factory, network, tiny):
    """A request of the tiny model over 70 cases, more than one batch."""
    folder, rng = tmp_path_factory.mktemp("large"), np.random.default_rng(1)
    rows = []
    for i in range(140):
        known = {"lon": float(rng.uniform(-80, 80)), "lat": float(i % 60), "gsd": 10.0, "date": None}
        out = io.BytesIO()
        pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(out, "PNG")
        row = {"key": f"{i}", "image": out.getvalue(), "width": 64, "height": 64, **known}
        rows.append(row | {"cloud_cover": None, "label": "Forest", "caption": None})
    parquet.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
    return EvaluateRequest(
        task="generate",
        data=(str(folder),),
        model=str(tiny),
        n=70,
        steps=1,
        features=(network,),
        device="cpu",
        precision="fp32",
    )


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_run_goes_on_and_processes_change_no_number(large, tmp_path):
    def stop(name, done, total):
        raise KeyboardInterrupt

    evaluate(large, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate(large, tmp_path / "stopped", on_unit=stop)
    done = []
    evaluate(large, tmp_path / "stopped", on_unit=lambda *told: done.append(told))
    assert done[:2] == [("images", 1, 2), ("images", 2, 2)]  # one of two was made before
    assert content(tmp_path / "whole") == content(tmp_path / "stopped")
    with pytest.raises(RasterError, match="holds a report"):
        evaluate(large, tmp_path / "whole")
    with executor(2) as execute, on_threads(2):
        evaluate(large, tmp_path / "whole", execute=execute, overwrite=True)
    assert content(tmp_path / "whole") == content(tmp_path / "stopped")


def test_parts_of_another_run_are_refused(large, tmp_path):
    def stop(name, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(large, tmp_path / "report", on_unit=stop)
    with pytest.raises(DatasetError, match="of another model or of other requests"):
        evaluate(replace(large, seed=1), tmp_path / "report")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(RasterError, match="holds other files"):
        evaluate(large, tmp_path / "other")


def test_what_cannot_be(large, tmp_path):
    for change, said in (
        ({"task": "knit"}, "no task 'knit'"),
        ({"model": None}, "either a model or a folder of images"),
        ({"n": 71}, "71 images to ask for and as many others"),
        ({"n": 1}, "n is 1"),
        ({"steps": 0}, "steps is 0"),
        ({"size": 65}, "width is 65"),
        ({"samples": 4, "control": "temporal"}, "generate does not know control, samples"),
        ({"task": "features", "steps": 3}, "features does not know steps"),
        ({"task": "features", "model": None, "images": tmp_path}, "Give --model"),
    ):
        with pytest.raises(ConfigError, match=said):
            evaluate(replace(large, **change), tmp_path / "report")


def test_what_is_asked_for_and_compared_with_share_no_ground(wanted):
    request, _ = wanted
    sources = run.open_sources(request.data, "test")
    asked, others = run.choose(sources, n=N, size=SIDE, seed=0)
    again, _ = run.choose(sources, n=N, size=SIDE, seed=0)
    other, _ = run.choose(sources, n=N, size=SIDE, seed=1)
    keys = [{case.key for case in chosen.cases} for chosen in (asked, others, again, other)]
    grounds = [{(c.metadata.lon, c.metadata.lat) for c in chosen.cases} for chosen in (asked, others)]
    assert len(keys[0]) == len(keys[1]) == N
    assert not keys[0] & keys[1]
    assert not grounds[0] & grounds[1]
    assert keys[0] == keys[2] != keys[3]
    assert asked.digest == again.digest != other.digest


@pytest.mark.parametrize("seed", range(6))
def test_half_of_what_there_is_also_where_a_ground_has_several_images(seed):
    ground = np.repeat(np.arange(5), 3)
    images = SimpleNamespace(colour=np.ones(15, bool), side=np.full(15, 64), ground=ground)
    asked, others = run.choose([SimpleNamespace(images=images)], n=None, size=64, seed=seed)
    assert len(asked) == len(others) >= 6
    assert not set(ground[asked.picked[:, 1]]) & set(ground[others.picked[:, 1]])


@pytest.mark.parametrize("fit", ["central", "whole"])
def test_answers_are_cut_as_the_true_images_are(tmp_path, fit):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = Reading((tmp_path / "a.png",), 32, fit, 8)(0)["pixels"]
    if fit == "whole":
        expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
    else:
        expected = pixels[4:36, 19:51]
    assert np.array_equal(found[0], expected)


def test_reports_side_by_side(wanted, good, tmp_path):
    worse = [np.clip(x.astype(int) + 15, 0, 255).astype(np.uint8) for x in honest(wanted[1])]
    judge(wanted, worse, tmp_path)
    reports = {"a": report.read(good[0]), "b": report.read(tmp_path / "report")}
    lines = report.compare(reports)
    (found,) = [x for x in lines if x["figure"] == "frechet_distance" and "generated" in x["of"]]
    assert (found["better"], found["a"] < found["b"]) == ("lower", True)
    assert f"**{found['a']:.4g}**" in report.side_by_side(lines, ["a", "b"])
    assert f"**{found['b']:.4g}**" not in report.side_by_side([found], ["a", "b"])
    reports["b"]["protocol"] |= {
        "hash": "0",
        "sampling": {"steps": 5},
    }  # of a, nobody knows how it was sampled
    assert report.compare(reports) == lines
    reports["b"]["protocol"] |= {"seed": 5}
    with pytest.raises(ConfigError, match=r"protocols differ.*seed: 0 \| 5"):
        report.compare(reports)
    assert report.compare(reports, anyway=True)
    with pytest.raises(ConfigError, match="One report"):
        report.compare({"a": reports["a"]})
    with pytest.raises(DatasetError, match="no report that can be read"):
        report.read(tmp_path / "images")
