"""Print a sheet of synthetic images beside real chips of the same label, place, date and resolution.

    python scripts/contact_sheet.py --data DATA --output docs/images/sheet.png
    python scripts/contact_sheet.py --data DATA --size 256 --zoom 1 --count 2 \
        --output docs/images/sheet-256.png

The real chips are the first test rows of their kind; nothing is chosen. The synthetic ones are made from the
words and the metadata of the real ones, seed 0.
"""

import argparse
from pathlib import Path

import numpy as np

from diffusionsat import DiffusionSat, GenerateRequest
from diffusionsat.data.parquet import Sample, read_samples
from diffusionsat.geo.images import save_png
from diffusionsat.tasks.generate import make_batch
from diffusionsat.tasks.sheet import contact_sheet

KINDS = (  # data set, label, words
    ("eurosat_rgb", "Forest", "forest"),
    ("eurosat_rgb", "AnnualCrop", "crop fields"),
    ("eurosat_rgb", "River", "a river"),
    ("eurosat_rgb", "Highway", "a highway"),
    ("eurosat_rgb", "Residential", "a residential area"),
    ("eurosat_rgb", "Industrial", "industrial buildings"),
    ("eurosat_rgb", "SeaLake", "a lake"),
    ("uc_merced", "dense residential", "closely packed houses"),
    ("uc_merced", "freeway", "a freeway"),
    ("uc_merced", "harbor", "a harbor with boats"),
    ("naip_california_cities", "urban", "city streets and houses"),
    ("blue_marble_2004", None, "land seen from orbit"),
    ("blue_marble_500m", None, "mountains and plains"),
)


def real(
    data: Path, source: str, label: str | None, count: int, size: int
) -> list[tuple[Sample, np.ndarray]]:
    """The first test rows of a label, cut to their central square, in grey where they are smaller."""
    chosen = []
    for sample in read_samples(data / source / "test.parquet", source):
        if label is None or sample.label == label:
            pixels = sample.pixels()
            top, left = (max(0, side - size) // 2 for side in pixels.shape[:2])
            pixels = pixels[top : top + size, left : left + size]
            square = np.full((size, size, 3), 128, np.uint8)
            top, left = ((size - side) // 2 for side in pixels.shape[:2])
            square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
            chosen.append((sample, square))
            if len(chosen) == count:
                break
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--count", type=int, default=5, help="real chips, and synthetic ones, of each kind")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--zoom", type=int, default=2, help="times each pixel is repeated")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--kinds", type=int, default=len(KINDS))
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    sat = DiffusionSat.from_pretrained(args.model)
    images, captions = [], []
    for source, label, words in KINDS[: args.kinds]:
        chips = real(args.data, source, label, args.count, args.size)
        requests = [
            GenerateRequest(
                prompt=words, metadata=s.metadata, size=(args.size, args.size), guidance=args.guidance
            )
            for s, _ in chips
        ]
        scenes = make_batch(sat, [(request.resolved(sat), i) for i, request in enumerate(requests)])
        for scene in scenes:
            images.append(scene.pixels)
            captions.append(f"{words} {scene.metadata.gsd:g} m")
        for sample, pixels in chips:
            images.append(pixels)
            captions.append(f"real {sample.metadata.date or ''}")
    zoomed = [np.kron(image, np.ones((args.zoom, args.zoom, 1), np.uint8)) for image in images]
    title = f"left: SYNTHETIC ({sat.config.name}@{sat.config.version}, seed 0), right: real"
    sheet = contact_sheet(zoomed, captions, columns=2 * args.count, title=title)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    tags = {
        "SYNTHETIC": "YES, the left half",
        "MODEL": f"{sat.config.name}@{sat.config.version}",
        "MODEL_HASH": sat.checkpoint,
    }
    save_png(args.output, sheet, None, tags, overwrite=True)


if __name__ == "__main__":
    main()
