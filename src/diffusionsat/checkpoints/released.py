"""Where the parts of a released folder lie. Nothing is loaded here, and ``model_index.json`` is not believed.

    ROOT/vae text_encoder tokenizer scheduler    as in Stable Diffusion 2.1
    ROOT/checkpoint-N/unet, unet_ema             what is published; the newest ``unet`` is taken
    ROOT/unet                                    in a plain or a converted folder; goes first if a SatUNet
    ROOT/controlnet, or ROOT itself              of a ControlNet's release

A path may lead to ROOT, to one ``checkpoint-N`` or to one part in it.
"""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusionsat.errors import CheckpointError

log = logging.getLogger(__name__)

UNETS = ("SatUNet", "UNet2DConditionModel")
CONTROLNETS = ("ControlNetModel", "ControlNetModel3D")
_SHARED = ("vae", "text_encoder", "tokenizer", "scheduler")
_DEEPEST = 6  # folders that an archive may wrap a release in
_NUMBERED = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The folders of a release.

    Args:
        root: Where the shared parts lie.
        unet: The U-Net's folder; None if there is none.
        controlnet: The ControlNet's folder; None if there is none.
    """

    root: Path
    unet: Path | None
    controlnet: Path | None

    def shared(self, name: str) -> Path:
        """Folder of ``vae``, ``text_encoder``, ``tokenizer`` or ``scheduler``.

        Raises:
            CheckpointError: If it is not there.
        """
        folder = self.root / name
        if not folder.is_dir():
            raise CheckpointError(
                f"{self.root} has no folder {name}. A release holds {', '.join(_SHARED)} and a U-Net; "
                f"copy {name} from the archive, or from any Stable Diffusion 2.1."
            )
        return folder


def is_released(path: Path) -> bool:
    """Whether a path looks like a release (or a zip of one), not like a checkpoint of ours."""
    if path.suffix.lower() == ".zip" and path.is_file():
        return True
    return path.is_dir() and (
        (path / "model_index.json").is_file()
        or class_name(path) in (*UNETS, *CONTROLNETS)
        or bool(_candidates(path, "unet", "unet_ema", "controlnet"))
    )


def release_in(folder: Path) -> Path:
    """The release in an unpacked archive, which may be wrapped in further folders.

    Raises:
        CheckpointError: If there is none.
    """
    level = [folder]
    for _ in range(_DEEPEST):
        if found := next(filter(is_released, level), None):
            return found
        level = [inside for path in level for inside in sorted(path.iterdir()) if inside.is_dir()]
    raise CheckpointError(f"{folder.name} holds no release of DiffusionSat: no U-Net and no ControlNet.")


def locate(path: Path) -> Release:
    """The parts that belong to a path in a release.

    Raises:
        CheckpointError: If neither a U-Net nor a ControlNet is there.
    """
    path = path.resolve()
    kind = class_name(path)
    if kind in UNETS:
        return Release(root=_root_above(path), unet=path, controlnet=None)
    if kind in CONTROLNETS and not (path / "vae").is_dir():
        return Release(root=_root_above(path), unet=None, controlnet=path)
    root = path.parent if _NUMBERED.fullmatch(path.name) else path
    unet = _best(path, "unet", "unet_ema")
    controlnet = _best(path, "controlnet") or (path if kind in CONTROLNETS else None)
    if unet is None and controlnet is None:
        raise CheckpointError(
            f"{path} holds no unet, no checkpoint-N/unet and no controlnet with a config.json in it; "
            "it is no release of DiffusionSat. Give the folder that was unpacked from its archive."
        )
    return Release(root=root, unet=unet, controlnet=controlnet)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: If the file is absent or holds something else.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing. The checkpoint is incomplete: copy it again.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds no JSON object.")
    return values


def class_name(folder: Path) -> str | None:
    """The network that a folder's config.json names; None if there is none."""
    file = folder / "config.json"
    name = read_json(file).get("_class_name") if file.is_file() else None
    return name if isinstance(name, str) else None


def _root_above(part: Path) -> Path:
    """The nearest folder above a part that holds the shared parts."""
    above = (part.parent, part.parent.parent)
    return next((folder for folder in above if (folder / "vae").is_dir()), part.parent)


def _candidates(path: Path, *parts: str) -> list[Path]:
    """Folders of some parts, the one to take first: the root's own, then that of the newest checkpoint."""
    numbered = [(int(m[1]), f) for f in path.glob("checkpoint-*") if (m := _NUMBERED.fullmatch(f.name))]
    roots = [path, *(folder for _, folder in sorted(numbered, reverse=True))]
    folders = [root / part for part in parts for root in roots]
    folders = [folder for folder in folders if (folder / "config.json").is_file()]
    # The root's own may be Stable Diffusion's, from which the checkpoints were trained.
    return sorted(folders, key=lambda folder: class_name(folder) == "UNet2DConditionModel")


def _best(path: Path, *parts: str) -> Path | None:
    found = _candidates(path, *parts)
    if len(found) > 1:
        first, *others = [str(folder.relative_to(path)) for folder in found]
        log.info("%s holds %s, which is taken, and %s", path, first, ", ".join(others))
    return found[0] if found else None
