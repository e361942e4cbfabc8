import pytest
import torch

from diffusionsat import ConfigError, Guidance
from diffusionsat.diffusion.guidance import Told, guided

VALUES = {  # of text, metadata and frames
    Told(False, False): 1.0,
    Told(False, True): 2.0,
    Told(True, True): 4.0,
    Told(True, True, False): 3.5,
}


def run(guidance, sigma=1.0):
    asked = []

    def conditioned(x, sigma, given):
        asked.append(given)
        return [x * 0 + VALUES[g] for g in given]

    return float(guided(conditioned, guidance)(torch.zeros(1, 1, 1, 1), sigma)), asked[0]


@pytest.mark.parametrize(
    ("guidance", "expected", "evaluations"),
    [
        (Guidance(), 4.0, 1),
        (Guidance(text=3), 1 + 3 * (4 - 1), 2),
        (Guidance(text=1, metadata=3), 1 + 3 * (2 - 1) + 1 * (4 - 2), 3),
        (Guidance(text=3, metadata=1), 2 + 3 * (4 - 2), 2),
        (Guidance(text=0, metadata=1), 2.0, 1),
        (Guidance(text=0, metadata=0), 1.0, 1),
        (Guidance(frames=1), 4.0, 1),
        (Guidance(frames=0), 3.5, 1),
        (Guidance(frames=3), 3.5 + 3 * (4 - 3.5), 2),
        (Guidance(text=3, frames=2), 1 + 3 * (4 - 1) + (4 - 3.5), 3),
        (Guidance(text=1, metadata=3, frames=0), 1 + 3 * (2 - 1) + (4 - 2) - (4 - 3.5), 3),
    ],
)
def test_strengths_of_text_metadata_and_frames(guidance, expected, evaluations):
    value, asked = run(guidance)
    assert value == expected
    assert len(asked) == evaluations


@pytest.mark.parametrize(("sigma", "expected"), [(0.4, 4.0), (0.5, 10.0), (2.0, 10.0), (2.1, 4.0)])
def test_interval_of_noise_levels(sigma, expected):
    value, asked = run(Guidance(text=3, interval=(0.5, 2.0)), sigma)
    assert value == expected
    assert len(asked) == (1 if expected == 4.0 else 2)


def test_rescale_brings_back_the_spread():
    torch.manual_seed(0)
    plain, free = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)

    def conditioned(x, sigma, given):
        return [{Told(True, True): plain, Told(False, False): free}[g] for g in given]

    def spread(rescale):
        mixed = guided(conditioned, Guidance(text=5, rescale=rescale))(plain, 1.0)
        return mixed.std((1, 2, 3))

    torch.testing.assert_close(spread(1.0), plain.std((1, 2, 3)))
    assert (spread(0.5) < spread(0.0)).all()


@pytest.mark.parametrize(
    "bad",
    [
        *({"text": -1}, {"metadata": 101}, {"interval": (2, 1)}, {"rescale": 1.5}, {"text": float("nan")}),
        *(
            {"text": "2"},
            {"text": None},
            {"frames": -1},
            {"frames": "2"},
            {"interval": 3},
            {"interval": (0, float("inf"))},
            {"rescale": None},
        ),
    ],
)
def test_impossible_guidance_is_refused(bad):
    with pytest.raises(ConfigError, match="guidance"):
        Guidance(**bad)


def test_strengths_are_said_and_that_of_frames_where_it_acts():
    said = {"text": 2, "metadata": None, "interval": [0.1, 3], "rescale": 0.7}
    for frames in (None, 1.0):
        assert Guidance(text=2, interval=(0.1, 3), rescale=0.7, frames=frames).to_dict() == said
    assert Guidance(text=2, interval=(0.1, 3), rescale=0.7, frames=2.0).to_dict() == said | {"frames": 2.0}
