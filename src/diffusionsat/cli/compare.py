"""`diffusionsat compare`."""

import json
from pathlib import Path

import click

from diffusionsat.cli import options
from diffusionsat.errors import ConfigError

_EPILOG = """\b
Examples:
  diffusionsat compare report-a/ report-b/ --markdown
  diffusionsat compare ours/ theirs/ --anyway
"""


@click.command(epilog=_EPILOG)
@click.argument("reports", nargs=-1, required=True, metavar="A B...", type=click.Path(path_type=Path))
@click.option(
    "--anyway", is_flag=True, help="Also where protocols differ, so that figures mean different things."
)
@click.option("--markdown", is_flag=True, help="Print tables instead of JSON lines.")
@options.verbosity
def command(reports: tuple[Path, ...], anyway: bool, markdown: bool) -> int:
    """Set the figures of reports of `evaluate` side by side.

    Reports of different protocols (other data, numbers of images, feature networks, solver ...) are refused.
    Where their images answer the same cases, the differences of their scores from those of A come last.
    """
    from diffusionsat.evaluation import report
    from diffusionsat.evaluation.differing import paired

    names = [path.resolve().name for path in reports]
    if len(set(names)) < len(names):
        names = [str(path) for path in reports]
    names = [f"./{name}" if name in report.COMPARED else name for name in names]
    if len(set(names)) < len(names):
        raise ConfigError("One report is given twice. Give different ones.")
    told = {name: report.read(path) for name, path in zip(names, reports, strict=True)}
    lines = report.compare(told, anyway=anyway) + paired(dict(zip(names, reports, strict=True)))
    if markdown:
        click.echo(report.side_by_side(lines, names), nl=False)
    else:
        for line in lines:
            click.echo(json.dumps(line))
    return 0
