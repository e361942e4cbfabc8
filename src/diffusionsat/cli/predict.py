"""`diffusionsat predict`."""

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
"""


@click.command(epilog=_EPILOG)
@click.argument("sources", metavar="FRAME...", nargs=-1, required=True)
@click.option("--date", metavar="YYYY[-MM[-DD]]", help="The date to be seen.")
@click.option(
    "--dates", metavar="A/B|A,B,C", help="A series: OUT-DATE.tif for each, and an animation OUT.gif."
)
@rasters.prompt
@rasters.about
@rasters.work
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
) -> None:
    """Make the ground of the rasters FRAME... as it would look at another date, past or future.

    Each has its own date, from the file or as FILE@DATE. The result lies on the grid of the frame nearest in
    time; its bands other than red, green and blue are copies.
    """
    if (date is None) == (dates is None):
        raise ConfigError("predict wants --date D for one image, or --dates for a series. Give one of them.")
    wanted = [date] if date else options.parse_values(f"date={dates}")[1]
    paths = _paths(output, wanted, series=dates is not None, overwrite=given["overwrite"])
    frames = rasters.frames(sources, given["bands"], given["tile"])

    from diffusionsat.model import DiffusionSat
    from diffusionsat.tasks.animation import animate, picture
    from diffusionsat.tasks.inputs import files_of
    from diffusionsat.tasks.predict import PredictRequest

    sat = DiffusionSat.from_pretrained(model, device=device, precision=precision)
    pictures = []
    for on, path in zip(wanted, paths, strict=True):
        request = PredictRequest(
            frames=frames,
            on=on,
            metadata=options.known_metadata(given["lnglat"], None, given["gsd"], given["cloud"]),
            samples=given["samples"],
            control=given["control"],
            **rasters.sampling(sat, given),
        )
        job = request.job(sat)
        rasters.run(job, path, files_of(frames), given)
        pictures.append(picture(job, path))
    if dates:
        animate(pictures, wanted, output, overwrite=given["overwrite"])


def _paths(output: Path, dates: list[str], *, series: bool, overwrite: bool) -> list[Path]:
    from diffusionsat.files import check_writable

    if not series:
        return [rasters.check_output(output, overwrite)]
    if output.suffix.lower() != ".gif":
        raise ConfigError(f"{output} has suffix {output.suffix!r}. A series is an animation: give .gif.")
    check_writable(output, overwrite=overwrite)
    paths = [output.with_name(f"{output.stem}-{date}.tif") for date in dates]
    return [rasters.check_output(path, overwrite) for path in paths]
