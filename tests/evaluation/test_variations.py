"""Images made in other ways: what lacks, lies or is swept must be seen in the tables, and nothing else."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusionsat import ConfigError, Metadata
from diffusionsat.evaluation import evidence, run, solving, telling
from diffusionsat.evaluation.cases import Case
from diffusionsat.evaluation.probes import fit_probes
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.execution import executor
from diffusionsat.metrics.probes import circular_error

N = 60
pytest.importorskip("matplotlib", reason="the extra [eval] is not installed")


def known(seed, count=N):
    rng = np.random.default_rng(seed)
    return [
        Metadata(
            lon=rng.uniform(-150, 150),
            lat=rng.uniform(-60, 60),
            gsd=10 ** rng.uniform(-0.5, 2.5),
            date=f"{rng.integers(1990, 2021)}-{rng.integers(1, 13):02d}",
            cloud_cover=rng.uniform(0, 90),
        )
        for _ in range(count)
    ]


def cases(metadata):
    return [
        Case(source="s", key=str(i), frame=0, label=None, prompt="", metadata=m, place=str(i))
        for i, m in enumerate(metadata)
    ]


class FakeCases:
    """In the place of `Cases`: of no data."""

    def __init__(self, metadata):
        self.sources, self.picked, self.size = (), np.zeros((len(metadata), 2), int), 32
        self.fit = "central"
        self.cases = cases(metadata)

    def __len__(self):
        return len(self.cases)


def obedient(metadata, deaf=()):
    """Features of a model that shows what it is told, but for some fields, with a grain that it keeps."""
    rng = np.random.default_rng(5)
    rows = []
    for m in metadata:
        lon, lat = np.radians([m.lon or 0, m.lat or 0])
        place = [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
        month = 2 * np.pi * ((m.month or 6) - 0.5) / 12
        shown = {"place": place, "gsd": [np.log10(m.gsd or 10)], "month": [np.sin(month), np.cos(month)]}
        shown |= {"year": [((m.year or 2005) - 2005) / 10], "cloud cover": [(m.cloud_cover or 0) / 50]}
        row = [
            x
            for field, values in shown.items()
            for x in (values if field not in deaf else [0.0] * len(values))
        ]
        rows.append(row + rng.normal(0, 0.02, 8))
    return torch.tensor(np.array(rows)).float()


class FakeSeen:
    def __init__(self, features):
        self.found = features

    def features(self, name):
        return self.found


def section(deaf=()):
    """What is said of a model, with arms as they would be made."""
    asked = FakeCases(known(0))
    request = EvaluateRequest(task="generate", data=("x",), model="m")
    probes = fit_probes("net", obedient(known(1, 300)), cases(known(1, 300)))
    looked = SimpleNamespace(
        asked=asked,
        made=FakeSeen(obedient(known(0), deaf)),
        reference=FakeSeen(obedient(known(2))),
        networks=[SimpleNamespace(name="net")],
        probes=[probes],
        seed=0,
    )
    made = [(arm, FakeSeen(obedient(arm.asked.metadata, deaf))) for arm in telling.arms(request, asked)]
    return made, telling.measure(looked, made)


def test_what_the_arms_tell():
    made, _ = section()
    told = {arm.about["told"]: arm.asked.metadata for arm, _ in made if "told" in arm.about}
    true = known(0)
    assert set(told) == {"nothing", "each field of a different one"} | {
        f"{field} {how}"
        for field in ("place", "gsd", "date", "cloud cover")
        for how in ("unknown", "of another")
    }
    assert set(told["nothing"]) == {Metadata()}
    assert [m.gsd for m in told["gsd unknown"]] == [None] * N
    assert [m.replace(gsd=1) for m in told["gsd unknown"]] == [m.replace(gsd=1) for m in true]
    liars = told["place of another"]
    assert sorted(m.lat for m in liars) == sorted(m.lat for m in true)
    assert not any(a.lat == b.lat for a, b in zip(liars, true, strict=True))
    assert all((a.gsd, a.date) == (b.gsd, b.date) for a, b in zip(liars, true, strict=True))
    owners = [
        ([m.lat for m in true].index(m.lat), [m.gsd for m in true].index(m.gsd))
        for m in told["each field of a different one"]
    ]
    assert sum(place == gsd for place, gsd in owners) < 5
    swept = [arm for arm, _ in made if arm.about.get("swept") == "month"]
    assert [{m.month for m in arm.asked.metadata} for arm in swept] == [{1}, {3}, {5}, {7}, {9}, {11}]
    assert all(arm.asked.metadata[7].gsd == true[7].gsd for arm in swept)
    years = [arm.asked.metadata[7].date for arm, _ in made if arm.about.get("swept") == "year"]
    assert years == [f"{year}{true[7].date[4:]}" for year in (1990, 2000, 2010, 2020)]


def test_what_nobody_tells_apart_is_not_swept():
    asked = FakeCases([m.replace(date="2004-07", cloud_cover=0) for m in known(0)])
    request = EvaluateRequest(task="generate", data=("x",), model="m")
    assert {arm.about.get("swept") for arm in telling.arms(request, asked)} == {None, "gsd", "place"}


def test_a_field_that_the_model_does_not_heed_is_seen():
    (_, full), (_, deaf) = section(), section(deaf=("gsd",))
    lines = {
        name: {row["told"]: row for row in s.tables["metadata that lack or lie"]}
        for name, s in (("full", full), ("deaf", deaf))
    }
    assert lines["full"]["what is true"]["moved"] == 0
    assert lines["full"]["gsd of another"]["moved"] > 0.2
    assert lines["deaf"]["gsd of another"]["moved"] == 0
    assert (
        lines["full"]["nothing"]["frechet_distance"] > 3 * lines["full"]["what is true"]["frechet_distance"]
    )
    # Another's place is as good a place: the set stays as it was.
    assert (
        lines["full"]["place of another"]["frechet_distance"]
        < lines["full"]["nothing"]["frechet_distance"] / 3
    )
    sweeps = {
        name: {row["swept"]: row for row in s.tables["sweeps"]}
        for name, s in (("full", full), ("deaf", deaf))
    }
    for field in telling.SWEEPS:
        assert sweeps["full"][field]["order"]["low"] > 0.9
        assert sweeps["full"][field][f"{field} moves"] > 0.6
        assert all(sweeps["full"][field][f"{x} moves"] < 0.3 for x in telling.SWEEPS if x != field)
    assert abs(sweeps["deaf"]["gsd"]["order"]["value"]) < 0.2
    assert sweeps["deaf"]["gsd"]["gsd moves"] == 0


def test_order_of_months_is_that_of_the_circle():
    asked = np.array([1.0, 4, 7, 10])
    for shift, expected in ((0, 1), (6, -1), (3, 0)):
        readings = {month: np.full((2, 1), (month - 0.5 + shift) % 12) for month in asked}
        np.testing.assert_allclose(telling._order("month", readings), expected, atol=1e-12)
        assert circular_error(np.array([3.5 + shift]), np.array([3.5]), period=12)[0] == shift


@pytest.fixture(scope="module")
def request_of(tmp_path_factory, tiny):
    """A request of the tiny model over 24 cases, on a network that takes no time."""
    import io

    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    folder, rng, rows = tmp_path_factory.mktemp("varied"), np.random.default_rng(1), []
    for i in range(48):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(out, "PNG")
        row = {
            "key": f"{i}",
            "image": out.getvalue(),
            "width": 32,
            "height": 32,
            "lon": float(i),
            "lat": 1.0 * i,
        }
        rows.append(row | {"gsd": 1.0 + i, "date": None, "cloud_cover": None, "label": None, "caption": None})
    parquet.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
    pooling = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(pooling).save(str(folder / "pooled.pt"))
    (folder / "pooled.json").write_text("{}")
    common = {"task": "generate", "data": (str(folder),), "model": str(tiny), "n": 24, "size": 32, "steps": 1}
    return EvaluateRequest(
        **common,
        features=(str(folder / "pooled.pt"),),
        device="cpu",
        precision="fp32",
        vary=("metadata", "sampling"),
    )


def test_a_model_is_varied_the_same_by_two_processes(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr(solving, "STEPS", (1, 2))
    monkeypatch.setattr(solving, "SCHEDULES", {"karras": solving.SCHEDULES["karras"]})
    monkeypatch.setattr(solving, "STRENGTHS", (1.0, 2.0))
    monkeypatch.setattr(telling, "SWEEPS", {})
    made = set()
    one = run.evaluate(request_of, tmp_path / "one", on_unit=lambda name, *_: made.add(name))
    steps = {(x["schedule"], x["solver"], x["steps"]): x for x in one["tables"]["steps"]}
    assert len(steps) == 2 * len(solving.SOLVERS) * 2
    assert steps["the model's", "heun", "2"]["evaluations"] == 3
    at_most = [x["excess"] for (*_, count), x in steps.items() if count == "2"]
    assert min(at_most) == 0 < max(at_most)
    assert steps["the model's", "euler", "1"]["moved"] > 0
    assert (
        steps["karras", "euler", "2"]["frechet_distance"]
        != steps["the model's", "euler", "2"]["frechet_distance"]
    )
    assert len(one["tables"]["guidance"]) == 6
    unguided = [x for x in one["tables"]["guidance"] if x["strength"] == "1"]
    assert len({x["frechet_distance"] for x in unguided}) == 1
    # No guidance of three kinds is made once, and what is judged is not made again.
    names = [name for name in made if name.startswith("sampling") and not name.endswith("seen")]
    assert len(names) <= 16 + 6 - 2 - 1
    for lines in one["tables"].values():  # each is about something of its own, or `compare` would mix them up
        about = [tuple(v for v in line.values() if isinstance(v, str)) for line in lines]
        assert len(set(about)) == len(about)
    told = {x["told"]: x for x in one["tables"]["metadata that lack or lie"]}
    assert told["nothing"]["moved"] > 0 == told["what is true"]["moved"]
    assert {"sampling.png", "report.json"} <= {p.name for p in (tmp_path / "one").iterdir()}
    plain = run.evaluate(replace(request_of, vary=()), tmp_path / "plain")
    assert plain["protocol"]["hash"] == one["protocol"]["hash"]  # the figures of both can be compared
    with executor(2) as execute:
        run.evaluate(replace(request_of, vary=("metadata",)), tmp_path / "two", execute=execute)
    two = json.loads((tmp_path / "two/report.json").read_text())["tables"]
    assert two["metadata that lack or lie"] == json.loads(
        json.dumps(one["tables"]["metadata that lack or lie"])
    )


def test_what_cannot_be_varied(request_of, tmp_path):
    for change in ({"vary": ("weather",)}, {"task": "upscale"}, {"model": None, "images": tmp_path}):
        with pytest.raises(ConfigError, match="Give some of metadata, sampling"):
            run.evaluate(replace(request_of, **change), tmp_path / "report")


@pytest.fixture(autouse=True)
def no_shipped_classifier(monkeypatch):
    from diffusionsat.errors import CheckpointError

    def absent(folder=None):
        raise CheckpointError("no classifier")

    monkeypatch.setattr(run, "load_classifier", absent)
    evidence.network_of.cache_clear()
