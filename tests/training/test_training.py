import json
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

import diffusionsat.training.autoencoder as autoencoders
from diffusionsat.models.compact.autoencoder import CompactAutoencoder
from diffusionsat.models.compact.denoiser import CompactDenoiser
from diffusionsat.training.denoiser import Reader, Recipe, train_denoiser
from diffusionsat.training.latents import Bank
from diffusionsat.training.muon import Muon, orthogonalize
from diffusionsat.training.states import read_state


def test_orthogonalize_pushes_singular_values_towards_one():
    torch.manual_seed(0)
    stack = torch.randn(3, 20, 50)
    values = torch.linalg.svdvals(orthogonalize(stack))
    assert values.min() > 0.6
    assert values.max() < 1.3
    tall = orthogonalize(stack.mT)
    torch.testing.assert_close(tall.mT, orthogonalize(stack), rtol=0, atol=0.03)


def test_muon_equals_torchs_on_matrices():
    """torch.optim.Muon takes matrices only; with its own rate for tall matrices both are one algorithm."""
    torch.manual_seed(0)
    start, gradients = torch.randn(6, 10), [torch.randn(6, 10) for _ in range(4)]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([ours], [], lr=0.02, weight_decay=0.1)
    two = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    for gradient in gradients:
        for parameter, optimiser in ((ours, one), (theirs, two)):
            parameter.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_other_parameters_follow_adamw():
    torch.manual_seed(0)
    start, gradients = torch.randn(5), [torch.randn(5) for _ in range(4)]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([], [ours], adam_lr=1e-2, weight_decay=0.1)
    two = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95))
    for gradient in gradients:
        for parameter, optimiser in ((ours, one), (theirs, two)):
            parameter.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def small():
    torch.manual_seed(0)
    return CompactDenoiser(
        channels=(16, 32), blocks=1, attention=(False, True), head_width=16, embedding=32, text_width=8
    )


def bank(count=64, side=4):
    generator = torch.Generator().manual_seed(0)
    return Bank(
        latents=torch.randn(count, 4, side, side, generator=generator).bfloat16(),
        numbers=torch.rand(count, 7, generator=generator) + 1,
        source=torch.arange(count) % 2,
        text=torch.arange(count) % 3,
        held_out=torch.arange(count) >= count - 8,
        sources=("one", "two"),
        texts=("", "a", "b"),
    )


def reader(recipe, banks=1):
    states = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 5, dtype=torch.bool)
    many = [(bank(side=4 * 2**i), 1.0) for i in range(banks)]
    return Reader(
        many, [(states, mask)] * banks, (torch.full((2, 8), 9.0), torch.ones(2, dtype=torch.bool)), recipe
    )


def recipe(**changes):
    return Recipe(
        **{
            "images": 96,
            "batch_size": 1,
            "weights": {"one": 1.0, "two": 3.0},
            "warm_up": 8,
            "decay": 32,
            "log_every": 32,
        }
        | changes
    )


def test_bank_round_trip(tmp_path):
    original = bank()
    original.save(tmp_path / "x.safetensors")
    loaded = Bank.load(tmp_path / "x.safetensors")
    assert loaded.sources == original.sources
    assert loaded.texts == original.texts
    assert all(
        getattr(loaded, n).equal(getattr(original, n))
        for n in ("latents", "numbers", "source", "text", "held_out")
    )


