import pytest
import torch
import torch.nn.functional as F

from diffusionsat.models.compact.classifier import CompactClassifier

CLASSES = {"kinds": ("dark", "bright"), "sides": ("left", "right", "neither")}


def classifier(seed=0, channels=(8, 16)):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = CompactClassifier(classes=CLASSES, channels=channels)
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:  # norms that start at zero or one would hide what they do
                torch.nn.init.normal_(parameter, 1 if "weight" in name else 0, 0.3)
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                torch.nn.init.uniform_(buffer, *((-0.2, 0.2) if name.endswith("mean") else (0.2, 1.5)))
    return network.eval()


def images(count=3, side=32, seed=1):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def written_out(weights, x, stages):
    """The same network from its weights alone, without modules."""

    def convolution(x, name, stride=1):
        x = F.conv2d(x, weights[f"{name}.0.weight"], stride=stride, padding=1)
        mean, variance = weights[f"{name}.1.running_mean"], weights[f"{name}.1.running_var"]
        scale = weights[f"{name}.1.weight"] / (variance + 1e-5).sqrt()
        shift = weights[f"{name}.1.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    b, c, h, w = x.shape
    x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)
    for i in range(stages):
        x = convolution(x, f"trunk.{1 + 3 * i}", stride=min(i, 1) + 1).relu()
        block = f"trunk.{3 + 3 * i}"
        x = (x + convolution(convolution(x, f"{block}.first").relu(), f"{block}.second")).relu()
    return x.flatten(2).mean(2)


def test_features_equal_the_formula():
    network, x = classifier(), images()
    wanted = written_out(network.state_dict(), x, 2)
    torch.testing.assert_close(network.features(x), wanted, atol=1e-5, rtol=1e-4)
    assert (wanted.std(0) > 1e-3).sum() > 8  # features differ between images


def test_heads_read_the_features():
    network, x = classifier(), images()
    said = network(x)
    assert {name: tuple(out.shape) for name, out in said.items()} == {
        "kinds": (3, 2),
        "sides": (3, 3),
        "month": (3, 2),
        "log_gsd": (3, 1),
        "place": (3, 3),
    }
    assert network.width == 16
    for name, head in network.heads.items():
        torch.testing.assert_close(said[name], network.features(x) @ head.weight.T + head.bias)


@pytest.mark.parametrize("side", [32, 46, 128])
def test_any_even_side(side):
    assert classifier()(images(1, side))["kinds"].shape == (1, 2)


def test_a_block_begins_as_the_identity():
    network = CompactClassifier(classes=CLASSES, channels=(8, 16)).eval()
    x = images(2).repeat(1, 3, 1, 1)[:, :8].abs()
    torch.testing.assert_close(network.trunk[3](x), x)


def test_learns_what_can_be_seen():
    """Which half is brighter cannot be told from colours alone: the trunk must learn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CompactClassifier(classes=CLASSES, channels=(8, 16))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    side = torch.arange(24) % 2
    x = images(24, seed=3) * 0.2
    x[side == 0, :, :, :16] += 0.5
    x[side == 1, :, :, 16:] += 0.5
    x += torch.linspace(-0.3, 0.3, 24)[:, None, None, None]
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(network(x)["sides"], side).backward()
        optimiser.step()
    assert (network(x)["sides"].argmax(1) == side).all()
