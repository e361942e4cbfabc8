"""What answers first: the studio's files at once, all else as soon as the service behind is there.

Importing torch and loading a model takes seconds, for which nobody need wait who looks at an empty map.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from diffusionsat.service.answers import problem_of, refusal
from diffusionsat.service.limits import Problem

if TYPE_CHECKING:
    from diffusionsat.service.running import Service

STUDIO = Path(__file__).parent / "studio"


class Front:
    """ASGI application, whose lifespan is that of the service behind.

    Args:
        load: Gives the service, open as long as its context lasts; called in a thread.
        failed: Called if there is none; ``error`` then holds why.
    """

    def __init__(
        self,
        load: Callable[[], "contextlib.AbstractContextManager[Service]"],
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.load, self.failed = load, failed
        self.error: BaseException | None = None
        self._studio = _Studio(directory=STUDIO)
        self._behind: Any = None
        self._settled = asyncio.Event()
        self._open, self._waiting = contextlib.ExitStack(), contextlib.ExitStack()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif (file := _asked(scope)) is not None:
            try:
                await self._studio({**scope, "path": f"/{file}", "root_path": ""}, receive, send)
            except HTTPException as error:
                await refusal(problem_of(error))(scope, receive, send)
        else:
            await self._settled.wait()
            behind = self._behind or refusal(Problem(503, "The service could not be started. See its log."))
            await behind(scope, receive, send)

    def let_go(self) -> None:
        """Answer those who wait for news, since the service ends."""
        self._waiting.close()

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        begun = asyncio.create_task(self._begin())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await begun
        await asyncio.to_thread(self._open.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _begin(self) -> None:
        try:
            self._behind = await asyncio.to_thread(self._start)
        except BaseException as error:
            self.error = error
            self.failed()
        self._settled.set()

    def _start(self) -> Any:
        service = self._open.enter_context(self.load())
        from diffusionsat.service.app import make_app

        service.worker.start()
        self._open.callback(service.worker.stop)
        self._waiting.callback(service.board.close)
        return make_app(service)


class _Studio(StaticFiles):
    """Files that a browser asks for again, so that those of two versions never meet."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """See `StaticFiles`; one that has not changed is not sent again."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _asked(scope: Any) -> str | None:
    """The file of the studio that is asked for, if one is."""
    if scope["path"] == "/":
        accepted = dict(scope["headers"]).get(b"accept", b"")
        return "index.html" if b"text/html" in accepted and scope["method"] in ("GET", "HEAD") else None
    head, _, file = scope["path"].partition("/studio/")
    return None if head or not file else file
