"""Start-up, seconds a step and an image, and peak memory of `generate`, in fp32 and bf16, as one table.

    python benchmarks/generate.py [--model NAME|PATH] [--repeat 5] [--threads N]

Figures are the lowest of the repeats, but for peak memory, which is the highest of its process. Every
figure of a precision is from one fresh process.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise


def measure(model: str, precision: str, repeat: int, threads: int) -> dict:
    """Everything that one process can tell of one precision."""
    start = time.perf_counter()
    import torch

    torch.set_num_threads(threads)
    from diffusionsat import DiffusionSat, Metadata

    sat = DiffusionSat.from_pretrained(model, device="cpu", precision=precision)
    loaded = time.perf_counter() - start
    metadata = Metadata(lon=7.44, lat=46.95, gsd=10, date="2019-07")
    figures = {"load": loaded}
    for side in (64, 128, 256):
        times = []
        for seed in range(repeat + 1):
            start = time.perf_counter()
            sat.generate("a river", metadata, size=(side, side), seed=seed)
            times.append(time.perf_counter() - start)
        figures[f"image_{side}"] = min(times[1:])
        figures[f"step_{side}"] = min(step_times(sat, metadata, side, repeat))
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def step_times(sat, metadata, side: int, repeat: int) -> list[float]:
    """Seconds of steps at the full size, of some images that are drawn layout first."""
    marks: list[tuple[int, float]] = []
    times = []
    for seed in range(repeat):
        marks.clear()
        sat.generate(
            "a river",
            metadata,
            size=(side, side),
            seed=seed,
            on_step=lambda info: marks.append((info.latents.shape[-1], time.perf_counter())),
        )
        times += [
            later - earlier
            for (before, earlier), (after, later) in pairwise(marks)
            if before == after == side // sat.factor
        ]
    return times


def cold(arguments: list[str], repeat: int, threads: int) -> float:
    """Seconds of a whole command in a fresh process."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run(arguments, check=True, capture_output=True, env=environment)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="compact")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.model, args.measure, args.repeat, args.threads)))
        return
    command = [sys.executable, "-m", "diffusionsat.cli.main"]
    rows: dict[str, list[str]] = {}
    results = {}
    for precision in ("fp32", "bf16"):
        options = [
            "--model",
            args.model,
            "--repeat",
            str(args.repeat),
            "--threads",
            str(args.threads),
            "--measure",
            precision,
        ]
        done = subprocess.run(
            [sys.executable, __file__, *options], check=True, capture_output=True, text=True
        )
        results[precision] = json.loads(done.stdout.splitlines()[-1])
        image = [
            *command,
            "generate",
            "a river",
            "--model",
            args.model,
            "--precision",
            precision,
            "--overwrite",
        ]
        with tempfile.TemporaryDirectory() as folder:
            place = ["--lnglat", "7.44,46.95", "-o", f"{folder}/x.tif"]
            results[precision]["cold"] = cold([*image, *place], 3, args.threads)
    names = {
        "load": "import and load, s",
        "cold": "`generate` of 256 px as a command, everything included, s",
        "step_64": "one guided step (2 evaluations), 64 px, s",
        "step_128": "one guided step, 128 px, s",
        "step_256": "one guided step, 256 px, s",
        "image_64": "one image, warm, 64 px, s",
        "image_128": "one image, warm, 128 px, s",
        "image_256": "one image, warm, 256 px, s",
        "peak_mb": "peak memory, MB",
    }
    for key, name in names.items():
        rows[name] = [
            f"{results[p][key]:.0f}" if key == "peak_mb" else f"{results[p][key]:.3f}" for p in results
        ]
    print(
        f"{platform.machine()}, {args.threads} threads, Python {platform.python_version()}; --help takes ",
        end="",
    )
    print(f"{cold([*command, '--help'], 5, args.threads):.3f} s\n")
    print("| | fp32 | bf16 |\n|---|---|---|")
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
