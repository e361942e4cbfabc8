"""`diffusionsat evaluate`."""

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from diffusionsat.cli import options
from diffusionsat.cli.progress import Bar
from diffusionsat.errors import ConfigError

_EPILOG = """\b
Examples:
  diffusionsat evaluate generate --data eurosat_rgb/ -n 256 --size 64 -o report/
  diffusionsat evaluate generate --data eurosat_rgb/ -n 256 --size 64 --cases -o wanted.geojsonl
  diffusionsat evaluate generate --data eurosat_rgb/ -n 256 --size 64 --images answers/ -o theirs/
  diffusionsat evaluate upscale --data eurosat_rgb/ -n 256 --factor 4 --samples 8 -o sharp/
  diffusionsat evaluate predict --data naip_north_dakota/ --data s2_monthly_ecomapper/ -o dates/
  diffusionsat evaluate table-4-later --data fmow-dates/ -o table/
"""


@click.command(epilog=_EPILOG)
@click.argument("task", metavar="TASK")
@click.option("--data", multiple=True, required=True, metavar="DIR", help="A data set; may be given again.")
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="Images from elsewhere.")
@click.option("--cases", is_flag=True, help="Write what would be asked for to OUT, a GeoJSON line each.")
@click.option(
    "--split", default="test", show_default=True, metavar="NAME", help="Whose images are asked for."
)
@click.option("-n", "count", type=int, metavar="N", help="Images [half of the split's, or all].")
@click.option("--size", type=int, metavar="PX", help="Side of the images [the model's; 64].")
@click.option("--features", multiple=True, metavar="NAME|PATH", help="Feature network [those installed].")
@click.option(
    "--trained",
    type=int,
    default=100_000,
    show_default=True,
    metavar="N",
    help="Training images that copies are looked for in, at most; 0 looks for none.",
)
@click.option(
    "--classifier", type=click.Path(path_type=Path), metavar="DIR", help="Classifier [the shipped]."
)
@click.option(
    "--clip", type=click.Path(path_type=Path), metavar="PATH", help="CLIP model for text alignment."
)
@click.option("--lpips", type=click.Path(path_type=Path), metavar="FILE", help="LPIPS as TorchScript.")
@click.option(
    "--factor", type=int, default=4, show_default=True, metavar="F", help="How much finer; for upscale."
)
@click.option(
    "--samples", type=int, default=1, show_default=True, metavar="K", help="Images a case; not for generate."
)
@click.option(
    "--consistency",
    type=click.Choice(["off", "soft", "hard"]),
    default="soft",
    show_default=True,
    help="With the input; for upscale.",
)
@click.option(
    "--strength",
    type=float,
    default=0.6,
    show_default=True,
    metavar="S",
    help="How much edit changes.",
)
@click.option(
    "--vary",
    metavar="WHAT,WHAT",
    default="",
    help="Make all images in other ways too: metadata (lacking, lying, swept), sampling; for generate.",
)
@click.option(
    "--most-steps",
    type=int,
    default=100,
    show_default=True,
    metavar="K",
    help="Of --vary sampling; 100 steps take long.",
)
@click.option("--control", metavar="NAME", help="ControlNet; '' is none [the model's for the task].")
@click.option("--workers", type=int, default=1, show_default=True, metavar="W", help="Processes.")
@options.frames_guidance
@options.sampling
@options.model
@options.output
@options.verbosity
@click.pass_context
def command(
    context: click.Context,
    task: str,
    data: tuple[str, ...],
    images: Path | None,
    cases: bool,
    count: int | None,
    features: tuple[str, ...],
    vary: str,
    workers: int,
    output: Path,
    overwrite: bool,
    as_json: bool,
    model: str,
    **more: Any,
) -> int:
    """Measure a model, or images from elsewhere, by what it makes of a TASK over a split of real data.

    OUT is a folder; it gets report.md, report.json, figures, sheets and every image's scores as Parquet. A
    run that was stopped goes on by the same command; its numbers depend neither on that nor on --workers.
    Images from elsewhere that answer --cases are named by their ids: 000000.png and so on. Known tasks:
    generate; and upscale, predict, inpaint and declouds, whose images are compared with true ones. Of these
    --cases writes a folder, in which the inputs lie too. edit changes images into another class of their
    data set; features probes the network's own features by the labels of the data.

    TASK may also be a TOML file, or the name of a protocol that comes with the package: table-1, table-2,
    table-3-later, table-3-earlier, table-4-later and table-4-earlier make the published tables again, and
    xbd-after and xbd-before measure what was published without figures. Options that are given count more
    than it.
    """
    if images is not None and _was_given(context, "model"):
        raise ConfigError("--model and --images exclude each other. Give one of them.")

    from diffusionsat.evaluation import protocols, run
    from diffusionsat.evaluation.protocol import EvaluateRequest
    from diffusionsat.execution import executor

    options = {"task": task, "n": count, **more}
    beside = []
    if task not in run.TASKS and (Path(task).suffix or task in protocols.shipped()):
        protocol = protocols.read_protocol(task)
        given = {"n" if name == "count" else name for name in context.params if _was_given(context, name)}
        said = protocol.options()
        options |= {name: value for name, value in said.items() if name == "task" or name not in given}
        beside = [protocol.beside()]
    request = EvaluateRequest(
        data=data,
        model=None if images is not None else model,
        images=images,
        features=features,
        vary=tuple(filter(None, vary.split(","))),
        **options,
    )
    if cases:
        click.echo(json.dumps({"path": str(output), "cases": run.ask(request, output, overwrite=overwrite)}))
        return 0
    with executor(workers) as execute, Bar("units", None) as bar:
        told = run.evaluate(
            request,
            output,
            execute=execute,
            on_unit=lambda name, done, total: bar.show(done, total, name),
            overwrite=overwrite,
            beside=beside,
        )
    click.echo(
        json.dumps({"path": str(output), "protocol": told["protocol"]["hash"], "n": told["protocol"]["n"]})
    )
    return 0


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE
