r"""The compact ControlNet beside the published designs and a regression, at equal size, data and budget.

    python scripts/steering_arms.py train compact upscale --images 100000 --base compact --output runs/arms
    python scripts/steering_arms.py measure upscale --data data --output runs/arms

``train`` runs one arm: the recipe of the job's ControlNet at 64 px, from the folder that holds the sets as
``data/NAME``; it is taken up again by the same command. All arms steer the same frozen base and have the
same images, order and noise; none starts from a trained ControlNet. ``measure`` scores all arms that are
done, and what takes no model, on test rows, and writes ``table.md`` beside them; what is done stays.
"""

import argparse
import functools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from report import DATES, SHARP, progress

from diffusionsat import DiffusionSatError
from diffusionsat.checkpoints.layout import content_hash, control_file
from diffusionsat.checkpoints.shipped import find
from diffusionsat.checkpoints.tensors import read_tensors
from diffusionsat.config import read
from diffusionsat.evaluation import report
from diffusionsat.evaluation.paired import DISTANCE, MODEL, ONE, Paired, name_of
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.run import TASKS, evaluate
from diffusionsat.execution import executor
from diffusionsat.files import write_bytes
from diffusionsat.metrics.bootstrap import bootstrap
from diffusionsat.training.recipe import Recipe, read_recipe
from diffusionsat.training.run import MODEL as TRAINED
from diffusionsat.training.run import run

REGRESSION = "regression"
ARMS = {  # what differs from the recipe
    "compact": (),
    "published-2d": ("model.design=published-2d", "model.sizes={}"),
    "published-3d": ("model.design=published-3d", "model.sizes={}"),
    REGRESSION: ("objective.regression=true",),
}
RECIPES = {"upscale": "compact/super-resolution", "predict": "compact/temporal"}
SETS = {"upscale": SHARP, "predict": DATES}
EVALUATIONS = {"upscale": (1, 2, 4, 8, 20), "predict": ()}  # of the network, an image
FIGURES = {
    "upscale": (
        *("psnr", "ssim", DISTANCE, "spectral_angle", "ergas", "noise_residual", "reflectance", "angle_deg"),
        *("improvement", "omission", "hallucination"),
    ),
    "predict": ("psnr", "ssim", DISTANCE, "spectral_angle"),
}


def train(args: argparse.Namespace) -> None:
    settings = (
        *ARMS[args.arm],
        f"run.output={args.output / args.job / args.arm}",
        f"run.images={args.images}",
        f"run.seed={args.seed}",
        f"run.threads={args.threads}",
        f"data.processes={args.processes}",
        "data.sizes={64=1.0}",
        f"model.parts={args.base}",
        f"schedule.warm_up={min(4000, args.images // 10)}",
        f"schedule.decay={3 * args.images // 8}",
    )
    recipe = read_recipe(RECIPES[args.job], settings)
    run(recipe, tell=lambda line: print(json.dumps(line), flush=True))


def told_of(args: argparse.Namespace, name: str, model: str, **options: Any) -> dict[str, Any]:
    """The report of an evaluation of a model, from its folder if it is done."""
    folder = args.output / args.job / "measured" / name
    if not (folder / report.REPORT).exists():
        there = [args.data / source for source in SETS[args.job]]
        request = EvaluateRequest(
            task=args.job,
            data=tuple(str(source) for source in there if (source / "test.parquet").exists()),
            model=model,
            n=args.n,
            size=64,
            seed=args.seed,
            device=args.device,
            **options,
        )
        with executor(args.workers) as execute:
            evaluate(request, folder, execute=execute, on_unit=functools.partial(progress, name))
    found = report.read(folder)
    if found["made_by"]["model_hash"] != content_hash(find(model)):
        raise SystemExit(f"{folder} is of another model. Remove it, or give another --output.")
    return found


def lines(told: dict[str, Any], job: str, **about: str) -> Iterator[dict[str, Any]]:
    """A line a set of images and a part of these: their figures, feature distances of the last network."""
    network = [*told["protocol"]["features"]][-1]
    distances = [line for line in told["tables"][f"{DISTANCE}s"] if line["features"] == network]
    for line in told["tables"]["pairs"]:
        said = {key: line[key] for key in ("frames", "set", "part") if key in line}
        found = line | next((d for d in distances if said.items() <= d.items()), {})
        yield about | said | {key: found[key] for key in ("n", *FIGURES[job]) if key in found}


def gains(args: argparse.Namespace, network: str, one: str, other: str) -> Iterator[dict[str, Any]]:
    """How much better an arm is than another on the same images: PSNR of means, distance of a sample."""
    tables = [
        parquet.read_table(args.output / args.job / "measured" / arm / report.SCORES).to_pydict()
        for arm in (one, other)
    ]
    places = np.array(tables[0]["place"])
    compared = (
        ("psnr_gain", "psnr", (MODEL,), lambda a, b: float((a - b).mean())),
        (f"{DISTANCE}_gain", f"{DISTANCE}/{network}", (ONE, MODEL), lambda a, b: 1 - a.mean() / b.mean()),
    )
    task = TASKS[args.job]
    assert isinstance(task, Paired)
    for part in task.parts:
        line: dict[str, Any] = {"arm": one, "over": other, "part": part}
        for gain, figure, kinds, better in compared:
            names = [name_of(kind, part, figure) for kind in kinds]
            a, b = (next(np.array(t[n], float) for n in names if n in t) for t in tables)
            there = np.flatnonzero(np.isfinite(a + b))
            a, b, where = a[there], b[there], places[there]
            interval = bootstrap(lambda i, a=a, b=b, f=better: float(f(a[i], b[i])), where, seed=args.seed)
            line |= {"n": len(there), gain: asdict(interval)}
        yield line


