"""From an address to the service that answers there."""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from diffusionsat.errors import ConfigError
from diffusionsat.service.front import Front
from diffusionsat.service.guard import Guard
from diffusionsat.service.limits import Limits

if TYPE_CHECKING:
    from diffusionsat.service.running import Service

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


def bind(host: str, port: int, token: str | None) -> socket.socket:
    """A socket at an address.

    Args:
        host: Name or address.
        port: 0 is any that is free.
        token: That is asked for; None is none.

    Raises:
        ConfigError: If others than this machine would be answered without a token, or the address is taken.
    """
    if token is None and host not in LOOPBACK:
        raise ConfigError(
            f"host is {host!r}, where other machines may ask. Give --token-file, or one of "
            f"{', '.join(LOOPBACK)}."
        )
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{host}, port {port} cannot be listened at: {reason}. Give another.") from None


class Server(uvicorn.Server):
    """uvicorn's, with the service behind it.

    Args:
        load: Gives the service; called once the studio is served.
        token: That every request must bear; None is none.
        limits: Of requests.
    """

    def __init__(
        self,
        load: "Callable[[], AbstractContextManager[Service]]",
        token: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.front = Front(load, self._end)
        config = uvicorn.Config(
            Guard(self.front, token, limits or Limits()),
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_S,
            server_header=False,
            proxy_headers=True,
        )
        super().__init__(config)

    def _end(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; whoever waits for news is let go first, so that nobody is cut off."""
        self.front.let_go()
        await super().shutdown(sockets)

    def listen(self, at: socket.socket) -> None:
        """Answer requests until the process is told to end.

        Args:
            at: As `bind` gives it.

        Raises:
            Exception: What ``load`` raised.
        """
        self.run(sockets=[at])
        if self.front.error is not None:
            raise self.front.error