def test_batches_depend_on_images_seen_alone():
    r = reader(recipe(batch_size=64))
    for a, b in zip(r.batch(64), r.batch(64), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    assert not r.batch(64)[0].equal(r.batch(128)[0])


def test_dropping_follows_the_recipe_and_never_reads_held_out_places():
    r = reader(recipe(batch_size=64))
    original = bank()
    allowed = original.latents[~original.held_out].float().flatten(1)
    no_text = no_metadata = neither = rows = field = known = 0
    for seen in range(0, 40_000, 1000):
        latents, states, mask, numbers = r.batch(seen)
        assert all((allowed == one).all(1).any() for one in latents.flatten(1)[:5])
        dropped = (states[:, 0] == 9).all(1)
        assert mask[dropped].sum(1).eq(2).all()
        assert mask[~dropped].all()
        unknown = numbers.isnan().all(1)
        no_text += int((dropped & ~unknown).sum())
        no_metadata += int((unknown & ~dropped).sum())
        neither += int((unknown & dropped).sum())
        rows += len(latents)
        field += int(numbers[~unknown, 2].isnan().sum())
        known += int((~unknown).sum())
    for count, share in ((no_text, 0.08), (no_metadata, 0.08), (neither, 0.08)):
        assert count / rows == pytest.approx(share, abs=0.03)
    assert field / known == pytest.approx(0.1, abs=0.03)


def test_larger_latents_come_in_smaller_batches():
    r = reader(recipe(batch_size=32), banks=2)
    sizes = {(len(b[0]), b[0].shape[2]) for b in (r.batch(s) for s in range(0, 100, 5))}
    assert sizes == {(512, 4), (128, 8)}


def run(folder, stop_after=None):
    network, r = small(), recipe()
    read = reader(r)
    if stop_after is not None:
        batch, calls = read.batch, []

        def stopping(seen):
            calls.append(seen)
            if len(calls) == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            return batch(seen)

        read.batch = stopping
    train_denoiser(network, read, reader(r).batch(10**6), r, folder)
    return network


def test_a_stopped_training_goes_on_exactly(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "stopped", stop_after=5)
    assert torch.load(tmp_path / "stopped/last.pt", weights_only=True)["seen"] < 96
    resumed = run(tmp_path / "stopped")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert a.equal(b)
    a, b = (read_state(tmp_path / n / "last.pt")["averages"]["0.1"] for n in ("whole", "stopped"))
    assert all(a[name].equal(b[name]) for name in a)
    assert all(value.equal(a[name]) for name, value in whole.state_dict().items())
    lines = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert lines
    assert lines[-1]["seen"] <= 96


def test_a_state_of_version_0_1_is_taken_up(tmp_path):
    """It had one average, under another key."""
    whole = run(tmp_path / "whole")
    run(tmp_path / "old", stop_after=5)
    file = tmp_path / "old/last.pt"
    state = torch.load(file, weights_only=True)
    state["average"] = state.pop("averages")["0.1"]
    del state["scaler"]
    torch.save(state, file)
    resumed = run(tmp_path / "old")
    assert all(a.equal(b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_training_learns(tmp_path):
    network, r = small(), recipe(images=5000, batch_size=4, decay=2000, log_every=1200)
    read = reader(r)
    train_denoiser(network, read, read.batch(10**6), r, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.95 * lines[0]["loss"]


def test_autoencoder_learns_and_resumes(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = {
        "x": [np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(4)]
    }
    made = autoencoders.Recipe(
        images=320,
        weights={"x": 1.0},
        batch_size=4,
        size=32,
        decay=80,
        warm_up=16,
        log_every=160,
        perceptual=0.0,
    )

    def network():
        torch.manual_seed(0)
        return CompactAutoencoder(encoder_channels=(16, 16), decoder_channels=(16, 16))

    test = {"x": torch.from_numpy(np.stack(images["x"])).permute(0, 3, 1, 2).float() / 127.5 - 1}
    whole = network()
    before = autoencoders.reconstruction_psnr(whole, test["x"])
    assert autoencoders.train_autoencoder(whole, images, test, made, tmp_path / "whole")
    assert autoencoders.reconstruction_psnr(whole, test["x"]) > before + 3

    def stopping(*args, real=autoencoders.crops):
        if args[2] == 120:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(autoencoders, "crops", stopping)
        assert not autoencoders.train_autoencoder(network(), images, test, made, tmp_path / "stopped")
    resumed = network()
    assert autoencoders.train_autoencoder(resumed, images, test, made, tmp_path / "stopped")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert a.equal(b)

    autoencoders.calibrate(whole, [test["x"]])
    latents = whole.encode(test["x"])
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
