"""What is known of weights beside them: written, read again, and found for the jobs that it holds for."""

import json
import shutil
from dataclasses import asdict, replace

import pytest

from diffusionsat import CheckpointError
from diffusionsat.checkpoints.facts import Calibration, Facts, Learnt, add_calibrations, read_facts
from diffusionsat.checkpoints.layout import add_control, content_hash
from diffusionsat.model import DiffusionSat

ONE = Calibration(
    conditions={"task": "upscale", "factor": 4, "guidance": {"text": 1.0, "interval": None}},
    samples=4,
    scale=1.5,
    quantile=2.5,
    floor=0.004,
    level=0.9,
    places=30,
    data="ab",
)
JOB = ONE.conditions | {"samples": 6, "seed": 3}


def test_written_they_are_read_again_and_decide_no_pixel(steered_folder, tmp_path):
    folder = shutil.copytree(steered_folder, tmp_path / "model")
    assert read_facts(folder) == Facts()
    before = content_hash(folder)
    add_calibrations(folder, "first", (ONE, replace(ONE, samples=8)))
    add_calibrations(folder, "first", (replace(ONE, scale=9.0),))
    facts = read_facts(folder)
    assert [(c.samples, c.scale) for c in facts.calibrations] == [(8, 1.5), (4, 9.0)]
    (folder / "facts.json").write_text(json.dumps(asdict(facts) | {"guidance": {"temporal": 2.0}}))
    add_calibrations(folder, "second", (ONE,))
    assert read_facts(folder).calibrations == (ONE,)
    assert read_facts(folder).guidance == {"temporal": 2.0}
    assert content_hash(folder) == before
    assert DiffusionSat.from_pretrained(folder, device="cpu").facts == read_facts(folder)


def test_what_was_known_of_a_controlnet_goes_with_its_weights(steered_folder, tmp_path):
    folder = shutil.copytree(steered_folder, tmp_path / "model")
    other = Learnt(network="another", gsd=(1.0, 2.0))
    facts = Facts(
        learnt=(Learnt(network="temporal", side=64), other), guidance={"temporal": 2.0, "another": 3.0}
    )
    (folder / "facts.json").write_text(json.dumps(asdict(facts)))
    sat = DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")
    network = sat.control("temporal").network
    add_control(folder, "temporal", network.sizes, network.state_dict(), "fp32")
    assert read_facts(folder) == Facts(learnt=(other,), guidance={"another": 3.0})


def test_a_calibration_holds_for_jobs_of_its_conditions_and_weights():
    more = replace(ONE, samples=8, scale=2.0)
    facts = Facts(model_hash="a", calibrations=(ONE, more))
    assert facts.calibration("a", JOB) == ONE
    assert facts.calibration("a", JOB | {"samples": 64}) == more
    assert facts.calibration("a", JOB | {"samples": 3}) is None
    assert facts.calibration("a", JOB | {"factor": 2}) is None
    assert facts.calibration("b", JOB) is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"learnt": 3}',
        '{"guidance": {"temporal": "strong"}}',
        '{"strange": 1}',
        '{"calibrations": [{}]}',
    ],
)
def test_damaged_facts_are_told(tmp_path, text):
    (tmp_path / "facts.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"facts\.json cannot be read"):
        read_facts(tmp_path)


def test_the_shipped_model_tells_what_it_has_learnt_from():
    from diffusionsat.checkpoints.shipped import find

    facts = read_facts(find("compact"))
    assert [one.network for one in facts.learnt] == ["denoiser", "super-resolution", "temporal"]
    assert all(one.gsd and one.side == 64 for one in facts.learnt)
    assert facts.guidance == {"temporal": 1.5}
    as_guided = {
        one.conditions["task"] for one in facts.calibrations if "frames" in one.conditions["guidance"]
    }
    assert as_guided == {"predict", "inpaint", "declouds"}
    assert facts.of("temporal").frames == (1, 7)
    assert facts.of(None).network == "denoiser"
    assert facts.of("another") == Learnt(network="another")