def measure(args: argparse.Namespace) -> None:
    home = args.output / args.job
    arms = {arm: str(home / arm / TRAINED) for arm in ARMS if (home / arm / TRAINED).is_dir()}
    if not arms:
        raise SystemExit(f"No arm in {home} is trained to its end. Give: train ARM {args.job}")
    recipes = [read(Recipe, home / arm / "config.toml") for arm in arms]
    budgets = {(r.run.images, r.data.batch_size, r.run.seed, r.model.parts) for r in recipes}
    if len(budgets) > 1:
        raise SystemExit(f"Arms differ in images, batch, seed or base: {sorted(budgets)}. Train them alike.")
    once = {"steps": 1, "solver": "euler"}
    models = arms | {f"shipped {name}": name for name in args.beside}
    found = {
        name: told_of(args, name, path, **(once if name == REGRESSION else {"samples": args.samples}))
        for name, path in models.items()
    }
    scores = [line for name, told in found.items() for line in lines(told, args.job, arm=name)]
    first, drawn = next(iter(models)), (MODEL, ONE)
    scores = [x for x in scores if x["set"] in drawn or x["arm"] == first]
    scores = [x if x["set"] in drawn else x | {"arm": "without a model"} for x in scores]
    network = [*found[first]["protocol"]["features"]][-1]
    tables = {"Scores": scores}
    if "compact" in arms:
        others = [name for name in arms if name != "compact"]
        tables["Gains"] = [x for other in others for x in gains(args, network, "compact", other)]
    tables["Network evaluations"] = [
        line
        for name, path in models.items()
        for steps in EVALUATIONS[args.job]
        if steps == 1 or name != REGRESSION
        for line in lines(
            told_of(args, f"{name}-{steps}", path, **(once if name == REGRESSION else {"steps": steps})),
            args.job,
            arm=name,
            evaluations=str(steps),
        )
        if line["set"] == MODEL
    ]
    text = page(args, arms, budgets.pop(), found[first], network, tables)
    write_bytes(home / "table.md", text.encode(), overwrite=True)
    print(text, end="")


def page(
    args: argparse.Namespace,
    arms: dict[str, str],
    budget: tuple[int, int, int, str],
    told: dict[str, Any],
    network: str,
    tables: dict[str, list[dict[str, Any]]],
) -> str:
    """The tables, and what is to be known of them."""
    said, (images, batch, seed, base) = told["protocol"], budget
    control = read_recipe(RECIPES[args.job]).model.name
    sizes = {
        arm: sum(t.numel() for t in read_tensors(control_file(Path(model), control)).values())
        for arm, model in arms.items()
    }
    counts = ", ".join(f"{arm} {count / 1e6:.2f} M" for arm, count in sizes.items())
    sampling = said["sampling"]
    notes = [
        f"Trained on {images} images of {said['size']} px in batches of {batch}, seed {seed}, one run an "
        f"arm; the base {base} frozen. Parameters: {counts}.",
        f"Measured on {said['n']} images of test rows of {', '.join(said['sources'])}, seed {said['seed']}; "
        f"data `{said['data_hash'][:16]}`. {sampling['solver']}, {sampling['steps']} steps, "
        f"{args.samples} samples; regression: one step, one sample, as there is one answer.",
        f"`{MODEL}` is the mean of the samples. Feature distances are on {network}. In brackets 95 % "
        "intervals over places, which know nothing of how far another run would differ.",
    ]
    out = [f"# Arms of {args.job}", "\n".join(f"- {note}" for note in notes)]
    out += [f"## {title}\n\n{report.table(table)}" for title, table in tables.items() if table]
    return "\n\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--output", type=Path, required=True)
    common.add_argument("--seed", type=int, default=0)
    common.add_argument("--threads", type=int, default=1)
    stage = stages.add_parser("train", parents=[common])
    stage.set_defaults(stage=train)
    stage.add_argument("arm", choices=ARMS)
    stage.add_argument("job", choices=RECIPES)
    stage.add_argument("--images", type=int, default=100_000)
    stage.add_argument("--processes", type=int, default=0, help="that read; for a GPU")
    stage.add_argument("--base", default="compact", help="checkpoint that is steered, a folder or a name")
    stage = stages.add_parser("measure", parents=[common])
    stage.set_defaults(stage=measure)
    stage.add_argument("job", choices=RECIPES)
    stage.add_argument("--data", type=Path, required=True)
    stage.add_argument("--n", type=int, default=256, help="true images")
    stage.add_argument("--samples", type=int, default=8)
    stage.add_argument("--beside", nargs="*", default=(), help="other models to be listed, as compact")
    stage.add_argument("--workers", type=int, default=1, help="processes")
    stage.add_argument("--device", default="auto")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        args.stage(args)
    except DiffusionSatError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
