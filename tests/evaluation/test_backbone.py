"""Linear probes on features: what features say is read, few labels read less, and a stopped run goes on."""

import numpy as np
import pytest
import torch
from colours import LABELS, colour_features

from diffusionsat.errors import DatasetError
from diffusionsat.evaluation import backbone
from diffusionsat.evaluation.backbone import Plan, measure, of_model

pytest.importorskip("matplotlib", reason="the extra [eval] is not installed")


def telling(pixels, numbers):
    return {"colours": colour_features(pixels), "nothing@1": torch.ones(len(pixels), 3)}


def test_features_that_tell_are_read_and_others_by_chance(data, tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "SHARES", (0.2, 1.0))
    done = []
    plan = Plan(data=data, n=60, sources=("eurosat_rgb",))
    section = measure([telling], plan, tmp_path, lambda *told: done.append(told))
    lines = {(x["features"], x["share"]): x for x in section.tables["linear probes"]}
    assert lines["colours", "100%"]["read"]["value"] > 0.9
    assert lines["nothing", "100%"]["read"]["value"] < 0.4
    assert lines["nothing", "100%"]["sigma"] == "1"
    few, all_of_them = (lines["colours", share]["n_labels"] for share in ("20%", "100%"))
    held_out = 60 - all_of_them
    assert 0 < held_out < 20
    assert few == round(0.2 * all_of_them)
    assert len(LABELS) == 5
    again = measure([lambda *_: 1 / 0], plan, tmp_path)  # nothing is left to be done
    assert again.tables == section.tables
    with pytest.raises(DatasetError, match="of another model or of other requests"):
        measure([telling], Plan(data=data, n=50, sources=("eurosat_rgb",)), tmp_path)
    with pytest.raises(DatasetError, match="without a label"):
        measure([telling], Plan(data=data, n=60, sources=("uc_merced",)), tmp_path)


def test_features_of_a_model_are_those_of_its_blocks(sat):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    look = of_model(sat, 0)
    found = look(pixels, range(3))
    assert {name.partition("@")[2] for name in found} == {"0.05", "0.25", "1"}
    assert all(x.shape[0] == 3 and x.ndim == 2 for x in found.values())
    for name, x in look(pixels[1:2], range(1, 2)).items():  # an image's number decides its noise
        torch.testing.assert_close(x[0], found[name][1], rtol=1e-3, atol=1e-4)
