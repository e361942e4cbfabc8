r"""Measure the model in all that it does, and write what was found for the documentation.

    python scripts/report.py --data DATA --n 256 -o runs/report
    python scripts/report.py --data DATA --n 64 --most-steps 20 --only generate upscale -o runs/report

DATA holds a folder a data set, with ``train.parquet`` and ``test.parquet``; absent ones are left out.
Each part has a report in a folder of its own; a run that was stopped goes on by the same command, and parts
that are done are not done again. Then ``docs/reference/measured.md`` and its figures are written of all the
parts that there are.
"""

import argparse
import functools
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diffusionsat import DiffusionSat, DiffusionSatError
from diffusionsat.errors import DatasetError
from diffusionsat.evaluation import backbone, plausibility, report
from diffusionsat.evaluation.features import NETWORKS, feature_network
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.run import evaluate
from diffusionsat.evaluation.sampling import centrals, rows
from diffusionsat.evaluation.units import digest
from diffusionsat.execution import executor
from diffusionsat.files import write_bytes

IMAGES = ("eurosat_rgb", "blue_marble_2004", "uc_merced", "naip_california_cities", "s2_ports")
SHARP = ("eurosat_rgb", "naip_california_cities", "uc_merced", "s2_ports", "landsat_30m_paraguay_brazil_us")
DATES = (
    "naip_california_cities",
    "s2_monthly_ecomapper",
    "naip_north_dakota",
    "s2_series_lazio",
    "s2_series_iberia_france",
    "s2_series_small",
    "wildfire_karabuk",
    "s2_forest_loss_czechia",
)
AUDITED = ("blue_marble_2004", "s2_ports", "landsat_30m_paraguay_brazil_us")


@dataclass(frozen=True)
class Part:
    """One evaluation: its data sets, options, the tables and the figures that the documentation shows."""

    title: str
    sources: tuple[str, ...]
    options: dict[str, Any]
    tables: tuple[str, ...]
    figures: tuple[str, ...] = ("sheet.png",)


PARTS = {
    "generate": Part(
        "Images of words and metadata",
        IMAGES,
        {"task": "generate", "vary": ("metadata",), "trained": 20_000},
        (
            "quality",
            "colours",
            "memorisation",
            "words",
            "controllability",
            "metadata that lack or lie",
            "sweeps",
            "usefulness",
            "no particular bias",
        ),
        ("sheet.png", "sweeps.png", "geography.png", "controllability.png"),
    ),
    "sampling": Part(
        "Steps, solvers, schedules and guidance",
        ("eurosat_rgb",),
        {"task": "generate", "vary": ("sampling",), "trained": 0},
        ("steps", "guidance"),
        ("sampling.png",),
    ),
    "upscale": Part(
        "Sharper by 4",
        SHARP,
        {"task": "upscale", "samples": 4},
        ("pairs", "feature_distances", "against baselines", "samples", "no particular bias"),
    ),
    "predict": Part(
        "Another date", DATES, {"task": "predict"}, ("pairs", "against baselines", "more frames")
    ),
    "inpaint": Part("Holes", DATES, {"task": "inpaint"}, ("pairs", "against baselines")),
    "declouds": Part("Under clouds", DATES, {"task": "declouds"}, ("pairs", "against baselines")),
}
OTHERS = ("probes", "audit")
TITLES = {"probes": "The network as a backbone", "audit": "Claims about real images"}


def tables_of(args: argparse.Namespace, sat: DiffusionSat, name: str, told: Any) -> dict[str, Any]:
    """What a part found, from its folder if it is done: tables, notes, and the protocol."""
    folder = args.output / name
    if not (folder / report.REPORT).exists():
        if name in PARTS:
            _evaluate(args, PARTS[name], folder, told)
        else:
            {"probes": _probe, "audit": _audit}[name](args, sat, folder, told)
    found = json.loads((folder / report.REPORT).read_text())
    if found["made_by"]["model_hash"] != sat.checkpoint:
        raise DatasetError(f"{folder} is of another model. Give another -o, or remove it.")
    return found


def _evaluate(args: argparse.Namespace, part: Part, folder: Path, told: Any) -> None:
    sources = [args.data / source for source in part.sources]
    data = tuple(str(source) for source in sources if (source / "test.parquet").exists())
    common = {"model": args.model, "device": args.device, "seed": args.seed, "size": args.size, "n": args.n}
    request = EvaluateRequest(data=data, **common, most_steps=args.most_steps, **part.options)
    with executor(args.workers) as execute:
        evaluate(request, folder, execute=execute, on_unit=told)


def _probe(args: argparse.Namespace, sat: DiffusionSat, folder: Path, told: Any) -> None:
    """Linear probes on all blocks, beside the feature networks that are installed."""
    networks = [feature_network(name) for name in NETWORKS]
    looks = [backbone.of_model(sat, args.seed), *map(backbone.of_network, networks)]
    plan = backbone.Plan(data=args.data, n=8 * args.n, size=args.size, seed=args.seed)
    section = backbone.measure(looks, plan, folder / "parts", told)
    said = {"n": plan.n, "size": plan.size, "seed": plan.seed, "sources": list(plan.sources)}
    said["features"] = {network.name: network.digest for network in networks}
    for file, content in section.files.items():
        write_bytes(folder / file, content, overwrite=True)
    _write(folder, sat, said, section.tables)


