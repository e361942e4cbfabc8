"""`diffusionsat selftest`."""

import json

import click

from diffusionsat.cli import options

_EPILOG = """\b
Examples:
  diffusionsat selftest
  diffusionsat selftest --model ./my-checkpoint --precision fp32
"""


@click.command(epilog=_EPILOG)
@options.model
@options.verbosity
def command(model: str, device: str, precision: str) -> int:
    """Check that the installed model gives its known answer; exit code 1 if it does not."""
    from diffusionsat.model import DiffusionSat
    from diffusionsat.tasks.selftest import selftest

    report = selftest(DiffusionSat.from_pretrained(model, device=device, precision=precision))
    click.echo(json.dumps(report))
    return 0 if report["ok"] else 1
