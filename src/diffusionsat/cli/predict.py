"""`diffusionsat predict`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from diffusionsat.cli import options, rasters
from diffusionsat.errors import ConfigError

_EPILOG = """\b
Examples:
  diffusionsat predict 2019.tif 2021.tif --date 2020-07 -o 2020.tif
  diffusionsat predict before.tif@2017-08-20 --date 2017-08-31 --prompt "flooded houses" -o after.tif
  diffusionsat predict A.tif B.tif --dates 2020-01/2020-12 -o year.gif
  diffusionsat predict A.tif B.tif --dates 2000/2020/5 -o decades.gif
"""


@click.command(epilog=_EPILOG)
@click.argument("sources", metavar="FRAME...", nargs=-1, required=True)
@click.option("--date", metavar="YYYY[-MM[-DD]]", help="The date to be seen.")
@click.option(
    "--dates",
    metavar="A/B[/N]|A,B,C",
    help="A series: OUT-DATE.tif for each of a list, or of a range or N of it, and an animation OUT.gif.",
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
    date: str | None,
    dates: str | None,
    output: Path,
    model: str,
    device: str,
    precision: str,
    **given: Any,
) -> int:
    """Make the ground of the rasters FRAME... as it would look at another date, past or future.

    Each has its own date, from the file or as FILE@DATE. The result lies on the grid of the frame nearest in
    time; its bands other than red, green and blue are copies.
    """
    if (date is None) == (dates is None):
        raise ConfigError("predict wants --date D for one image, or --dates for a series. Give one of them.")
    wanted = [date] if date else options.parse_dates(dates or "")
    if dates and given["count"] != 1:
        raise ConfigError("-n makes several images of one date; leave it out with --dates.")
    _check(output, given, series=dates is not None)
    frames = rasters.frames(sources, given["bands"], given["tile"])

    from diffusionsat.tasks.predict import PredictRequest

    sat = rasters.opened(model, device, precision, given["control"])
    requests = [
        PredictRequest(
            frames=frames,
            on=on,
            metadata=options.known_metadata(given["lnglat"], None, given["gsd"], given["cloud"]),
            samples=given["samples"],
            control=given["control"],
            **rasters.sampling(sat, given),
        )
        for on in wanted
    ]
    jobs = [rasters.layered(request.job(sat), given) for request in requests]
    if dates:
        return _series(jobs, wanted, output, given)
    return rasters.run(jobs[0], output, given)


def _check(output: Path, given: dict[str, Any], *, series: bool) -> None:
    from diffusionsat.files import check_writable

    if not series:
        rasters.check_output(output, given)
    elif output.suffix.lower() != ".gif":
        raise ConfigError(f"{output} has suffix {output.suffix!r}. A series is an animation: give .gif.")
    else:
        check_writable(output, overwrite=given["overwrite"])


def _series(jobs: Sequence[Any], dates: Sequence[str], output: Path, given: dict[str, Any]) -> int:
    """Make an image a date, and an animation of them."""
    from diffusionsat.geo.publishing import refuse_inputs
    from diffusionsat.tasks.animation import animate, picture

    refuse_inputs(output, jobs[0].files)
    paths = [output.with_name(f"{output.stem}-{date}.tif") for date in dates]

    def moving() -> None:
        pictures = [picture(job, path) for job, path in zip(jobs, paths, strict=True)]
        animate(pictures, dates, output, overwrite=given["overwrite"])

    return rasters.several(jobs, paths, given, then=moving)
