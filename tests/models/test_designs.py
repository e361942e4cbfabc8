"""The published designs of a ControlNet at compact size, against convolutions and transformers of others."""

import shutil
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from steering import SIZES, at, inputs, randomised, seen, steer

from diffusionsat import CheckpointError, ConfigError, DiffusionSat, Guidance, Metadata
from diffusionsat.checkpoints.layout import add_control, read_config
from diffusionsat.model import Steering
from diffusionsat.models.compact.denoiser import CompactDenoiser
from diffusionsat.models.compact.designs import (
    DESIGNS,
    SequenceControlNet,
    StackedControlNet,
    _beside,
    _Temporal,
)
from diffusionsat.models.compact.networks import CompactControl
from diffusionsat.models.networks import BANDS, Frames
from diffusionsat.training.recipe import Model

OURS = {"condition_channels": (4, 6, 8)}
PUBLISHED = pytest.mark.parametrize("kind", [StackedControlNet, SequenceControlNet])


@torch.no_grad()
def steered(network, given, frames):
    """All residuals of an image as one row."""
    skips, middle, *_ = steer(network, given, frames)
    return torch.cat([r.flatten(1) for r in (*skips, middle)], dim=1)


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))


@PUBLISHED
def test_it_starts_from_the_denoiser_and_changes_nothing(kind):
    denoiser = randomised(CompactDenoiser(**SIZES))
    network = kind.from_denoiser(denoiser, **OURS)
    for name in ("conv_in.weight", "down.1.weight", "middle.0.attention.qkv.weight", "embed.nulls.gsd"):
        assert network.state_dict()[name].equal(denoiser.state_dict()[name])
    given = inputs()
    with torch.no_grad():
        skips, middle, *_ = steer(network, given, seen())
        assert [r.shape[1] for r in skips] == denoiser.skips
        assert not any(r.any() for r in (*skips, middle))
        changed = steer(randomised(network), given, seen())
        assert (denoiser(*given, residuals=changed) - denoiser(*given)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="must be those of the denoiser"):
        kind.from_denoiser(denoiser, channels=(16, 16))


def test_sizes_are_about_equal():
    """At the shipped ControlNets' sizes: the comparison is of designs, not of sizes."""
    counts = {
        name: sum(p.numel() for p in k(channels=(64, 128, 224)).parameters()) for name, k in DESIGNS.items()
    }
    assert all(abs(count / counts["compact"] - 1) < 0.1 for count in counts.values())
    assert get_args(get_type_hints(Model)["design"]) == tuple(DESIGNS)


def test_frames_beside_each_other_are_a_convolution_over_time():
    g = torch.Generator().manual_seed(0)
    sequences = [torch.randn(t, 5, 6, 7, generator=g) for t in (3, 1, 2)]
    image = torch.tensor([0, 0, 0, 1, 2, 2])
    weight, bias = torch.randn(4, 15, 3, 3, generator=g), torch.randn(4, generator=g)
    ours = F.conv2d(_beside(torch.cat(sequences), image), weight, bias, padding=1)
    in_time = weight.unflatten(1, (3, 5)).transpose(1, 2)
    theirs = [F.conv3d(s.transpose(0, 1), in_time, bias, padding=1).transpose(0, 1) for s in sequences]
    close(ours, torch.cat(theirs))


