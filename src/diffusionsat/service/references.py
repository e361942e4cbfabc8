"""What the references in requests mean: uploads, results and, if that is allowed, addresses outside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffusionsat.service.folder import Folder
from diffusionsat.service.limits import Limits, Problem, check
from diffusionsat.service.remote import Remote
from diffusionsat.service.schemas import bound, references
from diffusionsat.service.uploads import frame_of


class Rasters:
    """What the references in requests mean: ``upload:ID``, ``job:ID`` and, if that is allowed, addresses.

    Args:
        folder: Where uploads and results are.
        upload: Gives what is known of an upload.
        limits: Of rasters.
        remote: Reads addresses outside; None if they are not read.
    """

    def __init__(self, folder: Folder, upload: Any, limits: Limits, remote: Remote | None) -> None:
        self.folder, self.known, self.limits, self.remote = folder, upload, limits, remote

    def check(self, reference: str, factor: int = 1) -> bool:
        """Make sure that a reference means something, and is not too large once sharpened.

        Returns:
            Whether it is here, and not outside.

        Raises:
            Problem: If it does not or is.
        """
        kind, _, rest = reference.partition(":")
        if kind in ("http", "https"):
            self._outside()
            return False
        name = rest.partition("@")[0]
        if kind == "upload":
            about = self.known(name)
            pixels = about["width"] * about["height"]
        elif self.folder.done(name):
            pixels = int(np.prod(self.folder.item(name)["properties"].get("proj:shape", [1])))
        else:
            raise Problem(404, f"The job {name!r} has no results. GET /jobs lists those that there are.")
        self.check_output(pixels * factor**2)
        return True

    def check_output(self, pixels: int) -> None:
        """Make sure that a raster that is to be made is not too large.

        Raises:
            Problem: If it is.
        """
        check("The number of pixels that are made", pixels, self.limits.output_pixels)

    def bind(self, request: Any, place: Path, going: Callable[[], bool] = lambda: True) -> Any:
        """A request whose references are replaced by what they mean; see `open`."""
        mask = getattr(request, "mask", None)
        opened = {
            reference: self.open(reference, place, mask=reference == mask, going=going)
            for reference in references(request)
        }
        return bound(request, opened)

    def open(
        self,
        reference: str,
        place: Path,
        *,
        mask: bool = False,
        going: Callable[[], bool] = lambda: True,
    ) -> Any:
        """A frame of a reference; a path, if it is a mask.

        Args:
            reference: As requests write it.
            place: Folder that keeps what is fetched from outside.
            mask: Whether its bands mean nothing.
            going: Whether to go on fetching.

        Raises:
            Problem: If it means nothing any more, or is beyond a limit.
            RasterError: If it cannot be read.
            Cancelled: If it is not to go on.
        """
        plain, _, date = reference.partition("@")
        kind, _, name = plain.partition(":")
        if kind in ("http", "https"):
            outside = self._outside()
            return (
                outside.file(plain, place, going)
                if mask
                else outside.frame(plain, date or None, place, going)
            )
        if kind == "upload":
            known = self.known(name)
            path = self.folder.upload(name) / known["file"]
        else:
            known, path = {}, self.folder.files(name) / "image.tif"
        if not path.is_file():
            raise Problem(404, f"{plain} is no more: old files are removed. Send it again.")
        return path if mask else frame_of(path, known, plain, date or None)

    def _outside(self) -> Remote:
        if self.remote is None:
            raise Problem(
                422,
                "Addresses outside are not read here. Upload the file, or start the service with "
                "--allow-remote.",
            )
        return self.remote
