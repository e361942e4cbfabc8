import datetime
import shutil

import pytest
import torch
import torch.nn.functional as F
from steering import SIZES, TARGET, at, inputs, randomised, seen, steer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusionsat import CheckpointError, ConfigError, DiffusionSat, Guidance, Metadata
from diffusionsat.checkpoints.layout import add_control, content_hash, read_config
from diffusionsat.model import Steering
from diffusionsat.models.compact.autoencoder import CompactAutoencoder
from diffusionsat.models.compact.control import CompactControlNet
from diffusionsat.models.compact.denoiser import CompactDenoiser
from diffusionsat.models.compact.networks import CompactControl
from diffusionsat.models.encodings import Bandwidth, numbers, relative
from diffusionsat.models.networks import BANDS, Frames, Residuals

OURS = {"frame_channels": (8, 12), "frame_blocks": (1, 1), "fusion_channels": 16, "fusion_heads": 4}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "guess"])
def network(request):
    return randomised(CompactControlNet(**SIZES, **OURS, guess=request.param))


def encode(images):
    """Stands for an autoencoder: what it makes of a pixel depends on that pixel alone."""
    return F.avg_pool2d(torch.cat([images, images.square().mean(1, keepdim=True)], dim=1), 4)


@torch.no_grad()
def steered(network, given, frames):
    """All residuals of an image as one row."""
    skips, *others = steer(network, given, frames, encode)
    there = [r for r in (*skips, *others) if r is not None]
    return torch.cat([r.flatten(1) for r in there], dim=1)


def joined(*several):
    return Frames(*(torch.cat(parts, dim=1) for parts in zip(*several, strict=True)))


def test_it_starts_from_the_denoiser_and_changes_nothing():
    denoiser = randomised(CompactDenoiser(**SIZES))
    network = CompactControlNet.from_denoiser(denoiser, **OURS)
    for name in ("conv_in.weight", "down.1.weight", "middle.0.attention.qkv.weight", "embed.nulls.gsd"):
        assert network.state_dict()[name].equal(denoiser.state_dict()[name])
    given = inputs()
    with torch.no_grad():
        residuals = steer(network, given, seen())
        assert [r.shape[1] for r in residuals[0]] == denoiser.skips
        assert denoiser(*given, residuals=residuals).equal(denoiser(*given))
        changed = steer(randomised(network), given, seen())
        assert (denoiser(*given, residuals=changed) - denoiser(*given)).abs().max() > 1e-3


def test_a_narrower_one_serves_the_same_denoiser():
    denoiser = randomised(CompactDenoiser(**SIZES))
    network = randomised(CompactControlNet.from_denoiser(denoiser, channels=(16, 16), **OURS))
    assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in denoiser.parameters())
    with torch.no_grad():
        assert denoiser(*inputs(), residuals=steer(network, inputs(), seen())).isfinite().all()


@torch.no_grad()
def test_it_can_start_from_what_the_autoencoder_sees():
    autoencoder = randomised(CompactAutoencoder(encoder_channels=(8, 12), encoder_blocks=(1, 1)))
    network = CompactControlNet.from_denoiser(CompactDenoiser(**SIZES), autoencoder, **OURS)
    frames = seen(1, 1)
    frames.bands[:] = torch.arange(len(BANDS)) < 3
    frames.valid[:] = True
    rgb = frames.values[:, 0, :3]
    expected = autoencoder.encoder[:6](2 * rgb - 1)
    features = []
    network.frame_encoder.register_forward_hook(lambda _, args, out: features.append(out))
    network.encode_frames(frames, (32, 32), encode=encode)
    torch.testing.assert_close(features[0], expected)


@torch.no_grad()
def test_a_guess_begins_as_the_latents_of_the_frames():
    network = CompactControlNet.from_denoiser(CompactDenoiser(**SIZES), **OURS, guess=True)
    frames = seen(1, 3)
    frames.valid[:] = True
    frames.bands[0, :, :3] = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    found = steer(network, inputs(1), frames, encode)
    expected = encode(2 * frames.values[:, 0, :3] - 1)  # the only one that shows all colours
    torch.testing.assert_close(found.guess / found.share, expected)
    assert 0 < found.share.min() < found.share.max() < 0.3, "frames are hardly taken over before training"


