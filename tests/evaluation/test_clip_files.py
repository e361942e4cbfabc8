"""Files of OpenCLIP's weights, against numbers of open_clip 3.3.0 itself."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusionsat.errors import CheckpointError
from diffusionsat.evaluation.alignment import measure
from diffusionsat.evaluation.clip import open_clip
from diffusionsat.evaluation.features import feature_network

pytest.importorskip("transformers", reason="the extra [published] is not installed")


# The first four of what open_clip makes, normalised, of the weights and inputs below.
IMAGES = [[0.168979, -0.108678, -0.099402, -0.379294], [-0.047935, 0.205078, 0.281271, -0.206583]]
TEXTS = [[0.236883, 0.476786, -0.055858, 0.031938], [-0.429994, 0.305276, -0.327749, 0.302175]]


def layer(name, width, inner):
    norms = {f"{name}.ln_{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
    return norms | {
        f"{name}.attn.in_proj_weight": (3 * width, width),
        f"{name}.attn.in_proj_bias": (3 * width,),
        f"{name}.attn.out_proj.weight": (width, width),
        f"{name}.attn.out_proj.bias": (width,),
        f"{name}.mlp.c_fc.weight": (inner, width),
        f"{name}.mlp.c_fc.bias": (inner,),
        f"{name}.mlp.c_proj.weight": (width, inner),
        f"{name}.mlp.c_proj.bias": (width,),
    }


SHAPES = {  # as open_clip's CLIP has them: patches of 8 in 32 px, 12 tokens of 99
    "positional_embedding": (12, 64),
    "text_projection": (64, 16),
    "logit_scale": (),
    "token_embedding.weight": (99, 64),
    "ln_final.weight": (64,),
    "ln_final.bias": (64,),
    "visual.class_embedding": (128,),
    "visual.positional_embedding": (17, 128),
    "visual.proj": (128, 16),
    "visual.conv1.weight": (128, 3, 8, 8),
    **{f"visual.ln_{when}.{part}": (128,) for when in ("pre", "post") for part in ("weight", "bias")},
    **layer("visual.transformer.resblocks.0", 128, 256),
    **layer("visual.transformer.resblocks.1", 128, 256),
    **layer("transformer.resblocks.0", 64, 256),
}


def weights(shapes=SHAPES):
    """Numbers without a generator of random ones, so that they are the same anywhere."""
    found = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        k = torch.arange(np.prod(shape, dtype=int), dtype=torch.float64).reshape(shape)
        wave = (0.2 if len(shape) > 1 else 0.1) * torch.sin(0.37 * k**1.5 + i)
        found[name] = (wave + (len(shape) == 1 and name.endswith("weight"))).float()
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "RemoteCLIP-tiny.pt"
    torch.save(weights(), path)
    return path


def test_a_file_of_open_clip(file):
    model = open_clip(file).model
    image = torch.sin(0.01 * torch.arange(2 * 3 * 32 * 32).float() ** 1.1).reshape(2, 3, 32, 32)
    tokens = torch.tensor([[97, 5, 7, 98] + 8 * [0], [97, 11, 3, 42, 42, 9, 98] + 5 * [0]])
    with torch.inference_mode():
        found = model(input_ids=tokens, pixel_values=image)
    np.testing.assert_allclose(found.image_embeds[:, :4], IMAGES, atol=2e-6)
    np.testing.assert_allclose(found.text_embeds[:, :4], TEXTS, atol=2e-6)


def test_features_and_alignment_of_such_a_file(file, published):
    images = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3)).astype(np.uint8)
    network = feature_network(file)
    assert (network.name, network(images).shape) == ("RemoteCLIP-tiny", (4, 16))
    assert network.input.size == 32
    asked = SimpleNamespace(cases=[SimpleNamespace(prompt=p) for p in ("a", "b", "c", "d")])
    seen = SimpleNamespace(size=4, pixels=lambda unit: images)
    evidence = SimpleNamespace(clip=file, asked=asked, made=seen, real=seen, seed=0)
    with pytest.raises(CheckpointError, match=r"holds no tokenizer.*vocab\.json and merges\.txt"):
        measure(evidence)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(published / "tokenizer" / name, file.parent)
    shapes = SHAPES | {"token_embedding.weight": (2000, 64), "positional_embedding": (77, 64)}
    torch.save({"state_dict": {f"module.{name}": t for name, t in weights(shapes).items()}}, file)
    (line,) = measure(evidence).tables["text alignment"]
    assert line["model"] == "RemoteCLIP-tiny"
    assert -100 <= line["alignment"] == line["real"] <= 100


def test_what_is_no_such_file_is_refused(file):
    stored = weights()
    torch.save({"visual.layer1.0.conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="One with a ResNet is not read"):
        open_clip(file)
    torch.save(stored | {"ln_final.weight": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match=r"does not fit a CLIP model.*size mismatch"):
        open_clip(file)
    file.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"cannot be read as weights.*RemoteCLIP-tiny\.json beside it"):
        feature_network(file)
