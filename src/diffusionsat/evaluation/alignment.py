"""Text alignment: cosine of an image with its words, in a CLIP-like model that the user has.

100 times the mean cosine, without clamping; -100 to 100, higher is better, no unit. It says nothing alone:
the same with shuffled words, and with the real images, stand beside. Source: Hessel et al. 2021 without their
factor and clamp, as torchmetrics has it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusionsat.evaluation.clip import Clip, open_clip, open_tokenizer
from diffusionsat.evaluation.controllability import cycle
from diffusionsat.evaluation.evidence import Evidence, Seen
from diffusionsat.evaluation.section import Section

BATCH = 32


def measure(evidence: Evidence) -> Section:
    """Alignment of the images, with shuffled words, and of the real images; nothing without a model."""
    if evidence.clip is None:
        return Section({})
    clip, tokenizer = open_clip(evidence.clip), open_tokenizer(evidence.clip)
    words = _words(clip.model, tokenizer, [case.prompt for case in evidence.asked.cases])
    others = torch.from_numpy(cycle(len(words), evidence.seed))
    line = {"model": clip.name, "n": len(words)}
    own, line["shuffled"] = _cosines(clip, evidence.made, words, others)
    line["alignment"] = float(own.mean())
    real, line["real_shuffled"] = _cosines(clip, evidence.real, words, others)
    line["real"] = float(real.mean())
    return Section({"text alignment": [line]}, {"alignment": own.numpy()})


def check(path: Path | None) -> None:
    """Refuse what `measure` could not read, before images are made.

    Raises:
        CheckpointError: If there is no such model, or no tokenizer.
        MissingExtraError: If transformers is not installed.
    """
    if path is not None:
        open_clip(path)
        open_tokenizer(path)


@torch.inference_mode()
def _words(model: Any, tokenizer: Any, prompts: list[str]) -> Tensor:
    parts = []
    for start in range(0, len(prompts), BATCH):
        tokens = tokenizer(prompts[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
        parts.append(_unit(model.text_projection(model.text_model(**tokens).pooler_output)))
    return torch.cat(parts)


@torch.inference_mode()
def _cosines(clip: Clip, seen: Seen, words: Tensor, others: Tensor) -> tuple[Tensor, float]:
    """100 times each image's cosine with its words, (N,), and the mean of those with another's."""
    own, shuffled, model = [], [], clip.model
    for unit in range(-(-len(words) // seen.size)):
        pixels, start = seen.pixels(unit), unit * seen.size
        for i in range(0, len(pixels), BATCH):
            given = clip.processor(images=list(pixels[i : i + BATCH]), return_tensors="pt")
            looked = model.vision_model(pixel_values=given["pixel_values"]).pooler_output
            images = _unit(model.visual_projection(looked))
            rows = slice(start + i, start + i + len(images))
            own.append(100 * (images * words[rows]).sum(1).double())
            shuffled.append(100 * (images * words[others[rows]]).sum(1).double())
    return torch.cat(own), float(torch.cat(shuffled).mean())


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)
