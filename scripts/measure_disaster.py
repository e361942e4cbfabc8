"""After a disaster and before it: is the other side of a pair made, on the same ground?

    python scripts/measure_disaster.py --model runs/compact-disaster --data data/harvey_pairs

A linear classifier that has learnt before from after on the features of real train pairs is asked about real
test images and about generated ones; and a generated image is compared with the one that it was made of, and
with that of another place. Prints a line of JSON for each direction; ``--sheet`` says where to write pictures
of what is given, what is made and what is true.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from diffusionsat import DiffusionSat
from diffusionsat.data.sources import Source
from diffusionsat.evaluation.features import feature_network
from diffusionsat.evaluation.probes import fit_classifier
from diffusionsat.evaluation.trials import framed
from diffusionsat.metadata import Metadata
from diffusionsat.metrics.bootstrap import mean_interval
from diffusionsat.tasks.sampling import UNGUIDED, guidance_of

SIDES = ("before", "after")
BEFORE = "2016"  # the images before are of 2016 and 2017, none of a known day
SHOWN = 8


class Side(NamedTuple):
    """One image of a pair."""

    pixels: np.ndarray
    caption: str
    metadata: Metadata


def pairs(data: Path, split: str) -> list[tuple[Side, ...]]:
    """Every record's image before and image after."""
    source = Source(data, split=split)
    records = [source.record(int(image)) for image in np.flatnonzero(source.images.frame == 0)]
    return [tuple(Side(f.rgb(), record.caption(f), f.metadata) for f in record.frames) for record in records]


def main() -> None:
    """Fit, make, measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-n", type=int, default=140, help="pairs of the test split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--frames-guidance", type=float)
    parser.add_argument("--features", default="efficientnet-lite0", help="what the classifier sees by")
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sat, network = DiffusionSat.from_pretrained(args.model), feature_network(args.features)
    train, test = pairs(args.data, "train"), pairs(args.data, "test")[: args.n]

    def features(images: list[np.ndarray]) -> torch.Tensor:
        return network(np.stack(images))

    sides = [side.pixels for pair in train for side in pair]
    classifier = fit_classifier(features(sides), np.array(SIDES * len(train)))
    real = [features([pair[i].pixels for pair in test]) for i in (0, 1)]
    strengths = (args.guidance, None, args.frames_guidance)
    guidance, rows = guidance_of(sat, *strengths, strength=UNGUIDED), []
    for given, wanted in ((0, 1), (1, 0)):
        made = []
        for number, pair in enumerate(test):
            known, target = pair[given].metadata, pair[wanted]
            known = known if known.date else known.replace(date=BEFORE)
            scene = sat.predict(
                [framed(pair[given].pixels, known)],
                on=target.metadata.date or BEFORE,
                prompt=target.caption,
                metadata=target.metadata,
                seed=args.seed + number,
                guidance=guidance,
            )
            made.append(scene.pixels)
        seen = features(made)
        # Without what all images of a side have in common, which is the disaster and not the ground.
        layout, grounds = seen - seen.mean(0), real[given] - real[given].mean(0)
        own, other = (
            F.cosine_similarity(layout, ground).double().numpy() for ground in (grounds, grounds.roll(1, 0))
        )
        said = classifier(seen) == SIDES[wanted]
        line = {
            "asked": SIDES[wanted],
            "pairs": len(test),
            "said_of_generated": float(said.mean()),
            "said_of_real": float((classifier(real[wanted]) == SIDES[wanted]).mean()),
            "said_of_what_is_given": float((classifier(real[given]) == SIDES[wanted]).mean()),
            "similarity_to_own_ground": asdict(mean_interval(own)),
            "similarity_to_other_ground": asdict(mean_interval(other)),
            "nearer_to_own_ground": float((own > other).mean()),
        }
        print(json.dumps(line), flush=True)
        rows += [[pair[given].pixels for pair in test], made, [pair[wanted].pixels for pair in test]]
    if args.sheet:
        Image.fromarray(np.concatenate([np.concatenate(row[:SHOWN], 1) for row in rows])).save(args.sheet)


if __name__ == "__main__":
    main()
