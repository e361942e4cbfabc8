"""What an adapter is: the files that a release must have, how they are found, how one becomes a record."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusionsat.data.records import Bad, Record
from diffusionsat.errors import DatasetError, DiffusionSatError

Found = Iterator[tuple[str, Any] | Bad]  # a file's name for messages and what `build` makes a record of


@dataclass(frozen=True, slots=True)
class Piece:
    """A part that a release must have.

    Args:
        what: In words.
        patterns: Globs below the release's folder, any of which will do; ``{split}`` is every split.
    """

    what: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A data set as its publisher lays it out.

    Args:
        name: Key in `ADAPTERS`.
        licence: Of its pixels and labels.
        layout: Drawing of the folder, shown when something is missing.
        pieces: What must be there, in the order in which it is missed.
        find: Walks a release, ``(src, split)``.
        build: Makes a record, ``(item, published)``; what it raises makes the file bad.
        splits: The publisher's; none if there are none.
    """

    name: str
    licence: str
    layout: str
    pieces: tuple[Piece, ...]
    find: Callable[[Path, str | None], Found]
    build: Callable[[Any, bool], Record]
    splits: tuple[str, ...] = ()

    def check(self, src: Path, split: str | None = None) -> None:
        """Refuse what is no such release, or a part of one.

        Raises:
            DatasetError: Naming the first missing piece and the layout that was expected.
        """
        if split is not None and split not in self.splits:
            allowed = ", ".join(self.splits) if self.splits else "none, leave it out"
            raise DatasetError(f"{self.name} has no split {split!r}. Its splits are: {allowed}.")
        if not src.exists():
            raise DatasetError(f"{src} does not exist. {self._expected()}")
        for piece in self.pieces:
            if not any(_exists(src, p, [split] if split else self.splits) for p in piece.patterns):
                places = " or ".join(p.replace("{split}", split or "SPLIT") for p in piece.patterns)
                raise DatasetError(
                    f"{src} is no complete release of {self.name}: {piece.what} ({places}) is missing. "
                    f"{self._expected()}"
                )

    def _expected(self) -> str:
        return f"The release of {self.name} looks like this:\n{self.layout.strip()}"

    def records(
        self, src: Path, split: str | None = None, *, published: bool = False
    ) -> Iterator[Record | Bad]:
        """The records of a release in a fixed order, and what is wrong with those that are none.

        Args:
            src: Folder of the release.
            split: One of `splits`; None is all.
            published: Keep places, dates and captions as the published preprocessing made them, also where
                that is wrong (reference, section 5.9).

        Raises:
            DatasetError: As `check`.
        """
        self.check(src, split)
        return self._records(src, split, published)

    def _records(self, src: Path, split: str | None, published: bool) -> Iterator[Record | Bad]:
        keys = set()
        for found in self.find(src, split):
            if isinstance(found, Bad):
                yield found
                continue
            file, item = found
            try:
                record = self.build(item, published)
            except DiffusionSatError as error:
                yield Bad(file, str(error))
            except KeyError as error:
                yield Bad(file, f"It lacks {error}.")
            except (TypeError, ValueError, IndexError, AttributeError, OSError) as error:
                yield Bad(file, f"It holds something unexpected: {error}.")
            else:
                if record.key in keys:
                    yield Bad(file, f"Its key {record.key} was there before.")
                else:
                    keys.add(record.key)
                    yield record


def _exists(src: Path, pattern: str, splits: tuple[str, ...] | list[str]) -> bool:
    patterns = [pattern.replace("{split}", s) for s in splits] if "{split}" in pattern else [pattern]
    if src.is_file():
        return any(src.match(p) for p in patterns)
    return any(next(src.glob(p), None) is not None for p in patterns)


def folders(parent: Path) -> list[Path]:
    """The folders in a folder by name; none if it is not there."""
    return sorted(p for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DatasetError: If it is absent or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path.name} is no JSON: {error}.") from None


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a csv file by the names in its first line.

    Raises:
        DatasetError: If it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.DictReader(file)
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is no UTF-8. Save it in that encoding.") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as csv: {error}.") from None
