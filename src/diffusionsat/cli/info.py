"""`diffusionsat info`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from diffusionsat.cli import options
from diffusionsat.errors import RasterError

_EPILOG = """\b
Examples:
  diffusionsat info compact
  diffusionsat info river.tif
"""


@click.command(epilog=_EPILOG)
@click.argument("path", metavar="PATH|NAME")
@options.verbosity
def command(path: str) -> None:
    """Say as JSON what a checkpoint is, or an image made by diffusionsat."""
    file = Path(path)
    zipped = file.suffix.lower() == ".zip"
    said = image(file) if file.is_file() and not zipped else checkpoint(path)
    click.echo(json.dumps(said, indent=2 if sys.stdout.isatty() else None))


def image(file: Path) -> dict[str, Any]:
    """What an image says about itself."""
    from diffusionsat.geo.images import read_tags

    tags = read_tags(file)
    if tags is None:
        raise RasterError(f"{file} was not made by diffusionsat, or has lost its tags.")
    return {"path": str(file), "kind": "image", **tags}


def checkpoint(name_or_path: str) -> dict[str, Any]:
    """What a checkpoint says about itself."""
    from dataclasses import asdict

    from diffusionsat.checkpoints.layout import content_hash, read_config
    from diffusionsat.checkpoints.released import is_released
    from diffusionsat.checkpoints.shipped import find

    folder = find(name_or_path)
    if is_released(folder):
        return release(folder)
    config = asdict(read_config(folder))
    size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
    return {
        "path": str(folder),
        "kind": "checkpoint",
        "bytes": size,
        "sha256": content_hash(folder),
        **config,
    }


def release(path: Path) -> dict[str, Any]:
    """What lies in a released checkpoint: the parts that are taken, with their configurations and sizes."""
    from diffusionsat.checkpoints.archives import entries
    from diffusionsat.checkpoints.released import locate, read_json

    if path.is_file():
        return {"path": str(path), "kind": "archive", "holds": [entry.name for entry in entries(path)]}
    found = locate(path)
    parts: dict[str, Any] = {}
    for name, folder in (
        ("unet", found.unet),
        ("controlnet", found.controlnet),
        *((name, found.root / name) for name in ("vae", "text_encoder")),
    ):
        if folder is not None and folder.is_dir():
            size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
            parts[name] = {"path": str(folder), "bytes": size, "config": read_json(folder / "config.json")}
    for name in ("tokenizer", "scheduler"):
        parts[name] = str(found.root / name) if (found.root / name).is_dir() else None
    return {"path": str(path), "kind": "published", **parts}
