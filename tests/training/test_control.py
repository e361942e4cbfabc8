"""A compact ControlNet in training, on sequences that the tests write."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusionsat import CheckpointError, DiffusionSat, Guidance, Metadata
from diffusionsat.data.conditions import Condition
from diffusionsat.data.reading import Example
from diffusionsat.data.records import Frame, Record
from diffusionsat.data.shards import write_shard
from diffusionsat.errors import ConfigError
from diffusionsat.model import Steering
from diffusionsat.models.encodings import numbers
from diffusionsat.models.networks import BANDS, Frames
from diffusionsat.training import run as runs
from diffusionsat.training.batches import Batch, all_bands, generator, normal, steering
from diffusionsat.training.control import features
from diffusionsat.training.denoising import DenoisingJob
from diffusionsat.training.families import make_family
from diffusionsat.training.loop import step
from diffusionsat.training.precision import attending
from diffusionsat.training.procedural import KINDS, draw
from diffusionsat.training.recipe import read_recipe

SETTINGS = (
    "model.sizes={frame_channels=[16,16],frame_blocks=[1,1],fusion_channels=16,fusion_heads=4,guess=true}",
    "model.storage=fp32",
    "data.sizes={32=1}",
    "data.batch_size=8",
    "data.workers=1",
    "data.held_out=8",
    "data.frames.series=[]",
    "data.frames.holes_from=[]",
    "run.images=96",
    "run.save_every=32",
    "run.log_every=32",
    "run.validate_every=48",
    "run.precision=fp32",
    "schedule.warm_up=16",
    "schedule.decay=32",
)


def sequences(folder, count=24):
    """Places of four months each, of several kinds of land."""
    records = []
    for i in range(count):
        frames = []
        for month in (1, 4, 7, 10):
            known = Metadata(
                lon=10 * i - 120 + 0.5, lat=40.5, gsd=10, date=f"2020-{month:02d}", cloud_cover=0
            )
            png = io.BytesIO()
            Image.fromarray(draw(KINDS[i % 5], known, i, 40)).save(png, "png")
            frames.append(Frame(content=png.getvalue(), format="png", name=str(i), metadata=known))
        records.append(Record(key=str(i), source="s", frames=tuple(frames), licence="l", place=str(i)))
    folder.mkdir()
    write_shard(folder / "train.parquet", records, None, "")
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return sequences(tmp_path_factory.mktemp("control") / "places")


def settings(tiny, places, output, *more):
    source = f"data.sources=[{{name='places',path='{places}'}}]"
    return (*SETTINGS, source, f"model.parts={tiny}", f"run.output={output}", *more)


def recipe(tiny, places, output, *more):
    return read_recipe("compact/temporal", settings(tiny, places, output, *more))


def weights(output):
    return load_file(output / "model/control-temporal.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tiny, places, tmp_path_factory):
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert runs.run(recipe(tiny, places, output)) == output / "model"
    return output


def test_the_checkpoint_has_a_controlnet_that_steers(tiny, whole):
    sat = DiffusionSat.from_pretrained(whole / "model", device="cpu", precision="fp32")
    assert sat.controls == ("temporal",)
    for name in ("denoiser", "autoencoder", "text_encoder"):
        file = f"{name}.safetensors"
        assert (whole / "model" / file).read_bytes() == (tiny / file).read_bytes()
    card = (whole / "model/README.md").read_text()
    assert card.startswith((tiny / "README.md").read_text())
    assert "(controlnet-3d) on 96 images" in card
    some = [example(frame(BANDS[:3], 32, 0))]
    seen = all_bands(*steering(some, [numbers([Metadata(gsd=10)]).numpy()]))
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32))

    @torch.no_grad()
    def estimate(steered):
        once = Guidance(text=1, metadata=1)
        return sat.conditioned(["a river"], [Metadata(gsd=10)], "", once, steered)(noise, 1.0)

    steered = estimate(Steering(control="temporal", frames=seen, size=(32, 32)))
    assert float((steered - estimate(None)).abs().max()) > 1e-3
    off = Steering(control="temporal", frames=seen, size=(32, 32), strength=0.0)
    torch.testing.assert_close(estimate(off), estimate(None))


def test_what_was_logged(whole):
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["seen"] for line in lines] == [32, 48, 64, 96]
    assert [line["seen"] for line in lines if "validation" in line] == [48, 96]


MAIN = "import sys; from diffusionsat.cli.train import command; sys.exit(command.main(standalone_mode=False))"


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tiny, places, whole, tmp_path):
    words = [word for one in settings(tiny, places, tmp_path / "run") for word in ("--set", one)]
    endless = "import time; import diffusionsat.training.run as r; r._write = lambda *_: time.sleep(3600); "
    command = [sys.executable, "-c", endless + MAIN, "compact/temporal", *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    log = tmp_path / "run/log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) >= 2):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    runs.run(recipe(tiny, places, tmp_path / "run"))
    assert same(weights(tmp_path / "run"), weights(whole))


def test_a_stopped_run_goes_on_to_the_same_bits(tiny, places, whole, tmp_path):
    def stop(seen):
        if seen == 40:
            os.kill(os.getpid(), signal.SIGTERM)

    assert runs.run(recipe(tiny, places, tmp_path / "run"), show=stop) is None
    runs.run(recipe(tiny, places, tmp_path / "run"))
    assert same(weights(tmp_path / "run"), weights(whole))


def test_cached_latents_come_with_frames(tiny, places, tmp_path):
    """The first time that all are seen they are those of the uncached run at the same positions."""
    cached = recipe(tiny, places, tmp_path / "run", "data.cache=24", "run.images=48")
    family = make_family(cached)
    examples = runs.make_job(cached, family, tmp_path / "run", runs.start(cached.run)).reader.examples
    mixture, _ = runs.make_examples(cached)
    order = [int(examples.example(p, 32).key) for p in range(48)]
    assert sorted(order[:24]) == sorted(order[24:]) == list(range(24))
    differ = 0
    for p, row in enumerate(order):
        one, plain = examples.example(p, 32), mixture.example(row, 32)
        image = torch.from_numpy(plain.pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        torch.testing.assert_close(
            torch.from_numpy(one.pixels), family.encode(image, [])[0], rtol=0.02, atol=0.02
        )
        alike = [f.metadata for f in one.frames] == [f.metadata for f in plain.frames]
        assert alike or p >= 24
        differ += not alike
    assert differ > 8
    runs.run(cached)
    assert (tmp_path / "run/model/control-temporal.safetensors").is_file()


def frame(bands, size, seed, date=None):
    rng = np.random.default_rng(seed)
    return Condition(
        values=rng.random((len(bands), size, size), np.float32),
        valid=rng.random((size, size)) < 0.8,
        bands=bands,
        metadata=Metadata(date=date, gsd=10),
        role="rgb",
    )


def example(*frames):
    pixels = np.zeros((8, 8, 3), np.uint8)
    return Example(key="", source="", pixels=pixels, metadata=Metadata(), caption="", frames=frames)


def test_frames_of_a_batch():
    one, two = frame(("swir22", "red"), 8, 0, "2020"), frame(("cirrus",), 8, 1, "2021-05")
    known = [np.array([f.metadata.numbers for f in some]).reshape(-1, 7) for some in ((one, two), (), (two,))]
    frames = all_bands(*steering([example(one, two), example(), example(two)], known))
    assert frames.values.shape == (3, 2, 13, 8, 8)
    assert frames.bands.sum((1, 2)).tolist() == [3, 0, 1]
    np.testing.assert_array_equal(frames.values[0, 0, BANDS.index("red")], one.values[1])
    np.testing.assert_array_equal(frames.values[0, 0, BANDS.index("swir22")], one.values[0])
    np.testing.assert_array_equal(frames.values[2, 0, BANDS.index("cirrus")], two.values[0])
    np.testing.assert_array_equal(frames.valid[0, 1], two.valid)
    assert not frames.valid[1].any()
    assert frames.numbers[0, :, 4].tolist() == [2020, 2021]
    assert frames.numbers[0, 1, 5] == 5
    assert frames.numbers[1].isnan().all()
    assert all_bands(*steering([example()], [np.zeros((0, 7))])).bands.shape == (1, 1, 13), (
        "never without any"
    )


@pytest.fixture
def family(tiny, places, tmp_path):
    made = make_family(recipe(tiny, places, tmp_path / "run"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in (*made.network.to_skips, made.network.to_middle):
            torch.nn.init.normal_(layer.weight, std=0.1)
    return made


def batch_of(family, examples):
    known = [np.array([f.metadata.numbers for f in e.frames]).reshape(-1, 7) for e in examples]
    rngs = [generator(0, i) for i in range(len(examples))]
    return Batch(
        images=normal(rngs, (4, 8, 8)),
        noise=normal(rngs, (4, 8, 8)),
        level=torch.linspace(0.2, 0.8, len(examples)),
        numbers=numbers([e.metadata for e in examples]),
        text=family.text([e.caption for e in examples]),
        frames=all_bands(*steering(examples, known)),
    )


def test_absent_frames_change_nothing(family):
    some = [
        example(frame(BANDS[:3], 32, 0), frame(BANDS[3:5], 32, 1)),
        example(),
        example(frame(BANDS, 32, 2)),
    ]
    batch = batch_of(family, some)
    frames = Frames(*batch.frames)
    junk = Frames(
        torch.full((3, 3, 13, 32, 32), torch.nan),
        torch.zeros(3, 3, 13, dtype=torch.bool),
        torch.ones(3, 3, 32, 32, dtype=torch.bool),
        torch.ones(3, 3, 7),
    )
    more = replace(batch, frames=Frames(*(torch.cat(pair, 1) for pair in zip(junk, frames, strict=True))))
    time = torch.rand(3)
    with torch.no_grad():
        one, other = (family.predict(family.network, batch.noise, time, b) for b in (batch, more))
        plain = family.networks.denoiser(batch.noise, time, *batch.text, batch.numbers)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
        torch.testing.assert_close(one[1], plain[1], atol=1e-5, rtol=0)
        assert float((one[[0, 2]] - plain[[0, 2]]).abs().min(0).values.max()) > 1e-3
        filled = (features(family.network, frames, 32, family.networks.encode, n) for n in (1, 8))
        for alone, among in zip(*filled, strict=True):
            torch.testing.assert_close(alone, among, atol=1e-5, rtol=0)
        # As a job computes it, frame by frame absent or not.
        seen = family.network.encode_frames(frames, (32, 32), encode=family.networks.encode)
        whole = family.network.residuals(batch.noise, time, *batch.text, batch.numbers, seen, frames.numbers)
        steered = family.networks.denoiser(batch.noise, time, *batch.text, batch.numbers, whole)
        torch.testing.assert_close(one, steered, atol=1e-5, rtol=0)
    nothing = batch_of(family, [example(), example()])
    loss = family.predict(family.network, nothing.noise, torch.rand(2), nothing).sum()
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in family.network.parameters())


def test_nothing_is_kept_of_the_frozen_way_down(family):
    batch = batch_of(family, [example(frame(BANDS[:3], 32, 0))])
    denoiser, found = family.networks.denoiser, {}

    def noting(name):
        def note(module, inputs, out):
            found[name] = found.get(name, False) or out.requires_grad

        return note

    parts = (("down", denoiser.down), ("middle", denoiser.middle), ("up", denoiser.up))
    hooks = [block.register_forward_hook(noting(name)) for name, blocks in parts for block in blocks]
    loss = family.predict(family.network, batch.noise, torch.rand(1), batch).square().sum()
    for hook in hooks:
        hook.remove()
    assert found == {"down": False, "middle": False, "up": True}
    loss.backward()
    assert all(p.grad is None for p in denoiser.parameters())
    assert family.network.to_middle.weight.grad.any()


class Itself:
    """A few images, of which each is given as it is."""

    def size(self, batch):
        return 32

    def example(self, position, size, again=0):
        known = Metadata(lon=0, lat=0, gsd=10, date="2020-06")
        pixels = draw(KINDS[position % 5], known, position % 16, 32)
        values = np.moveaxis(pixels, 2, 0) / np.float32(255)
        seen = Condition(
            values=values, valid=np.ones((32, 32), bool), bands=BANDS[:3], metadata=known, role="rgb"
        )
        return Example(key="", source="", pixels=pixels, metadata=known, caption="", frames=(seen,))


def test_it_learns_to_use_what_it_sees(tiny, places, tmp_path):
    """Each image is its own condition: the loss falls below that of the same network without the frames."""
    made = recipe(tiny, places, tmp_path / "run", "schedule.decay=0", "run.images=4000")
    family, processes = make_family(made), runs.start(made.run)
    job = DenoisingJob(made, family, Itself(), Itself(), tmp_path, processes)
    state, seen = runs.make_state(made, family.network, processes), 0
    before = job.figures()["validation"]
    shown = job.validation
    nothing = [(b.frames[0], torch.zeros_like(b.frames[1]), *b.frames[2:]) for b in shown]
    blind = [replace(b, frames=frames) for b, frames in zip(shown, nothing, strict=True)]
    job.validation = blind
    unsteered = job.figures()["validation"]
    job.validation = shown
    for i in range(40):
        batch = job.batch(seen, i)
        step(job.learner, batch, state, made, processes)
        seen += len(batch)
    assert job.figures()["validation"] < 0.9 * before
    job.validation = blind
    assert job.figures()["validation"] == unsteered, "without frames nothing is changed"
    job.close()


def test_training_goes_on_from_a_checkpoint_that_has_it(tiny, places, whole, tmp_path):
    more = recipe(tiny, places, tmp_path / "run", f"model.start={whole / 'model'}", "model.sizes={}")
    assert same(dict(make_family(more).network.state_dict()), weights(whole))
    with pytest.raises(ConfigError, match="has no ControlNet 'other'"):
        make_family(replace(more, model=replace(more.model, name="other")))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("model.sizes={fusion_heads=5}",), "model.sizes are not possible"),
        (("model.name=My net",), "a ControlNet's is of a-z"),
        (("objective.prediction=v", "objective.shift=1"), "predicts flow, but objective.prediction is v"),
    ],
)
def test_networks_that_cannot_be(tiny, places, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        make_family(recipe(tiny, places, tmp_path / "run", *changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("run.task=controlnet",), "give controlnet-3d"),
        (("run.task=text-to-image",), "data.frames is what a compact ControlNet is given"),
        (("data.frames.holes=0.7", "data.frames.coarse=0.7"), "together at most 1"),
        (("data.frames.hole=0.7",), "Did you mean 'holes'"),
        (("model.autoencoder=x",), "leave it empty"),
    ],
)
def test_recipes_that_cannot_be(tiny, places, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        recipe(tiny, places, tmp_path / "run", *changes)


def test_a_checkpoint_that_cannot_be_copied_leaves_none(tiny, places, tmp_path):
    base = shutil.copytree(tiny, tmp_path / "base")
    made = recipe(base, places, tmp_path / "run", "run.images=8", "run.validate_every=0")
    family = make_family(made)
    shutil.rmtree(base)
    with pytest.raises(CheckpointError, match="cannot be written"):
        runs._write(tmp_path / "model", lambda beside: family.write(beside, 8))
    assert not list(tmp_path.iterdir())


def test_a_gpu_does_not_train_with_the_attention_that_gives_nan():
    with attending(torch.device("cuda"), few=True):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
