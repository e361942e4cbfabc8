"""Training throughput of the compact denoiser: latents cached beside encoded at every step, as one table.

    python benchmarks/training.py [--data FOLDER] [--size 64] [--batch 64] [--precision bf16] [--steps 20]

The second loop has the structure of the published training script: images are read in the loop (no loader
workers), and each goes through the autoencoder and its caption through the text encoder at every step.
Networks, images, batches, optimiser and precision are the same, and the loops take turns step by step, so
that whatever else the machine does meets both alike. Figures are medians. Without --data, images are drawn.
"""

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from diffusionsat.training import run as runs
from diffusionsat.training.batches import Batch, collate, generator, normal
from diffusionsat.training.families import make_family
from diffusionsat.training.loop import step
from diffusionsat.training.precision import autocast
from diffusionsat.training.processes import Alone, start
from diffusionsat.training.recipe import Recipe, read_recipe

OURS, PUBLISHED = "latents cached (ours)", "encoded every step (the published structure)"


def draw(folder: Path, count: int, size: int) -> Path:
    """Images as a data set holds them: encoded, in Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from PIL import Image

    from diffusionsat.training.procedural import Procedural

    examples, rows = Procedural(0, {size: 1.0}), []
    for i in range(count):
        example, content = examples.example(i, size), io.BytesIO()
        Image.fromarray(example.pixels).save(content, "PNG")
        about = {"key": str(i), "image": content.getvalue(), "width": size, "height": size}
        known = example.metadata
        about |= {"lon": known.lon, "lat": known.lat, "gsd": known.gsd, "date": known.date}
        rows.append(about | {"cloud_cover": known.cloud_cover, "label": None, "caption": example.caption})
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train.parquet", row_group_size=64)
    return folder


def recipe(args: argparse.Namespace, data: Path, folder: Path) -> Recipe:
    """The recipe of both loops."""
    sources = f'data.sources=[{{name="images", path="{data}"}}]'
    settings = ("data.procedural=false", sources, f"data.sizes={{{args.size}=1}}", "model.sizes={}")
    settings += (f"data.batch_size={args.batch}", f"data.cache={args.cache}", f"run.threads={args.threads}")
    settings += (f"run.precision={args.precision}", f"run.output={folder}", f"run.device={args.device}")
    return read_recipe("tiny", (*settings, f"model.start={args.model}", "run.validate_every=0"))


class EveryStep:
    """Batches as the published script makes them."""

    def __init__(self, recipe: Recipe, family, examples, processes: Alone) -> None:
        self.recipe, self.family, self.examples, self.processes = recipe, family, examples, processes
        self.size = min(recipe.data.sizes)

    @torch.no_grad()
    def batch(self, seen: int) -> Batch:
        """The batch after ``seen`` images."""
        positions, seed = range(seen, seen + self.recipe.data.batch_size), self.recipe.run.seed
        rngs = [generator(seed, position) for position in positions]
        some = [self.examples.example(position, self.size) for position in positions]
        read, device = collate(some, rngs, self.recipe.data, conditions=False), self.processes.device
        with autocast(self.recipe.run.precision, device):
            latents = self.family.encode(read.images.to(device), rngs).float()
            text = tuple(t.clone() for t in self.family.networks.text(read.captions))
        return Batch(
            images=latents,
            noise=normal(rngs, tuple(latents.shape[1:])).to(device),
            level=read.level.to(device),
            numbers=read.numbers.to(device),
            text=text,
        )


def measure(recipe: Recipe, steps: int) -> tuple[dict[str, dict[str, list[float]]], float]:
    """Seconds of every step's parts of both loops, and seconds that the cache took to make."""
    processes = start(recipe.run)
    torch.set_num_threads(recipe.run.threads)
    family = make_family(recipe)
    family.to(processes.device)
    begun = time.perf_counter()
    job = runs.make_job(recipe, family, Path(recipe.run.output), processes)
    made = time.perf_counter() - begun
    uncached = EveryStep(recipe, family, runs.make_examples(recipe)[0], processes)
    state = runs.make_state(recipe, family.network, processes)
    times: dict[str, dict[str, list[float]]] = {name: {"batch": [], "step": []} for name in (OURS, PUBLISHED)}
    try:
        for i in range(steps + 2):
            seen = i * recipe.data.batch_size
            for name in times:
                begun = time.perf_counter()
                batch = job.batch(seen, i) if name == OURS else uncached.batch(seen)
                ready = time.perf_counter()
                loss, _ = step(job.learner, batch, state, recipe, processes)
                loss.item()
                if i >= 2:  # the first are slow
                    times[name]["batch"].append(ready - begun)
                    times[name]["step"].append(time.perf_counter() - ready)
    finally:
        job.close()
    return times, made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--cache", type=int, default=1024)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        data = args.data or draw(Path(folder) / "images", args.cache, args.size)
        times, made = measure(recipe(args, data, Path(folder) / "run"), args.steps)
    print(f"{platform.machine()}, {args.device}, {args.threads} threads, torch {torch.__version__}; ", end="")
    print(f"{args.size} px, batch {args.batch}, {args.precision}, {args.steps} steps each; ", end="")
    print(f"{args.cache} latents were made in {made:.0f} s\n")
    print(f"| | {OURS} | {PUBLISHED} |\n|---|---|---|")
    parts = [{part: statistics.median(many) for part, many in times[name].items()} for name in times]
    for part, words in (("batch", "a batch ready, s"), ("step", "forward, backward, optimiser, s")):
        print(f"| {words} | {' | '.join(f'{one[part]:.3f}' for one in parts)} |")
    print(f"| images/s | {' | '.join(f'{args.batch / sum(one.values()):.1f}' for one in parts)} |")


if __name__ == "__main__":
    main()
