"""Print sheets of what the jobs on rasters make of test rows, beside the truth.

    python scripts/raster_sheets.py upscale --data DATA --output docs/images/upscale.png
    python scripts/raster_sheets.py predict --data DATA --output docs/images/predict.png

The rows are the first of their sets; nothing is chosen.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from affine import Affine
from PIL import Image
from pyproj import CRS

from diffusionsat import DiffusionSat, Frame, open_frame
from diffusionsat.diffusion.operators import Blur, Decimate, Separable
from diffusionsat.geo.images import save_png
from diffusionsat.geo.rasters import ArrayRaster
from diffusionsat.tasks.sheet import contact_sheet

FACTOR, SIDE = 4, 128
UTM = CRS.from_epsg(32633)  # any: places are said apart


def rows(data: Path, name: str) -> list[dict]:
    """Test rows of a set."""
    return parquet.read_table(next((data / name).glob("*test*.parquet"))).to_pylist()


def square(encoded: bytes) -> np.ndarray:
    """The upper left corner of an image, uint8 (3, SIDE, SIDE)."""
    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))[:SIDE, :SIDE]
    return np.moveaxis(pixels, 2, 0)


def frame(pixels: np.ndarray, gsd: float, row: dict, date: str | None = None) -> Frame:
    """Pixels as a raster of a place and date."""
    transform = Affine(gsd, 0, 5e5, 0, -gsd, 5e6)
    raster = ArrayRaster(pixels, ["red", "green", "blue"], crs=UTM, transform=transform)
    return open_frame(raster, gsd=gsd, date=date, lon=row["lon"], lat=row["lat"])


def psnr(made: np.ndarray, real: np.ndarray) -> str:
    """Peak signal to noise of 8 bits, dB."""
    return f"{10 * np.log10(255**2 / np.mean((made.astype(float) - real) ** 2)):.1f} dB"


def upscaled(sat: DiffusionSat, data: Path) -> tuple[list[np.ndarray], list[str], int]:
    """Images seen through a sensor four times coarser: bicubic, sharpened, true."""
    pictures, captions = [], []
    chosen = [
        (row["image"], row["gsd"], row) for name in ("uc_merced", "s2_ports") for row in rows(data, name)[:2]
    ]
    for row in rows(data, "naip_california_cities")[:2]:
        chosen.append((row["frames"][0]["image"], row["frames"][0]["gsd"], row))
    decimate = Decimate(FACTOR)
    sensor = Separable.optics(Blur.from_modulation([0.3] * 3, decimate), decimate, 3, SIDE, SIDE)
    for encoded, gsd, row in chosen:
        real = square(encoded)
        seen = sensor.linear(torch.from_numpy(real[None].astype(np.float32)))[0]
        low = seen.clamp(0, 255).round().byte().numpy()
        made = sat.upscale(frame(low, gsd * FACTOR, row), factor=FACTOR).pixels
        truth = np.moveaxis(real, 0, 2)
        plain = np.asarray(
            Image.fromarray(np.moveaxis(low, 0, 2)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        )
        pictures += [plain, made, truth]
        captions += [
            f"bicubic, {psnr(plain, truth)}",
            f"SYNTHETIC, {psnr(made, truth)}",
            f"real, {gsd:.3g} m",
        ]
    return pictures, captions, 3


def predicted(sat: DiffusionSat, data: Path) -> tuple[list[np.ndarray], list[str], int]:
    """A date from the others, and a hole from what lies around it and from the others."""
    pictures, captions = [], []
    hole = np.zeros((SIDE, SIDE), bool)
    hole[32:88, 28:96] = True
    for name in ("naip_california_cities", "naip_north_dakota", "s2_monthly_ecomapper"):
        row = rows(data, name)[0]
        colours = [f for f in row["frames"] if f["bands"] == ["red", "green", "blue"]][:4]
        *given, target = [frame(square(f["image"]), f["gsd"], row, f["date"]) for f in colours]
        date, real = (
            target.metadata.date or "",
            np.moveaxis(target.raster.read(range(SIDE), range(SIDE))[0], 0, 2),
        )
        nearest = np.moveaxis(given[-1].raster.read(range(SIDE), range(SIDE))[0], 0, 2)
        made = sat.predict(given, on=date).pixels
        filled = sat.inpaint(target, hole, references=given).pixels
        pictures += [nearest, made, np.where(hole[..., None], 255, real).astype(np.uint8), filled, real]
        captions += [f"the date before, {psnr(nearest, real)}", f"SYNTHETIC {date}, {psnr(made, real)}"]
        captions += ["a hole", "SYNTHETIC in the hole", f"real {date}"]
    return pictures, captions, 5


SHEETS = {"upscale": upscaled, "predict": predicted}


def main() -> None:
    """Print one sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sheet", choices=SHEETS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    sat = DiffusionSat.from_pretrained(args.model)
    pictures, captions, columns = SHEETS[args.sheet](sat, args.data)
    large = [
        np.asarray(Image.fromarray(p).resize((2 * SIDE, 2 * SIDE), Image.Resampling.NEAREST))
        for p in pictures
    ]
    title = f"{args.sheet}: {sat.config.name}@{sat.config.version} on test rows, seed 0"
    sheet = contact_sheet(large, captions, columns=columns, title=title)
    save_png(args.output, sheet, None, {"SYNTHETIC": "IN PART"}, overwrite=True)


if __name__ == "__main__":
    main()
