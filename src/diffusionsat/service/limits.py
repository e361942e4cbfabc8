"""What one request may ask for, and how what is refused is said (RFC 9457)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

EXCEPTIONS = "http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0/"  # kinds that OGC names


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for.

    Args:
        upload_bytes: Of a file that is uploaded.
        unpacked_bytes: Of what a zip holds, unpacked, and of what one job fetches from outside.
        upload_pixels: Of an uploaded raster.
        bands: Of an uploaded raster.
        body_bytes: Of a request that is no upload.
        prompt: Characters of a prompt, or of what is not to be seen.
        mask: Characters of GeoJSON; more is sent as a raster.
        generate_pixels: Of an image that is generated.
        output_pixels: Of a raster that is made of rasters.
        steps: Of the solver.
        samples: Images of which a result is the mean.
        frames: Rasters of one job.
        waiting: Jobs that wait or run.
    """

    upload_bytes: int = 2**30
    unpacked_bytes: int = 2**32
    upload_pixels: int = 2**28
    bands: int = 32
    body_bytes: int = 2**22
    prompt: int = 2000
    mask: int = 2**17
    generate_pixels: int = 2048 * 2048
    output_pixels: int = 2**28
    steps: int = 200
    samples: int = 16
    frames: int = 16
    waiting: int = 200


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818, the word of RFC 9457
    """A request that is refused.

    Args:
        status: Of HTTP.
        detail: What was given, what is possible and what to do.
        headers: Sent with it.
        kind: Address that names its kind.
    """

    status: int
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "about:blank"


def check(name: str, value: int, most: int, status: int = 422, unit: str = "") -> None:
    """Make sure that a number keeps to a limit.

    Raises:
        Problem: If it does not; names the limit.
    """
    if value > most:
        raise Problem(status, f"{name} is {value:,}{unit}; this service takes at most {most:,}{unit}.")
