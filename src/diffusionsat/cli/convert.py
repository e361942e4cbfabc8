"""`diffusionsat convert`."""

import json
from pathlib import Path

import click

from diffusionsat.cli import options

_EPILOG = """\b
Examples:
  diffusionsat convert finetune_sd21_sn-satlas-fmow_snr5_md7norm_bs64.zip -o single-512
  diffusionsat convert release.zip --part checkpoint-100000 -o single-512 --precision bf16
"""


@click.command(epilog=_EPILOG)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "destination", type=click.Path(path_type=Path), required=True, help="Folder to write."
)
@click.option(
    "--precision",
    type=click.Choice(["fp16", "bf16", "fp32"]),
    default="fp16",
    show_default=True,
    help="Of the weights.",
)
@click.option("--part", default="", metavar="CHECKPOINT-N", help="Which of several U-Nets [the newest].")
@click.option("--overwrite", is_flag=True, help="Replace a release that lies there.")
@options.verbosity
def command(source: Path, destination: Path, precision: str, part: str, overwrite: bool) -> None:
    """Write a released checkpoint (SOURCE: a folder, or its zip) as a checked folder of safetensors."""
    from diffusionsat.checkpoints.conversion import convert

    convert(source, destination, precision=precision, part=part, overwrite=overwrite)
    size = sum(file.stat().st_size for file in destination.rglob("*") if file.is_file())
    click.echo(json.dumps({"path": str(destination), "precision": precision, "bytes": size}))
