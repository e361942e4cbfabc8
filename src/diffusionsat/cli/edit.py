"""`diffusionsat edit`."""

from pathlib import Path
from typing import Any

import click

from diffusionsat.cli import options, rasters

_EPILOG = """\b
Examples:
  diffusionsat edit image.tif "forest" --strength 0.7 -o forest.tif
  diffusionsat edit image.tif "flooded" --mask river.geojson -o flood.tif
"""


@click.command(epilog=_EPILOG)
@click.argument("image")
@click.argument("prompt")
@click.option(
    "--strength", type=float, default=0.6, show_default=True, metavar="S", help="How much changes, to 1."
)
@click.option("--mask", metavar="FILE", help="Where it changes: a raster or GeoJSON [everywhere].")
@rasters.feather
@click.option("--date", metavar="YYYY[-MM[-DD]]", help="Date of the result.")
@rasters.about
@rasters.work
@rasters.details
@options.sampling
@options.model
@options.output
@options.verbosity
def command(
    image: str,
    prompt: str,
    strength: float,
    mask: str | None,
    feather: int,
    date: str | None,
    output: Path,
    model: str,
    device: str,
    precision: str,
    **given: Any,
) -> int:
    """Change IMAGE by the words of PROMPT, and by another date or cloud cover."""
    rasters.check_output(output, given)
    frames = rasters.frames([image], given["bands"], given["tile"])

    from diffusionsat.tasks.edit import EditRequest

    sat = rasters.opened(model, device, precision)
    request = EditRequest(
        image=frames[0],
        strength=strength,
        mask=mask,
        metadata=options.known_metadata(given["lnglat"], date, given["gsd"], given["cloud"]),
        feather=feather,
        samples=given["samples"],
        **rasters.sampling(sat, given | {"prompt": prompt}, steered=False),
    )
    return rasters.run(rasters.layered(request.job(sat), given), output, given)
