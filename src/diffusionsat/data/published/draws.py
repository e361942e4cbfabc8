"""Where the published functions' random numbers come from."""

# The rest of the package has no global random state. The published functions draw from Python's module-level
# generator, and scripts written for them seed it and call them without one, so None has to mean it here.
import random
from collections.abc import Sequence
from typing import Any, Protocol


class Draws(Protocol):
    """What is asked of a source of random numbers: a `random.Random`, or the module ``random``."""

    def random(self) -> float:
        """A number from 0 to 1."""
        ...

    def sample(self, population: Sequence[Any], k: int) -> list[Any]:
        """``k`` different elements in random order."""
        ...

    def choice(self, seq: Sequence[Any]) -> Any:
        """One element."""
        ...


def draws(rng: Draws | None) -> Draws:
    """The source given, or if it is None Python's module-level one."""
    return random if rng is None else rng
