"""Calibrate a model's spread and interval on the held-out tenth of train places; check both on test rows.

    python scripts/calibrate.py upscale --data DATA/eurosat_rgb DATA/uc_merced … -n 16 --factor 4
    python scripts/calibrate.py predict --data DATA/naip_california_cities … -n 8

Writes the calibrations into the model's ``facts.json``, for each number of samples, and prints a line of JSON
for each, with what was found on the test rows. ``--check`` only checks those that are there.
"""

import argparse
import json
from dataclasses import asdict, replace

import torch

from diffusionsat import DiffusionSat
from diffusionsat.checkpoints.facts import add_calibrations, read_facts
from diffusionsat.checkpoints.shipped import find
from diffusionsat.evaluation.calibrating import Made, check, fit, gathered, held_out
from diffusionsat.evaluation.cases import open_sources
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.run import TASKS

COUNTS = (4, 8, 16)


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
    )
    task = TASKS[args.task]

    def made(split: str, seed: int) -> Made:
        sources = open_sources(args.data, split)
        asked = replace(request, seed=seed, split=split)
        kept = [held_out(source) for source in sources] if split == "train" else sources
        return Made(task, asked, sat, gathered(task, asked, kept, args.size))

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
