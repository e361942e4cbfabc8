"""`diffusionsat train` as a user runs it."""

import json
import signal
import subprocess
import sys
import time

import pytest

from diffusionsat.cli.main import run as cli
from diffusionsat.cli.train import command
from diffusionsat.config import read
from diffusionsat.training.recipe import Recipe, read_recipe

MAIN = """
import sys
from diffusionsat.cli.train import command
sys.exit(command.main(standalone_mode=False))
"""


def settings(tiny, output, *more):
    sizes = "{channels=[16,32],blocks=1,attention=[false,true],head_width=16,embedding=32,text_width=32}"
    small = (
        "run.images=64",
        "run.validate_every=0",
        "data.cache=0",
        "data.batch_size=8",
        "data.sizes={32=1}",
    )
    given = (f"model.parts={tiny}", f"model.sizes={sizes}", f"run.output={output}", *small, *more)
    return [word for setting in given for word in ("--set", setting)]


def test_a_run_makes_a_checkpoint_for_generate(tiny, tmp_path, capsys):
    assert command.main(["tiny", *settings(tiny, tmp_path / "run"), "-q"], standalone_mode=False) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"path": str(tmp_path / "run/model"), "images": 64}
    out = tmp_path / "x.png"
    words = [
        "generate",
        "a river",
        "--size",
        "32x32",
        "--steps",
        "2",
        "--model",
        said["path"],
        "-o",
        str(out),
    ]
    assert cli(words) == 0
    assert out.is_file()


def test_ctrl_c_saves_stops_and_says_how_to_go_on(tiny, tmp_path):
    words = [sys.executable, "-c", MAIN, "tiny"]
    words += settings(tiny, tmp_path / "run", "run.images=100000", "run.log_every=8")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/log.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert "Go on with: diffusionsat train tiny --set" in err
    assert "Traceback" not in err
    assert (tmp_path / "run/last.pt").is_file()


def test_print_config_is_a_config(tmp_path, capsys):
    words = ["published/xbd-past", "--set", "optimiser.lr=1e-6", "--print-config"]
    assert command.main(words, standalone_mode=False) == 0
    file = tmp_path / "x.toml"
    file.write_text(capsys.readouterr().out)
    assert read(Recipe, file) == read_recipe("published/xbd-past", ("optimiser.lr=1e-6",))


def test_dry_run_writes_nothing(tiny, tmp_path, capsys):
    words = ["tiny", *settings(tiny, tmp_path / "run"), "--dry-run"]
    assert command.main(words, standalone_mode=False) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["steps"], said["batch"], said["sources"]) == (8, 8, ["procedural"])
    assert said["bytes_of_training_state"] > 4 * said["trained_parameters"]
    assert not (tmp_path / "run").exists()


def test_a_diverged_run_fails_with_a_message(tiny, tmp_path, capsys):
    wild = ("optimiser.name=adamw", "optimiser.lr=1e30", "schedule.warm_up=0", "run.precision=fp32")
    words = ["tiny", *settings(tiny, tmp_path / "run", *wild), "-q"]
    assert command.main(words, standalone_mode=False) == 1
    assert "no finite number" in capsys.readouterr().err
    assert not (tmp_path / "run/last.pt").exists()


def test_help_loads_no_torch():
    code = (
        "import sys; from diffusionsat.cli.train import command; command(['--help'], standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], capture_output=True, check=False
    )
    assert done.returncode == 0
    assert b"Examples:" in done.stdout


@pytest.mark.slow
def test_train_tiny_as_shipped_learns(tmp_path):
    """The whole shipped config: its validation loss falls well below that of the first images."""
    words = ["tiny", "--set", f"run.output={tmp_path / 'run'}", "--set", "run.validate_every=1024", "-q"]
    assert command.main(words, standalone_mode=False) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert lines[-1]["validation"] < 0.7 * lines[0]["loss"]
