"""Calibrate a model's spread and interval on the held-out tenth of train places; check both on test rows.

    python scripts/calibrate.py upscale --data DATA/eurosat_rgb DATA/uc_merced … -n 16 --factor 4
    python scripts/calibrate.py predict --data DATA/naip_california_cities … -n 8

Writes the calibrations into the model's ``facts.json``, for each number of samples, and prints a line of JSON
for each, with what was found on the test rows. ``--check`` only checks those that are there.
``--strengths 1 1.5 2`` calibrates nothing: it prints how the task does on the held-out places with each of
these strengths of guidance by frames, of which the best is to stand in ``facts.json``.
"""

import argparse
import json
from dataclasses import asdict, replace

import numpy as np
import torch

from diffusionsat import DiffusionSat
from diffusionsat.checkpoints.facts import add_calibrations, read_facts
from diffusionsat.checkpoints.shipped import find
from diffusionsat.evaluation.calibrating import Made, check, fit, gathered, held_out
from diffusionsat.evaluation.cases import open_sources
from diffusionsat.evaluation.features import feature_network
from diffusionsat.evaluation.paired import Paired
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.run import TASKS
from diffusionsat.evaluation.trials import Given

COUNTS = (4, 8, 16)


def scored(task: Paired, request: EvaluateRequest, sat: DiffusionSat, given: Given) -> dict[str, float]:
    """Means of the scores of some cases, but for those of baselines."""
    rows = range(len(given))
    made = task.make(sat, request, given, rows)
    found = task.score(request, given, rows, made, [feature_network("efficientnet-lite0")])
    own = [name for name in found if name.startswith(("model/", "one_sample/", "samples/"))]
    return {n: round(float(np.nanmean(found[n])), 4) for n in own if found[n].ndim == 1}


def main() -> None:
    """Fit, write and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=[name for name in TASKS if name != "generate"])
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--model", default="compact")
    parser.add_argument("-n", type=int, default=16, help="images of each data set, and of each split")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--consistency", default="soft", help="for upscale")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--frames-guidance", type=float)
    parser.add_argument("--strengths", type=float, nargs="+", metavar="S")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder, sat = find(args.model), DiffusionSat.from_pretrained(args.model)
    request = EvaluateRequest(
        task=args.task,
        data=(),
        n=args.n,
        samples=args.samples,
        factor=args.factor,
        size=args.size,
        consistency=args.consistency,
        frames_guidance=args.frames_guidance,
    )
    task = TASKS[args.task]

    def asked(split: str, seed: int) -> tuple[EvaluateRequest, Given]:
        sources = open_sources(args.data, split)
        wanted = replace(request, seed=seed, split=split)
        kept = [held_out(source) for source in sources] if split == "train" else sources
        return wanted, gathered(task, wanted, kept, args.size)

    def made(split: str, seed: int) -> Made:
        wanted, given = asked(split, seed)
        return Made(task, wanted, sat, given)

    if args.strengths:
        wanted, given = asked("train", 0)
        for strength in args.strengths:
            scores = scored(task, replace(wanted, frames_guidance=strength), sat, given)
            told = {"frames_guidance": strength, "n": len(given)}
            told |= {"places": len({case.place for case in given.cases})}
            print(json.dumps(told | scores), flush=True)
        return

    if not args.check:
        seen = made("train", 0)
        fitted = [fit(seen, count) for count in COUNTS if count <= args.samples]
        add_calibrations(folder, sat.checkpoint, tuple(fitted))
    test = made("test", 1)
    for one in read_facts(folder).calibrations:
        if one.conditions == test.conditions and one.samples <= args.samples:
            found = {name: asdict(value) for name, value in check(test, one).items()}
            print(json.dumps(asdict(one) | {"test_places": len(set(test.places))} | found), flush=True)


if __name__ == "__main__":
    main()
