"""`diffusionsat serve`."""

from pathlib import Path
from typing import Any

import click

from diffusionsat.cli import options
from diffusionsat.errors import ConfigError, MissingExtraError

_EPILOG = """\b
Examples:
  diffusionsat serve
  diffusionsat serve --data /srv/images --keep 30 --quota 50
  diffusionsat serve --host 0.0.0.0 --token-file token --workers 4
"""


@click.command(epilog=_EPILOG)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="H", help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    metavar="P",
    help="Port to listen at; 0 is any that is free.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("diffusionsat-data"),
    show_default=True,
    metavar="DIR",
    help="Folder of the queue, uploads and results.",
)
@click.option("--workers", type=int, default=1, show_default=True, metavar="N", help="Processes.")
@click.option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster that does the work.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="F",
    help="Answer only who bears the token in F; needed where other machines may ask.",
)
@click.option("--keep", type=float, metavar="DAYS", help="How long results and uploads are kept [for ever].")
@click.option("--quota", type=float, metavar="GB", help="How much of them; the oldest go first [any].")
@click.option(
    "--allow-remote",
    type=click.Choice(["public", "any"]),
    is_flag=False,
    flag_value="public",
    help="Let requests name GeoTIFFs and STAC items by http(s) address: of the public internet, or any.",
)
@options.model
@options.verbosity
def command(
    host: str,
    port: int,
    data: Path,
    workers: int,
    dask: str | None,
    token_file: Path | None,
    keep: float | None,
    quota: float | None,
    allow_remote: str | None,
    model: str,
    device: str,
    precision: str,
) -> None:
    """Serve the studio, a map to click on, and an API (OGC API - Processes) that other programs call.

    Jobs wait in a queue that outlives the process: what was waiting or running when it ended is done when it
    starts again. DIR is a static STAC catalogue of the results.
    """
    for name, value in (("keep", keep), ("quota", quota)):
        if value is not None and not 0 < value < 1e9:
            raise ConfigError(f"{name} is {value:g}. Give a number above 0.")
    try:
        from diffusionsat.service.listening import Server, bind, read_token

        token = read_token(token_file) if token_file else None
        at = bind(host, port, token)
        if not options.quiet():
            address = f"http://{f'[{host}]' if ':' in host else host}:{at.getsockname()[1]}/"
            click.echo(f"{address} (Ctrl-C ends it; what waits is kept in {data})", err=True)

        def load() -> Any:  # imports torch, while the studio is there to be looked at
            from diffusionsat.model import DiffusionSat
            from diffusionsat.service.running import opened

            return opened(
                DiffusionSat.from_pretrained(model, device=device, precision=precision),
                data,
                workers=workers,
                dask=dask,
                days=keep,
                most_bytes=None if quota is None else round(quota * 1e9),
                remote=allow_remote,
            )

        Server(load, token).listen(at)
    except ImportError as error:
        if (error.name or "diffusionsat").startswith("diffusionsat"):
            raise
        raise MissingExtraError("The service", "serve") from None
