"""`diffusionsat train`."""

import json
import os
import shlex
import sys
from typing import Any

import click

from diffusionsat.cli import options
from diffusionsat.cli.progress import Bar

_EPILOG = """\b
Examples:
  diffusionsat train tiny
  diffusionsat train compact/denoiser --set run.output=runs/mine --set optimiser.lr=0.01
  diffusionsat train recipe.toml --dry-run
  torchrun --nproc-per-node 4 -m diffusionsat.cli.main train recipe.toml

A run that was stopped or killed goes on with the same command, to the same weights.
"""


@click.command(epilog=_EPILOG)
@click.argument("config", metavar="CONFIG")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change one value of the config; may be given several times.",
)
@click.option("--print-config", is_flag=True, help="Print the whole config as TOML, and do nothing.")
@click.option("--dry-run", is_flag=True, help="Build everything, compute one step, say what it takes.")
@options.verbosity
def command(config: str, settings: tuple[str, ...], print_config: bool, dry_run: bool) -> int:
    """Train networks. CONFIG is a TOML or YAML file, or the name of a config that comes with the package.

    A name that does not exist is answered with those that do. The checkpoint is the folder model in
    run.output.
    """
    from diffusionsat.training.recipe import read_recipe

    recipe = read_recipe(config, settings)
    if print_config:
        from diffusionsat.config import to_toml

        click.echo(to_toml(recipe).strip())
        return 0
    if dry_run:
        from diffusionsat.training.run import try_out

        click.echo(json.dumps(try_out(recipe)))
        return 0
    from diffusionsat.training.journal import Diverged
    from diffusionsat.training.run import run

    with Bar("images", recipe.run.images) as bar:
        try:
            model = run(recipe, tell=_tell(bar), show=bar.show)
        except Diverged as error:
            click.echo(f"error: {error}", err=True)
            return 1
    if model is None:
        words = shlex.join(
            ["diffusionsat", "train", config, *(word for each in settings for word in ("--set", each))]
        )
        click.echo(f"stopped; the state is saved in {recipe.run.output}. Go on with: {words}", err=True)
        return 130
    if os.environ.get("RANK", "0") == "0":  # of what torchrun started
        click.echo(json.dumps({"path": str(model), "images": recipe.run.images}))
    return 0


def _tell(bar: Bar) -> Any:
    """Lines of the log for people, on stderr, unless they are to be quiet."""
    quiet = options.quiet()

    def tell(line: dict[str, Any]) -> None:
        if not quiet:
            print(json.dumps(line), file=sys.stderr)

    return tell
