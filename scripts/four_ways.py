r"""The paper's claim at small scale: numbers as inputs of their own against numbers in words, and none.

    python scripts/four_ways.py train extended --images 100000 --output runs/four-ways
    python scripts/four_ways.py measure --data data --output runs/four-ways

``train`` runs one arm of the comparison: the recipe ``compact/denoiser`` at 64 px, from the folder that holds
the sets as ``data/NAME``; it is taken up again by the same command. ``measure`` prints one table of all arms
that are done, and keeps images and figures beside them. All arms have the same network, images, order and
noise.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch

from diffusionsat import DiffusionSat, GenerateRequest, Metadata
from diffusionsat.data.captions import in_words
from diffusionsat.evaluation import compact
from diffusionsat.evaluation.features import load_classifier
from diffusionsat.evaluation.sampling import Asked, Make, maker
from diffusionsat.files import write_bytes
from diffusionsat.training.recipe import read_recipe
from diffusionsat.training.run import run

ARMS = {  # what differs from the recipe
    "captions": ("data.dropping={no_text=0.0,no_metadata=0.92,no_condition=0.08,no_field=0.0}",),
    "words": ("data.numbers_in_words=true",),
    "published": ('model.sizes={channels=[64,128,224],encoding="published"}',),
    "extended": (),
}
NAMES = {
    "captions": "captions alone",
    "words": "numbers in the caption",
    "published": "numbers, published encoding",
    "extended": "numbers, extended encoding",
}
HEADINGS = {  # of the measured figures: what, and whether more is better
    "frechet": "Fréchet ↓",
    "kernel": "1000 kernel ↓",
    "read": "class read ↑",
    "r2": "colour by place, R² ↑",
    "month": "month ↑",
    "place": "place ↑",
    "gsd": "gsd ↑",
}


def train(args: argparse.Namespace) -> None:
    settings = (
        *ARMS[args.arm],
        f"run.output={args.output / args.arm}",
        f"run.images={args.images}",
        "data.sizes={64=1.0}",
        f"data.cache_folder={args.latents or args.output / 'latents'}",
        "model.autoencoder=",
        f"model.name={args.arm}",
        f"schedule.decay={args.images // 5}",
        "run.sheet_every=0",
        f"run.threads={args.threads}",
    )
    run(read_recipe("compact/denoiser", settings), tell=lambda line: print(json.dumps(line), flush=True))


def as_the_arm_wants(make: Make, arm: str) -> Make:
    """Requests in the form that an arm was trained with."""

    def changed(asked: Asked, name: str) -> np.ndarray:
        if arm == "words":
            asked = [(", ".join(filter(None, (p, in_words(m.numbers)))), Metadata()) for p, m in asked]
        elif arm == "captions":
            asked = [(p, Metadata()) for p, _ in asked]
        return make(asked, name)

    return changed


def figures(arm: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """One row of the table, of images from one seed."""
    sat = DiffusionSat.from_pretrained(args.output / arm / "model")
    template = GenerateRequest(size=(64, 64), seed=seed)
    make = as_the_arm_wants(maker(sat, template, args.output / arm / f"images-{seed}"), arm)
    plan = compact.Plan(data=args.data, n=args.n)
    reader = load_classifier(None)
    (distance,) = compact.distances(make, lambda x: sat.decode(sat.encode(x)), reader.features, plan)
    (words,) = compact.words(
        *compact.word_images(make, compact.Plan(data=args.data, n=args.n // 10)), reader, plan
    )
    (place,) = compact.place(make, plan, samples=4)
    obeyed = {line["field"]: line["controllability"]["value"] for line in compact.season(make, reader, plan)}
    return {
        "frechet": distance["frechet_generated"],
        "kernel": 1000 * distance["kernel_generated"]["value"],
        "read": words["read"],
        "r2": place["r2"],
        **obeyed,
        "frechet_real": distance["frechet_real"],
        "kernel_real": 1000 * distance["kernel_real"]["value"],
        "read_real": words["read_real"],
        "r2_class": place["r2_class"],
        "r2_neighbours": place["r2_neighbours"],
    }


def measure(args: argparse.Namespace) -> None:
    done = [arm for arm in ARMS if (args.output / arm / "model").is_dir()]
    if not done:
        raise SystemExit(f"No arm in {args.output} is trained to its end. Run: four_ways.py train ARM")
    rows = {arm: [figures(arm, seed, args) for seed in range(args.seeds)] for arm in done}
    lines = [
        f"| | {' | '.join(HEADINGS.values())} |",
        "|---" * (len(HEADINGS) + 1) + "|",
        *(
            f"| {NAMES[arm]} | {' | '.join(spread([r[key] for r in rows[arm]]) for key in HEADINGS)} |"
            for arm in done
        ),
    ]
    real = rows[done[0]][0]
    colours = f"class {real['r2_class']:.2f}, nearest {real['r2_neighbours']:.2f}"
    known = (f"{real['frechet_real']:.2f}", f"{real['kernel_real']:.1f}", f"{real['read_real']:.2f}", colours)
    lines.append(f"| real chips | {' | '.join(known)} | 1 | 1 | 1 |")
    text = "\n".join(lines) + "\n"
    write_bytes(args.output / "table.md", text.encode(), overwrite=True)
    write_bytes(args.output / "rows.json", json.dumps(rows, indent=2).encode(), overwrite=True)
    print(text, end="")


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds of sampling."""
    mean = statistics.fmean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    stages = parser.add_subparsers(required=True)
    stage = stages.add_parser("train")
    stage.set_defaults(stage=train)
    stage.add_argument("arm", choices=ARMS)
    stage.add_argument("--images", type=int, default=100_000)
    stage.add_argument("--latents", type=Path, help="folder of cached latents of the same recipe")
    stage.add_argument("--output", type=Path, required=True)
    stage = stages.add_parser("measure")
    stage.set_defaults(stage=measure)
    stage.add_argument("--data", type=Path, required=True)
    stage.add_argument(
        "--n", type=int, default=400, help="rows of each measure; a tenth of it for each class"
    )
    stage.add_argument("--seeds", type=int, default=3, help="of sampling; one is trained")
    stage.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.stage(args)


if __name__ == "__main__":
    main()
