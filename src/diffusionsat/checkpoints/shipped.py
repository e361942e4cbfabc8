"""The checkpoints that come with the package, and the folder where others are kept."""

import os
from importlib import resources
from pathlib import Path

from diffusionsat.errors import CheckpointError

SHIPPED = {"compact": "compact"}  # name -> folder in diffusionsat/weights


def weights_folder() -> Path:
    """Folder of the shipped weights."""
    return Path(str(resources.files("diffusionsat"))) / "weights"


def cache_folder() -> Path:
    """Folder of other checkpoints: DIFFUSIONSAT_CACHE, or diffusionsat in the user's cache folder."""
    if chosen := os.environ.get("DIFFUSIONSAT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusionsat"


def unpacked_folder() -> Path:
    """Where the zips of releases are unpacked to."""
    return cache_folder() / "unpacked"


def find(name_or_path: str | Path) -> Path:
    """The folder of a shipped name (``compact``, or ``compact@1`` for one version), a cached name or a path.

    The folder of a training run means the checkpoint in it.

    Raises:
        CheckpointError: If there is none.
    """
    text = str(name_or_path)
    name, _, version = text.partition("@")
    if name in SHIPPED:
        folder = weights_folder() / SHIPPED[name]
        if version:
            from diffusionsat.checkpoints.layout import read_config

            held = read_config(folder).version
            if version != held:
                raise CheckpointError(f"{text} is not shipped with this release, which has {name}@{held}.")
        return folder
    if Path(text).exists():
        trained = Path(text) / "model"  # of a training run
        return trained if (trained / "config.json").is_file() else Path(text)
    if os.sep not in text and (cache_folder() / text).is_dir():
        return cache_folder() / text
    raise CheckpointError(
        f"There is no checkpoint {text!r}: it is neither a folder, a zip nor one of {', '.join(SHIPPED)}. "
        "`diffusionsat models` shows what there is, `diffusionsat download --list` what can be fetched."
    )


def cached() -> list[Path]:
    """Folders of the checkpoints in the cache, those of unpacked zips included."""
    folder = cache_folder()
    kinds = ("config.json", "model_index.json")
    checkpoints = {p.parent for kind in kinds for p in folder.glob(f"*/{kind}")}
    return sorted({*checkpoints, *unpacked_folder().glob("*/*")})
