"""What is at addresses outside: fetched as if it were uploaded, so that the same is refused.

Nobody else asks outside on behalf of a request: GDAL sees the fetched files alone. Whether somebody may be
asked is decided where the connection is made, by the number that the name stands for, and again wherever an
answer leads to.
"""

import functools
import http.client
import ipaddress
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from diffusionsat.data.frames import Frame, open_frame
from diffusionsat.data.search import assets_of, frame_of_item
from diffusionsat.data.sensors import RGB, identify
from diffusionsat.diffusion.solvers import Cancelled
from diffusionsat.errors import DiffusionSatError, RasterError
from diffusionsat.geo.rasters import Raster, open_raster
from diffusionsat.service.limits import Limits, Problem, check
from diffusionsat.service.uploads import check_dataset, frame_of, opened

_SILENCE_S, _LONGEST_S = 30, 900  # of a server, and of one file
_CHUNK = 2**20


class Remote:
    """Reads GeoTIFFs and STAC items at http(s) addresses.

    Args:
        limits: Of rasters.
        public: Whether only numbers that the whole internet sees are asked, and none of this machine and its
            network.
    """

    def __init__(self, limits: Limits, *, public: bool) -> None:
        self.limits = limits
        self._opener = urllib.request.OpenerDirector()  # of no file:, no ftp:, and no proxy
        for handler in (
            _Handler(public),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.UnknownHandler(),
        ):
            self._opener.add_handler(handler)

    def frame(self, address: str, date: str | None, place: Path, going: Callable[[], bool]) -> Frame:
        """A frame of what is at an address.

        Args:
            address: Of a GeoTIFF, or of a STAC item whose bands are GeoTIFFs.
            date: What is known better.
            place: Folder that keeps what is fetched.
            going: Whether to go on; asked again and again.

        Raises:
            RasterError: If it cannot be fetched, or is neither.
            Problem: If it is beyond a limit.
            Cancelled: If it is not to go on.
        """
        path = self._fetched(address, place, going)
        with path.open("rb") as file:
            head = file.read(64)
        if not head.lstrip().startswith(b"{"):
            stem = Path(urlsplit(address).path).stem
            known = {"product": stem} if identify(stem) else {}
            return frame_of(self._checked(path, address), known, _plain(address), date)
        item = self._item(path, address)
        wanted = assets_of(item, RGB) or assets_of(item, None)
        if not wanted:
            raise RasterError(f"{_plain(address)} has no asset whose bands are known. Name its image itself.")
        check("The number of images of an item", len(wanted), self.limits.frames)

        def part(there: str) -> Raster:
            return open_raster(self.file(there, place, going))

        return open_frame(frame_of_item(item, wanted, address, open_part=part), date=date)

    def file(self, address: str, place: Path, going: Callable[[], bool]) -> Path:
        """The GeoTIFF that is at an address, as `frame` takes it, in a file."""
        return self._checked(self._fetched(address, place, going), address)

    def _fetched(self, address: str, place: Path, going: Callable[[], bool]) -> Path:
        place.mkdir(parents=True, exist_ok=True)
        held = [path.stat().st_size for path in place.iterdir()]
        path = place / f"{len(held)}.tif"
        asked = urllib.request.Request(address, headers={"User-Agent": "diffusionsat"})
        try:
            with self._opener.open(asked, timeout=_SILENCE_S) as answer, path.open("wb") as out:
                self._copy(answer, out, self.limits.unpacked_bytes - sum(held), going)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, DiffusionSatError):
                raise
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise RasterError(f"{_plain(address)} cannot be fetched: {error}.") from None
        return path

    def _copy(self, answer: Any, out: Any, room: int, going: Callable[[], bool]) -> None:
        told = int(answer.headers.get("Content-Length") or 0)
        end, size = time.monotonic() + _LONGEST_S, 0
        most = min(self.limits.upload_bytes, room)
        check("The length of what is there", told, most, 413, " bytes")
        while part := answer.read1(_CHUNK):
            if not going():
                raise Cancelled("stopped while it was fetched")
            if time.monotonic() > end:
                raise OSError(f"it did not come within {_LONGEST_S} s")
            size += len(part)
            check("The length of what is there", size, most, 413, " bytes")
            out.write(part)
        if size < told:
            raise OSError(f"the line was cut after {size:,} of {told:,} bytes")

    def _item(self, path: Path, address: str) -> dict[str, Any]:
        check("The length of an item", path.stat().st_size, self.limits.body_bytes, 413, " bytes")
        try:
            item = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            item = None
        if not isinstance(item, dict) or item.get("type") != "Feature" or "stac_version" not in item:
            raise RasterError(f"{_plain(address)} is no STAC item. Name an item, or a GeoTIFF.")
        return item

    def _checked(self, path: Path, address: str) -> Path:
        try:
            with opened(path, "GTiff") as dataset:
                check_dataset(dataset, self.limits)
        except Problem:
            raise
        except Exception:  # whatever a damaged file makes of GDAL
            raise RasterError(f"{_plain(address)} cannot be read as a GeoTIFF.") from None
        return path


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens http and https by connections that look at whom they talk to."""

    def __init__(self, public: bool) -> None:
        super().__init__()
        self.public = public

    def http_open(self, req: urllib.request.Request) -> Any:
        """See urllib."""
        return self.do_open(functools.partial(_Http, self.public), req)

    def https_open(self, req: urllib.request.Request) -> Any:
        """See urllib."""
        return self.do_open(functools.partial(_Https, self.public), req)


class _Http(http.client.HTTPConnection):
    def __init__(self, public: bool, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.public = public

    def connect(self) -> None:
        """See http.client."""
        self.sock = _connected(self.host, self.port, self.public)


class _Https(_Http):
    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        """See http.client."""
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _connected(host: str, port: int, public: bool) -> socket.socket:
    """A line to the first number of a name that answers."""
    failed: OSError | None = None
    for *_, at in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        number = ipaddress.ip_address(str(at[0]).partition("%")[0])
        if public and (not number.is_global or number.is_multicast):
            raise RasterError(
                f"{host} is {number}, which only this machine or its network sees; this service asks public "
                "addresses alone. Upload the file, or start the service with --allow-remote any."
            )
        try:
            return socket.create_connection((str(number), port), _SILENCE_S)
        except OSError as error:
            failed = error
    raise failed or OSError("the name stands for no address")


def _plain(address: str) -> str:
    """An address without what may be a secret."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
