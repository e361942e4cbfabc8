"""Are borders of windows to be seen: windows that are fused at every step beside such as only meet.

    python benchmarks/seams.py --side 1024 --seeds 0 1

Images of the shipped model, larger than a window. Each way the mean step across the borders of windows is
taken over the mean step elsewhere (`diffusionsat.metrics.seams`), and likewise the mean step across all other
borders of latent pixels, where no window ends: what the decoder draws there in any image.
"""

import argparse

import torch

from diffusionsat import DiffusionSat
from diffusionsat.diffusion.windows import Axis
from diffusionsat.metrics.seams import seam_ratio
from diffusionsat.tasks.job import Job

WINDOW, OVERLAP = Job.window, Job.overlap


def borders(side: int, overlap: int, factor: int) -> list[int]:
    """Pixels at which a window of the image begins or ends, but its own sides."""
    axis = Axis.cover(side // factor, WINDOW // factor, overlap // factor)
    edges = {edge for start in axis.starts for edge in (start, start + axis.window)}
    return sorted(factor * edge for edge in edges - {0, axis.length})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--prompt", default="")
    args = parser.parse_args()
    sat = DiffusionSat.from_pretrained("compact")
    print("| windows | seed | across borders of windows | across all other borders of latents | quotient |")
    print("|---|---|---|---|---|")
    for seed in args.seeds:
        for name, overlap in (("fused", OVERLAP), ("side by side", 0)):
            Job.overlap = overlap
            made = sat.generate(args.prompt, size=(args.side, args.side), seed=seed)
            image = torch.from_numpy(made.pixels).permute(2, 0, 1)[None].double()
            places = borders(args.side, overlap, sat.factor)
            others = sorted({*range(sat.factor, args.side, sat.factor)} - {*places})
            at, off = (float(seam_ratio(image, p, p)) for p in (places, others))
            print(f"| {name} | {seed} | {at:.3f} | {off:.3f} | {at / off:.3f} |", flush=True)


if __name__ == "__main__":
    main()
