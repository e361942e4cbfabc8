"""`diffusionsat audit`."""

import json
from typing import Any

import click

from diffusionsat.cli import options, rasters
from diffusionsat.cli.progress import Bar

_EPILOG = """\b
Examples:
  diffusionsat audit S2.tif
  diffusionsat audit chip.png --gsd 10 --date 2019-07
  diffusionsat audit chip.png --lnglat 7.44,46.95 --gsd 10 --fields place --all
"""


@click.command(epilog=_EPILOG)
@click.argument("image", metavar="IMAGE")
@click.option("--prompt", default="", metavar="TEXT", help="Words that describe the image.")
@options.place
@click.option("--bands", metavar="A,B,…", help="Names of IMAGE's bands, where it has none.")
@click.option("--fields", default="season,gsd,place", show_default=True, metavar="NAME,NAME", help="To try.")
@click.option("--sigma", default="0.5,1,2,4", show_default=True, metavar="S,S", help="Noise levels.")
@click.option("--noises", type=int, default=8, show_default=True, metavar="N", help="At each level.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Of the noises.")
@click.option("--all", "everything", is_flag=True, help="A line for every candidate, not one a field.")
@options.model
@options.verbosity
def command(
    image: str,
    prompt: str,
    bands: str | None,
    fields: str,
    sigma: str,
    noises: int,
    seed: int,
    everything: bool,
    model: str,
    device: str,
    precision: str,
    **place: Any,
) -> int:
    """Ask the model which season, resolution and place it finds plausible for IMAGE; flag unlikely claims.

    IMAGE is a GeoTIFF or another raster, or an image. What is claimed is what it says of itself, and before
    that what --lnglat, --date, --gsd and --cloud say. It is the model's opinion and no measurement.
    """
    given, levels = options.known_metadata(**place), options.numbers(sigma, "sigma")

    from diffusionsat.evaluation.plausibility import AuditRequest, audit, seen, verdicts
    from diffusionsat.model import DiffusionSat

    pixels, said = seen(rasters.frames([image], bands)[0])
    sat = DiffusionSat.from_pretrained(model, device=device, precision=precision)
    request = AuditRequest(
        prompt=prompt,
        metadata=said.replace(**given.to_dict()),
        fields=tuple(fields.split(",")),
        sigma=levels,
        noises=noises,
        seed=seed,
    )
    with Bar("candidates", None) as bar:
        lines = audit(sat, pixels, request, bar.show)
    for line in lines if everything else verdicts(lines):
        click.echo(json.dumps({"path": image, **line}))
    return 0
