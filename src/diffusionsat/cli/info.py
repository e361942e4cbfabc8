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
    said = image(file) if file.is_file() else checkpoint(path)
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
    from diffusionsat.checkpoints.shipped import find

    folder = find(name_or_path)
    config = asdict(read_config(folder))
    size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
    return {
        "path": str(folder),
        "kind": "checkpoint",
        "bytes": size,
        "sha256": content_hash(folder),
        **config,
    }