def _audit(args: argparse.Namespace, sat: DiffusionSat, folder: Path, told: Any) -> None:
    """Whether true claims about test images are called unlikely, and false ones are."""
    there = [source for source in AUDITED if (args.data / source / "test.parquet").exists()]
    count = -(-args.n // len(there))
    chosen = [sample for source in there for sample in rows(args.data, source, count=count, seed=args.seed)]
    pixels, metadata = centrals(chosen, args.size)
    request = plausibility.AuditRequest(seed=args.seed)
    on_image = functools.partial(told, "audit")
    lines = plausibility.alarms(sat, list(pixels), metadata, request, on_image)
    said = {"n": len(chosen), "size": args.size, "seed": args.seed, "sources": there, "sigma": request.sigma}
    _write(folder, sat, said | {"noises": request.noises}, {"claims": lines})


def _write(folder: Path, sat: DiffusionSat, said: dict[str, Any], tables: dict[str, Any]) -> None:
    made_by = {"model": f"{sat.config.name}@{sat.config.version}", "model_hash": sat.checkpoint}
    found = {"protocol": said | {"hash": digest(said)}, "made_by": made_by, "tables": tables, "notes": []}
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / report.REPORT, (json.dumps(found, indent=1) + "\n").encode())


def value(figure: Any) -> float:
    """A figure without its interval."""
    return figure["value"] if isinstance(figure, dict) else figure


def lines(found: dict[str, Any], table: str, **about: Any) -> list[dict[str, Any]]:
    """Lines of a table about something."""
    return [line for line in found["tables"].get(table, []) if about.items() <= line.items()]


def summary(parts: dict[str, dict[str, Any]]) -> list[str]:
    """A line a matter, in the words of the README; of the parts that there are."""
    return [text for name, tell in SUMMARIES.items() if name in parts for text in [tell(parts[name])] if text]


def _on_images(found: dict[str, Any]) -> str:
    network = found["tables"]["quality"][-1]["features"]
    made, real = (lines(found, "quality", features=network, set=kind)[0] for kind in ("generated", "real"))
    nothing = lines(found, "metadata that lack or lie", features=network, told="nothing")[0]
    read = "".join(
        f"; the class is read as asked in {value(x['read']):.0%} (real {x['read_real']:.0%}, chance "
        f"{x['read_by_chance']:.0%})"
        for x in lines(found, "words")[:1]  # few images of a data set tell nothing
    )
    covered = f", coverage {made['coverage']:.2f} (real {real['coverage']:.2f})" if "coverage" in made else ""
    return (
        f"**Images**: Fréchet distance on {network} {made['frechet_distance']:.1f} (real images of that "
        f"number {real['frechet_distance']:.1f}; told nothing {nothing['frechet_distance']:.1f})"
        f"{covered}{read}."
    )


def _on_fields(found: dict[str, Any]) -> str:
    obeyed = _by_first_probe(found, "controllability", "field", "controllability")
    order = _by_first_probe(found, "sweeps", "swept", "order")
    told = [*([obeyed] if obeyed else []), *([f"order of sweeps: {order}"] if order else [])]
    return f"**Metadata** (1 is obeyed, 0 ignored): {'; '.join(told)}." if told else ""


def _by_first_probe(found: dict[str, Any], table: str, field: str, figure: str) -> str:
    """A figure of each field by the first probe that reads it, the classifier where it does."""
    first: dict[str, float] = {}
    for line in lines(found, table):
        first.setdefault(line[field], value(line[figure]))
    return ", ".join(f"{name} {figure:.2f}" for name, figure in first.items())


def _gain(found: dict[str, Any], **about: Any) -> str:
    """Gains in dB and in the feature distance of the last network over a baseline."""
    rows_ = lines(found, "against baselines", **about)
    psnr = next(value(x["psnr_gain"]) for x in rows_ if "psnr_gain" in x)
    features = [x for x in rows_ if "feature_distance_gain" in x][-1:]
    told = [
        f"{psnr:+.1f} dB",
        *(f"{value(x['feature_distance_gain']):+.0%} feature distance" for x in features),
    ]
    return ", ".join(told)


def _on_upscale(found: dict[str, Any]) -> str:
    model = lines(found, "pairs", set="model")[0]
    spread = value(lines(found, "samples")[0]["spread_skill"])
    return (
        f"**Sharper by 4**: {_gain(found, baseline='bicubic')} over bicubic; off its measurement by "
        f"{value(model['noise_residual']):.2f} times the noise; spread over error {spread:.2f} (1 is best)."
    )


def _on_predict(found: dict[str, Any]) -> str:
    copy = {"baseline": "copy of the nearest date"}
    most = found["tables"]["against baselines"][-1]["frames"]
    said = [f"{_gain(found, part='changed', frames=frames, **copy)} with {frames}" for frames in ("1", most)]
    return f"**Another date**, on what changed, over the copy of the nearest date: {'; '.join(said)} given."


