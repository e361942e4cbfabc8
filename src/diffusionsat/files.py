"""Output that is complete or absent: written beside its place, then moved there."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from diffusionsat.errors import RasterError

_LONGEST = 200  # bytes of a name, where file systems take 255


def check_writable(path: Path, *, overwrite: bool = False) -> Path:
    """The path, if a file may be written there.

        exists   overwrite   ->
        no       any             allowed
        file     yes             allowed
        file     no              RasterError
        folder   any             RasterError

    Raises:
        RasterError: As the table says, if the folder is absent or cannot be written to, or if the name is too
            long for what is written beside it meanwhile.
    """
    if len(os.fsencode(path.name)) > _LONGEST:
        raise RasterError(f"{path} has a name of over {_LONGEST} bytes. Give a shorter one.")
    if path.is_dir():
        raise RasterError(f"{path} is a folder. Give the name of a file.")
    if path.exists() and not overwrite:
        raise RasterError(f"{path} exists. Give another name, or --overwrite (overwrite=True) to replace it.")
    if not path.parent.is_dir():
        raise RasterError(
            f"{path} cannot be written: its folder {path.parent} does not exist. Make it first."
        )
    if not os.access(path.parent, os.W_OK):
        raise RasterError(f"{path} cannot be written: no permission to write in {path.parent}.")
    return path


@contextlib.contextmanager
def writing(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` when the block ends well and vanishes when it does not.

    Raises:
        RasterError: If `check_writable` refuses, or the disk is full or fails while writing.
    """
    check_writable(path, overwrite=overwrite)
    partial = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(8)}{path.suffix}")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # minus the umask
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # some libraries write a file of their own in its place
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except RasterError:
        raise
    except OSError as error:
        left = "What was there is as it was" if path.exists() else "Nothing was left there"
        raise RasterError(f"{path} cannot be written: {error.strerror or error}. {left}.") from error
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Write a file whole or not at all.

    Raises:
        RasterError: As `writing`.
    """
    with writing(path, overwrite=overwrite) as partial:
        partial.write_bytes(content)
