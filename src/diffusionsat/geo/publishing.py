"""Rasters that are written a rectangle at a time and appear as a whole: Cloud Optimized GeoTIFFs.

Every rectangle becomes a file of its own in a folder, complete or absent. So many may write at once, what is
there says what is done, and a raster that was interrupted goes on. When the rectangles cover the raster they
are joined into one file, which takes its name in the last moment.
"""

import contextlib
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from affine import Affine
from pyproj import CRS

from diffusionsat.errors import RasterError
from diffusionsat.files import check_writable, writing
from diffusionsat.geo.images import quiet_gdal
from diffusionsat.geo.rasters import Raster

_BLOCKS = (512, 256, 128)
_BLOCK_NAME = re.compile(r"(\d+)-(\d+)-(\d+)-(\d+)\.tif")
_SMALL: dict[str, Any] = {
    "GDAL_CACHEMAX": 64_000_000,
    "GDAL_MAX_DATASET_POOL_SIZE": 64,
}  # bytes, and files open at once
_BESIDE = (".aux.xml", ".ovr", ".msk", ".msk.ovr")  # what GDAL reads with a file
_IMAGES = (".tif", ".tiff", ".jpg", ".jpeg", ".png", ".jp2", ".img", ".bmp")
_TYPES = {"uint8": "Byte"}  # where GDAL has another name
_COLOURS = {"red": "red", "green": "green", "blue": "blue", "B04": "red", "B03": "green", "B02": "blue"}


def refuse_inputs(path: Path, inputs: Sequence[Path]) -> None:
    """Make sure that writing a file harms no input.

    Raises:
        RasterError: If it is an input, by this name or another (a link), or lies within one that is a folder.
    """
    for each in inputs:
        same = path.resolve() == each.resolve() or (path.exists() and each.exists() and path.samefile(each))
        if same or (each.is_dir() and path.resolve().is_relative_to(each.resolve())):
            raise RasterError(
                f"{path} would be written over the input {each}. Give another name for the output."
            )


def check_replaceable(path: Path, *, inputs: Sequence[Path] = (), overwrite: bool = False) -> None:
    """Make sure that a raster may be written: over no input, and where nothing would change how it is read.

    Raises:
        RasterError: If it may not.
    """
    check_writable(path, overwrite=overwrite)
    refuse_inputs(path, inputs)
    beside = [file for file in _sidecars(path) if file.exists()]
    for file in beside:
        near = file.resolve()
        other = next((o for o in _others(path, inputs) if near in map(Path.resolve, _sidecars(o))), None)
        if other is not None:
            raise RasterError(
                f"{file} says where {other} lies, and would change how {path} is read. Give another name."
            )
    if beside and not path.exists() and not overwrite:
        raise RasterError(
            f"{beside[0]} is there and would change how {path} is read. Remove it, or --overwrite."
        )


@contextlib.contextmanager
def replacing(path: Path, *, inputs: Sequence[Path] = (), overwrite: bool = False) -> Iterator[Path]:
    """`writing` of a raster: what lay beside one that is replaced goes with it.

    Raises:
        RasterError: As `check_replaceable` and `writing`.
    """
    check_replaceable(path, inputs=inputs, overwrite=overwrite)
    with writing(path, overwrite=overwrite) as partial:
        yield partial
    forget_sidecars(path)


def forget_sidecars(path: Path, own: Sequence[Path] = ()) -> None:
    """Remove what lies beside an image that was replaced and would change how it is read, but its own."""
    for stale in _sidecars(path):
        if stale not in own:
            stale.unlink(missing_ok=True)