@torch.no_grad()
def test_a_guess_of_full_share_is_what_pure_noise_is_denoised_to():
    """At time 1; in between the clean estimate lies by time * share of the way to the guess."""
    denoiser = randomised(CompactDenoiser(**SIZES))
    latents, _, *rest = inputs()
    guess = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    ones = torch.ones(2, 1, 8, 8)
    nothing = [torch.zeros(2, width, 1, 1) for width in (*denoiser.skips, SIZES["channels"][-1])]
    for time, share in ((1.0, 1.0), (0.5, 1.0), (0.7, 0.4)):
        t = torch.full((2,), time)
        residuals = Residuals(nothing[:-1], nothing[-1], share * guess, share * ones)
        plain, moved = (latents - time * denoiser(latents, t, *rest, r) for r in (None, residuals))
        expected = torch.lerp(plain, guess, time * share)
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)


def test_the_order_of_frames_means_nothing(network):
    frames = seen(count=8)
    expected = steered(network, inputs(), frames)
    scale = max(1, expected.abs().max())
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled = steered(network, inputs(), at(frames, order))
    assert (shuffled - expected).abs().max() < 1e-5 * scale
    dates = frames._replace(numbers=frames.numbers[:, order])
    assert (steered(network, inputs(), dates) - expected).abs().max() > 1e-2 * scale  # but that of dates does


