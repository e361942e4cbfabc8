"""Where the clouds of an image are, and their shadows: as its own bands say, or as a detector does."""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffusionsat.data.frames import Frame
from diffusionsat.errors import MissingExtraError, RasterError
from diffusionsat.geo.masks import Mask
from diffusionsat.geo.rasters import Raster

# Sen2Cor's scene classification: cloud shadow, medium and high probability of cloud, thin cirrus.
_SCL = (3, 8, 9, 10)
# Bits of Landsat Collection 2's QA_PIXEL: dilated cloud, cirrus, cloud, cloud shadow.
_QA_PIXEL = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4
_DETECTOR = ("B01", "B02", "B04", "B05", "B08", "B8A", "B09", "B10", "B11", "B12")
_THRESHOLD, _AVERAGED, _DILATED = 0.4, 4, 2  # s2cloudless's own choices for 10 m pixels


def _by_class(values: np.ndarray) -> np.ndarray:
    return np.isin(values, _SCL)


def _by_flag(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.int64) & _QA_PIXEL) != 0


def _by_value(values: np.ndarray) -> np.ndarray:
    return values != 0


# Name of a band that tells, and how.
BANDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "scl": _by_class,
    "qa_pixel": _by_flag,
    "clm": _by_value,
    "cloud_mask": _by_value,
}


class _Told(Mask):
    """Where a band says that there is cloud."""

    def __init__(self, raster: Raster, place: int, test: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(raster, f"{raster.bands[place]} of {raster.name}")
        self.raster, self.place, self.test = raster, place, test

    def marked(self, rows: range, columns: range) -> np.ndarray:
        """See `Mask`."""
        values, valid = self.raster.read(rows, columns)
        return self.test(values[self.place]) & valid[self.place]


class _Detected(Mask):
    """Where s2cloudless sees cloud (Zupanc 2017)."""

    def __init__(self, frame: Frame, places: list[int]) -> None:
        super().__init__(frame.raster, f"clouds of {frame.raster.name}")
        self.frame, self.places = frame, places
        self.detector: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"detector": None}

    def marked(self, rows: range, columns: range) -> np.ndarray:
        """See `Mask`."""
        if self.detector is None:
            self.detector = _detector()
        margin = _AVERAGED + _DILATED
        high, wide = (range(r.start - margin, r.stop + margin) for r in (rows, columns))
        values, valid = (part[self.places] for part in self.frame.raster.read(high, wide))
        assert self.frame.scaling is not None
        light, _ = self.frame.scaling.reflectance(np.where(valid, values, self.frame.scaling.nodata or 0))
        found = self.detector.get_cloud_masks(np.moveaxis(light, 0, 2)[None])[0] != 0
        found &= valid.all(0)
        return found[margin : margin + len(rows), margin : margin + len(columns)]


def _detector() -> Any:
    try:
        from s2cloudless import S2PixelCloudDetector  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("Finding clouds without a band that tells them", "clouds") from None
    return S2PixelCloudDetector(
        threshold=_THRESHOLD, average_over=_AVERAGED, dilation_size=_DILATED, all_bands=False
    )


def cloud_mask(frame: Frame) -> Raster:
    """Where a frame has clouds or their shadows.

    Its own band of classes or flags says so (``SCL``, ``QA_PIXEL``, ``CLM``, ``cloud_mask``), or else
    s2cloudless, which needs the ten bands of Sentinel-2 L1C that it was trained on, and sees no shadows.

    Raises:
        MissingExtraError: If a detector is needed that is not installed.
        RasterError: If nothing tells.
    """
    names = [name.lower() for name in frame.raster.bands]
    for band, test in BANDS.items():
        if band in names:
            return _Told(frame.raster, names.index(band), test)
    reflectance = frame.scaling is not None and frame.scaling.gain is not None
    if frame.sensor != "sentinel-2" or not reflectance or not set(_DETECTOR) <= set(frame.raster.bands):
        raise RasterError(
            f"Nothing tells where {frame.raster.name} has clouds; its bands are "
            f"{', '.join(frame.raster.bands)}. Give a mask, a band SCL, QA_PIXEL or CLM, or "
            f"{', '.join(_DETECTOR)} of Sentinel-2 L1C."
        )
    _detector()  # its absence is told before the work begins
    return _Detected(frame, [frame.raster.bands.index(name) for name in _DETECTOR])
