"""Long work in units that are kept as they are done, so that a job that was stopped goes on.

A unit is a function of its number alone, computed in batches of one shape and with a fixed number of threads:
its result is the same whoever computes it, and whatever was done before.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusionsat.errors import DatasetError
from diffusionsat.execution import Execute
from diffusionsat.files import write_bytes, writing

Arrays = dict[str, np.ndarray]
OnUnit = Callable[[str, int, int], None]  # what is done, units done, units in all
_MARK = "identity.sha256"


def digest(value: Any) -> str:
    """SHA-256 of what JSON can hold, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def claim(folder: Path, identity: Any) -> None:
    """Mark a folder as that of some work, or refuse it if it is that of other work.

    Args:
        folder: Made if absent.
        identity: What decides the results, as JSON can hold it.

    Raises:
        DatasetError: If it is other work's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark, wanted = folder / _MARK, digest(identity)
    if not mark.exists():
        write_bytes(mark, wanted.encode())
    elif mark.read_text() != wanted:
        raise DatasetError(
            f"{folder} holds images of another model or of other requests. Give another folder, or remove it."
        )


@contextlib.contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """So many threads while the block lasts, on which the last bits of sums depend; None leaves them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class _Keeping:
    """A unit's work with its result kept; what other processes are sent."""

    folder: Path
    compute: Callable[[int], Arrays]
    threads: int | None

    def __call__(self, unit: int) -> int:
        part = _file(self.folder, unit)
        with on_threads(self.threads), writing(part, overwrite=True) as partial, partial.open("wb") as file:
            np.savez(file, **self.compute(unit))  # pyright: ignore[reportArgumentType], names are data
        return unit


def complete(
    folder: Path,
    identity: Any,
    count: int,
    compute: Callable[[int], Arrays],
    *,
    execute: Execute = map,
    threads: int | None = 1,
    on_unit: OnUnit | None = None,
) -> "Kept":
    """Do the units of some work that are not done yet.

    Args:
        folder: Where results are kept.
        identity: What decides them, as JSON can hold it.
        count: Units in all.
        compute: A unit's work; it is sent to other processes if ``execute`` has any.
        execute: Who does the work.
        threads: Of each unit, since the last bits of a sum depend on how it is shared out; None leaves them.
        on_unit: Called with the folder's name, units done (before, and then after each) and units in all.

    Raises:
        DatasetError: If the folder is that of other work.
    """
    claim(folder, identity)
    missing = [unit for unit in range(count) if not _file(folder, unit).exists()]
    done = count - len(missing)
    if done and on_unit:
        on_unit(folder.name, done, count)
    for _ in execute(_Keeping(folder, compute, threads), missing):
        done += 1
        if on_unit:
            on_unit(folder.name, done, count)
    return Kept(folder, count)


@dataclass(frozen=True, slots=True)
class Kept:
    """Results of units, read when they are asked for.

    Args:
        folder: Where they are.
        count: How many.
    """

    folder: Path
    count: int

    def part(self, unit: int, name: str) -> np.ndarray:
        """One array of one unit."""
        with np.load(_file(self.folder, unit)) as held:
            return held[name]

    def names(self) -> list[str]:
        """Names of the arrays."""
        with np.load(_file(self.folder, 0)) as held:
            return list(held.files)

    def whole(self, name: str) -> np.ndarray:
        """An array of all units after each other, mapped from a file: its rows need not fit in memory."""
        file = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.npy"
        if not file.exists():
            first = self.part(0, name)
            rows = [len(first), *(len(self.part(unit, name)) for unit in range(1, self.count))]
            with writing(file) as partial:
                shape = (sum(rows), *first.shape[1:])
                whole = np.lib.format.open_memmap(partial, "w+", dtype=first.dtype, shape=shape)
                for unit, end in enumerate(np.cumsum(rows)):
                    whole[end - rows[unit] : end] = self.part(unit, name)
                whole.flush()
        return np.load(file, mmap_mode="r+")


def _file(folder: Path, unit: int) -> Path:
    return folder / f"{unit:07d}.npz"
