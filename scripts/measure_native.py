"""Do the bands that a sensor measures more finely help to sharpen its colours?

    python scripts/measure_native.py --data data/s2_multires

The test rows hold Sentinel-2's bands on their native grids of 10, 20 and 60 m. Red, green and blue are seen
at 40 m by the sensor's optics and noise; then they are sharpened to 10 m alone, and beside the bands of 20 m
and of 20 and 60 m as they were measured. Prints a line of JSON for each way, each figure as mean, lowest and
highest of the places; ``--sheet`` says where to write pictures: a row a place, in the order of the lines, the
truth last.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from PIL import Image

from diffusionsat import DiffusionSat
from diffusionsat.data.frames import Frame, open_frame
from diffusionsat.data.records import Frame as Stored
from diffusionsat.data.sensors import DISPLAY_WHITE, RGB, display, locate
from diffusionsat.data.sources import Source
from diffusionsat.diffusion.sensors import PRESETS, view
from diffusionsat.evaluation.features import feature_network
from diffusionsat.metrics import pairs

FACTOR = 4
COLOURS = ("B04", "B03", "B02")
COUNTS = 10_000  # of reflectance 1
WAYS = ("bicubic", "colours alone", "beside bands of 20 m", "beside bands of 20 and 60 m")


def seen(truth: np.ndarray, seed: int) -> np.ndarray:
    """Counts (3, h, w) of reflectance (H, W, 3) at pixels that are `FACTOR` times as large."""
    image = torch.from_numpy(truth).permute(2, 0, 1)[None]
    sensor = view([PRESETS["sentinel-2"][band] for band in COLOURS], [FACTOR] * 3, tuple(image.shape[1:]))
    shape = (1, 3, *(side // FACTOR for side in truth.shape[:2]))
    noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
    light = sensor.observe(image, torch.from_numpy(noise))[0].clamp(0, 1)
    return np.rint(COUNTS * light.numpy()).astype(np.uint16)


def opened(file: Path, counts: np.ndarray, bands: tuple[str, ...], gsd: float, stored: Stored) -> Frame:
    """Counts as a frame with a grid; all begin at the same corner."""
    count, height, width = counts.shape
    form = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": "uint16"}
    grid = Affine(gsd, 0, 500_000, 0, -gsd, 5_000_000)
    with rasterio.open(file, "w", **form, crs="EPSG:32633", transform=grid) as out:
        out.write(counts)
    known = stored.metadata.to_dict() | {"gsd": gsd}
    return open_frame(file, bands=bands, sensor="sentinel-2", scaling=1 / COUNTS, **known)


def main() -> None:
    """Sharpen and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="compact")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4, help="of each image; their mean is measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features", default="efficientnet-lite0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sat, network = DiffusionSat.from_pretrained(args.model), feature_network(args.features)
    source = Source(args.data, split="test")
    records = [source.record(int(image)) for image in np.flatnonzero(source.images.frame == 0)]
    lines, rows = {way: [] for way in WAYS}, []
    with tempfile.TemporaryDirectory() as folder:
        for place, record in enumerate(records):
            fine, *natives = sorted(record.frames, key=lambda stored: stored.metadata.gsd or 0)
            truth = fine.reflectance()[0][..., locate(fine.bands, RGB, "sentinel-2")]
            counts = seen(truth, args.seed + place)
            coarse = opened(Path(folder) / f"{place}.tif", counts, COLOURS, 10.0 * FACTOR, fine)
            finer = [
                opened(
                    Path(folder) / f"{place}-{i}.tif",
                    np.rint(COUNTS * native.reflectance()[0]).transpose(2, 0, 1).astype(np.uint16),
                    native.bands,
                    native.metadata.gsd or 0,
                    native,
                )
                for i, native in enumerate(natives)
            ]
            bicubic = torch.nn.functional.interpolate(
                torch.from_numpy(counts.astype(np.float32))[None], truth.shape[:2], mode="bicubic"
            )
            made = [bicubic[0].permute(1, 2, 0).numpy() / COUNTS]
            for beside in (0, 1, 2):
                scene = sat.upscale(
                    [coarse, *finer[:beside]], factor=FACTOR, samples=args.samples, seed=args.seed
                )
                assert scene.raster is not None
                made.append(scene.raster.values.transpose(1, 2, 0).astype(np.float32) / COUNTS)
            target = torch.from_numpy(truth).permute(2, 0, 1)[None].double()
            shown = [display(image, np.isfinite(image)) for image in (*made, truth)]
            looks = [torch.from_numpy(image / 255).permute(2, 0, 1)[None].float() for image in shown]
            for way, image, look in zip(WAYS, made, looks, strict=False):
                got = torch.from_numpy(image).permute(2, 0, 1)[None].double()
                lines[way].append(
                    {
                        "psnr": float(pairs.psnr(got, target, data_range=DISPLAY_WHITE)),
                        "ssim": float(pairs.ssim(got, target, data_range=DISPLAY_WHITE)),
                        "spectral_angle": float(pairs.spectral_angle(got, target)),
                        "ergas": float(pairs.ergas(got, target, factor=FACTOR)),
                        "feature_distance": float(pairs.feature_distance(look, looks[-1], network.layers)),
                    }
                )
            rows.append(shown)
    for way, figures in lines.items():
        line = {"given": way, "places": len(figures)}
        for name in figures[0]:
            values = [figure[name] for figure in figures]
            line[name] = [round(float(f(values)), 4) for f in (np.mean, np.min, np.max)]
        print(json.dumps(line), flush=True)
    if args.sheet:
        side = min(len(image) for row in rows for image in row)
        cut = [np.concatenate([image[:side, :side] for image in row], 1) for row in rows]
        Image.fromarray(np.concatenate(cut)).save(args.sheet)


if __name__ == "__main__":
    main()
