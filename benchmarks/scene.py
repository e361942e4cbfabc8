"""A whole scene beside a quarter of it: time, peak memory, and seams.

    python benchmarks/scene.py FOLDER [--side 10980]

Sharpens a raster of half the side twofold, two steps, with the analytic model, so that everything but the
network's own work is measured, then one of a quarter of the side; each in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def make(path: Path, side: int) -> None:
    """A smooth raster of four bands, written block by block."""
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": 4,
        "nodata": 0,
        "tiled": True,
        "crs": "EPSG:32633",
    }
    transform = Affine(10, 0, 3e5, 0, -10, 5.1e6)
    with rasterio.open(path, "w", width=side, height=side, transform=transform, **profile) as file:
        file.descriptions = ("B02", "B03", "B04", "B08")
        for top in range(0, side, 512):
            rows = np.arange(top, min(top + 512, side))[:, None] / 97
            waves = 1500 + 700 * np.sin(rows) * np.cos(np.arange(side)[None] / 61)
            block = np.stack([waves + 40 * band for band in range(4)]).astype(np.uint16)
            file.write(block, window=Window(0, top, side, len(rows)))


def run(source: Path, output: Path) -> None:
    """One job, and what it took as a line of JSON."""
    from diffusionsat import UpscaleRequest
    from diffusionsat.geo.rasters import open_raster
    from diffusionsat.tasks.restoring import restore_to
    from diffusionsat.testing import analytic_model

    sat = analytic_model()
    job = UpscaleRequest(frames=source, factor=2, steps=2).job(sat)
    job.details, begun = False, time.perf_counter()
    restore_to(job, output, overwrite=True)
    raster = open_raster(output)
    line = {
        "side": raster.width,
        "windows": len(job.plan),
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(line | {"seam": seam(raster, job)}))


def seam(raster, job) -> float:
    """Mean gradient across borders of windows over that elsewhere, of one row of windows."""
    from diffusionsat.tasks.job import Job

    assert isinstance(job, Job)
    values, _ = raster.read(range(0, min(512, raster.height)), range(raster.width))
    steps = np.abs(np.diff(values[0].astype(float), axis=1)).mean(0)
    axis, factor = job.plan.columns, job.sat.factor
    edges = {s * factor for s in axis.starts} | {(s + axis.window) * factor for s in axis.starts}
    borders = [e - 1 for e in edges if 0 < e < raster.width]
    # A border lies at a multiple of the latents' and the sensor's pixel: compare with other such places.
    alike = [i for i in range(7, raster.width - 1, 8) if i not in borders]
    return round(float(steps[borders].mean() / steps[alike].mean()), 4)


def main() -> None:
    """Both sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=10_980)
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run(*options.one)
        return
    options.folder.mkdir(exist_ok=True)
    for side in (options.side // 4, options.side // 2):
        source, output = options.folder / f"in-{side}.tif", options.folder / f"out-{side}.tif"
        make(source, side)
        subprocess.run(
            [sys.executable, __file__, str(options.folder), "--one", str(source), str(output)], check=True
        )


if __name__ == "__main__":
    main()
