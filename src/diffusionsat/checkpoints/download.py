"""The released checkpoints of DiffusionSat: fetched from Zenodo, compared with their checksum, converted.

A download that was cut or stopped is taken up again by the same call. While there is work to do, a folder
``.NAME.download`` stands beside the checkpoint's folder NAME and keeps what has come of the archive.

Zenodo's records API: ``GET /api/records/ID`` gives JSON with ``files``, a list of ``key`` (file name),
``size`` (bytes), ``checksum`` (``md5:HEX``) and ``links.self`` (address).
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from diffusionsat.checkpoints.fetching import RemoteFile, check_address, fetch, open_url, part_of, persist
from diffusionsat.checkpoints.shipped import cache_folder
from diffusionsat.errors import CheckpointError, ConfigError

ZENODO = "https://zenodo.org"
_MOST_RECORD_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """Where a checkpoint lies as its authors released it.

    Args:
        record: Number of the Zenodo record.
        archive: Name of the zip file in it.
        about: What it is, in a line.
    """

    record: int
    archive: str
    about: str


RELEASES = {
    "single-512": Deposit(
        record=13751498,
        archive="finetune_sd21_sn-satlas-fmow_snr5_md7norm_bs64.zip",
        about="Single images of 512 x 512 pixels from text and metadata.",
    ),
    "single-256": Deposit(
        record=13756199,
        archive="finetune_sd21_256_sn-satlas-fmow_snr5_md7norm_bs64.zip",
        about="Single images of 256 x 256 pixels from text and metadata.",
    ),
    "texas": Deposit(
        record=13756211,
        archive="controlnet3d-mixattn_sd21_md7norm_texas.zip",
        about="3D ControlNet: another date of a place from images of it; for single-512's checkpoint-100000.",
    ),
    "fmow-super-resolution": Deposit(
        record=13756246,
        archive="controlnet_sd21_md7norm_fmow_condres256.zip",
        about="2D ControlNet: fMoW RGB from Sentinel-2; for single-512's checkpoint-100000.",
    ),
}


def deposit(name: str) -> Deposit:
    """Where the release of a name lies.

    Raises:
        ConfigError: If there is none.
    """
    if name not in RELEASES:
        raise ConfigError(f"There is no release {name!r}. Releases are {', '.join(RELEASES)}.")
    return RELEASES[name]


def place(name: str, folder: Path | None = None) -> Path:
    """Where a release goes: the folder given, or that of its name in the cache."""
    return (folder or cache_folder() / name).absolute()


def is_there(folder: Path) -> bool:
    """Whether a release stands in a folder; it came there whole or not at all."""
    return (folder / "model_index.json").is_file()


def waiting_bytes(name: str, folder: Path, remote: RemoteFile) -> int:
    """How much of a release's archive an earlier run has left for a folder."""
    archive = _workshop(folder) / remote.digest / deposit(name).archive
    return next((p.stat().st_size for p in (archive, part_of(archive)) if p.is_file()), 0)


def look_up(wanted: Deposit, base: str = ZENODO, *, wait: Callable[[float], None] = time.sleep) -> RemoteFile:
    """Address, size and checksum of a release's archive, from its record.

    Args:
        wanted: Where it lies.
        base: Address of Zenodo or of a server that answers like it.
        wait: Waits for seconds.

    Raises:
        CheckpointError: If there is no answer, no such record, or no such file in it.
    """
    url = f"{base.rstrip('/')}/api/records/{wanted.record}"

    def ask() -> bytes:
        with open_url(url, {"Accept": "application/json"}) as response:
            content = response.read(_MOST_RECORD_BYTES)
            if response.length:
                raise ConnectionError("the answer was cut, or is longer than any record")
            return content

    answer = persist(ask, url, wait)
    try:
        files = {file["key"]: file for file in json.loads(answer)["files"]}
        if wanted.archive not in files:
            raise CheckpointError(f"{url} has no {wanted.archive}; it has {', '.join(files) or 'no files'}.")
        remote = _remote(files[wanted.archive], url)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{url} does not answer as Zenodo does: files with key, size, checksum and links.self are "
            "expected. Give Zenodo's address, or that of a mirror of its records."
        ) from None
    check_address(remote.url, came_from=url)
    return remote


def _remote(file: dict[str, Any], url: str) -> RemoteFile:
    algorithm, _, digest = file["checksum"].partition(":")
    size = file["size"]
    if algorithm not in ("md5", "sha256") or not re.fullmatch("[0-9a-f]{32,64}", digest):
        raise ValueError
    if type(size) is not int or size < 1:
        raise ValueError
    return RemoteFile(url=urljoin(url, file["links"]["self"]), size=size, algorithm=algorithm, digest=digest)


def download(
    name: str,
    folder: Path | None = None,
    *,
    base: str = ZENODO,
    precision: str = "fp16",
    part: str = "",
    keep_archive: bool = False,
    on_bytes: Callable[[int, int], None] | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch and convert a release; the folder is complete or absent.

    Args:
        name: One of `RELEASES`.
        folder: Where the checkpoint goes; by default where `find` looks for its name.
        base: Address of Zenodo or of a server that answers like it.
        precision: Of the converted weights: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        part: Which of several U-Nets to take, see `convert`.
        keep_archive: Leave the zip file beside the folder.
        on_bytes: Called with the bytes of the archive that are here, and their number in all.
        wait: Waits for seconds.

    Returns:
        The checkpoint's folder. If a release stands there, nothing is done.

    Raises:
        ConfigError: If the name or the precision is unknown.
        CheckpointError: If the archive cannot be fetched, is not what its record says, or is refused; if the
            disk is full; if the folder, or the archive that is to be kept, exists; or if another process is
            at work on it.
        MissingExtraError: If the packages that the conversion needs are not installed.
    """
    wanted, folder = deposit(name), place(name, folder)
    if is_there(folder):
        return folder
    # What the conversion needs is known to be there before gigabytes are fetched.
    from diffusionsat.checkpoints.conversion import PRECISIONS, convert

    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}. Known are {', '.join(PRECISIONS)}.")
    kept = folder.with_name(wanted.archive)
    if folder.exists():
        raise CheckpointError(f"{folder} exists and is no release. Give another folder.")
    if keep_archive and kept.exists():
        raise CheckpointError(f"{kept} exists. Move it away, or do without --keep-archive (keep_archive).")
    remote = look_up(wanted, base, wait=wait)
    try:
        with _working(folder, remote) as workshop:
            archive = workshop / wanted.archive
            fetch(remote, archive, on_bytes=on_bytes, wait=wait)
            convert(archive, folder, precision=precision, part=part)
            if keep_archive:
                archive.rename(kept)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}.") from error
    return folder


def _workshop(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.download")


@contextlib.contextmanager
def _working(folder: Path, remote: RemoteFile) -> Iterator[Path]:
    """A folder to work in, for one process at a time; it is removed when the block ends well.

    It is named by the content that is fetched, so that what is left of another version is never taken up.
    """
    workshop = _workshop(folder)
    workshop.mkdir(parents=True, exist_ok=True)
    handle = os.open(workshop, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for other in workshop.iterdir():
            if other.name != remote.digest:
                shutil.rmtree(other)
        (workshop / remote.digest).mkdir(exist_ok=True)
        yield workshop / remote.digest
        shutil.rmtree(workshop)
    except BlockingIOError:
        raise CheckpointError(f"Another process is at work on {folder}. Wait until it is done.") from None
    finally:
        os.close(handle)
