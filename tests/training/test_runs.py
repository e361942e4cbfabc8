"""Runs from recipe to checkpoint: killed, stopped, gone wrong, in several processes."""

import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusionsat import Metadata
from diffusionsat.data import sources
from diffusionsat.data.records import Frame, Record
from diffusionsat.data.shards import write_shard
from diffusionsat.errors import CheckpointError, ConfigError, DatasetError, RasterError
from diffusionsat.training import run as runs
from diffusionsat.training.batches import Reader
from diffusionsat.training.denoising import DenoisingJob
from diffusionsat.training.families import make_family
from diffusionsat.training.journal import Diverged
from diffusionsat.training.procedural import Procedural
from diffusionsat.training.processes import Alone
from diffusionsat.training.recipe import Data, read_recipe

SMALL = (
    "model.sizes={channels=[16,32],blocks=1,attention=[false,true],head_width=16,embedding=32,text_width=32}",
    "data.batch_size=8",
    "data.cache=0",
    "data.held_out=4",
    "run.images=96",
    "run.save_every=16",
    "run.log_every=32",
    "run.validate_every=48",
    "data.sizes={32=1}",
    "run.precision=fp32",
    "model.storage=fp32",
    "schedule.warm_up=32",
    "schedule.decay=32",
)


def small(parts, output, *more):
    return (*SMALL, f"model.parts={parts}", f"run.output={output}", *more)


def recipe(parts, output, *more):
    return read_recipe("tiny", small(parts, output, *more))


MAIN = """
import sys
from diffusionsat.cli.train import command
sys.exit(command.main(standalone_mode=False))
"""
# Rounding stays rounding where AdamW does not divide noise by its own size, and Muon is not in bfloat16.
STEADY = ("optimiser.name=adamw", "optimiser.lr=0.001", "optimiser.eps=0.001")


def command(parts, output, *more, start=("-c", MAIN)):
    settings = [word for setting in small(parts, output, *more) for word in ("--set", setting)]
    return [sys.executable, *start, "tiny", *settings]


