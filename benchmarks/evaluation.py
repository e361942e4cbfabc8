"""Memory and time of an evaluation's distances, of many images beside a tenth of them, as one table.

    python benchmarks/evaluation.py [--images 100000] [--width 1280] [--threads N]

Features are drawn and lie in files, as an evaluation keeps them. Each row is a fresh process that takes all
distances of a set to another. Of its memory the part counts that no file backs, as Linux tells it every
10 ms: what is mapped from a file can be given back at any time.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SETS = ("generated", "reference")


def draw(folder: Path, images: int, width: int) -> None:
    """Features of two sets, float32 (images, width)."""
    import numpy as np

    for seed, name in enumerate(SETS):
        rng = np.random.Generator(np.random.Philox(seed))
        shape = (images, width)
        whole = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype=np.float32, shape=shape)
        for start in range(0, images, 10_000):
            part = whole[start : start + 10_000]
            part[:] = rng.standard_normal(part.shape, np.float32)


def measure(folder: Path, threads: int) -> dict[str, float]:
    """What one process can tell."""
    import numpy as np
    import torch

    from diffusionsat.evaluation.quality import distances

    torch.set_num_threads(threads)
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            lines = Path("/proc/self/status").read_text().splitlines()
            held = next(line for line in lines if line.startswith("RssAnon"))
            peak[0] = max(peak[0], int(held.split()[1]) / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    made, reference = (torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="r+")) for name in SETS)
    begun = time.perf_counter()
    distances("drawn", made, reference, 0)
    took = time.perf_counter() - begun
    done.set()
    watcher.join()
    return {"peak_gb": peak[0], "seconds": took}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1280, help="of the features")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.of:
        print(json.dumps(measure(args.of, args.threads)))
        return
    print(f"{platform.platform()}, {args.threads} threads, {args.width} features\n")
    print("| images a set | peak memory that no file backs, GB | s |\n|---|---|---|")
    for images in (args.images // 10, args.images):
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder), images, args.width)
            again = [sys.executable, __file__, "--of", folder, "--threads", str(args.threads)]
            told = json.loads(subprocess.run(again, capture_output=True, check=True, text=True).stdout)
        print(f"| {images:,} | {told['peak_gb']:.2f} | {told['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
