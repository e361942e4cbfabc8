"""Stopping at the end of a step when asked to."""

import signal
from types import FrameType


class Interruption:
    """True once SIGTERM or Ctrl-C has come, for as long as the context lasts."""

    def __enter__(self) -> "Interruption":
        self._stopped = False
        self._previous = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._previous.items():
            signal.signal(s, handler)

    def __bool__(self) -> bool:
        return self._stopped

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True
