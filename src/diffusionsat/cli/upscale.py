"""`diffusionsat upscale`."""

from pathlib import Path
from typing import Any

import click

from diffusionsat.cli import options, rasters
from diffusionsat.errors import ConfigError

_EPILOG = """\b
Examples:
  diffusionsat upscale S2.tif --factor 4 -o sharper.tif
  diffusionsat upscale S2A_MSIL2A_….SAFE.zip --factor 2 --samples 4 --details -o sharper.tif
  diffusionsat upscale --stac https://HOST/api --collection sentinel-2-l2a --lnglat 7.44,46.95 \\
    --search 2024-06/2024-08 --size 512x512 -o sharper.tif
"""


@click.command(epilog=_EPILOG)
@click.argument("sources", metavar="FRAME...", nargs=-1)
@click.option("--factor", type=int, default=4, show_default=True, metavar="F", help="2 to 10.")
@click.option(
    "--reference", "references", multiple=True, metavar="FILE[@DATE]", help="Sharp image of another date."
)
@click.option(
    "--consistency",
    type=click.Choice(["soft", "hard", "off"]),
    default="soft",
    show_default=True,
    help="How far the result, seen through the sensor, is the input.",
)
@click.option("--all-bands", is_flag=True, help="Also write the other bands, resampled and not generated.")
@click.option("--stac", metavar="URL", help="Take the least cloudy item of a STAC API instead of files.")
@click.option("--search", metavar="A/B", help="Dates between which it is looked for.")
@click.option("--collection", "collections", multiple=True, metavar="NAME", help="Where in it [everywhere].")
@click.option(
    "--size", type=options.Size(), metavar="WxH", help="Pixels of it around the place, to be sharpened [all]."
)
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
    sources: tuple[str, ...],
    factor: int,
    references: tuple[str, ...],
    consistency: str,
    all_bands: bool,
    stac: str | None,
    search: str | None,
    collections: tuple[str, ...],
    size: tuple[int, int] | None,
    output: Path,
    model: str,
    device: str,
    precision: str,
    **given: Any,
) -> int:
    """Sharpen the rasters FRAME..., of one or several dates, and keep what they measured.

    Each is a GeoTIFF, a JP2, a Sentinel-2 .SAFE folder or its zip; FILE@DATE gives it a date. The finest of
    them, and of these the latest, is sharpened onto a grid that nests in its own; the result has its red,
    green and blue, in its units.
    """
    rasters.check_output(output, given)
    if not stac and (search or collections or size):
        raise ConfigError("--search, --collection and --size are for --stac, which is not given.")
    found = [_searched(stac, given["lnglat"], search, collections, size)] if stac else []
    frames = [*rasters.frames(sources, given["bands"], given["tile"]), *found]
    sharp = rasters.frames(references, given["bands"], given["tile"], beside=True)

    from diffusionsat.tasks.upscale import UpscaleRequest, consistency_of

    sat = rasters.opened(model, device, precision, given["control"])
    request = UpscaleRequest(
        frames=frames,
        factor=factor,
        references=sharp,
        metadata=options.known_metadata(
            None if stac else given["lnglat"], None, given["gsd"], given["cloud"]
        ),
        consistency=consistency,
        samples=given["samples"],
        all_bands=all_bands,
        control=given["control"],
        **rasters.sampling(sat, given),
    )
    job = rasters.layered(request.job(sat), given)
    return rasters.run(job, output, given, lambda path: consistency_of(job, path))


def _searched(
    url: str,
    lnglat: tuple[float, float] | None,
    dates: str | None,
    collections: tuple[str, ...],
    size: tuple[int, int] | None,
) -> Any:
    from diffusionsat.data.search import least_cloudy

    if lnglat is None or dates is None:
        raise ConfigError("--stac needs --lnglat LON,LAT and --search A/B. Give both.")
    return least_cloudy(url, lnglat, dates, collections=collections, size=size)