def difference(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def weights(output):
    return load_file(output / "model/denoiser.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert runs.run(recipe(tiny, output)) == output / "model"
    return output


def test_a_checkpoint_that_makes_images(whole):
    from diffusionsat import DiffusionSat

    sat = DiffusionSat.from_pretrained(whole / "model", device="cpu", precision="fp32")
    assert sat.config.images_seen == 96
    assert sat.generate("a river", seed=1, size=(32, 32), steps=2).pixels.shape == (32, 32, 3)
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["seen"] for line in lines] == [32, 48, 64, 96]
    assert [line["seen"] for line in lines if "validation" in line] == [48, 96]


# Never done, so that it is still there to be killed however late that comes.
ENDLESS = MAIN.replace(
    "import sys\n",
    "import sys, time\nimport diffusionsat.training.run as runs\nruns._write = lambda *_: time.sleep(3600)\n",
    1,
)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tiny, whole, tmp_path):
    """Killed without warning as soon as so much was logged, twice, then run to the end."""
    for lines in (1, 3):
        words = command(tiny, tmp_path / "run", start=("-c", ENDLESS))
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        log = tmp_path / "run/log.jsonl"
        while not (log.exists() and len(log.read_text().splitlines()) >= lines):
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "run/model").exists()
    runs.run(recipe(tiny, tmp_path / "run"))
    assert same(weights(tmp_path / "run"), weights(whole))
    kept = [json.loads(line)["seen"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert kept == sorted(set(kept))


@pytest.mark.parametrize("at", [1, 9])
def test_a_run_that_breaks_off_at_any_step_goes_on_to_the_same_bits(tiny, whole, tmp_path, monkeypatch, at):
    """As if killed within a step: an exception that nothing catches, nothing saved after it."""
    real, steps = runs.train.__globals__["step"], []

    def breaking(*args):
        steps.append(args)
        if len(steps) > at:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setitem(runs.train.__globals__, "step", breaking)
        with pytest.raises(KeyboardInterrupt):
            runs.run(recipe(tiny, tmp_path / "run"))
    runs.run(recipe(tiny, tmp_path / "run"))
    assert same(weights(tmp_path / "run"), weights(whole))


def test_the_scale_of_fp16s_gradients_goes_on_too(tiny, tmp_path, monkeypatch):
    """Too large at first, so that steps are left out until it has fallen; not once more after a stop."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *a, **k: scaler(*a, **k, init_scale=2.0**19))

    def stop(seen):
        if seen == 32:
            os.kill(os.getpid(), signal.SIGTERM)

    fp16 = ("run.precision=fp16", "run.images=48", "run.validate_every=0")
    runs.run(recipe(tiny, tmp_path / "one", *fp16))
    assert runs.run(recipe(tiny, tmp_path / "two", *fp16), show=stop) is None
    state = torch.load(tmp_path / "two/last.pt", weights_only=True)
    assert state["scaler"]["scale"] < 2**19
    assert state["network"]["conv_out.weight"].any()  # which begins with zeros: some steps were made
    runs.run(recipe(tiny, tmp_path / "two", *fp16))
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    lines = (tmp_path / "one/log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["gradient_norm"] > 0


def test_lora_moves_attention_by_matrices_of_its_rank(whole, tmp_path):
    pytest.importorskip("peft", reason="peft (extra [train]) is not installed")
    start = f"model.start={whole / 'model'}"
    runs.run(recipe(whole / "model", tmp_path, start, "model.lora_rank=2"))
    before, after = weights(whole), weights(tmp_path)
    assert before.keys() == after.keys()
    moved = {name: after[name] - before[name] for name in before if not after[name].equal(before[name])}
    assert moved
    assert all(".attention." in name for name in moved)
    assert {int(torch.linalg.matrix_rank(by, rtol=1e-3)) for by in moved.values()} == {2}


def test_changed_settings_are_named(tiny, tmp_path, caplog):
    runs.run(recipe(tiny, tmp_path / "run", "run.images=8"))
    assert "differs" not in caplog.text
    runs.run(recipe(tiny, tmp_path / "run", "run.images=16", "data.no_piece=0.3"))
    assert "config.toml differs in run.images, data.no_piece; the run goes on" in caplog.text


def test_a_run_that_is_taken_up_keeps_its_precision(tiny, tmp_path, monkeypatch, caplog):
    for fast, images in ((False, 8), (True, 16)):
        monkeypatch.setattr(runs, "fast_at_bf16", lambda device, fast=fast: fast)
        runs.run(recipe(tiny, tmp_path / "run", "run.precision=auto", f"run.images={images}"))
        assert 'precision = "fp32"' in (tmp_path / "run/config.toml").read_text()
    assert "differs in run.images; the run" in caplog.text
    runs.run(recipe(tiny, tmp_path / "other", "run.precision=auto", "run.images=8"))
    assert 'precision = "bf16"' in (tmp_path / "other/config.toml").read_text()


def test_a_stopped_run_saves_its_state_and_goes_on(tiny, whole, tmp_path):
    def stop(seen):
        if seen == 40:  # not where a state is saved anyway
            os.kill(os.getpid(), signal.SIGTERM)

    assert runs.run(recipe(tiny, tmp_path / "run"), show=stop) is None
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["seen"] == 40
    runs.run(recipe(tiny, tmp_path / "run"))
    assert same(weights(tmp_path / "run"), weights(whole))


def test_a_diverged_run_keeps_the_state_from_before(tiny, tmp_path, monkeypatch):
    real = Reader.__call__

    def poisoned(self, seen, step):
        read = real(self, seen, step)
        if seen == 56:
            read.images[0, 0, 0, 0] = float("nan")
        return read

    monkeypatch.setattr(Reader, "__call__", poisoned)
    with pytest.raises(Diverged, match="between 48 and 64 images"):
        runs.run(recipe(tiny, tmp_path / "run"))
    state = torch.load(tmp_path / "run/last.pt", weights_only=True)
    assert state["seen"] == 48
    assert all(tensor.isfinite().all() for tensor in state["network"].values())


def test_a_vanished_shard_ends_the_run_and_keeps_the_state(tiny, tmp_path, monkeypatch):
    real = Procedural.example

    def vanished(self, position, size):
        if position == 60:
            raise DatasetError("train-003.parquet cannot be read.")
        return real(self, position, size)

    monkeypatch.setattr(Procedural, "example", vanished)
    with pytest.raises(DatasetError, match="train-003"):
        runs.run(recipe(tiny, tmp_path / "run"))
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["seen"] == 48


@pytest.fixture
def limit():
    """Files may grow to a number of bytes that is given: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size=before[0]: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_the_run_and_keeps_the_state(tiny, tmp_path, limit):
    output = tmp_path / "run"

    def stop(seen):
        if seen == 16:
            os.kill(os.getpid(), signal.SIGTERM)

    runs.run(recipe(tiny, output), show=stop)
    before = (output / "last.pt").read_bytes()
    limit(len(before) // 2)
    with pytest.raises(CheckpointError, match="state saved before is whole") as raised:
        runs.run(recipe(tiny, output))
    assert isinstance(raised.value.__cause__, OSError), "which the command line tells from wrong input"
    assert (output / "last.pt").read_bytes() == before
    assert not list(output.glob(".*"))


def test_a_full_disk_among_latents_log_and_checkpoint(tiny, tmp_path, limit, monkeypatch):
    output = tmp_path / "run"
    limit(8192)
    with pytest.raises(RasterError, match=r"000000\.safetensors cannot be written: .*File too large"):
        runs.run(recipe(tiny, output, "data.cache=64"))
    assert not list((output / "cache/32").iterdir())
    limit()
    logged = ("run.images=32", "run.log_every=8", "run.validate_every=0")
    with pytest.raises(CheckpointError, match=r"log\.jsonl cannot be written"):
        runs.run(recipe(tiny, output, *logged, "run.save_every=32"), show=lambda seen: limit(16))
    limit()
    monkeypatch.setattr(DenoisingJob, "finish", lambda job: limit(8192))
    with pytest.raises(CheckpointError, match=r"run/model cannot be written: .*The state is saved"):
        runs.run(recipe(tiny, output, *logged))
    limit()
    assert not list(output.glob("*model*"))
    monkeypatch.undo()
    assert runs.run(recipe(tiny, output, *logged)) == output / "model"


def own_images(folder, lon, grey=0):
    """The settings that train on twenty equal images of one place, which are written to a folder."""
    png = io.BytesIO()
    Image.new("RGB", (32, 32), (grey,) * 3).save(png, "png")
    frame = Frame(content=png.getvalue(), format="png", name="i", metadata=Metadata(lon=lon, lat=40.5, gsd=1))
    records = [
        Record(key=str(i), source="mine", frames=(frame,), licence="", place=str(i)) for i in range(20)
    ]
    (folder / "train.parquet").unlink(missing_ok=True)
    write_shard(folder / "train.parquet", records, None, "")
    return ("data.procedural=false", f"data.sources=[{{name='mine',path='{folder}'}}]")


@pytest.mark.parametrize(
    ("kept", "says"), [(True, "they are trained on all the same"), (False, "no place is kept")]
)
def test_images_of_one_place_are_trained_on(tiny, tmp_path, caplog, kept, says):
    """Someone's own images may all lie in one cell of the Earth, whether it is held out or not."""
    lon = next(lon for lon in range(180) if sources.held_out("mine", "", lon, 40.5) == kept)
    mine = own_images(tmp_path, lon)
    assert runs.run(recipe(tiny, tmp_path / "run", *mine, "run.images=16", "run.validate_every=8"))
    assert says in caplog.text


def test_every_process_validates_equally_many_images(tiny, tmp_path):
    """Or else sharded ones wait for each other for ever."""
    made = recipe(tiny, tmp_path, "data.held_out=5")
    counts = []
    for rank in range(2):
        processes = Alone(torch.device("cpu"))
        processes.rank, processes.count = rank, 2
        job = runs.make_job(made, make_family(made), tmp_path, processes)
        counts.append([len(batch) for batch in job._validation(job.held_out)])
        job.close()
    assert counts == [[3], [3]]


def test_a_damaged_or_foreign_state_is_refused(tiny, tmp_path):
    output = tmp_path / "run"
    runs.run(recipe(tiny, output, "run.images=16"))
    with pytest.raises(CheckpointError, match="does not fit this run"):
        runs.run(recipe(tiny, output, "model.sizes.channels=[32,32]"))
    (output / "last.pt").write_bytes((output / "last.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        runs.run(recipe(tiny, output))


def test_parts_of_a_batch_give_what_the_whole_gives(tiny, whole, tmp_path):
    runs.run(recipe(tiny, tmp_path / "parts", *STEADY, "optimiser.accumulation=4"))
    runs.run(recipe(tiny, tmp_path / "one", *STEADY))
    assert difference(weights(tmp_path / "parts"), weights(tmp_path / "one")) < 1e-6
    assert difference(weights(tmp_path / "one"), weights(whole)) > 1e-3


@pytest.mark.parametrize(("processes", "cache"), [(2, 0), (1, 40)])
def test_processes_that_read_change_nothing(tiny, tmp_path, processes, cache):
    for count in (0, processes):
        more = (f"data.processes={count}", f"data.cache={cache}", "run.images=48")
        runs.run(recipe(tiny, tmp_path / str(count), *more))
    assert same(weights(tmp_path / "0"), weights(tmp_path / str(processes)))


@pytest.mark.slow
def test_ctrl_c_is_the_runs_and_not_of_processes_that_read(tiny, tmp_path):
    """As a terminal sends it: to all processes of a group."""
    words = command(tiny, tmp_path / "run", "data.processes=1", "run.images=1000000")
    with subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True) as process:
        log = tmp_path / "run/log.jsonl"
        while not log.exists():
            assert process.poll() is None
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        told = process.communicate()[1].decode()
    assert "Traceback" not in told
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["seen"] >= 32


class Deadly(Procedural):
    """Whoever reads it dies."""

    def example(self, position, size):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_reads_and_dies_is_told():
    reader = Reader(Deadly(0, {32: 1.0}), Data(batch_size=2, processes=1), seed=0)
    try:
        with pytest.raises(DatasetError, match=r"fewer data\.processes"):
            reader(0, 0)
    finally:
        reader.close()


def test_captions_at_once_are_those_one_by_one(tiny):
    family = make_family(recipe(tiny, "unused"))
    captions = ["a river", "", "a village among fields of wheat and barley"]
    states, mask = family.text(captions)
    family.captions.alone = False
    together, also = family.text(captions)
    assert torch.equal(mask, also)
    assert not together.is_inference()
    assert (together - states)[mask].abs().max() < 1e-5


def test_cached_latents_are_made_once_and_checked(tiny, tmp_path, caplog):
    def cached(name, *settings):
        wanted = recipe(tiny, tmp_path / name, "data.cache=300", "run.images=400", *settings)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        runs.make_job(wanted, make_family(wanted), folder, runs.start(wanted.run)).close()

    cached("a")
    files = sorted((tmp_path / "a/cache/32").iterdir())
    assert [f.name for f in files] == ["000000.safetensors", "000001.safetensors"]
    kept, lost = (load_file(f)["latents"].clone() for f in files)
    files[1].unlink()
    before = files[0].stat().st_mtime_ns
    shared = f"data.cache_folder={tmp_path / 'a/cache'}"
    cached("b", shared)
    assert files[0].stat().st_mtime_ns == before
    assert torch.equal(load_file(files[1])["latents"], lost)
    for file, whole in zip(files, (kept, lost), strict=True):
        file.write_bytes(file.read_bytes()[:-10])
        cached("b", shared)
        assert "is damaged" in caplog.text
        caplog.clear()
        assert torch.equal(load_file(file)["latents"], whole)
    before = files[0].stat().st_mtime_ns
    with pytest.raises(ConfigError, match="latents of other data"):
        cached("c", shared, "run.seed=1")
    cached("c", shared, "data.cache=400")
    assert files[0].stat().st_mtime_ns == before
    assert [len(load_file(f)["latents"]) for f in files] == [256, 144]
    cached("d", "data.sizes={32=1,64=1}")
    files = sorted((tmp_path / "d/cache/64").iterdir())
    assert sum(len(load_file(f)["latents"]) for f in files) == 75  # in the room of 300 of half the side
    cached("e", "run.images=32")  # no more than the run sees
    (file,) = (tmp_path / "e/cache/32").iterdir()
    assert torch.equal(load_file(file)["latents"], kept[:32])


def test_cached_latents_of_data_that_changed_are_refused(tiny, tmp_path):
    run = ("data.cache=16", "data.unplaced=0.5", "run.images=8")
    runs.run(recipe(tiny, tmp_path, *own_images(tmp_path, 3), *run))
    runs.run(recipe(tiny, tmp_path, *own_images(tmp_path, 3), *run, "run.images=16"))
    shared = (f"run.output={tmp_path / 'other'}", f"data.cache_folder={tmp_path / 'cache'}")
    for changed in ({"lon": 3, "grey": 200}, {"lon": 4}):
        with pytest.raises(ConfigError, match="latents of other data"):
            runs.run(recipe(tiny, tmp_path, *own_images(tmp_path, **changed), *run, *shared))


def test_numbers_in_words_are_given_as_words_alone(tiny, tmp_path, monkeypatch):
    given = []
    real = DenoisingJob._encoded
    monkeypatch.setattr(DenoisingJob, "_encoded", lambda job, read: (given.append(read), real(job, read))[1])
    runs.run(recipe(tiny, tmp_path / "run", "data.numbers_in_words=true", "run.images=16"))
    assert all(read.numbers.isnan().all() for read in given)
    captions = [caption for read in given for caption in read.captions]
    assert sum("m per pixel" in caption for caption in captions) > len(captions) / 2


SHARDS = """
import diffusionsat.training.run as runs

real = runs.train


def train(job, state, *others):
    weights = list(state.network.parameters())
    held = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in weights)
    print(f"held {held / sum(p.numel() for p in weights):.2f}", file=sys.stderr)
    return real(job, state, *others)


runs.train = train
"""


@pytest.mark.slow
@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize(("sharding", "held"), [("none", "held 1.00"), ("fsdp", "held 0.50")])
def test_two_processes_give_the_weights_of_one(tiny, tmp_path, sharding, held):
    """By torchrun, with gloo; what each process holds of the weights is told by the process itself."""
    pytest.importorskip("accelerate", reason="accelerate (extra [train]) is not installed")
    script = tmp_path / "train.py"
    script.write_text(MAIN.replace("import sys\n", f"import sys\n{SHARDS}", 1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", str(script))
    settings = (*STEADY, "run.images=48", "run.device=cpu", "run.sheet_every=24")
    words = command(tiny, tmp_path / "two", *settings, f"run.sharding={sharding}", start=torchrun)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(held) == 2
    assert len(done.stdout.splitlines()) == 1
    runs.run(recipe(tiny, tmp_path / "one", *settings))
    assert difference(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-6
    one, two = ((tmp_path / n / "log.jsonl").read_text().splitlines() for n in ("one", "two"))
    assert [json.loads(line)["seen"] for line in one] == [json.loads(line)["seen"] for line in two]
    sheets = [path.name for path in (tmp_path / "two").glob("sheets/*.png")]
    assert len(sheets) == (2 if sharding == "none" else 0)