def test_frames_are_weighed_and_not_summed(network):
    frames = seen(count=3)
    three_times = steered(network, inputs(), joined(frames, frames, frames))
    torch.testing.assert_close(three_times, steered(network, inputs(), frames), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(steered(network, inputs(), at(frames, [0, 1])), three_times, atol=1e-2)


def test_absent_frames_are_as_if_they_were_not_there(network):
    frames, more = seen(count=3), seen(count=2, seed=9)
    no_band = more._replace(bands=torch.zeros_like(more.bands), values=more.values * torch.nan)
    no_pixel = more._replace(valid=torch.zeros_like(more.valid))
    expected = steered(network, inputs(), frames)
    padded = steered(network, inputs(), joined(no_band, frames, no_pixel))
    torch.testing.assert_close(padded, expected, rtol=1e-4, atol=1e-5)


def test_without_frames_there_are_no_residuals(network):
    frames = seen(count=2)
    frames.bands[0] = False
    some = steered(network, inputs(), frames)
    assert not some[0].any()
    assert some[1].any()
    none = steered(network, inputs(), at(frames, []))
    assert none.shape == some.shape
    assert not none.any()


def test_what_is_masked_is_never_seen(network):
    frames = seen()
    expected = steered(network, inputs(), frames)
    hidden = ~(frames.bands[..., None, None] & frames.valid[:, :, None])
    for value in (-7.0, 1e30, torch.nan, torch.inf):
        other = frames._replace(values=frames.values.masked_fill(hidden, value))
        assert steered(network, inputs(), other).equal(expected)
    broken, holed = frames.values.clone(), frames.valid.clone()
    broken[:, :, :, 5, 7], holed[:, :, 5, 7] = torch.nan, False
    unseen = steered(network, inputs(), frames._replace(valid=holed))
    assert steered(network, inputs(), frames._replace(values=broken)).equal(unseen)


@pytest.mark.parametrize("part", range(9))
def test_every_input_reaches_the_residuals(network, part):
    given, frames = inputs(), seen()
    before = steered(network, given, frames)
    if part in (0, 1, 2):
        given[part] = given[part].flip(1) * 0.5 if part == 2 else given[part] * 0.5
    elif part == 3:
        given[3] = given[3] & (torch.arange(5) < 3)
    elif part == 4:
        given[4] = numbers([TARGET.replace(gsd=None)] * 2)
    elif part == 5:
        frames = frames._replace(values=0.5 * frames.values)
    elif part == 6:
        frames.bands[:, 1, 0] = False
    elif part == 7:
        frames.valid[:, 1, 8:] = False
    elif part == 8:
        frames = frames._replace(numbers=frames.numbers + torch.tensor([0.0, 0, 0, 0, 1, 0, 0]))
    assert (steered(network, given, frames) - before).abs().max() > 1e-3


def test_metadata_of_the_image_and_of_a_frame_are_told_apart(network):
    """The published network sums both through the same perceptrons, so that swapping them changes nothing."""
    summer, winter = numbers(TARGET), numbers(TARGET.replace(date="2020-01-15"))
    given, frames = inputs(1), seen(1, 1)
    given[4] = summer
    before = steered(network, given, frames._replace(numbers=winter[None]))
    given[4] = winter
    assert (steered(network, given, frames._replace(numbers=summer[None])) - before).abs().max() > 1e-2


@torch.no_grad()
def test_a_frame_knows_how_far_it_is_from_the_image(network):
    frames = seen(1, 4).numbers  # the last one has no date
    before = network.frame_embed(numbers(TARGET), frames)
    later = network.frame_embed(numbers(TARGET.replace(date="2021-06-15")), frames)
    changed = (later - before).abs().amax(-1)[0]
    assert (changed[:3] > 1e-2).all()
    assert changed[3] == 0
    assert (network.frame_embed(numbers(TARGET.replace(gsd=2)), frames) - before).abs().amin() > 0


def test_differences_to_the_image():
    def features(image, frame):
        found = relative(numbers(Metadata(**image)), numbers(Metadata(**frame)), Bandwidth())
        return {name: (f[0], bool(known)) for name, (f, known) in found.items()}

    for first, second in (
        ("2020-02-28", "2020-03-01"),
        ("2024-12-31", "2016-02-29"),
        ("1999-12-31", "2000-03-01"),
        ("2021-07-04", "2021-07-04"),
    ):
        days = (datetime.date.fromisoformat(second) - datetime.date.fromisoformat(first)).days
        found, known = features({"date": first}, {"date": second})["days"]
        assert known
        assert 30 * torch.sinh(5 * found[0]) == pytest.approx(days, rel=1e-4, abs=1e-4)
    found, known = features({"date": "2019"}, {"date": "2021-07"})["days"]
    assert known
    assert 30 * torch.sinh(5 * found[0]) == pytest.approx(2 * 365.25, rel=1e-4)
    found, known = features({"gsd": 2.5}, {"gsd": 10})["gsd_ratio"]
    assert known
    assert 4 * found[0] == pytest.approx(2)
    for name, (found, known) in features({"gsd": 10}, {"date": "2019-01"}).items():
        assert not known, name
        assert found.isfinite().all()


@torch.no_grad()
def test_coarser_frames_are_interpolated(network):
    coarse = seen(side=8)
    coarse.valid[:] = True
    fine = coarse._replace(
        values=F.interpolate(coarse.values.flatten(0, 1), (32, 32), mode="bilinear").unflatten(0, (2, 3)),
        valid=torch.ones(2, 3, 32, 32, dtype=torch.bool),
    )
    expected = steered(network, inputs(), fine)
    torch.testing.assert_close(steered(network, inputs(), coarse), expected, rtol=1e-3, atol=1e-4)
    # A hole lets no zero bleed into its surroundings.
    flat = coarse._replace(values=torch.full_like(coarse.values, 0.7))
    flat.valid[..., 3:5, 3:5] = False
    holed = fine._replace(values=torch.full_like(fine.values, 0.7), valid=fine.valid.clone())
    holed.valid[..., 12:20, 12:20] = False
    expected = steered(network, inputs(), holed)
    torch.testing.assert_close(steered(network, inputs(), flat), expected, rtol=1e-3, atol=1e-4)


def test_frames_that_do_not_fit_are_refused(network):
    frames = seen(side=12)
    with pytest.raises(ConfigError, match=r"12x12 pixels for images of 32x32"):
        network.encode_frames(frames, (32, 32), encode=encode)
    with pytest.raises(ConfigError, match=r"same whole number"):
        network.encode_frames(frames, (24, 12), encode=encode)
    for wrong in (
        frames._replace(values=frames.values[:, :, :3]),
        frames._replace(valid=frames.valid[:, :2]),
        frames._replace(numbers=frames.numbers[0]),
        frames._replace(values=frames.values[0]),
    ):
        with pytest.raises(ConfigError, match=r"Give \(B, T, 13, H, W\)"):
            network.encode_frames(wrong, (24, 24))


@torch.no_grad()
def test_in_chunks_as_whole(network):
    frames = seen(count=5)
    whole = network.encode_frames(frames, (32, 32), chunk=100, encode=encode)
    for chunk in (1, 3):
        for ours, expected in zip(
            network.encode_frames(frames, (32, 32), chunk, encode=encode), whole, strict=True
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


class Written(TorchDispatchMode):
    """Counts the numbers that operations write."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.total += sum(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
        return out


@torch.no_grad()
def test_cost_is_linear_in_the_number_of_frames(network):
    def cost(count):
        frames = seen(count=count)
        with Written() as once:
            features = network.encode_frames(frames, (32, 32), chunk=4, encode=encode)
        with Written() as each_step:
            network.residuals(*inputs(), features, frames.numbers)
        return torch.tensor([once.total, each_step.total, sum(f.numel() for f in features)])

    four, eight, sixteen = cost(4), cost(8), cost(16)
    assert (sixteen - eight).equal(2 * (eight - four))
    once, each_step, _ = ((eight - four) / 4).tolist()
    assert each_step < once / 2  # another frame costs more to encode than to look at


def test_gradients_reach_every_parameter(network):
    given, frames = inputs(), seen(count=4)
    given[4][1] = torch.nan  # so that every null is used too
    frames = frames._replace(numbers=frames.numbers.clone())
    frames.numbers[:, 0, 3], frames.numbers[:, 3] = 20, torch.nan
    skips, *others = steer(network, given, frames, encode)
    network.zero_grad()
    sum((r**2).sum() for r in (*skips, *others) if r is not None).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad.isfinite().all() for p in network.parameters())


@torch.no_grad()
def test_half_precision():
    control = CompactControl(CompactControlNet(**SIZES, **OURS))
    network = randomised(control.network)
    frames, (latents, time, *text, known) = seen(), inputs()

    def call():
        features = control.frames(frames, (32, 32))
        return control.residuals(latents, time, tuple(text), known, features, frames.numbers)

    expected = call()
    control.to(torch.device("cpu"), torch.bfloat16)
    half = call()
    assert network.frame_embed.fields["lon"][0].weight.dtype == torch.float32  # metadata is not rounded
    for ours, exact in zip((*half[0], half[1]), (*expected[0], expected[1]), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - exact).norm() < 0.1 * exact.norm()


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The tiny checkpoint with a ControlNet that steers, and one that starts."""
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("controls") / "tiny")
    denoiser = DiffusionSat.from_pretrained(tiny, device="cpu", precision="fp32").networks.denoiser
    fresh = CompactControlNet.from_denoiser(denoiser, **OURS)
    add_control(folder, "fresh", fresh.sizes, fresh.state_dict(), "fp32")
    strong = randomised(CompactControlNet.from_denoiser(denoiser, channels=(16, 16), **OURS))
    add_control(folder, "strong-1", strong.sizes, strong.state_dict(), "int8")
    return folder


def test_a_licence_of_its_own_is_told(folder, tmp_path, caplog):
    folder = shutil.copytree(folder, tmp_path / "bound")
    network = DiffusionSat.from_pretrained(folder).control("fresh").network
    assert "commercial" not in caplog.text
    about = (network.sizes, network.state_dict(), "fp32")
    add_control(folder, "fresh", *about, "Apache-2.0")
    assert read_config(folder).licence == "Apache-2.0"
    for _ in range(2):  # trained further, it is told once
        add_control(folder, "fresh", *about, "CC BY-NC 4.0")
    assert DiffusionSat.from_pretrained(folder).config.licence == "Apache-2.0; ControlNet fresh: CC BY-NC 4.0"
    assert "bound is not for commercial use: Apache-2.0; ControlNet fresh: CC BY-NC 4.0" in caplog.text


def estimate(sat, guidance=1.0, **steering):
    steering = Steering(size=(32, 32), **{"frames": seen(), **steering}) if steering else None
    guidance = guidance if isinstance(guidance, Guidance) else Guidance(text=guidance)
    denoise = sat.conditioned(["a river", "a town"], [TARGET, TARGET], "", guidance, steering)
    with torch.no_grad():
        return denoise(inputs()[0], 1.5)


def test_a_checkpoint_holds_controlnets(tiny, folder):
    assert DiffusionSat.from_pretrained(tiny).controls == ()
    assert content_hash(folder) != content_hash(tiny)
    sat = DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")
    assert sat.controls == ("fresh", "strong-1")
    for guidance in (1.0, 3.0, Guidance(text=3.0, metadata=2.0)):
        plain = estimate(sat, guidance)
        torch.testing.assert_close(estimate(sat, guidance, control="fresh"), plain)
        torch.testing.assert_close(estimate(sat, guidance, control="strong-1", strength=0.0), plain)
        assert (estimate(sat, guidance, control="strong-1") - plain).abs().max() > 1e-2
    with pytest.raises(ConfigError, match=r"no ControlNet 'upscale'. It has fresh, strong-1."):
        estimate(sat, control="upscale")


def test_without_metadata_that_of_the_frames_is_left_out_too(folder):
    sat = DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")
    frames = seen()
    later = frames._replace(numbers=frames.numbers + torch.tensor([0.0, 0, 0, 0, 1, 0, 0]))
    darker = frames._replace(values=0.5 * frames.values)

    def estimates(guidance):
        return [estimate(sat, guidance, control="strong-1", frames=f) for f in (frames, later, darker)]

    given, given_later, _ = estimates(1.0)
    assert (given - given_later).abs().max() > 1e-4
    without, without_later, without_darker = estimates(Guidance(text=0.0, metadata=0.0))
    assert without.equal(without_later)
    assert (without - without_darker).abs().max() > 1e-4


def test_frames_are_guided_by_what_they_change(folder):
    sat = DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")

    def steered(**strengths):
        return estimate(sat, Guidance(**strengths), control="strong-1")

    plain, once = estimate(sat), steered()
    assert (once - plain).abs().max() > 1e-2
    torch.testing.assert_close(steered(frames=0.0), plain)
    torch.testing.assert_close(steered(frames=2.5), plain + 2.5 * (once - plain))
    pushed = steered(text=3.0)
    torch.testing.assert_close(steered(text=3.0, frames=2.0), pushed + once - plain)
    assert estimate(sat, Guidance(frames=3.0)).equal(plain)  # nothing steers


def test_residuals_among_images_that_none_steers():
    found = Residuals([torch.full((2, 1, 1, 1), 3.0)], torch.ones(2, 1, 1, 1)).among(
        torch.tensor([True, False, True])
    )
    assert found.skips[0].flatten().tolist() == [3, 0, 3]
    assert found.middle.flatten().tolist() == [1, 0, 1]
    assert (found.guess, found.share) == (None, None)


def test_controlnets_that_cannot_be_opened(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "control-fresh.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"control-fresh.safetensors is missing"):
        read_config(broken)
    sizes = read_config(folder).controls["fresh"]
    other = CompactControlNet(**SIZES | {"channels": (16, 16)}, **OURS)
    add_control(folder := shutil.copytree(folder, tmp_path / "other"), "fresh", other.sizes, {}, "fp32")
    with pytest.raises(CheckpointError, match=r"controls.fresh does not fit"):
        DiffusionSat.from_pretrained(folder).control("fresh")
    add_control(folder, "fresh", sizes | {"depth": 3}, {}, "fp32")
    with pytest.raises(CheckpointError, match="CompactControlNet cannot have these sizes"):
        DiffusionSat.from_pretrained(folder).control("fresh")
    with pytest.raises(ConfigError, match=r"cannot be named '../up'"):
        add_control(folder, "../up", sizes, {}, "fp32")
