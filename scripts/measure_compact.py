r"""Measure the compact model, or another, on the test rows of a data folder; prints JSON lines.

    python scripts/measure_compact.py vae --model compact --data DATA --n 512
    python scripts/measure_compact.py words --model compact --data DATA --n 64 --features efficientnet-lite0 \
        -o runs/measures/words
    python scripts/measure_compact.py place --model compact --data DATA --n 2464 --samples 16 \
        -o runs/measures/place
    python scripts/measure_compact.py season --model compact --data DATA --n 256 -o runs/measures/season
    python scripts/measure_compact.py frechet --model compact --data DATA --n 1024 -o runs/measures/frechet

With ``-o`` the images are kept in the folder while they are made, a measure that was stopped goes on by the
same command, and the lines are written to ``lines.jsonl`` in it. ``vae`` takes an ``autoencoder.safetensors``
too.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from diffusionsat import DiffusionSat, DiffusionSatError, GenerateRequest
from diffusionsat.checkpoints.tensors import load_strictly, read_tensors
from diffusionsat.evaluation import compact
from diffusionsat.evaluation.features import FeatureNetwork, feature_network, load_classifier
from diffusionsat.evaluation.sampling import maker
from diffusionsat.evaluation.section import Line
from diffusionsat.files import write_bytes
from diffusionsat.models.compact.autoencoder import CompactAutoencoder

MEASURES = ("vae", "words", "place", "season", "frechet")


def autoencoder(path: Path) -> compact.Autoencode:
    network = CompactAutoencoder()
    load_strictly(network, {k: v.float() for k, v in read_tensors(path).items()}, path)
    network.eval()

    @torch.inference_mode()
    def autoencode(pixels: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        again = ((network.decode(network.encode(image)) + 1) * 127.5).round().clamp(0, 255)
        return again.to(torch.uint8).permute(0, 2, 3, 1).numpy()

    return autoencode


def measure(args: argparse.Namespace) -> list[Line]:
    plan = compact.Plan(data=args.data, n=args.n, size=args.size, seed=args.seed)
    reader = load_classifier(args.classifier)
    said = {"measure": args.measure, "size": args.size, "seed": args.seed}
    if args.measure == "vae" and Path(args.model).suffix == ".safetensors":
        lines = compact.autoencoding(autoencoder(Path(args.model)), reader, plan)
        return [said | {"model": args.model, **line, **reader.features.provenance()} for line in lines]
    sat = DiffusionSat.from_pretrained(args.model, device=args.device, precision=args.precision)
    template = GenerateRequest(
        size=(args.size, args.size), seed=args.seed, steps=args.steps, guidance=args.guidance
    )
    said |= {"model": f"{sat.config.name}@{sat.config.version}", "model_hash": sat.checkpoint}
    said |= {"precision": sat.precision, "device": sat.device.type}
    make = maker(sat, template, args.output, _progress if sys.stderr.isatty() else None)

    def autoencode(pixels: np.ndarray) -> np.ndarray:
        return sat.decode(sat.encode(pixels))

    features: FeatureNetwork = reader.features
    if args.measure != "vae":
        resolved = template.resolved(sat)
        said |= {"steps": resolved.steps, "solver": resolved.solver}
        said |= {"guidance": resolved.guidance.text, "rescale": resolved.guidance.rescale}
    if args.measure == "vae":
        lines = compact.autoencoding(autoencode, reader, plan)
    elif args.measure == "words":
        said["metadata"] = args.metadata
        pixels, names = compact.word_images(make, plan, known=args.metadata)
        lines = compact.words(pixels, names, reader, plan)
        if args.features:
            features = feature_network(args.features)
            learned = compact.usefulness(pixels, names, features, plan)
            lines += [{"of": "train on generated", **line, **features.provenance()} for line in learned]
    elif args.measure == "place":
        lines = compact.place(make, plan, samples=args.samples)
    elif args.measure == "season":
        lines = compact.season(make, reader, plan)
    else:
        features = feature_network(args.features) if args.features else reader.features
        lines = compact.distances(make, autoencode, features, plan, source=args.source, unknown=args.unknown)
    return [said | {**reader.features.provenance(), **features.provenance()} | line for line in lines]


def _progress(done: int, of: int) -> None:
    print(f"\r{done} of {of} images", end="\n" if done == of else "", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--model", default="compact", help="name, folder or autoencoder.safetensors")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n", type=int, default=64, help="rows of each data set, or images of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--samples", type=int, default=16, help="of each row, for place")
    parser.add_argument("--metadata", choices=compact.METADATA, default="gsd", help="told with the words")
    parser.add_argument("--source", default=compact.EUROSAT, help="data set, for frechet")
    parser.add_argument("--unknown", nargs="*", default=[], help="fields that are not told, for frechet")
    parser.add_argument("--features", help="network, for frechet and train-on-generated")
    parser.add_argument("--classifier", type=Path, help="folder of another classifier than the shipped one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in measure(args))
        if args.output:
            write_bytes(args.output / "lines.jsonl", text.encode(), overwrite=True)
    except DiffusionSatError as error:
        raise SystemExit(str(error)) from None
    print(text, end="")


if __name__ == "__main__":
    main()
