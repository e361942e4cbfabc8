"""Differences of two reports, image by image."""

import numpy as np
import pytest
from scipy import stats

from diffusionsat.evaluation.differing import paired

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
from pyarrow import parquet  # noqa: E402

N = 200


def report(folder, keys=None, places=None, **scores):
    folder.mkdir()
    columns = {"image": list(range(N)), "source": ["set"] * N, "key": keys or [f"{i}" for i in range(N)]}
    columns |= {"frame": [0] * N, "place": places or [f"{i}" for i in range(N)], "gsd": [None] * N, **scores}
    parquet.write_table(pa.table(columns), folder / "scores.parquet")
    return folder


def test_small_differences_of_uneven_images_are_seen(tmp_path):
    rng = np.random.default_rng(0)
    hard, noise = rng.normal(30, 8, N), rng.normal(0.3, 1, N)
    a = report(tmp_path / "a", psnr=hard, ssim=hard / 40, mse=hard)
    b = report(tmp_path / "b", psnr=hard + noise, ssim=hard / 40, mse=hard + rng.normal(0, 1, N))
    lines = {line["of"]: line["b"] for line in paired({"a": a, "b": b})}
    assert lines.keys() == {"psnr", "mse"}  # one did not change
    t_test = stats.ttest_rel(hard + noise, hard)
    interval = t_test.confidence_interval()
    assert lines["psnr"]["value"] == pytest.approx(noise.mean())
    assert lines["psnr"]["low"] == pytest.approx(interval.low, abs=0.02)
    assert lines["psnr"]["high"] == pytest.approx(interval.high, abs=0.02)
    assert lines["psnr"]["p"] < 0.01 < lines["mse"]["p"]


def test_images_of_one_place_are_one_witness(tmp_path):
    score = np.repeat(np.random.default_rng(1).normal(0, 1, 4), N // 4) + 0.5
    places = [f"{i // (N // 4)}" for i in range(N)]
    a = report(tmp_path / "a", places=places, psnr=np.zeros(N))
    b = report(tmp_path / "b", places=places, psnr=score)
    (line,) = paired({"a": a, "b": b})
    assert line["b"]["p"] >= 2 / 2**4  # four signs cannot tell more


def test_missing_scores_and_other_cases(tmp_path):
    half = np.where(np.arange(N) % 2, np.nan, 1.0)
    a = report(tmp_path / "a", psnr=np.arange(N) * 1.0, lpips=np.ones(N))
    b = report(tmp_path / "b", psnr=np.arange(N) + half)
    other = report(tmp_path / "c", keys=["x"] * N, psnr=np.zeros(N))
    assert [(line["of"], line["b"]["value"]) for line in paired({"a": a, "b": b})] == [("psnr", 1.0)]
    assert paired({"a": a, "c": other}) == []
    (tmp_path / "bare").mkdir()
    assert paired({"bare": tmp_path / "bare", "a": a}) == []
    (line,) = paired({"a": a, "b": b / "report.json", "c": other})
    assert (line["a"], line["c"]) == (None, None)
