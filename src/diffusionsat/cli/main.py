"""`diffusionsat`: finds the command, turns errors into messages and exit codes.

Exit codes: 0 done, 1 failed while working, 2 bad usage or input, 3 partly done, 130 interrupted.
"""

import importlib
import logging
import sys
import traceback

import click

from diffusionsat.errors import DiffusionSatError

# Module and one-line help, so that the list of commands imports none of them.
COMMANDS = {
    "generate": "Make an image of words, place, date and resolution.",
    "upscale": "Sharpen a raster, and keep what it measured.",
    "predict": "Make the same ground at another date.",
    "inpaint": "Make a hole in a raster anew.",
    "declouds": "Make the ground under the clouds of a raster.",
    "edit": "Change a raster by words.",
    "features": "Write what the network sees in images, as rasters or tables.",
    "prepare": "Turn the raw release of a data set into shards for training.",
    "train": "Train networks from a recipe.",
    "evaluate": "Measure a model, or images made by another, against real ones.",
    "compare": "Set the reports of evaluations side by side.",
    "audit": "Say which place, season and resolution a model finds likely for an image.",
    "serve": "Serve the studio, and an API that other programs call.",
    "info": "Say what a checkpoint is, or an image made by diffusionsat.",
    "download": "Fetch a released checkpoint of DiffusionSat and convert it.",
    "convert": "Write a released checkpoint as safetensors.",
    "models": "List the models that are shipped or in the cache.",
    "selftest": "Check that the installed model gives its known answer.",
    "completion": "Print the completion script of a shell.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"diffusionsat.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "DIFFUSIONSAT"},
    epilog="Exit codes: 0 done, 1 failed at work, 2 bad usage or input, 3 partly done, 130 interrupted.",
)
@click.version_option(package_name="diffusionsat")
def cli() -> None:
    """Satellite images from words and numbers. What is made is SYNTHETIC and says so."""


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run the command line.

    Args:
        args: Words after the program's name.

    Returns:
        The exit code.
    """
    try:
        return cli.main(args, standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except DiffusionSatError as error:
        _trace()
        click.echo(f"error: {error}", err=True)
        return 1 if isinstance(error.__cause__, OSError) else 2
    except Exception as error:
        _trace()
        click.echo(
            f"error: {type(error).__name__}: {error}. This is a fault of diffusionsat; --debug shows where.",
            err=True,
        )
        return 1


def _trace() -> None:
    """Print the traceback if --debug was given."""
    if logging.getLogger("diffusionsat").level == logging.DEBUG:
        traceback.print_exc()


if __name__ == "__main__":
    main()