def _on_holes(name: str) -> Callable[[dict[str, Any]], str]:
    def tell(found: dict[str, Any]) -> str:
        copy = _gain(found, references="with", baseline="copy of the nearest date")
        plain = _gain(found, references="without", baseline="mean colour around")
        return f"**{name}**, in the hole: {copy} over the nearest date; alone {plain} over a plain colour."

    return tell


def _on_sampling(found: dict[str, Any]) -> str:
    return "**Sampling**: " + next(note for note in found["notes"] if "setting" in note)


def _on_probes(found: dict[str, Any]) -> str:
    said = []
    for source in found["protocol"]["sources"]:
        some = lines(found, "linear probes", labels=source, share="10%")
        best = max((x for x in some if x["sigma"]), key=lambda x: value(x["read"]))
        beside = [f"{x['features']} {value(x['read']):.0%}" for x in some if not x["sigma"]]
        own = f"{value(best['read']):.0%} ({best['features']}, noise {best['sigma']})"
        said.append(f"{source} {own}, {', '.join(beside)}")
    return f"**Backbone**, classes read with a tenth of the labels: {'; '.join(said)}."


def _on_audit(found: dict[str, Any]) -> str:
    said = [f"{x['field']} {x['false_alarms']:.0%} / {x['found_lies']:.0%}" for x in lines(found, "claims")]
    return f"**Audit**, true claims called unlikely / false ones: {', '.join(said)}."


SUMMARIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "generate": lambda found: "\n- ".join(filter(None, (_on_images(found), _on_fields(found)))),
    "upscale": _on_upscale,
    "predict": _on_predict,
    "inpaint": _on_holes("Holes"),
    "declouds": _on_holes("Under clouds"),
    "sampling": _on_sampling,
    "probes": _on_probes,
    "audit": _on_audit,
}


def page(args: argparse.Namespace, parts: dict[str, dict[str, Any]]) -> str:
    """The page of the documentation."""
    made_by = next(iter(parts.values()))["made_by"]
    words = ["python scripts/report.py", "--data DATA", f"--n {args.n}", f"--size {args.size}"]
    words += [f"--most-steps {args.most_steps}", f"--seed {args.seed}"]
    out = [
        "# Measured",
        f"`{made_by['model']}` ({made_by['model_hash'][:16]}), on test rows, by `{' '.join(words)}`. How to "
        "read the tables is told in [Measure a model](../how-to/evaluate.md). Figures of few images are "
        "coarse: read the intervals.",
        "\n".join(f"- {text}" for text in summary(parts)),
    ]
    for name, found in parts.items():
        part, said = PARTS.get(name), found["protocol"]
        out.append(f"## {part.title if part else TITLES[name]}")
        out.append(
            f"Protocol `{said['hash'][:16]}`; n {said['n']}, {said['size']} px; {', '.join(said['sources'])}."
        )
        out += [f"- {note}" for note in found["notes"]]
        for title in part.tables if part else found["tables"]:
            if title in found["tables"]:
                out.append(f"### {title}\n\n{report.table(shown(title, found['tables'][title]))}")
        for figure in (*(part.figures if part else ()), "probes.png"):
            if (args.output / name / figure).exists():
                picture = f"measured-{name}-{figure}"
                write_bytes(
                    args.docs / "images" / picture, small(args.output / name / figure), overwrite=True
                )
                out.append(f"![{name}, {figure.removesuffix('.png')}](../images/{picture})")
    return "\n\n".join(out) + "\n"


def shown(title: str, table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table's lines for the page; of the probes the networks, and of each noise level the best block."""
    if title != "linear probes":
        return [{k: v for k, v in line.items() if not k.startswith("rank ")} for line in table]
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in table:
        key = (line["labels"], line["share"], line["sigma"] or line["features"])
        if key not in best or value(line["read"]) > value(best[key]["read"]):
            best[key] = line
    return list(best.values())


def small(file: Path) -> bytes:
    """A picture in 256 colours."""
    out = io.BytesIO()
    Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = (*PARTS, *OTHERS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="compact")
    parser.add_argument(
        "--n", type=int, default=256, help="images of each part; eight times as many for probes"
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-steps", type=int, default=100, help="of the part sampling")
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="parts to do now")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        sat = DiffusionSat.from_pretrained(args.model, device=args.device)
        for name in known:
            if name in args.only:
                tables_of(args, sat, name, functools.partial(_progress, name))
        done = [name for name in known if (args.output / name / report.REPORT).exists()]
        parts = {name: tables_of(args, sat, name, None) for name in done}
        write_bytes(args.docs / "reference/measured.md", page(args, parts).encode(), overwrite=True)
    except DiffusionSatError as error:
        raise SystemExit(str(error)) from None
    print("\n".join(f"- {text}" for text in summary(parts)))


def _progress(part: str, name: str, done: int, of: int) -> None:
    print(f"\r{part}: {name} {done} of {of}   ", end="\n" if done == of else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
