"""`diffusionsat completion`."""

import click

_EPILOG = """\b
Examples:
  eval "$(diffusionsat completion bash)"
  diffusionsat completion fish > ~/.config/fish/completions/diffusionsat.fish
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a SHELL."""
    from click.shell_completion import get_completion_class

    from diffusionsat.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None  # the choice allows only shells that click knows
    click.echo(kind(cli, {}, "diffusionsat", "_DIFFUSIONSAT_COMPLETE").source())
