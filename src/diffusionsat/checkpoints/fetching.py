"""One file by HTTP, taken up again where it was cut, and compared with its checksum.

Ranges, If-Range and Retry-After: RFC 9110, sections 14, 13.1.5 and 10.2.3.
"""

import contextlib
import hashlib
import http.client
import io
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from diffusionsat.checkpoints.archives import check_space
from diffusionsat.errors import CheckpointError

log = logging.getLogger(__name__)

TIMEOUT_S = 60  # of silence
WAITS_S = (1, 2, 4, 8, 16)  # before one tries again; they begin anew when something came
LONGEST_WAIT_S = 120  # that a server may ask for
_CHUNK_BYTES = 1 << 20
_PASSING = {408, 416, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be another the next time

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file that can be fetched.

    Args:
        url: Its address, http or https.
        size: Bytes.
        algorithm: Of the checksum, as hashlib names it: ``"md5"``.
        digest: The checksum in hexadecimal digits.
    """

    url: str
    size: int
    algorithm: str
    digest: str


def part_of(path: Path) -> Path:
    """Where what has come of a file waits for the rest."""
    return path.with_name(path.name + ".part")


def fetch(
    remote: RemoteFile,
    path: Path,
    *,
    on_bytes: Callable[[int, int], None] | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch what is missing of a file; it is complete or absent.

    What has come waits in `part_of` it, and the ETag under which it came beside that, so that the next call
    goes on from there.

    Args:
        remote: The file.
        path: Where it goes; if it exists, nothing is done.
        on_bytes: Called with the bytes that are here, and their number in all.
        wait: Waits for seconds.

    Raises:
        CheckpointError: If the server cannot be reached, gives another size or checksum than it should, or
            the disk is full. What has come then stays, but for a wrong checksum.
    """
    if path.is_file():
        return
    report, part = on_bytes or (lambda done, total: None), part_of(path)
    with _writing(part), part.open("ab", buffering=0) as file:
        if file.tell() > remote.size:
            _empty(file)
        check_space(part.parent, 2 * remote.size - file.tell(), "The archive, with its content beside it,")
        report(file.tell(), remote.size)
        if file.tell() < remote.size:
            persist(lambda: _receive(remote, file, part, report), remote.url, wait, done=file.tell)
        os.fsync(file.fileno())
    with part.open("rb") as whole:
        found = hashlib.file_digest(whole, lambda: hashlib.new(remote.algorithm, usedforsecurity=False))
    if found.hexdigest() != remote.digest:
        part.unlink()
        raise CheckpointError(
            f"{remote.url} came with the checksum {remote.algorithm}:{found.hexdigest()}; its record says "
            f"{remote.digest}. It was removed. Run the same command again; if this comes back, the server's "
            "file is damaged."
        )
    part.rename(path)


def _receive(remote: RemoteFile, file: io.FileIO, part: Path, report: Callable[[int, int], None]) -> None:
    """Append what one connection gives, from where the file ends or, if the server must, from the start."""
    note, headers = part.with_suffix(".etag"), {}
    if have := file.tell():
        headers["Range"] = f"bytes={have}-"
        if note.is_file() and re.fullmatch(r'"[\x21\x23-\x7e]*"', etag := note.read_text("utf-8")):
            headers["If-Range"] = etag  # only strong ones can vouch for bytes
    try:
        response = open_url(remote.url, headers)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            _empty(file)
        raise
    with response:
        _check_extent(remote, response, file)
        if response.status != 206:
            with _writing(part):
                _empty(file)
                note.write_text(response.headers.get("ETag", ""), "utf-8")
        while file.tell() < remote.size:
            chunk = memoryview(response.read1(min(_CHUNK_BYTES, remote.size - file.tell())))
            if not chunk:
                raise ConnectionError(f"the connection ended at byte {file.tell()} of {remote.size}")
            with _writing(part):
                while chunk:
                    chunk = chunk[file.write(chunk) :]
            report(file.tell(), remote.size)


def _check_extent(remote: RemoteFile, response: http.client.HTTPResponse, file: io.FileIO) -> None:
    """Refuse an answer about a file of another size, or, to ask for the whole then, another range."""
    size: int | None = response.length
    if response.status == 206:
        extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if extent is None or int(extent[1]) != file.tell():
            _empty(file)
            raise ConnectionError("the server gave another range than was asked for")
        size = None if extent[2] == "*" else int(extent[2])
    if size not in (None, remote.size):
        raise CheckpointError(f"{remote.url} has {size} bytes; its record says {remote.size}.")


def _empty(file: io.FileIO) -> None:
    file.seek(0)
    file.truncate()


@contextlib.contextmanager
def _writing(part: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{part} cannot be written: {error.strerror or error}. What has come stays; "
            "make room, and the same command goes on from there."
        ) from error


def persist(
    attempt: Callable[[], T],
    url: str,
    wait: Callable[[float], None],
    *,
    done: Callable[[], int] = lambda: 0,
) -> T:
    """What an attempt gives; after a failure that may pass again, with waits that begin anew on progress.

    Progress is more than there ever was: a server that knows no ranges, and is cut each time, makes none.

    Args:
        attempt: Reads from the address.
        url: The address, for messages.
        wait: Waits for seconds.
        done: Bytes that are here.

    Raises:
        CheckpointError: If the failure is lasting, or the waits are used up.
    """
    most, waits = done(), iter(WAITS_S)
    while True:
        try:
            return attempt()
        except CheckpointError:
            raise
        except (OSError, http.client.HTTPException) as error:
            said, least = _explained(error)
        if done() > most:
            most, waits = done(), iter(WAITS_S)
        pause = next(waits, None)
        if pause is None or least is None:
            kept = " What has come stays; the same command goes on from there." if done() else ""
            raise CheckpointError(f"{url}: {said}.{kept}") from OSError(said)
        log.warning("%s: %s; trying again in %d s", url, said, max(pause, least))
        wait(max(pause, least))


def _explained(error: Exception) -> tuple[str, int | None]:
    """A failure in words, and the least seconds to wait before one may try again; None is never."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        asked = error.headers.get("Retry-After", "")
        least = min(int(asked), LONGEST_WAIT_S) if re.fullmatch("[0-9]{1,9}", asked) else 0
        hint = ", there is no such record or file" if error.code in (404, 410) else ""
        return f"HTTP {error.code} {error.reason}{hint}", least if error.code in _PASSING else None
    if isinstance(error, urllib.error.URLError):
        lasting = isinstance(error.reason, ssl.SSLCertVerificationError)
        return f"no connection ({error.reason})", None if lasting else 0
    said = str(error) or type(error).__name__
    return said, None if isinstance(error, http.client.InvalidURL) else 0


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Follow it if it leads to where one may go."""
        check_address(newurl, came_from=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Open an address by http or https alone: the default opener of urllib knows file and ftp too.

    Args:
        url: The address.
        headers: Of the request.

    Raises:
        CheckpointError: If the address, or one that it leads to, is of another kind.
        OSError: If there is no answer, or one of failure.
    """
    check_address(url)
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _Redirects,
    ):
        opener.add_handler(handler())
    return opener.open(
        urllib.request.Request(url, headers={"User-Agent": "diffusionsat", **headers}), timeout=TIMEOUT_S
    )


def check_address(url: str, came_from: str = "http:") -> None:
    """Refuse what is no address of http or https, and any way from https to http.

    Raises:
        CheckpointError: If it is refused.
    """
    try:
        parts = urlsplit(url)
        fit = bool(parts.hostname) and parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        fit = False
    if not fit:
        raise CheckpointError(f"{url} is refused: only http and https addresses are opened.")
    if came_from.startswith("https:") and not url.startswith("https:"):
        raise CheckpointError(f"{url} is refused: {came_from} is encrypted, and leads to what is not.")
