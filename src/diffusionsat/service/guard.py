"""What stands before every request: who may ask, from where, how much, and what browsers may do with it."""

import asyncio
import contextlib
import hmac
import re
from collections.abc import Callable
from typing import Any

from diffusionsat.service.answers import refusal
from diffusionsat.service.limits import Limits, Problem, check

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; worker-src blob: 'self'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PORT = re.compile(r":\d+$")  # what follows the name of a host
_LINGER_S = 1.0
_OPEN = ("/", "/favicon.ico")  # the page asks for the token


class Guard:
    """ASGI middleware.

    Args:
        app: What it stands before.
        token: That every request must bear; None is none, and then only this machine is answered.
        limits: Of what is sent.
    """

    def __init__(self, app: Any, token: str | None, limits: Limits) -> None:
        self.app, self.token, self.limits = app, token, limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def with_headers(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                fixed = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *fixed]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._admit(scope["path"], headers)
            most = self.limits.upload_bytes + 2**16 if scope["path"] == "/uploads" else self.limits.body_bytes
            await self.app(scope, _measured(receive, headers, most), with_headers)
        except Problem as problem:
            if begun:
                raise
            lasting = _lingering(receive, with_headers) if problem.status == 413 else with_headers
            await refusal(problem)(scope, receive, lasting)

    def _admit(self, path: str, headers: dict[str, str]) -> None:
        if self.token is None:
            host, origin = headers.get("host", ""), headers.get("origin")
            if _PORT.sub("", host) not in ("localhost", "127.0.0.1", "[::1]"):
                raise Problem(403, f"The host {host[:100]!r} is not this machine. Start with --token-file.")
            if origin is not None and origin.partition("://")[2] != host:
                raise Problem(403, "Pages of other sites may not use this service.")
        elif path not in _OPEN and not path.startswith("/studio/"):
            kind, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self.token.encode())
            if kind.lower() != "bearer" or not right:
                raise Problem(
                    401,
                    "Send the service's token: Authorization: Bearer TOKEN.",
                    {"WWW-Authenticate": "Bearer"},
                )


def _lingering(receive: Callable[[], Any], send: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What sends an answer, and takes in for a moment what still comes before the line is cut.

    A line that is cut while bytes lie unread may lose the answer too.
    """

    async def lingering(message: Any) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        await send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while (await receive())["type"] != "http.disconnect":
                    pass
        await send({"type": "http.response.body"})

    return lingering


def _measured(receive: Callable[[], Any], headers: dict[str, str], most: int) -> Callable[[], Any]:
    """What gives the body, and refuses it as soon as it is too long, unread if its length is told.

    Raises:
        Problem: If it is too long.
    """
    told, seen = headers.get("content-length", "0")[:20], 0

    def look(length: int) -> None:
        try:
            check("The length of what is sent", length, most, 413, " bytes")
        except Problem as problem:
            raise Problem(413, problem.detail, {"Connection": "close"}) from None  # the rest is not read

    look(int(told) if told.isdecimal() else 0)

    async def measured() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        look(seen)
        return message

    return measured
