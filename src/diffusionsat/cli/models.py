"""`diffusionsat models`."""

import json
import shutil

import click

from diffusionsat.cli import options
from diffusionsat.errors import CheckpointError

_EPILOG = """\b
Examples:
  diffusionsat models
  diffusionsat models --clean NAME
"""


@click.command(epilog=_EPILOG)
@click.option("--clean", metavar="NAME", help="Remove one model from the cache; ALL removes every one.")
@options.verbosity
def command(clean: str | None) -> None:
    """List the models that are shipped or in the cache, one line of JSON each."""
    from diffusionsat.checkpoints.layout import read_config
    from diffusionsat.checkpoints.released import is_released
    from diffusionsat.checkpoints.shipped import SHIPPED, cached, find

    if clean:
        chosen = [folder for folder in cached() if clean in (folder.name, "ALL")]
        if not chosen and clean != "ALL":
            names = ", ".join(f.name for f in cached()) or "nothing"
            raise CheckpointError(f"The cache has no model {clean!r}; it holds {names}. Shipped models stay.")
        for folder in chosen:
            shutil.rmtree(folder)
            click.echo(json.dumps({"removed": str(folder)}))
        return
    for where, folders in (("shipped", [find(name) for name in SHIPPED]), ("cache", cached())):
        for folder in folders:
            size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            line = {"name": folder.name, "where": where, "path": str(folder), "bytes": size}
            try:
                if is_released(folder):
                    line |= {"kind": "published"}
                else:
                    config = read_config(folder)
                    line |= {"kind": "compact", "version": config.version, "licence": config.licence}
            except CheckpointError as error:
                line["error"] = str(error)
            click.echo(json.dumps(line))
