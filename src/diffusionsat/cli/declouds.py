"""`diffusionsat declouds`."""

from pathlib import Path
from typing import Any

import click

from diffusionsat.cli import options, rasters

_EPILOG = """\b
Examples:
  diffusionsat declouds S2.tif --reference clear_month_before.tif -o clear.tif
  diffusionsat declouds image.tif --mask clouds.geojson -o clear.tif
"""


@click.command(epilog=_EPILOG)
@click.argument("image")
@click.option(
    "--mask", metavar="FILE", help="Where the clouds are: a raster or GeoJSON [the image's own band]."
)
@rasters.reference
@click.option(
    "--grow", type=int, default=2, show_default=True, metavar="P", help="Pixels added around clouds."
)
@rasters.feather
@click.option("--date", metavar="YYYY[-MM[-DD]]", help="Date of the image, where it does not tell.")
@rasters.prompt
@rasters.about
@rasters.work
@rasters.control
@rasters.details
@options.sampling
@options.model
@options.output
@options.verbosity
def command(
    image: str,
    mask: str | None,
    references: tuple[str, ...],
    grow: int,
    feather: int,
    date: str | None,
    output: Path,
    model: str,
    device: str,
    precision: str,
    **given: Any,
) -> int:
    """Make the ground under the clouds of IMAGE, and leave the rest as it is.

    The clouds are where --mask says; or the image's band SCL, QA_PIXEL or CLM; or where s2cloudless sees
    them (extra [clouds]).
    """
    rasters.check_output(output, given)
    frames, others = (
        rasters.frames([image], given["bands"], given["tile"]),
        rasters.frames(references, given["bands"], given["tile"], beside=True),
    )

    from diffusionsat.tasks.declouds import DecloudsRequest

    sat = rasters.opened(model, device, precision, given["control"])
    request = DecloudsRequest(
        image=frames[0],
        mask=mask,
        references=others,
        metadata=options.known_metadata(given["lnglat"], date, given["gsd"], given["cloud"]),
        grow=grow,
        feather=feather,
        samples=given["samples"],
        control=given["control"],
        **rasters.sampling(sat, given),
    )
    return rasters.run(rasters.layered(request.job(sat), given), output, given)
