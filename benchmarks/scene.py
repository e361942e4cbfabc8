"""A whole scene: time and peak memory beside those of a small one, a kill half-way, and the same pixels.

    python benchmarks/scene.py FOLDER size --side 10980 --factor 1
    python benchmarks/scene.py FOLDER same --side 2048 --factor 1
    python benchmarks/scene.py FOLDER model --side 2048 --factor 2

``size`` does a raster of 2,048 pixels squared, then a large one that is killed half-way (SIGKILL) and goes
on; ``same`` does one four ways and digests the pixels. Both with the analytic model in two steps, so that all
but the network's own work is measured, each in a process of its own: factor 1 fills gaps (`inpaint`), another
is `upscale`. ``model`` times windows of the shipped model, and says what whole rasters would take.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

SMALL, SCENE = 2048, 10_980
WINDOWS = 32  # of the shipped model that are timed


def make(path: Path, side: int) -> None:
    """A smooth raster of four bands with gaps, written block by block."""
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    profile = {"driver": "GTiff", "dtype": "uint16", "count": 4, "nodata": 0, "tiled": True}
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 3e5, 0, -10, 5.1e6)}
    column = np.arange(side)[None]
    with rasterio.open(path, "w", width=side, height=side, **profile, **place) as file:
        file.descriptions = ("B02", "B03", "B04", "B08")
        for top in range(0, side, 512):
            row = np.arange(top, min(top + 512, side))[:, None]
            waves = 1500 + 700 * np.sin(row / 97) * np.cos(column / 61)
            block = np.stack([waves + 40 * band for band in range(4)]).astype(np.uint16)
            block[:, (row % 700 < 60) & (column % 700 < 60)] = 0
            file.write(block, window=Window(0, top, side, len(row)))


def job(source: Path, factor: int, model: str | None = None):
    """The job of a raster; without a model's name by the analytic one in two steps."""
    from diffusionsat import DiffusionSat, UpscaleRequest
    from diffusionsat.tasks.inpaint import InpaintRequest
    from diffusionsat.testing import analytic_model

    sat = analytic_model() if model is None else DiffusionSat.from_pretrained(model)
    how = {"steps": 2 if model is None else None} | ({"control": ""} if model is None else {})
    if factor == 1:
        return InpaintRequest(image=source, **how).job(sat)
    made = UpscaleRequest(frames=source, factor=factor, **how).job(sat)
    made.details = False
    return made


def run(source: Path, output: Path, factor: int, how: str) -> None:
    """One job, whole or up to a kill half-way, and what it took as a line of JSON."""
    from diffusionsat.execution import executor
    from diffusionsat.tasks.restoring import restore_to

    work, peak, begun = job(source, factor), Peak(), time.perf_counter()
    work.details = False

    def said() -> dict[str, Any]:
        line = {"side": work.width, "factor": factor, "windows": len(work.plan), "how": how}
        return line | {"seconds": round(time.perf_counter() - begun, 1), **peak.mib()}

    def told(share: float) -> None:
        if how == "killed" and share > 0.4:  # in the second of the two steps
            print(json.dumps(said()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    with executor(2 if how == "workers" else 1) as execute:
        backwards = how == "backwards"
        restore_to(
            work,
            output,
            execute=(lambda f, tasks: map(f, reversed(list(tasks)))) if backwards else execute,
            on_share=told,
        )
    line = said()
    seams = {} if factor == 1 else {"seam": seam(output, work)}
    print(json.dumps(line | seams | {"pixels": pixels(output)}), flush=True)


class Peak:
    """The most memory that this process holds, looked at twenty times a second."""

    def __init__(self) -> None:
        self.most = {"RssAnon": 0, "VmHWM": 0}
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
            self.most = {name: max(most, int(lines[name].split()[0])) for name, most in self.most.items()}
            time.sleep(0.05)

    def mib(self) -> dict[str, int]:
        """Its own memory, and that with the pages of mapped files, which the system takes back at will."""
        return {"own_mib": self.most["RssAnon"] // 1024, "with_mapped_mib": self.most["VmHWM"] // 1024}


def pixels(path: Path) -> str:
    """A digest of the numbers."""
    from diffusionsat.geo.rasters import Raster, open_raster

    return Raster.digest(open_raster(path))[:16]


def seam(path: Path, work) -> float:
    """Mean gradient across borders of windows over that elsewhere, of one row of windows."""
    from diffusionsat.geo.rasters import open_raster

    raster = open_raster(path)
    values, _ = raster.read(range(min(512, raster.height)), range(raster.width))
    steps = np.abs(np.diff(values[0].astype(float), axis=1)).mean(0)
    axis, factor = work.plan.columns, work.sat.factor
    edges = {s * factor for s in axis.starts} | {(s + axis.window) * factor for s in axis.starts}
    borders = [e - 1 for e in edges if 0 < e < raster.width]
    # A border lies at a multiple of the latents' and the sensor's pixel: compare with other such places.
    alike = [i for i in range(7, raster.width - 1, 8) if i not in borders]
    return round(float(steps[borders].mean() / steps[alike].mean()), 4)


def timed(source: Path, factor: int, model: str) -> None:
    """Some windows of a model, and what the whole would take, as lines of JSON."""
    import torch

    from diffusionsat.diffusion.windows import plan

    work = job(source, factor, model)
    windows = [work.plan.window(i) for i in range(WINDOWS)]
    batches = [windows[i : i + work.batch] for i in range(0, WINDOWS, work.batch)]
    begun = time.process_time()  # of all cores together, whatever else runs
    for batch in batches:
        parts = [torch.from_numpy(work.noise(w.rows, w.columns))[None] for w in batch]
        work.denoise(torch.cat(parts), work.sigmas[0], batch)
    one = (time.process_time() - begun) / WINDOWS
    for side in (work.width, factor * SCENE):
        latents = side // work.sat.factor
        axes = (latents, latents, work.window // work.sat.factor, work.overlap // work.sat.factor, work.grain)
        count, steps = len(plan(*axes)), len(work.sigmas) - 1
        line = {"side": side, "factor": factor, "windows": count, "steps": steps}
        print(
            json.dumps(
                line
                | {"window_step_core_s": round(one, 3), "core_hours": round(count * steps * one / 3600, 2)}
            )
        )


def main() -> None:
    """One of the three."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", choices=["size", "same", "model", "one"])
    parser.add_argument("--side", type=int, default=SCENE, help="of the input")
    parser.add_argument("--factor", type=int, default=1)
    parser.add_argument("--how", default="whole", help=argparse.SUPPRESS)
    parser.add_argument("--model", default="compact")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    source = options.folder / f"in-{options.side}.tif"
    if options.what == "one":
        output = options.folder / f"out-{options.side}.tif"
        output.unlink(missing_ok=True)
        run(source, output, options.factor, options.how)
        return

    def one(side: int, how: str) -> None:
        file = options.folder / f"in-{side}.tif"
        if not file.exists():
            make(file, side)
        words = [sys.executable, __file__, str(options.folder), "one", "--side", str(side)]
        done = subprocess.run([*words, "--factor", str(options.factor), "--how", how])
        assert done.returncode == (-signal.SIGKILL if how == "killed" else 0), done.returncode

    if options.what == "size":
        one(SMALL, "whole")
        for how in ("killed", "gone on"):
            one(options.side, how)
    elif options.what == "same":
        for how in ("whole", "backwards", "workers", "killed", "gone on"):
            one(options.side, how)
    else:
        if not source.exists():
            make(source, options.side)
        timed(source, options.factor, options.model)


if __name__ == "__main__":
    main()
