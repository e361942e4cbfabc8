"""Pipelines from the published model's folders, whose ``model_index.json`` cannot be trusted.

A released folder names classes that no library has, or none at all, and keeps its U-Net in
``checkpoint-N/unet``. So the index is not read: `diffusionsat.checkpoints.released` finds the parts, and each
is what its own configuration and tensors say.
"""

import inspect
import logging
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from torch import nn

from diffusionsat.checkpoints.published import (
    read_controlnet,
    read_text_encoder,
    read_tokenizer,
    read_unet,
    read_vae,
)
from diffusionsat.checkpoints.released import Release, locate, read_json
from diffusionsat.errors import CheckpointError
from diffusionsat.models.published.loading import WHERE

_log = logging.getLogger(__name__)

_READERS = {
    "unet": read_unet,
    "controlnet": read_controlnet,
    "vae": read_vae,
    "text_encoder": read_text_encoder,
    "tokenizer": read_tokenizer,
}
_WITHOUT_EFFECT = ("variant", "use_safetensors", "low_cpu_mem_usage", "local_files_only")


class FromReleasedFolder:
    """`from_pretrained` of the published pipelines."""

    _optional_components: list[str]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a pipeline from a folder as released, as converted, or as `save_pretrained` writes it.

        Components that are passed are taken as they are, None included; the others are loaded from the
        folder. A safety checker is only what is passed: the releases have none.

        Args:
            pretrained_model_name_or_path: The folder.
            **kwargs: Components by name; ``torch_dtype`` (or ``dtype``) of those that are loaded. How files
                are chosen and read (``variant`` and the like) needs no telling.

        Raises:
            CheckpointError: If the folder or a component is absent or cannot be loaded.
        """
        root = Path(pretrained_model_name_or_path)
        if not root.is_dir():
            raise CheckpointError(
                f"{root} is no folder, and no hub repository is looked for. {WHERE}: "
                f"{cls.__name__}.from_pretrained(FOLDER)."
            )
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None) or torch.float32
        for name in _WITHOUT_EFFECT:
            kwargs.pop(name, None)
        names = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        given: dict[str, Any] = {"requires_safety_checker": False, **dict.fromkeys(cls._optional_components)}
        given |= {name: kwargs.pop(name) for name in names if name in kwargs}
        if kwargs:
            _log.warning("%s.from_pretrained ignores: %s", cls.__name__, ", ".join(sorted(kwargs)))
        release = locate(root)
        missing = {name: _folder(release, name) for name in names if name not in given}
        return cls(**given, **{name: _load(name, at, dtype) for name, at in missing.items()})


def _folder(release: Release, name: str) -> Path:
    parts = {"unet": release.unet, "controlnet": release.controlnet}
    folder = parts[name] if name in parts else release.shared(name)
    if folder is None:
        raise CheckpointError(
            f"{release.root} has no {name}, neither in {name}/ nor in checkpoint-N/{name}/. Load it from "
            f"where it is and pass it: {name}=..."
        )
    _log.info("%s is loaded from %s", name, folder)
    return folder


def _load(name: str, folder: Path, dtype: torch.dtype) -> Any:
    if name == "scheduler":
        kind = read_json(folder / "scheduler_config.json").get("_class_name", "DDIMScheduler")
        if not hasattr(diffusers, str(kind)):
            raise CheckpointError(f"{folder} names the scheduler {kind!r}, which diffusers does not have.")
        try:
            return getattr(diffusers, kind).from_pretrained(folder)
        except Exception as error:  # a config can be wrong in any way
            raise CheckpointError(f"{folder} describes no {kind}: {error}.") from None
    part = _READERS[name](folder)
    return nn.Module.to(part, dtype) if isinstance(part, nn.Module) else part
