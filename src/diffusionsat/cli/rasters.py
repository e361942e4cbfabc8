"""What the commands on rasters have in common: options, how a job is run, and what is printed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from diffusionsat.cli import options
from diffusionsat.cli.progress import Bar
from diffusionsat.errors import DiffusionSatError, RasterError

More = Callable[[Path], dict[str, Any]]


def about(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what files do not: place, gsd, cloud cover, bands and tile."""
    for option in (
        click.option("--tile", metavar="T32TLR", help="Tile of a Sentinel-2 product that has several."),
        click.option("--bands", metavar="A,B,…", help="Names of the input's bands, where it has none."),
        click.option("--cloud", type=float, metavar="P", help="Cloud cover of the result in percent."),
        click.option("--gsd", type=float, metavar="G", help="Metres per pixel, likewise."),
        click.option(
            "--lnglat", type=options.LngLat(), metavar="LON,LAT", help="Place, where the input does not tell."
        ),
    ):
        function = option(function)
    return function


def reference(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--reference``."""
    option = click.option(
        "--reference", "references", multiple=True, metavar="FILE[@DATE]", help="Image of another date."
    )
    return option(function)


def feather(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--feather``."""
    what = "Pixels over which new fades into old."
    return click.option("--feather", type=int, default=4, show_default=True, metavar="P", help=what)(function)


def prompt(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--prompt``."""
    return click.option("--prompt", default="", metavar="TEXT", help="What is to be seen.")(function)


def work(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of how the work is done: images, samples, workers, dask."""
    for option in (
        click.option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster that does the work."),
        click.option("--workers", type=int, default=1, show_default=True, metavar="N", help="Processes."),
        click.option(
            "--samples",
            type=int,
            default=1,
            show_default=True,
            metavar="K",
            help="Images that are made: the result is their mean, and their spread is written too.",
        ),
        click.option(
            "-n",
            "count",
            type=int,
            default=1,
            show_default=True,
            metavar="N",
            help="Results, each of other noise: OUT-000, OUT-001 and so on.",
        ),
    ):
        function = option(function)
    return function


def control(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--control`` and ``--frames-guidance``."""
    function = options.frames_guidance(function)
    return click.option(
        "--control",
        metavar="NAME|PATH",
        help="ControlNet [the model's for this job]; of a released model, a folder or zip, as ./FOLDER.",
    )(function)


def details(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--details``."""
    return click.option(
        "--details",
        is_flag=True,
        help="Also write each of several samples, and what was measured, what is invented, and the support.",
    )(function)


def layered(job: Any, given: dict[str, Any]) -> Any:
    """A job, with the layers that are asked for."""
    job.apart, job.details = given["details"], job.details and given["details"]
    return job


def frames(
    sources: Sequence[str], bands: str | None, tile: str | None = None, *, beside: bool = False
) -> list[Any]:
    """Frames of FILE or FILE@DATE.

    Args:
        sources: What is given.
        bands: Names of their bands.
        tile: See `open_frame`.
        beside: Whether they lie beside the image that ``bands`` names: they take the names if they have none.

    Raises:
        RasterError: If one cannot be read.
    """
    from diffusionsat.data.frames import open_frame
    from diffusionsat.data.safe import is_safe
    from diffusionsat.geo.datasets import plain
    from diffusionsat.geo.rasters import open_raster

    names = bands.split(",") if bands else None
    opened = []
    for source in sources:
        path, at, date = source.rpartition("@")
        dated = bool(at) and not Path(source).exists()
        file = path if dated else source
        named = names
        if names and beside and (is_safe(Path(file)) or open_raster(file).bands != plain(len(names))):
            named = None
        opened.append(open_frame(file, bands=named, tile=tile, date=date if dated else None))
    return opened


def opened(model: str, device: str, precision: str, control: str | None = None) -> Any:
    """The model; with a released ControlNet, under its path as a name, if ``--control`` is one."""
    from diffusionsat.model import DiffusionSat

    released = {control: control} if control and Path(control).name != control else None
    return DiffusionSat.from_pretrained(model, device=device, precision=precision, controlnets=released)


def sampling(sat: Any, given: dict[str, Any], *, steered: bool = True) -> dict[str, Any]:
    """The options of sampling as fields of a request of a job that images steer, or of another."""
    from diffusionsat.tasks.sampling import UNGUIDED, guidance_of

    strengths = (given["guidance"], given["metadata_guidance"], given.get("frames_guidance"))
    default = UNGUIDED if steered else None
    kept = {name: given[name] for name in ("seed", "steps", "solver", "negative", "strict", "prompt")}
    return kept | {"guidance": guidance_of(sat, *strengths, strength=default)}


def check_output(path: Path, given: dict[str, Any]) -> list[Path]:
    """Where GeoTIFFs go, if they may be written there: ``path``, or with -n what it names.

    Of several, some may be there from a run that was stopped.

    Raises:
        ConfigError: If so many are not made.
        RasterError: If they may not.
    """
    from diffusionsat.files import check_writable

    if path.suffix.lower() not in (".tif", ".tiff"):
        raise RasterError(f"{path} has suffix {path.suffix!r}. Give .tif or .tiff.")
    paths = options.numbered(path, given["count"])
    return [check_writable(each, overwrite=given["overwrite"] or len(paths) > 1) for each in paths]


def run(job: Any, output: Path, given: dict[str, Any], more: More | None = None) -> int:
    """Do a job, or with -n a job of each image, and print what was made.

    Args:
        job: A `Restoration`; see `layered`.
        output: Where its image goes.
        given: The command's options.
        more: What else is said of an image that was written.

    Returns:
        The exit code.
    """
    paths = check_output(output, given)
    if len(paths) > 1:
        return several([job.image(i) for i in range(len(paths))], paths, given, more)
    _make(job, output, given, more)
    return 0


def several(
    jobs: Sequence[Any],
    paths: Sequence[Path],
    given: dict[str, Any],
    more: More | None = None,
    then: Callable[[], Any] | None = None,
) -> int:
    """Do jobs one after another; what a stopped run of the same command left is kept.

    Args:
        jobs: As for `run`.
        paths: Where their images go.
        given: The command's options.
        more: As for `run`.
        then: Called at the end.

    Returns:
        The exit code: 3 if an image is there when a later one cannot be made.

    Raises:
        DiffusionSatError: If none is.
    """
    from diffusionsat.files import check_writable
    from diffusionsat.tasks.restoring import is_made

    left = [
        (job, check_writable(path, overwrite=given["overwrite"]))
        for job, path in zip(jobs, paths, strict=True)
        if given["overwrite"] or not is_made(job, path)
    ]
    written = len(jobs) - len(left)
    try:
        for job, path in left:
            _make(job, path, given, more)
            written += 1
        if then is not None:
            then()
    except DiffusionSatError as error:
        if not written:
            raise
        click.echo(f"error: {error} The same command goes on from here.", err=True)
        return 3
    return 0


def _make(job: Any, output: Path, given: dict[str, Any], more: More | None) -> None:
    """Do a job, with a bar, and print what was made."""
    from diffusionsat.execution import executor
    from diffusionsat.tasks.restoring import restore_to

    with executor(given["workers"], given["dask"]) as execute, Bar("percent", 100) as bar:
        written = restore_to(
            job,
            output,
            overwrite=given["overwrite"],
            execute=execute,
            on_share=lambda share: bar.show(round(100 * share), 100),
        )
    line = {"path": str(output), "synthetic": True, **job.metadata.to_dict(), **job.provenance()}
    line["layers"] = {name: str(path) for name, path in written.items() if name != "image"}
    click.echo(json.dumps(line | (more(output) if more else {})))
