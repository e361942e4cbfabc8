"""Every config that comes with the package builds and makes a step, at tiny size, on images drawn here."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusionsat.data.records import Frame, Record
from diffusionsat.data.shards import write_shard
from diffusionsat.data.sources import held_out
from diffusionsat.errors import ConfigError
from diffusionsat.metadata import Metadata
from diffusionsat.training.compact import read_autoencoder
from diffusionsat.training.families import make_family
from diffusionsat.training.procedural import Procedural
from diffusionsat.training.recipe import read_recipe, shipped
from diffusionsat.training.reconstruction import ReconstructionJob
from diffusionsat.training.run import make_examples, run, try_out

DENOISER = "{channels=[16,32],blocks=1,attention=[false,true],head_width=16,embedding=32,text_width=32}"
AUTOENCODER = "{encoder_channels=[16,16],decoder_channels=[16,16]}"
CONTROL = "{frame_channels=[16,16],fusion_channels=16,fusion_heads=4}"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    pytest.importorskip("diffusers", reason="diffusers (extra [published]) is not installed")
    from diffusionsat.testing.published import tiny_published

    return tiny_published(tmp_path_factory.mktemp("released")) / "single"


def small(name, output, tiny, released):
    """A shipped recipe with drawn images, tiny networks and few images."""
    recipe = read_recipe(name)
    compact = recipe.model.family == "compact"
    sizes = {"autoencoder": AUTOENCODER, "controlnet-3d": CONTROL}.get(recipe.run.task, DENOISER)
    if not compact:
        sizes = "{conditioning_embedding_out_channels=[4,8,8,16]}"
    settings = [
        "data.procedural=true",
        "data.sources=[]",
        "data.sizes={64=1}",
        "data.batch_size=4",
        "data.held_out=2",
        "data.cache=0",
        "run.images=8",
        "run.validate_every=4",
        "run.sheet_every=0",
        "run.precision=bf16",
        "objective.perceptual=0",
        f"model.sizes={sizes}",
        f"run.output={output}",
        "model.autoencoder=",
        f"model.parts={tiny}" if compact else f"model.start={released}",
        *([f"model.start={tiny}"] if compact and recipe.model.start else []),
    ]
    return read_recipe(name, tuple(settings))


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_makes_a_step(name, steered_folder, tmp_path, request):
    published = name.startswith("published/")
    released = request.getfixturevalue("released") if published else None
    recipe = small(name, tmp_path / "run", steered_folder, released)
    said = try_out(recipe)
    assert said["images_per_s"] > 0
    assert 0 < said["trained_parameters"] <= said["parameters"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "settings", "part"),
    [
        ("published/single-256", (), "unet"),
        ("published/single-256", ("model.lora_rank=2",), "unet"),
        ("published/fmow-superresolution", (), "controlnet"),
        ("published/texas", (), "controlnet"),
    ],
)
def test_published_networks_are_trained_and_written(name, settings, part, tiny, released, tmp_path):
    from diffusionsat.checkpoints.published import read_controlnet, read_unet

    recipe = small(name, tmp_path / "run", tiny, released)
    model = replace(recipe.model, storage="fp32", lora_rank=2 if settings else 0)
    recipe = replace(recipe, model=model, optimiser=replace(recipe.optimiser, lr=0.01))
    folder = run(recipe)
    assert folder is not None
    if part == "unet":
        before, after = read_unet(released / "checkpoint-10/unet"), read_unet(folder / "unet")
        moved = {n for n, p in after.named_parameters() if not p.equal(before.get_parameter(n))}
        assert moved
        if settings:
            assert all(".to_" in name for name in moved)
            assert (folder / "lora/pytorch_lora_weights.safetensors").is_file()
    else:
        controlnet = read_controlnet(folder / "controlnet")
        assert controlnet.controlnet_mid_block.weight.any()
        assert controlnet.controlnet_cond_embedding.conv_out.weight.any()


def test_published_values(reference):
    """PUBLISHED: lr, steps and min-SNR; the super-resolution's bands and their normalisation."""
    for name, lr, steps, batch in (
        ("single-256", 4e-6, 150_000, 64),
        ("single-512", 2e-6, 150_000, 64),
        ("fmow-superresolution", 5e-5, 50_000, 64),
        ("fmow-temporal", 2e-5, 40_000, 64),
        ("texas", 8e-5, 50_000, 128),
        ("xbd-past", 5e-5, 30_000, 128),
        ("xbd-future", 5e-5, 30_000, 128),
    ):
        recipe = read_recipe(f"published/{name}")
        assert (recipe.optimiser.lr, recipe.run.images) == (lr, steps * batch)
        assert recipe.objective.weighting == ("published" if name.startswith("single") else "none")
    tables = json.loads((reference / "parity/data/tables.json").read_text())
    data = read_recipe("published/fmow-superresolution").data
    wanted = tables["sentinel_channels_after_flip_and_drop"]
    assert [f"B{int(b[1:]):02d}" if b != "B8A" else b for b in wanted] == list(data.condition_bands)
    for band, (low, high) in zip(wanted, data.condition_ranges, strict=True):
        place = tables["sentinel_band_order"].index(band)
        mean, std = tables["sentinel_mean"][place], tables["sentinel_std"][place]
        assert (low, high) == pytest.approx(((mean - 2 * std) / 1e4, (mean + 2 * std) / 1e4), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("objective.weighting=min-snr",), "with flow give none"),
        (("objective.prediction=v", "objective.shift=2"), "objective.shift is of flow"),
        (("run.task=autoencoder", "data.cache=8"), "data.cache holds latents"),
        (("run.output=",), "run.output is empty"),
        (("model.family=published",), "needs model.start"),
        (("run.sharding=fsdp",), "optimiser.name adamw"),
        (("data.procedural=false",), "data.sources is empty"),
        (("run.task=text2image",), "run.task is 'text2image'.*Did you mean 'text-to-image'"),
        (("data.batch_size=0",), "data.batch_size is 0"),
        (("data.sizes={}",), "data.sizes is empty"),
        (("data.sizes={63=1}",), "multiples of 8"),
        (("average.kind=published", "average.write=0.05"), "average.write is for average.kind power"),
        (("average.widths=[]",), "needs average.widths"),
        (("average.snapshots=4", "average.write=0.05"), "two average.widths on both sides"),
        (("average.snapshots=5000",), "more than run.images"),
        (("optimizer.lr=1",), "unknown key 'optimizer'. Did you mean 'optimiser'"),
    ],
)
def test_recipes_that_cannot_be(settings, says):
    with pytest.raises(ConfigError, match=says):
        read_recipe("tiny", settings)


