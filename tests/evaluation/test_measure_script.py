"""The measures from the command line, on a tiny model and images of plain colours."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from diffusionsat.checkpoints.tensors import write_tensors
from diffusionsat.evaluation.features import CLASSIFIER_FORMAT
from diffusionsat.models.compact.classifier import CompactClassifier

EUROSAT = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
SCRIPT = Path(__file__).parents[2] / "scripts/measure_compact.py"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier of random weights that knows every class it may be asked for."""
    folder = tmp_path_factory.mktemp("classifier")
    classes = {"eurosat_rgb": [*EUROSAT], "uc_merced": ["beach", "harbor"]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CompactClassifier(classes=classes, channels=(8, 16))
    write_tensors(folder / "classifier.safetensors", network.state_dict(), "int8")
    config = {"format": CLASSIFIER_FORMAT, "version": "1", "classes": classes, "channels": [8, 16]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["measure_compact.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("measure", "options", "figure"),
    [
        ("vae", ["--n", 4], "psnr"),
        ("words", ["--n", 1], "read"),
        ("place", ["--n", 6, "--samples", 2], "r2"),
        ("frechet", ["--n", 20, "--unknown", "lon", "lat"], "frechet_generated"),
    ],
)
def test_measures(tiny, data, classifier, tmp_path, monkeypatch, capsys, measure, options, figure):
    folder = tmp_path / "out"
    common = ["--model", tiny, "--data", data, "--classifier", classifier, "--steps", 1, "--device", "cpu"]
    common += ["-o", folder]
    printed = run(monkeypatch, capsys, measure, *common, *options)
    assert (folder / "lines.jsonl").read_text() == printed
    lines = [json.loads(line) for line in printed.splitlines()]
    assert all(line["measure"] == measure and line["model"] == "tiny@0" for line in lines)
    assert isinstance(lines[0][figure], float)
    assert lines[0]["features"] == "compact-classifier"
    assert run(monkeypatch, capsys, measure, *common, *options) == printed  # from what was kept


def test_an_error_is_a_sentence(data, classifier, monkeypatch, capsys):
    options = ["--model", "nothing", "--data", data, "--classifier", classifier]
    with pytest.raises(SystemExit, match="There is no checkpoint 'nothing'"):
        run(monkeypatch, capsys, "place", *options)
