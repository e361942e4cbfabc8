"""A checkpoint with tiny networks of random weights: every job runs on it in milliseconds."""

import dataclasses
import json
from pathlib import Path

import torch

from diffusionsat.checkpoints.layout import (
    FORMAT,
    FORMAT_VERSION,
    Config,
    Defaults,
    add_control,
    read_config,
    write_checkpoint,
)
from diffusionsat.models.compact.autoencoder import CompactAutoencoder
from diffusionsat.models.compact.control import CompactControlNet
from diffusionsat.models.compact.denoiser import CompactDenoiser
from diffusionsat.models.compact.text import TextEncoder

_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "river", "forest", "sea", "town", "field", "road", "word")


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write a tiny checkpoint with a known answer.

    Args:
        folder: Where to write it.
        seed: Of the weights.

    Returns:
        The folder.
    """
    config = Config(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        name="tiny",
        version=str(seed),
        licence="Apache-2.0",
        max_tokens=16,
        denoiser={
            "channels": [16, 32],
            "blocks": 1,
            "attention": [False, True],
            "head_width": 16,
            "embedding": 32,
            "text_width": 32,
        },
        autoencoder={
            "encoder_channels": [16, 16],
            "decoder_channels": [16, 16],
            "encoder_blocks": [1, 1],
            "decoder_blocks": [1, 1],
        },
        text_encoder={
            "vocabulary": len(_WORDS),
            "width": 32,
            "layers": 1,
            "heads": 2,
            "hidden": 32,
            "positions": 16,
        },
        defaults=Defaults(size=(64, 64), steps=4),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = {
            "denoiser": CompactDenoiser(**config.denoiser),
            "autoencoder": CompactAutoencoder(**config.autoencoder),
            "text_encoder": TextEncoder(**config.text_encoder),
        }
        for network in networks.values():
            for parameter in network.parameters():
                if not parameter.any():  # a layer that starts at zero would hide what feeds it
                    torch.nn.init.normal_(parameter, std=0.05)
    states = {name: network.state_dict() for name, network in networks.items()}
    storage = dict.fromkeys(states, "fp32")
    card = "# tiny\n\nRandom weights for tests.\n"
    write_checkpoint(folder, config, states, _tokenizer(), card, storage)

    from diffusionsat.model import DiffusionSat
    from diffusionsat.tasks.selftest import statistics

    answer = tuple(statistics(DiffusionSat.from_pretrained(folder, device="cpu", precision="fp32")))
    (folder / "config.json").write_text(dataclasses.replace(config, known_answer=answer).to_json())
    return folder


def add_tiny_control(folder: Path, name: str, seed: int = 0) -> None:
    """Add a tiny ControlNet of random weights to a tiny checkpoint.

    Args:
        folder: Of the checkpoint.
        name: Of the ControlNet.
        seed: Of the weights.
    """
    sizes = read_config(folder).denoiser
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = CompactControlNet(
            **sizes, frame_channels=(8, 12), frame_blocks=(1, 1), fusion_channels=16, fusion_heads=4
        )
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    add_control(folder, name, network.sizes, network.state_dict(), "fp32")


def _tokenizer() -> str:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return json.dumps(json.loads(tokenizer.to_str()))
