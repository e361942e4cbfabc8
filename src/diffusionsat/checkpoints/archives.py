"""Zip archives from elsewhere: looked over before anything is written, unpacked whole or not at all."""

import contextlib
import secrets
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diffusionsat.errors import CheckpointError

MOST_RATIO = 200  # of unpacked to packed size; weights and text stay far below
RATIO_COUNTS_FROM = 1 << 20  # bytes; a small file of blanks harms nobody
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # their memory is bounded while unpacking
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # plain, strong, masked headers: PKWARE APPNOTE 4.4.4
# What zipfile raises on damage: beside its own error, whatever the field that was hit gives rise to.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file or folder in an archive, as the archive declares it.

    Args:
        name: Its name there; not to be trusted as a path. A folder's ends with a slash.
        size: Bytes unpacked.
        packed: Bytes in the archive.
    """

    name: str
    size: int
    packed: int


def entries(archive: Path) -> list[Entry]:
    """What an archive declares to hold. Nothing is unpacked, nothing of it checked.

    Raises:
        CheckpointError: If the file is absent or its table of contents damaged.
    """
    with _opened(archive) as opened:
        return [
            Entry(name=info.orig_filename, size=info.file_size, packed=info.compress_size)
            for info in opened.infolist()
        ]


def unpack(archive: Path, folder: Path, *, most_bytes: int, most_files: int) -> None:
    """Unpack a zip archive; the folder is complete or absent.

    Refused before anything is written: names that lead out of the folder, that appear twice or that only
    some systems understand, links and special files, encryption, methods other than store and deflate, more
    than the limits, and what unpacks to more than `MOST_RATIO` times its packed size.

    Args:
        archive: The zip file.
        folder: Made here; must not exist.
        most_bytes: Limit of all files together, unpacked.
        most_files: Limit of their number, folders included.

    Raises:
        CheckpointError: If the archive is absent, damaged or refused, the folder exists, or the disk is full.
            The message names the entry.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists. Give a folder that does not, or move that one away.")
    with _opened(archive) as opened:
        paths = _look_over(archive, opened.infolist(), most_bytes, most_files)
        partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
        try:
            partial.mkdir()
            check_space(partial, sum(info.file_size for info in paths), f"Unpacking {archive}")
            for info, path in paths.items():
                _write(archive, opened, info, partial / path)
            partial.rename(folder)
        except CheckpointError:
            raise
        except OSError as error:
            what = f"{archive} cannot be unpacked to {folder}: {error.strerror or error}"
            raise CheckpointError(f"{what}. Nothing was left there.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        folder: On the disk in question.
        needed: Bytes.
        what: The work, for the message.

    Raises:
        CheckpointError: If fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{what} needs {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free. "
            "Make room or choose another disk."
        )


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        opened = zipfile.ZipFile(archive)
    except OSError as error:
        raise CheckpointError(f"{archive} cannot be read: {error.strerror or error}.") from error
    except _DAMAGE as error:
        raise CheckpointError(f"{archive} is no zip archive or is damaged: {error}.") from None
    with opened:
        yield opened


def _look_over(
    archive: Path, infos: list[zipfile.ZipInfo], most_bytes: int, most_files: int
) -> dict[zipfile.ZipInfo, PurePosixPath]:
    """Where each entry goes, once none of them is refused."""
    if len(infos) > most_files:
        raise CheckpointError(f"{archive} holds {len(infos)} files; at most {most_files} are unpacked.")
    total = sum(info.file_size for info in infos)
    if total > most_bytes:
        raise CheckpointError(f"{archive} unpacks to {total} bytes; at most {most_bytes} are unpacked.")
    paths: dict[zipfile.ZipInfo, PurePosixPath] = {}
    seen: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if complaint := _complaint(info):
            raise CheckpointError(f"{archive}: {info.orig_filename!r} {complaint}; the archive is refused.")
        paths[info] = PurePosixPath(info.orig_filename)
        # Where case does not count, one of two such names would replace the other.
        if seen.setdefault(key := str(paths[info]).casefold(), info) is not info:
            raise CheckpointError(f"{archive}: {info.orig_filename!r} appears twice; the archive is refused.")
    for key, info in seen.items():
        for parent in map(str, PurePosixPath(key).parents):
            if parent in seen and not seen[parent].is_dir():
                raise CheckpointError(
                    f"{archive}: {info.orig_filename!r} lies in a file; the archive is refused."
                )
    return paths


def _complaint(info: zipfile.ZipInfo) -> str | None:
    """What speaks against an entry, as the rest of a sentence."""
    name, mode = info.orig_filename, info.external_attr >> 16
    path = PurePosixPath(name)
    if "\\" in name or ":" in name or any(ord(c) < 32 for c in name):
        return "has a backslash, a colon or a control character in its name"
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return "leads out of the folder"
    if stat.S_ISLNK(mode):
        return "is a link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither a file nor a folder"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        return f"is packed by method {info.compress_type}, and only store and deflate are read"
    if info.file_size > max(RATIO_COUNTS_FROM, MOST_RATIO * info.compress_size):
        return f"unpacks to more than {MOST_RATIO} times its size, as no weights do"
    return None


def _write(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Write one entry; zipfile reads no more of it than is declared, and compares its CRC at the end."""
    if info.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with opened.open(info) as packed, path.open("xb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
            written = file.tell()
    except _DAMAGE as error:
        raise CheckpointError(f"{archive}: {info.orig_filename!r} is damaged: {error}.") from None
    if written != info.file_size:
        said = f"{written} bytes where {info.file_size} are declared"
        raise CheckpointError(f"{archive}: {info.orig_filename!r} is damaged: {said}.")