class RasterWriter:
    """A raster that is written a rectangle at a time, in any order and by any number of processes.

    Args:
        path: GeoTIFF to make.
        folder: For the work, for this raster alone; made if absent. What a writer of the same raster has
            left there counts as done.
        width: Columns.
        height: Rows.
        bands: Names.
        dtype: Of the numbers.
        deciding: Those of the bands whose validity is the raster's, its mask; None is all. Where another band
            is valid elsewhere, and there is nodata, no mask is written: GDAL would believe it for all bands.
        nodata: Number that stands where a band is not valid; None leaves the numbers there.
        scales: What readers are told to multiply each band's numbers by, and what to add then; None is 1, 0.
        crs: None if it is not known where the pixels lie.
        transform: Pixel (column, row) to CRS (x, y); may be rotated.
        tags: Written as TIFF metadata.
        inputs: Files that must not be written over.
        overwrite: Replace an existing file.

    Raises:
        RasterError: If the file may not be written, or cannot hold such numbers.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        *,
        width: int,
        height: int,
        bands: Sequence[str],
        dtype: Any,
        deciding: Sequence[str] | None = None,
        nodata: float | None = None,
        scales: Sequence[tuple[float, float]] | None = None,
        crs: CRS | None = None,
        transform: Affine | None = None,
        tags: Mapping[str, str] | None = None,
        inputs: Sequence[Path] = (),
        overwrite: bool = False,
    ) -> None:
        self.path, self.folder, self.overwrite = path, folder, overwrite
        self.width, self.height, self.bands = width, height, tuple(bands)
        self.dtype, self.nodata = np.dtype(dtype), _fitting(nodata, np.dtype(dtype), path)
        self.scales = tuple(scales or ((1.0, 0.0),) * len(self.bands))
        self._deciding = [name in (deciding or bands) for name in self.bands]
        self._uneven = folder / "uneven"  # is there if bands are valid in different places
        self.crs, self.transform = crs, transform or Affine.identity()
        self.tags, self.inputs = dict(tags or {}), tuple(inputs)
        check_replaceable(path, inputs=inputs, overwrite=overwrite)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RasterError(f"{folder} cannot be made: {error.strerror}.") from None

    def has(self, rows: range, columns: range) -> bool:
        """Whether a rectangle is written."""
        return self._block(rows, columns).is_file()

    def write(self, rows: range, columns: range, values: np.ndarray, valid: np.ndarray) -> None:
        """Write a rectangle; written again, the same must be written.

        Args:
            rows: Within the raster.
            columns: Within the raster.
            values: (bands, rows, columns), of the raster's dtype.
            valid: Bool, of the same shape. A pixel of the result is valid where all bands that decide are.

        Raises:
            RasterError: If a valid number is infinite or NaN, shape or dtype is another, or the disk is full.
        """
        shape = (len(self.bands), len(rows), len(columns))
        where = f"rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
        inside = (
            0 <= rows.start < rows.stop <= self.height and 0 <= columns.start < columns.stop <= self.width
        )
        if not inside or values.shape != shape or valid.shape != shape or values.dtype != self.dtype:
            raise RasterError(
                f"{self.path}: {values.dtype} {values.shape} and {valid.dtype} {valid.shape} were made for "
                f"{where} of {self.width}x{self.height}; {self.dtype} {shape} is expected."
            )
        if not np.isfinite(values[valid]).all():
            raise RasterError(
                f"{self.path}: what was made for {where} is not finite, and nothing is published. "
                "Try --precision fp32."
            )
        if self.nodata is not None:
            values = np.where(valid, values, self.dtype.type(self.nodata))
        with writing(self._block(rows, columns), overwrite=True) as partial, quiet_gdal():
            mask = np.all(valid[self._deciding], 0)
            if not all(self._deciding) and (valid != mask).any():
                self._uneven.touch()
            _write_plain(str(partial), values, mask)

    def join(self) -> Path:
        """Join the rectangles to one file in the folder, unless that is done.

        Raises:
            RasterError: If they do not cover the raster, or there is no room.
        """
        finished = self.folder / "finished.tif"
        if finished.exists():
            return finished
        blocks = self._written()
        lacking = _gap(blocks, self.height, self.width)
        if lacking is not None:
            row, column = lacking
            raise RasterError(
                f"{self.path} is not complete: the pixel in row {row}, column {column} was not made."
            )
        joined = self.folder / "joined.vrt"
        joined.write_text(self._joined(blocks), encoding="utf-8")
        with writing(finished) as partial:
            _cloud_optimize(str(joined), str(partial), self.width, self.height, self.dtype)
        return finished

    def publish(self) -> Path:
        """Put the joined rectangles in their place.

        Raises:
            RasterError: As `join`, or if the file may not or cannot be written; what was there before stays.
        """
        with replacing(self.path, inputs=self.inputs, overwrite=self.overwrite) as partial:
            shutil.move(self.join(), partial)
        return self.path

    def _block(self, rows: range, columns: range) -> Path:
        return self.folder / f"{rows.start}-{rows.stop}-{columns.start}-{columns.stop}.tif"

    def _written(self) -> list[tuple[range, range]]:
        found = [match for file in self.folder.iterdir() if (match := _BLOCK_NAME.fullmatch(file.name))]
        edges = sorted(tuple(map(int, match.groups())) for match in found)
        return [(range(top, bottom), range(left, right)) for top, bottom, left, right in edges]

    def _joined(self, blocks: Sequence[tuple[range, range]]) -> str:
        """The rectangles as one raster, in GDAL's words (VRT)."""
        bands = [
            f'<VRTRasterBand dataType={quoteattr(_TYPES.get(self.dtype.name, self.dtype.name))} band="{i}">'
            + f"<Description>{escape(name)}</Description>"
            + ("" if self.nodata is None else f"<NoDataValue>{self.nodata!r}</NoDataValue>")
            + f"<ColorInterp>{_COLOURS.get(name, 'undefined').capitalize()}</ColorInterp>"
            + ("" if (scale, offset) == (1, 0) else f"<Offset>{offset!r}</Offset><Scale>{scale!r}</Scale>")
            + self._sources(blocks, str(i))
            + "</VRTRasterBand>"
            for i, (name, (scale, offset)) in enumerate(zip(self.bands, self.scales, strict=True), 1)
        ]
        place = "" if self.crs is None else f"<SRS>{escape(self.crs.to_wkt())}</SRS>"
        if not self.transform.is_identity:
            place += f"<GeoTransform>{', '.join(map(repr, self.transform.to_gdal()))}</GeoTransform>"
        tags = "".join(
            f"<MDI key={quoteattr(key)}>{escape(text)}</MDI>" for key, text in _all_tags(self.tags).items()
        )
        mask = f'<VRTRasterBand dataType="Byte">{self._sources(blocks, "mask,1")}</VRTRasterBand>'
        nodata_tells = self.nodata is not None and self._uneven.exists()
        masked = "" if nodata_tells else f"<MaskBand>{mask}</MaskBand>"
        return (
            f'<VRTDataset rasterXSize="{self.width}" rasterYSize="{self.height}">{place}'
            f"<Metadata>{tags}</Metadata>{''.join(bands)}{masked}</VRTDataset>"
        )

    def _sources(self, blocks: Sequence[tuple[range, range]], band: str) -> str:
        found = []
        for rows, columns in blocks:
            size = f'xSize="{len(columns)}" ySize="{len(rows)}"'
            name = self._block(rows, columns).name
            found.append(
                f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
                f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" {size}/>'
                f'<DstRect xOff="{columns.start}" yOff="{rows.start}" {size}/></SimpleSource>'
            )
        return "".join(found)


