"""Text alignment against the whole model of transformers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusionsat.errors import CheckpointError
from diffusionsat.evaluation.alignment import measure

transformers = pytest.importorskip("transformers", reason="the extra [published] is not installed")

PROMPTS = ["a river", "forest", "houses and a long road", "sea"]


@pytest.fixture(scope="module")
def clip(published, tmp_path_factory):
    """A CLIP of random weights, and of the published tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(published / "tokenizer")
    text = {
        "vocab_size": len(tokenizer),
        "eos_token_id": len(tokenizer) - 1,
        "bos_token_id": len(tokenizer) - 2,
    }
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=small | text,
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def seen(images):
    return SimpleNamespace(size=3, pixels=lambda unit: images[3 * unit : 3 * unit + 3])


def test_alignment(clip):
    rng = np.random.default_rng(0)
    made, real = (rng.integers(0, 256, (4, 48, 48, 3)).astype(np.uint8) for _ in range(2))
    cases = [SimpleNamespace(prompt=prompt) for prompt in PROMPTS]
    evidence = SimpleNamespace(
        clip=clip, asked=SimpleNamespace(cases=cases), made=seen(made), real=seen(real), seed=0
    )
    section = measure(evidence)
    (line,) = section.tables["text alignment"]
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    processor = transformers.CLIPImageProcessor.from_pretrained(clip)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip)
    given = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    for images, own, others in ((made, "alignment", "shuffled"), (real, "real", "real_shuffled")):
        with torch.inference_mode():
            out = model(**given, **processor(images=list(images), return_tensors="pt"))
        cosines = 100 * (out.image_embeds @ out.text_embeds.T)
        assert line[own] == pytest.approx(float(cosines.diag().mean()), abs=1e-4)
        of_others = (cosines.sum() - cosines.diag().sum()) / 12
        assert line[others] != pytest.approx(line[own], abs=1e-4)
        assert abs(line[others] - float(of_others)) < float(cosines.max() - cosines.min())
        if own == "alignment":
            np.testing.assert_allclose(section.scores["alignment"], cosines.diag(), atol=1e-4)


def test_no_model(clip, tmp_path):
    assert measure(SimpleNamespace(clip=None)).tables == {}
    evidence = SimpleNamespace(clip=tmp_path, asked=SimpleNamespace(cases=[]))
    with pytest.raises(CheckpointError, match="holds no CLIP model"):
        measure(evidence)
