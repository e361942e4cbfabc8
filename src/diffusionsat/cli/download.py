"""`diffusionsat download`."""

import json
from pathlib import Path

import click

from diffusionsat.cli import options
from diffusionsat.errors import ConfigError

_EPILOG = """\b
Examples:
  diffusionsat download --list
  diffusionsat download single-512
  diffusionsat download single-512 --dry-run
"""


@click.command(epilog=_EPILOG)
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="Print the releases there are.")
@click.option(
    "--from",
    "base",
    envvar="DIFFUSIONSAT_ZENODO",
    metavar="URL",
    help="Zenodo [https://zenodo.org], or a server that answers like it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the checkpoint goes [the cache, where --model NAME finds it].",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    default="fp16",
    show_default=True,
    help="Of the weights as they are kept.",
)
@click.option("--part", default="", metavar="CHECKPOINT-N", help="Which of several U-Nets [the newest].")
@click.option("--keep-archive", is_flag=True, help="Leave the zip file beside the checkpoint.")
@click.option("--dry-run", is_flag=True, help="Print what would be fetched, and fetch nothing.")
@options.verbosity
def command(
    name: str | None,
    listing: bool,
    base: str | None,
    output: Path | None,
    precision: str,
    part: str,
    keep_archive: bool,
    dry_run: bool,
) -> None:
    """Fetch the released checkpoint NAME of DiffusionSat, check it and convert it.

    A download that was cut or stopped goes on where it was when the same command is given again.
    """
    from dataclasses import asdict

    from diffusionsat.checkpoints import download
    from diffusionsat.cli.progress import Bar

    if listing:
        for each, deposit in download.RELEASES.items():
            click.echo(json.dumps({"name": each, **asdict(deposit)}))
        return
    if name is None:
        raise ConfigError(f"Give the NAME of a release: {', '.join(download.RELEASES)}. --list says more.")
    base = base or download.ZENODO
    deposit, folder = download.deposit(name), download.place(name, output)
    if download.is_there(folder):
        if not options.quiet():
            click.echo(f"{name} is there already; nothing is done.", err=True)
        click.echo(json.dumps({"name": name, "path": str(folder), "fetched": False}))
        return
    if dry_run:
        remote = download.look_up(deposit, base)
        had = download.waiting_bytes(name, folder, remote)
        plan = {"name": name, "path": str(folder), **asdict(deposit), **asdict(remote), "had": had}
        click.echo(json.dumps(plan))
        return
    with Bar("bytes", None) as bar:
        download.download(
            name,
            folder,
            base=base,
            precision=precision,
            part=part,
            keep_archive=keep_archive,
            on_bytes=bar.show,
        )
    click.echo(json.dumps({"name": name, "path": str(folder), "fetched": True}))
