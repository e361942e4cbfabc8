"""What TensorBoard reads back of a run is what its log and its sheets say."""

import json

import numpy as np
import pytest
from PIL import Image
from test_runs import recipe

from diffusionsat.errors import MissingExtraError
from diffusionsat.training import run as runs
from diffusionsat.training import trackers

TRACKED = ('run.trackers=["tensorboard"]', "run.images=64", "run.sheet_every=24", "run.log_every=8")


def test_tensorboard_has_the_log_and_the_sheets_of_a_run_that_was_broken_off(tiny, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard (extra [tensorboard]) is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def break_off(seen):
        if seen == 56:  # the state is of 48: what was said since is said again
            raise KeyboardInterrupt

    output = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        runs.run(recipe(tiny, output, *TRACKED), show=break_off)
    runs.run(recipe(tiny, output, *TRACKED))
    read = EventAccumulator(str(output / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert set(read.Tags()["scalars"]) == {"loss", "gradient_norm", "images_per_s", "validation"}
    for name in read.Tags()["scalars"]:
        told = {event.step: event.value for event in read.Scalars(name)}
        assert len(told) == len(read.Scalars(name))
        assert told == pytest.approx({line["seen"]: line[name] for line in lines if name in line})
    sheets = {int(file.stem): file for file in (output / "sheets").iterdir()}
    assert set(sheets) == {24, 48}
    for event in read.Images("sheet"):
        (tmp_path / "read.png").write_bytes(event.encoded_image_string)
        assert np.array_equal(Image.open(tmp_path / "read.png"), Image.open(sheets.pop(event.step)))
    assert not sheets


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_made(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"wandb.*pip install 'diffusionsat\[wandb\]'"):
        runs.run(recipe(tiny, tmp_path / "run", 'run.trackers=["wandb"]'))
    assert not (tmp_path / "run").exists()
