"""Features of rasters of any size: in windows, on their own grid, as GeoTIFFs of one block and level each."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from diffusionsat.data.frames import Frame, open_frame
from diffusionsat.data.sensors import RGB
from diffusionsat.errors import RasterError
from diffusionsat.files import check_writable
from diffusionsat.geo.publishing import RasterWriter
from diffusionsat.metadata import Metadata
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.features import Extractor, FeaturesRequest, grain
from diffusionsat.tasks.views import in_colour, radiometry

WINDOW, TILE = 256, 128  # pixels of a side that are seen at once, and those whose features are kept

Side = tuple[range, range]  # pixels whose features are kept, and those that are seen for them


def map_features(
    sat: DiffusionSat,
    source: Any,
    folder: Path,
    request: FeaturesRequest | None = None,
    *,
    known: bool = False,
    overwrite: bool = False,
    on_window: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the dense features of a raster as GeoTIFFs, float32, a band a channel.

    A side that is no longer than a window is seen whole, as `features` sees it; of a longer one windows of
    256 pixels are seen and their central 128 kept. The noise depends on the absolute position. A cell of a
    map is valid if a pixel of it is. What was interrupted goes on by the same call.

    Args:
        sat: The model.
        source: See `diffusionsat.data.frames.open_frame`; red, green and blue are looked at.
        folder: Gets ``BLOCK@SIGMA.tif`` for each block and level; made if absent.
        request: What to look at.
        known: Tell the network what the raster knows, with the place of each window, where the request says
            nothing.
        overwrite: Replace existing files.
        on_window: Called with windows done and windows in all.

    Returns:
        The files.

    Raises:
        ConfigError: If an option is not possible.
        RasterError: If the raster lacks a colour or cannot be read, or a file exists or cannot be written.
    """
    look = _Look(sat, open_frame(source), request or FeaturesRequest(), known)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RasterError(f"{folder} cannot be made: {error.strerror}.") from None
    for name in look.strides:
        check_writable(folder / f"{name}.tif", overwrite=overwrite)
    work = folder / f".work-{look.identity[:16]}"
    work.mkdir(exist_ok=True)
    writers = {name: look.writer(name, folder, work, overwrite=overwrite) for name in look.strides}
    tiles = [(rows, columns) for rows in _sides(look.raster.height) for columns in _sides(look.raster.width)]
    for done, (rows, columns) in enumerate(tiles, 1):
        cells = {name: (_cells(rows[0], s), _cells(columns[0], s)) for name, s in look.strides.items()}
        if not all(writer.has(*cells[name]) for name, writer in writers.items()):
            for name, (values, valid) in look(rows, columns).items():
                writers[name].write(*cells[name], values, valid)
        if on_window:
            on_window(done, len(tiles))
    paths = [writer.publish() for writer in writers.values()]
    shutil.rmtree(work)
    return paths


class _Look:
    """A raster as the network sees it, a window at a time."""

    def __init__(self, sat: DiffusionSat, frame: Frame, request: FeaturesRequest, known: bool) -> None:
        lacking = [name for name in RGB if name not in frame.common]
        if lacking:
            there = ", ".join(frame.raster.bands)
            raise RasterError(f"{frame.raster.name} has no {lacking[0]} among its bands {there}.")
        self.raster = frame.raster.take([frame.common.index(name) for name in RGB])
        self.frame = replace(frame, raster=self.raster)
        self.sat, self.request, self.known = sat, request, known
        self.radiometry = radiometry(self.frame)
        self.extractor = Extractor(sat, request)
        side = 2 * grain(sat)
        example = self.extractor(np.zeros((1, side, side, 3), np.uint8), [""], [Metadata()], [0])
        self.channels = {name: values.shape[1] for name, values in example.items()}
        self.strides = dict(self.extractor.strides)

    @property
    def identity(self) -> str:
        """What is equal for features that are equal."""
        sat, asked = self.sat, asdict(self.request)
        said = [sat.checkpoint, sat.precision, sat.device.type, asked, self.known, self.raster.digest()]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def writer(self, name: str, folder: Path, work: Path, *, overwrite: bool) -> RasterWriter:
        """What writes the map of a block at a level."""
        sat, stride = self.sat, self.strides[name]
        about = {"FEATURES": name, "PROMPT": self.request.prompt, "SEED": str(self.request.seed)}
        about |= {"MODEL": f"{sat.config.name}@{sat.config.version}", "MODEL_HASH": sat.checkpoint}
        return RasterWriter(
            folder / f"{name}.tif",
            work / name,
            width=-(-self.raster.width // stride),
            height=-(-self.raster.height // stride),
            bands=[f"{name}:{channel}" for channel in range(self.channels[name])],
            dtype=np.float32,
            nodata=float("nan"),
            crs=self.raster.crs,
            transform=self.raster.transform @ Affine.scale(stride),
            tags=about,
            overwrite=overwrite,
        )

    def __call__(self, rows: Side, columns: Side) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Features of a tile by block and level, (C, h, w), and where they are valid."""
        pixels, there = self._pixels(rows[1], columns[1])
        corner = rows[1].start, columns[1].start
        told = self._told(rows[1], columns[1])
        maps = self.extractor(pixels[None], [self.request.prompt], [told], [0], corner)
        found = {}
        for name, values in maps.items():
            stride = self.strides[name]
            down, across = (_within(*side, stride) for side in (rows, columns))
            cells = np.ascontiguousarray(values[0, :, down, across])
            full = np.pad(there, [(0, -length % stride) for length in there.shape])
            blocks = full.reshape(full.shape[0] // stride, stride, full.shape[1] // stride, stride)
            found[name] = cells, np.broadcast_to(np.any(blocks, (1, 3))[down, across], cells.shape)
        return found

    def _pixels(self, rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
        """What is shown, uint8 (rows, columns, 3), continued beyond the border, and where it is known."""
        height, width = self.raster.height, self.raster.width
        inner = [range(max(r.start, 0), min(r.stop, n)) for r, n in ((rows, height), (columns, width))]
        beyond = [(i.start - o.start, o.stop - i.stop) for i, o in zip(inner, (rows, columns), strict=True)]
        pixels, valid = in_colour(self.raster, self.radiometry, *inner)
        return np.pad(pixels, [*beyond, (0, 0)], mode="edge"), np.pad(valid, beyond)

    def _told(self, rows: range, columns: range) -> Metadata:
        if not self.known:
            return self.request.metadata
        told, grid = self.frame.metadata, self.raster.grid
        if grid is not None:
            lon, lat = grid.lon_lat((columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2)
            told = told.replace(lon=lon, lat=lat)
        return told.replace(**self.request.metadata.to_dict())


def _sides(length: int) -> list[Side]:
    """Tiles along one side, with what is seen for each."""
    if length <= WINDOW:
        return [(range(length), range(length))]
    around = (WINDOW - TILE) // 2
    starts = range(0, length, TILE)
    return [(range(s, min(s + TILE, length)), range(s - around, s + TILE + around)) for s in starts]


def _cells(pixels: range, stride: int) -> range:
    return range(pixels.start // stride, -(-pixels.stop // stride))


def _within(kept: range, seen: range, stride: int) -> slice:
    """The cells of a tile in the map of its window."""
    cells = _cells(range(kept.start - seen.start, kept.stop - seen.start), stride)
    return slice(cells.start, cells.stop)
