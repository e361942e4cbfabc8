"""A released checkpoint as a folder of safetensors that every reader of today takes."""

import contextlib
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from diffusionsat.checkpoints.archives import unpack
from diffusionsat.checkpoints.published import (
    LICENCE,
    MOST_BYTES,
    MOST_FILES,
    NOTES,
    identity,
    read_controlnet,
    read_text_encoder,
    read_unet,
    read_vae,
)
from diffusionsat.checkpoints.released import Release, is_released, locate, release_in
from diffusionsat.errors import CheckpointError, ConfigError
from diffusionsat.models.published import CLIPTextModel

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def convert(
    source: Path,
    destination: Path,
    *,
    precision: str = "fp16",
    part: str = "",
    overwrite: bool = False,
) -> Path:
    """Write a release anew: every part checked, in safetensors, with a model card.

    The folder is complete or absent. It opens with `DiffusionSat.from_pretrained` and with the pipelines of
    the published names, and gives the same numbers, to the precision asked for. Parts are held one at a time.

    Args:
        source: A released folder, one checkpoint or part in it, or its zip.
        destination: Folder to write.
        precision: Of the weights: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        part: Which of several U-Nets to take, as a path in the release: ``"checkpoint-100000"``,
            ``"checkpoint-100000/unet_ema"``; empty is the newest.
        overwrite: Replace a release that lies at the destination.

    Returns:
        The destination.

    Raises:
        ConfigError: If the precision is another.
        CheckpointError: If the source is not whole or not safe, the destination is taken, or the disk full.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}. Known are: {', '.join(PRECISIONS)}.")
    source, destination = Path(source), Path(destination)
    _check_destination(source, destination, overwrite)
    beside = destination.parent / f".{destination.name}.{secrets.token_hex(8)}"
    try:
        beside.mkdir(parents=True)
        with _folder_of(source, beside) as folder:
            if not (folder / part).is_dir():
                parts = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir()))
                raise CheckpointError(f"{source} has no {part}. It holds {parts}.")
            release = locate(folder / part)
            made = beside / "made"
            _write_parts(release, made, precision)
            _write_texts(release, made, source, precision)
        _put(made, destination, beside / "replaced")
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{destination} cannot be written: {error.strerror or error}. Nothing was left there."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return destination


def _check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    inner, outer = destination.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise CheckpointError(f"{destination} and {source} lie in one another. Give another destination.")
    if not destination.exists():
        return
    if not overwrite:
        raise CheckpointError(
            f"{destination} exists. Give another name, or --overwrite (overwrite=True) to replace it."
        )
    if not destination.is_dir() or not is_released(destination):
        raise CheckpointError(f"{destination} is no release; it is not replaced. Give another name.")


def _put(made: Path, destination: Path, replaced: Path) -> None:
    """Move what was made to its place; what lay there stays if that fails."""
    if destination.exists():
        destination.rename(replaced)
    try:
        made.rename(destination)
    except BaseException:
        if replaced.exists():
            replaced.rename(destination)
        raise


@contextlib.contextmanager
def _folder_of(source: Path, beside: Path) -> Iterator[Path]:
    """The source as a folder; a zip is unpacked for the time of the conversion."""
    if source.is_dir():
        yield source
    elif source.suffix.lower() == ".zip":
        unpack(source, beside / "unpacked", most_bytes=MOST_BYTES, most_files=MOST_FILES)
        yield release_in(beside / "unpacked")
    else:
        raise CheckpointError(f"{source} is neither a folder nor a .zip. Give a release of DiffusionSat.")


def _write_parts(release: Release, folder: Path, precision: str) -> None:
    readers: dict[str, tuple[Path | None, Callable[[Path], Any]]] = {
        "unet": (release.unet, read_unet),
        "controlnet": (release.controlnet, read_controlnet),
        "vae": (release.root / "vae", read_vae),
        "text_encoder": (release.root / "text_encoder", read_text_encoder),
    }
    for name, (part, read) in readers.items():
        if part is None or (release.unet is None and not part.is_dir()):
            continue  # a ControlNet may come without what it shares with the model that it steers
        network = nn.Module.to(read(part), PRECISIONS[precision])
        for weight, tensor in network.named_parameters():
            if not tensor.isfinite().all():
                raise CheckpointError(f"{part}: {weight} does not fit {precision}. Give bf16 or fp32.")
        _save(network, folder / name)
        del network


def _save(network: Any, folder: Path) -> None:
    """Write a network under the names that diffusers and transformers look for."""
    tensors = network.state_dict()
    if isinstance(network, CLIPTextModel):
        network.config.save_pretrained(folder)
        tensors = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
        file = folder / "model.safetensors"
    else:
        network.save_config(folder)
        file = folder / "diffusion_pytorch_model.safetensors"
    held: set[int] = set()
    for name, tensor in tensors.items():  # safetensors takes neither strides nor two names of one memory
        shared = tensor.data_ptr() in held
        held.add(tensor.data_ptr())
        tensors[name] = tensor.clone() if shared else tensor.contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


def _write_texts(release: Release, folder: Path, source: Path, precision: str) -> None:
    for name in ("tokenizer", "scheduler"):
        if (release.root / name).is_dir():
            shutil.copytree(release.root / name, folder / name)
        elif release.unet is not None:
            log.warning("%s has no folder %s; one must be added before it can be used", source.name, name)
    libraries = {
        "unet": ["diffusionsat", "SatUNet"],
        "controlnet": ["diffusionsat", "ControlNetModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    parts = {name: library for name, library in libraries.items() if (folder / name).is_dir()}
    for name, file in (("controlnet", "config.json"), ("scheduler", "scheduler_config.json")):
        if name in parts:
            parts[name][1] = json.loads((folder / name / file).read_text()).get("_class_name", parts[name][1])
    kind = "DiffusionSatControlNetPipeline" if "controlnet" in parts else "DiffusionSatPipeline"
    absent = {"safety_checker": [None, None], "feature_extractor": [None, None]}
    name, version_, side = identity(release)
    notes = {"name": source.stem if source.is_file() else name, "version": version_, "side": side}
    index = {"_class_name": kind, NOTES: notes, "requires_safety_checker": False, **parts, **absent}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "README.md").write_text(_card(release, source.name, precision, sorted(parts)))


def _card(release: Release, source: str, precision: str, parts: list[str]) -> str:
    taken = [p.relative_to(release.root) for p in (release.unet, release.controlnet) if p is not None]
    return f"""---
license: other
license_name: {LICENCE.lower().replace(" ", "-")}
library_name: diffusers
tags: [satellite, remote-sensing, diffusionsat]
---
# DiffusionSat, converted from {source}

Weights of DiffusionSat (Khanna et al. 2024, arXiv 2312.03606), as released by its authors, written anew by
diffusionsat {version("diffusionsat")} in safetensors, {precision}. Nothing was trained or changed.

- Taken: {", ".join("the root" if str(t) == "." else str(t) for t in taken)}; parts: {", ".join(parts)}.
- Licence: the weights derive from Stable Diffusion 2.1 ({LICENCE}) and carry their own terms on the
  page that they were released on; the licence of this software is not theirs.
- Use: `DiffusionSat.from_pretrained(FOLDER)`, `diffusionsat generate … --model FOLDER`, or the pipelines
  of the published names with `from_pretrained(FOLDER)`.
- Known failures of the released weights: unknown metadata and the number 0 are the same; images of the
  Satlas set were trained with wrong places; guidance above 1 uses a state that training hardly saw.

Images made with them are synthetic.
"""