@pytest.mark.parametrize("keeps", [2, 0])
def test_images_that_nothing_is_learned_from_are_told(keeps, tmp_path, caplog):
    inside = next(lon for lon in range(180) if held_out("mine", "", lon + 0.5, 0.5)) + 0.5
    outside = next(lon for lon in range(180) if not held_out("mine", "", lon + 0.5, 0.5)) + 0.5
    for name, places in (("mine", [inside] * 6), ("theirs", [outside] * 6)):
        records = []
        for i, lon in enumerate(places):
            buffer = io.BytesIO()
            np.save(buffer, np.full((8, 8, 3), i, np.uint8))
            known = Metadata(lon=lon, lat=0.5)
            frame = Frame(content=buffer.getvalue(), format="npy", name=f"{i}", metadata=known)
            records.append(Record(key=f"{i}", source=name, frames=(frame,), licence="l", place=f"{i}"))
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "train.parquet", records, None, "")
    sources = ", ".join(f'{{name="{name}",path="{tmp_path / name}"}}' for name in ("mine", "theirs"))
    settings = ("data.procedural=false", f"data.sources=[{sources}]", "data.sizes={8=1}")
    examples, others = make_examples(read_recipe("tiny", (*settings, f"data.held_out={keeps}")))
    seen = {examples.example(i, 8).source for i in range(40)}
    if keeps:
        assert "mine: 6 of 6 images are of places kept for validation" in caplog.text
        assert (seen, {others.example(i, 8).source for i in range(9)}) == ({"theirs"}, {"mine"})
    else:
        assert "kept for validation" not in caplog.text
        assert seen == {"mine", "theirs"}


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ConfigError, match="published/xbd-past"):
        read_recipe("nothing")
    assert Path(shipped()["tiny"]).is_file()


def test_an_autoencoder_is_taught_the_same_by_parts_and_by_several_processes(tiny, tmp_path):
    recipe = small("compact/autoencoder", tmp_path / "run", tiny, None)
    family = make_family(recipe)
    jobs = [
        ReconstructionJob(recipe, family, *make_examples(recipe), SimpleNamespace(rank=rank, count=count))
        for rank, count in ((0, 1), (0, 2), (1, 2))
    ]

    def digest(image):
        return hashlib.sha256(image.numpy().tobytes()).hexdigest()

    for step in range(12):
        whole, *parts = (job.batch(4 * step, step) for job in jobs)
        with torch.no_grad():
            losses = dict(zip(map(digest, whole.images), jobs[0].learner(whole).tolist(), strict=True))
            for part in (*parts, *whole.parts(2)):
                found = jobs[0].learner(part).tolist()
                wanted = [losses[digest(image)] for image in part.images]
                assert found == pytest.approx(wanted, rel=0.02)  # bf16, in batches of other shapes


def test_an_autoencoder_learns_and_its_latents_are_normal(tiny, tmp_path):
    recipe = small("compact/autoencoder", tmp_path / "run", tiny, None)
    told = {"images": 512, "validate_every": 128, "precision": "fp32"}
    schedule = replace(recipe.schedule, warm_up=16, decay=256)
    recipe = replace(recipe, run=replace(recipe.run, **told), schedule=schedule)
    folder = run(recipe)
    assert folder is not None
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    psnr = [next(iter(line["psnr"].values())) for line in lines if "psnr" in line]
    assert psnr[-1] > psnr[0] + 1
    _, network = read_autoencoder(folder)
    examples = Procedural(recipe.run.seed, {64: 1.0})
    pixels = np.stack([examples.example(i, 64).pixels for i in range(1024)])
    with torch.no_grad():
        latents = network.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1)
    assert latents.mean((0, 2, 3)).abs().max() < 0.02
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.02