def test_the_temporal_transformer_is_that_of_diffusers():
    reason = "the extra [published] is not installed"
    module = pytest.importorskip("diffusers.models.transformers.transformer_temporal", reason=reason)
    theirs = randomised(module.TransformerTemporalModel(2, 16, in_channels=32, norm_num_groups=16))
    ours, block = _Temporal(32, 16), theirs.transformer_blocks[0]
    ours.share.data.fill_(1)
    pairs = [(ours.norm, theirs.norm), (ours.proj_in, theirs.proj_in), (ours.proj_out, theirs.proj_out)]
    pairs += [*zip(ours.norms, (block.norm1, block.norm2), strict=True), (ours.norm_hidden, block.norm3)]
    attentions = (block.attn1, block.attn2)
    pairs += [(mine, other.to_out[0]) for mine, other in zip(ours.out, attentions, strict=True)]
    pairs += [(ours.up, block.ff.net[0].proj), (ours.down, block.ff.net[2])]
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    for mine, other in zip(ours.qkv, attentions, strict=True):
        mine.weight.data = torch.cat([other.to_q.weight, other.to_k.weight, other.to_v.weight])
    x = torch.randn(2, 3, 32, 4, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(x.flatten(0, 1), num_frames=3).sample.unflatten(0, (2, 3))
        close(ours(x), expected)
        ours.share.data.fill_(0.25)
        close(ours(x), 0.25 * expected + 0.75 * x)
        ours.share.data.fill_(7)
        close(ours(x), expected)
        ours.share.data.fill_(-7)
        assert ours(x).equal(x)
    ours(x).sum().backward()
    assert ours.share.grad.any(), "the gradient passes the clamp"


def test_as_many_times_the_residuals_as_there_are_frames():
    """Where layers over time are at their start, and convolutions see one frame."""
    network = randomised(SequenceControlNet(**SIZES, **OURS))
    for layer in (network.condition.conv_in, *network.condition.mixing, network.condition.conv_out):
        before, _, after = layer.weight.data.chunk(3, dim=1)
        before.zero_()
        after.zero_()
    for temporal in network.temporal.values():
        temporal.share.data.zero_()
    one = seen(count=1)
    once = steered(network, inputs(), one)
    close(steered(network, inputs(), at(one, [0] * 4)), 4 * once)
    two = seen(count=2, seed=5)
    close(steered(network, inputs(), two), sum(steered(network, inputs(), at(two, [t])) for t in (0, 1)))
    for temporal in network.temporal.values():
        temporal.share.data.fill_(0.5)
    assert not torch.allclose(steered(network, inputs(), at(one, [0] * 4)), 4 * once, atol=1e-2)


@PUBLISHED
def test_frames_are_in_the_order_of_their_dates(kind):
    network, frames = randomised(kind(**SIZES, **OURS)), seen(count=5)
    expected = steered(network, inputs(), frames)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        close(steered(network, inputs(), at(frames, order)), expected)
    # The sum of all metadata is the same, but two frames have changed places in time.
    swapped = frames._replace(numbers=frames.numbers[:, [1, 0, 2, 3, 4]])
    assert (steered(network, inputs(), swapped) - expected).abs().max() > 1e-2


def test_the_stack_is_black_where_there_is_no_frame():
    network = randomised(StackedControlNet(**SIZES, **OURS, most_frames=6))
    frames = at(seen(count=4), [3, 0, 2, 1])  # the first has no date
    frames.bands[0, 1], frames.valid[1, 2] = False, False
    stacks = []
    network.condition.register_forward_pre_hook(lambda _, args: stacks.append(args[0]))
    steered(network, inputs(), frames)
    given = frames.bands[..., None, None] & frames.valid[:, :, None]
    expected = torch.zeros(2, 6, len(BANDS), 32, 32)
    for image, order in enumerate(([3, 2, 0], [1, 3, 0])):  # by date; the absent one is left out
        expected[image, :3] = (frames.values * given)[image, order]
    assert stacks[0].equal(expected.flatten(1, 2))


def test_the_stack_holds_the_first_frames():
    network, frames = randomised(StackedControlNet(**SIZES, **OURS, most_frames=2)), seen(count=4)
    frames.bands[:, 0] = False
    close(steered(network, inputs(), frames), steered(network, inputs(), at(frames, [1, 2])))


def test_the_stack_does_not_know_whose_metadata_is_whose():
    network, frames = randomised(StackedControlNet(**SIZES, **OURS)), seen()
    other = frames.numbers.clone()
    other[:, :, 2] = other[:, [1, 2, 0], 2]  # the same gsds, of other frames
    expected = steered(network, inputs(), frames)
    close(steered(network, inputs(), frames._replace(numbers=other)), expected)
    other[:, 1, 2] = 1
    assert (steered(network, inputs(), frames._replace(numbers=other)) - expected).abs().max() > 1e-3


@PUBLISHED
def test_absent_frames_and_other_images_change_nothing(kind):
    network, frames, more = randomised(kind(**SIZES, **OURS)), seen(count=3), seen(count=2, seed=9)
    frames.bands[1, 2] = False
    expected = steered(network, inputs(), frames)
    no_band = more._replace(bands=torch.zeros_like(more.bands), values=more.values * torch.nan)
    no_pixel = more._replace(valid=torch.zeros_like(more.valid))
    padded = Frames(*(torch.cat(parts, dim=1) for parts in zip(no_band, frames, no_pixel, strict=True)))
    close(steered(network, inputs(), padded), expected)
    for i in (0, 1):
        alone = steered(
            network, [part[i : i + 1] for part in inputs()], Frames(*(p[i : i + 1] for p in frames))
        )
        close(alone[0], expected[i])
    hidden = ~(frames.bands[..., None, None] & frames.valid[:, :, None])
    masked = frames._replace(values=frames.values.masked_fill(hidden, torch.inf))
    assert steered(network, inputs(), masked).equal(expected)


@PUBLISHED
def test_without_frames(kind):
    network, frames = randomised(kind(**SIZES, **OURS)), seen(count=2)
    frames.bands[:] = False
    absent, none = (steered(network, inputs(), f) for f in (frames, at(frames, [])))
    close(none, absent)
    assert absent.any() == (kind is StackedControlNet), "a sum of nothing is nothing, a black stack is not"
    coarse = Frames(*(part[:, :0] for part in seen(side=8)))
    close(steered(network, inputs(), coarse), none)


@PUBLISHED
def test_gradients_reach_every_parameter(kind):
    network, given, frames = randomised(kind(**SIZES, **OURS)), inputs(), seen(count=4)
    given[4][1] = torch.nan  # so that every null is used too
    for name, parameter in network.named_parameters():
        if name.endswith("share"):
            parameter.data.fill_(0.5)
    skips, middle, *_ = steer(network, given, frames)
    sum((r**2).sum() for r in (*skips, middle)).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    frames.bands[:] = False
    sum(r.sum() for r in steer(network, given, frames)[0]).backward()  # of an image without frames too


@PUBLISHED
@torch.no_grad()
def test_half_precision(kind):
    control = CompactControl(kind(**SIZES, **OURS))
    randomised(control.network)
    frames, (latents, time, *text, known) = seen(), inputs()

    def call():
        features = control.frames(frames, (32, 32))
        return control.residuals(latents, time, tuple(text), known, features, frames.numbers)

    expected = call()
    control.to(torch.device("cpu"), torch.bfloat16)
    half = call()
    for ours, exact in zip((*half[0], half[1]), (*expected[0], expected[1]), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - exact).norm() < 0.1 * exact.norm()


@PUBLISHED
def test_frames_that_do_not_fit_are_refused(kind):
    with pytest.raises(ConfigError, match="12x12 pixels for images of 32x32"):
        kind(**SIZES, **OURS).encode_frames(seen(side=12), (32, 32))


@PUBLISHED
def test_a_checkpoint_holds_it(kind, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    denoiser = DiffusionSat.from_pretrained(tiny, device="cpu", precision="fp32").networks.denoiser
    network = randomised(kind.from_denoiser(denoiser, **OURS))
    add_control(folder, "arm", network.sizes, network.state_dict(), "fp32")
    sat = DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")
    found = sat.control("arm").network
    assert type(found) is kind
    assert found.sizes == network.sizes
    assert all(found.state_dict()[name].equal(tensor) for name, tensor in network.state_dict().items())
    steering = Steering(control="arm", frames=seen(count=6), size=(32, 32))
    with torch.no_grad():
        x = inputs()[0]
        guidance, words = Guidance(text=3.0, metadata=2.0), ["a river"] * 2
        plain, changed = (
            sat.conditioned(words, [Metadata()] * 2, "", guidance, s)(x, 1.5) for s in (None, steering)
        )
    assert (changed - plain).abs().max() > 1e-3
    add_control(folder, "arm", network.sizes, network.state_dict(), "int8")
    DiffusionSat.from_pretrained(folder, device="cpu").control("arm")
    sizes = read_config(folder).controls["arm"]
    for wrong, says in (
        (
            {"design": "published-4d"},
            "controls.arm.design is 'published-4d'; this package knows compact, ",
        ),
        ({"design": ["compact"]}, "Update diffusionsat"),
        ({"condition_channels": [4, 4]}, f"{kind.__name__} cannot have these sizes"),
    ):
        add_control(folder, "arm", sizes | wrong, network.state_dict(), "fp32")
        with pytest.raises(CheckpointError, match=says):
            DiffusionSat.from_pretrained(folder).control("arm")
