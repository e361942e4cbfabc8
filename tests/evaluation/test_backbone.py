"""Linear probes on features: what features say is read, few labels read less, and a stopped run goes on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from colours import LABELS, colour_features

from diffusionsat.errors import ConfigError, DatasetError
from diffusionsat.evaluation import backbone, report, run
from diffusionsat.evaluation.backbone import Plan, measure, of_model
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.run import evaluate

pytest.importorskip("matplotlib", reason="the extra [eval] is not installed")


def telling(pixels, numbers):
    return {"colours": colour_features(pixels), "nothing@1": torch.ones(len(pixels), 3)}


def test_features_that_tell_are_read_and_others_by_chance(data, tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "SHARES", (0.2, 1.0))
    done = []
    plan = Plan(sources=(data / "eurosat_rgb",), n=60)
    section = measure({"ab": telling}, plan, tmp_path, lambda *told: done.append(told))
    lines = {(x["features"], x["share"]): x for x in section.tables["linear probes"]}
    assert lines["colours", "100%"]["read"]["value"] > 0.9
    assert lines["nothing", "100%"]["read"]["value"] < 0.4
    assert lines["colours", "100%"]["read_held_out"] > 0.7 > lines["nothing", "100%"]["read_held_out"]
    assert lines["nothing", "100%"]["sigma"] == "1"
    few, all_of_them = (lines["colours", share]["n_labels"] for share in ("20%", "100%"))
    held_out = 60 - all_of_them
    assert 0 < held_out < 20
    assert few == round(0.2 * all_of_them)
    assert len(LABELS) == 5
    again = measure({"ab": lambda *_: 1 / 0}, plan, tmp_path)  # nothing is left to be done
    assert again.tables == section.tables
    with pytest.raises(DatasetError, match="of another model or of other requests"):
        measure({"ab": telling}, Plan(sources=(data / "eurosat_rgb",), n=50), tmp_path)
    with pytest.raises(DatasetError, match="of another model or of other requests"):
        measure({"cd": telling}, plan, tmp_path)  # other weights under the same names
    with pytest.raises(DatasetError, match="none lies in the held-out tenth"):
        measure({"ab": telling}, Plan(sources=(data / "eurosat_rgb",), n=3), tmp_path / "few")
    with pytest.raises(DatasetError, match="without a label"):
        measure({"ab": telling}, Plan(sources=(data / "uc_merced",), n=60), tmp_path)


def test_features_of_a_model_are_those_of_its_blocks(sat):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    look = of_model(sat, 0)
    found = look(pixels, range(3))
    assert {name.partition("@")[2] for name in found} == {"0.05", "0.25", "1"}
    assert all(x.shape[0] == 3 and x.ndim == 2 for x in found.values())
    for name, x in look(pixels[1:2], range(1, 2)).items():  # an image's number decides its noise
        torch.testing.assert_close(x[0], found[name][1], rtol=1e-3, atol=1e-4)


def test_a_model_is_probed_by_evaluate(data, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "SIGMAS", (1.0,))
    monkeypatch.setattr(run, "NETWORKS", {})
    request = EvaluateRequest(
        task="features", data=(str(data / "eurosat_rgb"),), model=str(tiny), n=60, size=32, device="cpu"
    )
    told = evaluate(request, tmp_path / "report")
    assert report.read(tmp_path / "report")["tables"] == told["tables"]
    lines = told["tables"]["linear probes"]
    assert {x["labels"] for x in lines} == {"eurosat_rgb"}
    assert {x["sigma"] for x in lines} >= {"1"}
    assert (tmp_path / "report/probes.png").exists()
    assert not (tmp_path / "report/parts").exists()
    other = evaluate(replace(request, seed=1), tmp_path / "other")
    assert other["protocol"]["hash"] != told["protocol"]["hash"]
    with pytest.raises(ConfigError, match="there are no cases"):
        run.cases(request)
