"""The whole report by its script: parts are done once, and the page says what they found."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from diffusionsat.evaluation import run, telling

pytest.importorskip("matplotlib", reason="the extra [eval] is not installed")
SCRIPT = Path(__file__).parents[2] / "scripts/report.py"


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_a_part_is_measured_once_and_stands_on_the_page(data, steered_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "NETWORKS", {})
    for name in ("images", "reference"):
        (tmp_path / "docs" / name).mkdir(parents=True)
    words = ["--data", data, "--model", steered_folder, "--n", 3, "--size", 32, "--device", "cpu"]
    words += ["--docs", tmp_path / "docs", "-o", tmp_path / "out", "--only"]
    monkeypatch.setattr(telling, "SWEEPS", {"gsd": (1, 10, 100)})
    call(monkeypatch, *words, "generate", "upscale", "edit", "audit")
    said = capsys.readouterr().out
    assert "over bicubic" in said
    assert "**Audit**" in said
    assert "with nothing told" in said
    assert "class is read" not in said  # of three images
    page = (tmp_path / "docs/reference/measured.md").read_text()
    found = json.loads((tmp_path / "out/upscale/report.json").read_text())
    assert "Not measured for these weights: sampling, predict, inpaint, declouds, probes."
    assert "**Edited images**: their layout correlates" in said in page
    assert f"Protocol `{found['protocol']['hash'][:16]}`" in page
    assert "![upscale, sheet](../images/measured-upscale-sheet.png)" in page
    assert (tmp_path / "docs/images/measured-upscale-sheet.png").stat().st_size < 300_000
    assert all(line in page for line in said.splitlines())
    monkeypatch.setattr(run, "evaluate", None)  # nothing is left to be done
    call(monkeypatch, *words, "generate", "upscale", "audit")
    assert (tmp_path / "docs/reference/measured.md").read_text() == page
    found["made_by"]["model_hash"] = "0"
    (tmp_path / "out/upscale/report.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit, match="of another model"):
        call(monkeypatch, *words, "upscale")


def test_the_block_that_stands_on_the_page_is_not_chosen_on_test_rows():
    shown = runpy.run_path(str(SCRIPT), run_name="report")["shown"]
    common = {"labels": "set", "share": "10%", "sigma": "1"}
    lucky = common | {"features": "down.1", "read": {"value": 0.9}, "read_held_out": 0.3}
    honest = common | {"features": "down.2", "read": {"value": 0.6}, "read_held_out": 0.7}
    assert shown("linear probes", [lucky, honest, lucky]) == [honest]
