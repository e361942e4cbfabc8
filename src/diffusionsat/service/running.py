"""A service from its folder to its socket."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from diffusionsat.errors import ConfigError
from diffusionsat.execution import executor
from diffusionsat.model import DiffusionSat
from diffusionsat.service.app import Service, make_app
from diffusionsat.service.board import Board
from diffusionsat.service.folder import Folder
from diffusionsat.service.keeping import Keeping
from diffusionsat.service.limits import Limits
from diffusionsat.service.store import Store
from diffusionsat.service.uploads import Rasters
from diffusionsat.service.worker import Worker

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SHORTEST_TOKEN = 16
_GRACE_S = 3  # for answers that are being given when the service ends


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        ConfigError: If it cannot be read, or is too short to keep anybody out.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a token: {error}.") from None
    if len(token) < _SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{path} holds no token of {_SHORTEST_TOKEN} letters or more. Make one: openssl rand -hex 32."
        )
    return token


@contextlib.contextmanager
def opened(
    sat: DiffusionSat,
    data: Path,
    *,
    workers: int = 1,
    dask: str | None = None,
    days: float | None = None,
    most_bytes: int | None = None,
    remote: bool = False,
    limits: Limits | None = None,
) -> Iterator[Service]:
    """The parts of a service, for as long as the block lasts; what one that died has left is taken up.

    Args:
        sat: The model.
        data: The folder of its results and uploads.
        workers: Processes that do the windows of large jobs.
        dask: Address of a Dask scheduler whose workers do so instead.
        days: That results and uploads are kept; None is for ever.
        most_bytes: Of results and uploads that are kept; None is any number.
        remote: Read addresses outside.
        limits: Of requests.

    Raises:
        ConfigError: If the folder cannot be used, or no scheduler answers.
        MissingExtraError: If Dask is asked for and not installed.
    """
    limits = limits or Limits()
    with contextlib.ExitStack() as stack:
        folder = Folder(data)
        stack.callback(folder.close)
        execute = stack.enter_context(executor(workers, dask))
        store = Store(folder.root / "service.db")
        stack.callback(store.close)
        board, keeping = Board(), Keeping(store, folder, days, most_bytes)
        rasters = Rasters(folder, store.upload, limits, remote=remote)
        worker = Worker(sat, store, board, folder, rasters, keeping, limits, execute)
        worker.recover()
        yield Service(
            store=store,
            board=board,
            folder=folder,
            keeping=keeping,
            rasters=rasters,
            worker=worker,
            limits=limits,
        )


def listen(service: Service, host: str, port: int, token: str | None) -> None:
    """Answer requests until the process is told to end.

    Raises:
        ConfigError: If others than this machine would be answered without a token.
    """
    import uvicorn

    if token is None and host not in LOOPBACK:
        raise ConfigError(
            f"host is {host!r}, where other machines may ask. Give --token-file, or one of "
            f"{', '.join(LOOPBACK)}."
        )
    uvicorn.run(
        make_app(service, token),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
        proxy_headers=True,
    )
