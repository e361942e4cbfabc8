"""Text alignment: cosine of an image with its words, in a CLIP-like model that the user has.

100 times the mean cosine, without clamping; -100 to 100, higher is better, no unit. It says nothing alone:
the same with shuffled words, and with the real images, stand beside. Source: Hessel et al. 2021 without their
factor and clamp, as torchmetrics has it.
"""

from typing import Any

import torch
from torch import Tensor

from diffusionsat.evaluation.clip import open_clip, open_tokenizer
from diffusionsat.evaluation.controllability import cycle
from diffusionsat.evaluation.evidence import Evidence, Seen
from diffusionsat.evaluation.section import Section

BATCH = 32


def measure(evidence: Evidence) -> Section:
    """Alignment of the images, with shuffled words, and of the real images; nothing without a model."""
    if evidence.clip is None:
        return Section({})
    clip, tokenizer = open_clip(evidence.clip), open_tokenizer(evidence.clip)
    model, processor = clip.model, clip.processor
    prompts = [case.prompt for case in evidence.asked.cases]
    words = _words(model, tokenizer, prompts)
    others = torch.from_numpy(cycle(len(prompts), evidence.seed))
    made, real = (_images(model, processor, seen, len(prompts)) for seen in (evidence.made, evidence.real))
    own = 100 * (made * words).sum(1)
    line = {"model": clip.name, "n": len(prompts), "alignment": float(own.mean())}
    line["shuffled"] = float(100 * (made * words[others]).sum(1).mean())
    line["real"] = float(100 * (real * words).sum(1).mean())
    line["real_shuffled"] = float(100 * (real * words[others]).sum(1).mean())
    return Section({"text alignment": [line]}, {"alignment": own.double().numpy()})


@torch.inference_mode()
def _words(model: Any, tokenizer: Any, prompts: list[str]) -> Tensor:
    parts = []
    for start in range(0, len(prompts), BATCH):
        tokens = tokenizer(prompts[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
        parts.append(_unit(model.text_projection(model.text_model(**tokens).pooler_output)))
    return torch.cat(parts)


@torch.inference_mode()
def _images(model: Any, processor: Any, seen: Seen, count: int) -> Tensor:
    parts = []
    for unit in range(-(-count // seen.size)):
        pixels = seen.pixels(unit)
        for start in range(0, len(pixels), BATCH):
            given = processor(images=list(pixels[start : start + BATCH]), return_tensors="pt")
            looked = model.vision_model(pixel_values=given["pixel_values"]).pooler_output
            parts.append(_unit(model.visual_projection(looked)))
    return torch.cat(parts)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)