def cloud_optimized(raster: Raster, tags: Mapping[str, str], deciding: Sequence[str] | None = None) -> bytes:
    """The bytes of a Cloud Optimized GeoTIFF of a raster that fits in memory.

    Args:
        raster: The raster.
        tags: See `RasterWriter`.
        deciding: See `RasterWriter`.

    Raises:
        RasterError: If a valid number is infinite or NaN.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raster.tif"
        writer = RasterWriter(
            path,
            Path(folder) / "work",
            width=raster.width,
            height=raster.height,
            bands=raster.bands,
            dtype=raster.dtype,
            deciding=deciding,
            nodata=raster.nodata,
            scales=raster.scales,
            crs=raster.crs,
            transform=raster.transform,
            tags=tags,
        )
        rows, columns = range(raster.height), range(raster.width)
        writer.write(rows, columns, *raster.read(rows, columns))
        return writer.publish().read_bytes()


def _all_tags(tags: Mapping[str, str]) -> dict[str, str]:
    note = {"TIFFTAG_IMAGEDESCRIPTION": tags["SYNTHETIC_NOTE"]} if "SYNTHETIC_NOTE" in tags else {}
    return {**tags, **note, "TIFFTAG_SOFTWARE": "diffusionsat"}


def _write_plain(path: str, values: np.ndarray, valid: np.ndarray) -> None:
    import rasterio

    count, height, width = values.shape
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=values.dtype,
            compress="lzw",
        ) as file,
    ):
        file.write(values)
        file.write_mask(valid)


def _cloud_optimize(source: str, path: str, width: int, height: int, dtype: np.dtype) -> None:
    import rasterio.shutil

    block = next((b for b in _BLOCKS if 2 * b <= max(height, width)), _BLOCKS[-1])
    # One overview at least, also where GDAL would make none; but of a single pixel there is none.
    count = max(1, math.ceil(math.log2(max(height, width) / block)))
    overviews = {"overviews": "none"} if height == width == 1 else {"overview_count": count}
    try:
        with quiet_gdal(), rasterio.Env(**_SMALL):
            rasterio.shutil.copy(
                source,
                path,
                driver="COG",
                compress="deflate",
                predictor="floating_point" if dtype.kind == "f" else "standard",
                blocksize=block,
                bigtiff="if_safer",
                **overviews,
                overview_resampling="average",
            )
    except Exception as error:  # of several kinds, public and not
        raise RasterError(f"The rectangles cannot be joined: {error.__cause__ or error}.") from None


def _gap(blocks: Sequence[tuple[range, range]], height: int, width: int) -> tuple[int, int] | None:
    """A pixel (row, column) that no rectangle covers; None if there is none."""
    edges = [
        np.unique([0, length, *(e for b in blocks for e in (b[axis].start, b[axis].stop))])
        for axis, length in enumerate((height, width))
    ]
    covered = np.zeros((len(edges[0]) - 1, len(edges[1]) - 1), bool)
    for rows, columns in blocks:
        top, bottom = np.searchsorted(edges[0], (rows.start, rows.stop))
        left, right = np.searchsorted(edges[1], (columns.start, columns.stop))
        covered[top:bottom, left:right] = True
    if covered.all():
        return None
    row, column = np.argwhere(~covered)[0]
    return int(edges[0][row]), int(edges[1][column])


def _sidecars(path: Path) -> list[Path]:
    """What lies beside a file and changes how it is read: GDAL's, and world files of its suffix."""
    suffix = path.suffix
    worlds = {f"{suffix[:2]}{suffix[-1:]}w", f"{suffix}w", ".wld", ".tab"}
    return [path.with_name(path.name + end) for end in _BESIDE] + [
        path.with_suffix(end) for end in sorted(worlds)
    ]


def _others(path: Path, inputs: Sequence[Path]) -> list[Path]:
    """Images whose sidecars could be taken for a file's: the inputs, and those of its stem."""
    alike = [o for o in path.parent.iterdir() if o.stem == path.stem and o.suffix.lower() in _IMAGES]
    return [*inputs, *(o for o in alike if o.is_file() and not (path.exists() and o.samefile(path)))]


def _fitting(nodata: float | None, dtype: np.dtype, path: Path) -> float | None:
    """Nodata as a dtype holds it; None if it cannot."""
    if nodata is None or dtype.kind not in "iu":
        return nodata
    limits = np.iinfo(dtype)
    return int(nodata) if math.isfinite(nodata) and limits.min <= nodata <= limits.max else None
