"""Edited images in an evaluation: of which class, and on the layout of which image."""

import io

import numpy as np
import pytest
from colours import LABELS
from PIL import Image

from diffusionsat import ConfigError
from diffusionsat.evaluation import editing, run
from diffusionsat.evaluation.cases import choose, open_sources
from diffusionsat.evaluation.editing import Reworded
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.run import evaluate

pytest.importorskip("matplotlib", reason="the extra [eval] is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
from pyarrow import parquet  # noqa: E402


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Images of large patches, of two classes."""
    folder, rng, rows = tmp_path_factory.mktemp("patches"), np.random.default_rng(0), []
    for i in range(40):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)).save(
            out, "PNG"
        )
        row = {"key": f"{i}", "image": out.getvalue(), "width": 32, "height": 32, "gsd": 10.0}
        row |= dict.fromkeys(("lon", "lat", "date", "cloud_cover", "caption"))
        rows.append(row | {"label": ["Forest", "River"][i % 2]})
    parquet.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
    return folder


@pytest.fixture
def request_of(patches, tiny, monkeypatch):
    monkeypatch.setattr(run, "NETWORKS", {})

    def request(**options):
        common = {"data": (str(patches),), "model": str(tiny), "n": 16, "size": 32, "steps": 4}
        return EvaluateRequest(**{"task": "edit", "device": "cpu", "precision": "fp32"} | common | options)

    return request


def test_every_image_is_asked_for_in_words_of_another_class(data):
    before, _ = choose(open_sources((str(data / "eurosat_rgb"),), "test"), n=20, size=32, seed=0)
    asked = Reworded(before, 0)
    assert len(asked) == 20
    for was, now in zip(before.cases, asked.cases, strict=True):
        assert now.label in {*LABELS} - {was.label}
        assert (now.key, now.metadata, now.prompt != was.prompt) == (was.key, was.metadata, True)
    assert asked.part(range(3, 5)) == asked.cases[3:5]
    assert np.array_equal(asked.pixels(range(2)), before.pixels(range(2)))
    assert asked.digest == Reworded(before, 0).digest != Reworded(before, 1).digest


def test_an_image_that_is_left_as_it_is_keeps_its_layout_and_its_class(request_of, tmp_path, monkeypatch):
    asked = []

    class Left:
        """An edit that changes nothing."""

        def __init__(self, image, prompt, strength, **_):
            self.pixels = image
            asked.append((prompt, strength))

        def job(self, sat):
            return self

        def sample(self, index):
            return self

    monkeypatch.setattr(editing, "EditRequest", Left)
    monkeypatch.setattr(editing, "framed", lambda pixels, metadata: pixels)
    monkeypatch.setattr(editing, "restore", lambda left: left)
    told = evaluate(request_of(strength=0.3), tmp_path / "report")
    (layout,) = told["tables"]["layout"]
    assert layout["correlation"]["value"] == pytest.approx(1)
    assert abs(layout["correlation_of_another"]["value"]) < 0.3
    assert (len(asked), {strength for _, strength in asked}) == (16, {0.3})
    for line in told["tables"].get("words", []):
        assert line["read"]["value"] == line["read_real"]
    scores = parquet.read_table(tmp_path / "report/scores.parquet")
    np.testing.assert_allclose(scores["layout_correlation"].to_numpy(), 1, rtol=1e-6)


def test_a_model_is_measured(request_of, tmp_path):
    told = [evaluate(request_of(strength=s), tmp_path / str(s)) for s in (0.25, 1.0)]
    assert told[0]["protocol"]["strength"] == 0.25
    assert told[0]["protocol"]["hash"] != told[1]["protocol"]["hash"]
    assert told[0]["tables"]["quality"] != told[1]["tables"]["quality"]


def test_what_cannot_be(request_of, data, tmp_path):
    with pytest.raises(ConfigError, match="several classes"):
        evaluate(request_of(data=(str(data / "blue_marble_2004"),)), tmp_path / "report")
    with pytest.raises(ConfigError, match="Give --model"):
        evaluate(request_of(model=None, images=tmp_path), tmp_path / "report")
    with pytest.raises(ConfigError, match="there are no cases"):
        run.cases(request_of())
    with pytest.raises(ConfigError, match="strength is 0"):
        evaluate(request_of(strength=0), tmp_path / "report")
