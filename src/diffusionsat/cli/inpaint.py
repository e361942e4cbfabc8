"""`diffusionsat inpaint`."""

from pathlib import Path
from typing import Any

import click

from diffusionsat.cli import options, rasters

_EPILOG = """\b
Examples:
  diffusionsat inpaint image.tif hole.geojson -o filled.tif
  diffusionsat inpaint image.tif --reference last_year.tif -o filled.tif
"""


@click.command(epilog=_EPILOG)
@click.argument("image")
@click.argument("mask", required=False)
@rasters.reference
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
    feather: int,
    date: str | None,
    output: Path,
    model: str,
    device: str,
    precision: str,
    **given: Any,
) -> int:
    """Make the part of IMAGE that MASK marks anew; without a MASK, where IMAGE has no data.

    MASK is a raster that is not 0 there, or GeoJSON polygons. All other pixels stay as they are, to the last
    bit, but for a rim of --feather pixels.
    """
    rasters.check_output(output, given)
    frames, others = (
        rasters.frames([image], given["bands"], given["tile"]),
        rasters.frames(references, given["bands"], given["tile"], beside=True),
    )

    from diffusionsat.tasks.inpaint import InpaintRequest

    sat = rasters.opened(model, device, precision, given["control"])
    request = InpaintRequest(
        image=frames[0],
        mask=mask,
        references=others,
        metadata=options.known_metadata(given["lnglat"], date, given["gsd"], given["cloud"]),
        feather=feather,
        samples=given["samples"],
        control=given["control"],
        **rasters.sampling(sat, given),
    )
    return rasters.run(rasters.layered(request.job(sat), given), output, given)
