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
import hashlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diffusionsat import DiffusionSat, DiffusionSatError
from diffusionsat.errors import DatasetError
from diffusionsat.evaluation import plausibility, report
from diffusionsat.evaluation.protocol import EvaluateRequest, versions
from diffusionsat.evaluation.run import evaluate
from diffusionsat.evaluation.sampling import centrals, rows
from diffusionsat.evaluation.section import Section
from diffusionsat.evaluation.units import digest
from diffusionsat.evaluation.working import made_by
from diffusionsat.execution import executor
from diffusionsat.files import write_bytes

IMAGES = (
    *("eurosat_rgb", "blue_marble_2004", "uc_merced", "naip_california_cities", "s2_ports"),
    *("s2_monthly_ecomapper", "s2_series_lazio"),  # with clouds
)
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
LABELLED = ("eurosat_rgb", "uc_merced")
AUDITED = ("blue_marble_2004", "s2_ports", "landsat_30m_paraguay_brazil_us")


@dataclass(frozen=True)
class Part:
    """One evaluation: its data sets, options, the tables and the figures that the documentation shows.

    ``times`` is how many times the images of a part it wants.
    """

    title: str
    sources: tuple[str, ...]
    options: dict[str, Any]
    tables: tuple[str, ...]
    figures: tuple[str, ...] = ("sheet.png",)
    times: float = 1


_IN_HOLES = ("pairs", "against baselines", "samples")
_SHOWN = ("sheet.png", "ranks.png")
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
            "geography",
            "no particular bias",
            "cells at equal N",
        ),
        ("sheet.png", "sweeps.png", "geography.png", "controllability.png"),
    ),
    "sampling": Part(
        "Steps, solvers, schedules and guidance",
        ("eurosat_rgb",),
        {"task": "generate", "vary": ("sampling",), "trained": 0},
        ("steps", "guidance"),
        ("sampling.png",),
        0.25,
    ),
    "upscale": Part(
        "Sharper by 4",
        SHARP,
        {"task": "upscale", "samples": 4},
        ("pairs", "feature_distances", "against baselines", "samples", "geography", "no particular bias"),
        _SHOWN,
    ),
    "predict": Part(
        "Another date",
        DATES,
        {"task": "predict", "samples": 4},
        ("pairs", "against baselines", "more frames", "samples"),
        _SHOWN,
    ),
    "inpaint": Part("Holes", DATES, {"task": "inpaint", "samples": 4}, _IN_HOLES, _SHOWN),
    "declouds": Part("Under clouds", DATES, {"task": "declouds", "samples": 4}, _IN_HOLES, _SHOWN),
    "edit": Part("Edited images", ("eurosat_rgb",), {"task": "edit"}, ("quality", "words", "layout")),
    "probes": Part(
        "The network as a backbone",
        LABELLED,
        {"task": "features"},
        ("linear probes",),
        ("probes.png",),
        8,
    ),
}
KNOWN = (*PARTS, "audit")
AUDIT = Part("Claims about real images", AUDITED, {}, ("claims",), ())


def tables_of(args: argparse.Namespace, sat: DiffusionSat, name: str, told: Any) -> dict[str, Any]:
    """What a part found, from its folder if it is done: tables, notes, and the protocol."""
    folder = args.output / name
    if not (folder / report.REPORT).exists():
        if name in PARTS:
            _evaluate(args, PARTS[name], folder, told)
        else:
            _audit(args, sat, folder, told)
    found = report.read(folder)
    if found["made_by"]["model_hash"] != sat.checkpoint:
        raise DatasetError(f"{folder} is of another model. Give another -o, or remove it.")
    return found


def _evaluate(args: argparse.Namespace, part: Part, folder: Path, told: Any) -> None:
    sources = [args.data / source for source in part.sources]
    data = tuple(str(source) for source in sources if (source / "test.parquet").exists())
    common = {"model": args.model, "device": args.device, "seed": args.seed, "size": args.size}
    common |= {"n": max(2, round(part.times * args.n))}
    if "sampling" in part.options.get("vary", ()):
        common["most_steps"] = args.most_steps
    request = EvaluateRequest(data=data, **common, **part.options)
    with executor(args.workers) as execute:
        evaluate(request, folder, execute=execute, on_unit=told)


def _audit(args: argparse.Namespace, sat: DiffusionSat, folder: Path, told: Any) -> None:
    """Whether true claims about test images are called unlikely, and false ones are."""
    there = [source for source in AUDITED if (args.data / source / "test.parquet").exists()]
    if not there:
        raise DatasetError(f"{args.data} has none of {', '.join(AUDITED)}. Leave the audit out by --only.")
    count = -(-args.n // len(there))
    chosen = [sample for source in there for sample in rows(args.data, source, count=count, seed=args.seed)]
    pixels, metadata = centrals(chosen, args.size)
    request = plausibility.AuditRequest(seed=args.seed)
    on_image = functools.partial(told, "audit")
    lines = plausibility.alarms(sat, list(pixels), metadata, request, on_image)
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
    said = {"task": "audit", "split": "test", "sources": there, "n": len(chosen), "size": args.size}
    said |= {"data_hash": digest([hashes, [known.to_dict() for known in metadata]]), "seed": args.seed}
    said |= {"fields": list(request.fields), "sigma": list(request.sigma), "noises": request.noises}
    said |= versions()
    claims = Section({"claims": lines})
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder, said | {"hash": digest(said)}, made_by(sat), [], [claims], matched=False)


def value(figure: Any) -> float:
    """A figure without its interval."""
    return figure["value"] if isinstance(figure, dict) else figure


def lines(found: dict[str, Any], table: str, **about: Any) -> list[dict[str, Any]]:
    """Lines of a table about something."""
    return [line for line in found["tables"].get(table, []) if about.items() <= line.items()]


def summary(parts: dict[str, dict[str, Any]]) -> list[str]:
    """A line a matter, of the parts that there are."""
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
        f"number {real['frechet_distance']:.1f}; with nothing told {nothing['frechet_distance']:.1f})"
        f"{covered}{read}."
    )


def _on_fields(found: dict[str, Any]) -> str:
    obeyed = _by_first_probe(found, "controllability", "field", "controllability")
    order = _by_first_probe(found, "sweeps", "swept", "order")
    told = [*([obeyed] if obeyed else []), *([f"order of sweeps: {order}"] if order else [])]
    return f"**Metadata** (1 is obeyed, 0 ignored): {'; '.join(told)}." if told else ""


def _by_first_probe(found: dict[str, Any], table: str, field: str, figure: str) -> str:
    """A figure of each field by the first probe that reads it, the classifier where it does."""
    first: dict[str, str] = {}
    for line in lines(found, table):
        first.setdefault(line[field], interval(line[figure]))
    return ", ".join(f"{name} {said}" for name, said in first.items())


def interval(figure: Any, form: str = ".2f") -> str:
    """A figure, and its interval if it has one."""
    if not isinstance(figure, dict):
        return format(figure, form)
    return f"{figure['value']:{form}} ({figure['low']:{form}} to {figure['high']:{form}})"


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
    return (
        f"**Sharper by 4**: {_gain(found, baseline='bicubic')} over bicubic; off its measurement by "
        f"{value(model['noise_residual']):.2f} times the noise; {_spread(lines(found, 'samples')[0])}."
    )


def _spread(line: dict[str, Any]) -> str:
    return (
        f"spread over error {value(line['spread_skill']):.2f} (1 is best), a 90 % interval holds the truth "
        f"in {value(line['interval_coverage']):.0%}"
    )


def _on_predict(found: dict[str, Any]) -> str:
    copy = {"baseline": "copy of the nearest date"}
    most = found["tables"]["against baselines"][-1]["frames"]
    changed, whole = (
        "; ".join(f"{_gain(found, part=part, frames=n, **copy)} with {n}" for n in dict.fromkeys(("1", most)))
        for part in ("changed", "whole")
    )
    return (
        f"**Another date**, over the copy of the nearest date: on what changed {changed} given; on the whole "
        f"image {whole}."
    )


def _on_holes(name: str) -> Callable[[dict[str, Any]], str]:
    def tell(found: dict[str, Any]) -> str:
        copy = _gain(found, references="with", baseline="copy of the nearest date")
        plain = _gain(found, references="without", baseline="mean colour around")
        return f"**{name}**, in the hole: {copy} over the nearest date; alone {plain} over a plain colour."

    return tell


def _on_edit(found: dict[str, Any]) -> str:
    (layout,) = lines(found, "layout")
    own, other = (value(layout[name]) for name in ("correlation", "correlation_of_another"))
    read = "".join(
        f"the class that was asked for is read in {value(x['read']):.0%} (before {x['read_real']:.0%}), "
        for x in lines(found, "words")[:1]
    )
    return (
        f"**Edited images**: {read}their layout correlates with that before by {own:.2f} (with that of "
        f"another image by {other:.2f})."
    )


def _on_sampling(found: dict[str, Any]) -> str:
    return "**Sampling**: " + next(note for note in found["notes"] if "setting" in note)


def _on_probes(found: dict[str, Any]) -> str:
    said = []
    for source in found["protocol"]["sources"]:
        some = lines(found, "linear probes", labels=source, share="10%")
        best = max((x for x in some if x["sigma"]), key=lambda x: x["read_held_out"])
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
    "edit": _on_edit,
    "sampling": _on_sampling,
    "probes": _on_probes,
    "audit": _on_audit,
}


def poor(parts: dict[str, dict[str, Any]]) -> list[str]:
    """Where a baseline is surely better than the model, a field not obeyed, or an interval too narrow."""
    said = []
    for name, found in parts.items():
        title = PARTS[name].title if name in PARTS else AUDIT.title
        for line in found["tables"].get("against baselines", ()):
            about = ", ".join(
                v for k, v in line.items() if isinstance(v, str) and k not in ("baseline", "features")
            )
            for figure, form in (("psnr_gain", "+.1f"), ("feature_distance_gain", "+.0%")):
                gain = line.get(figure)
                if isinstance(gain, dict) and gain["high"] < 0:
                    on = f" on {line['features']}" if figure == "feature_distance_gain" else " dB"
                    said.append(f"{title}, {about}: {interval(gain, form)}{on} against {line['baseline']}.")
        for line in found["tables"].get("controllability", ()):
            if line["controllability"]["high"] < 0.5:
                said.append(
                    f"{title}: {line['field']} is hardly obeyed, {interval(line['controllability'])}."
                )
        for line in found["tables"].get("samples", ()):
            covered = line.get("interval_coverage")
            if covered is not None and value(covered) < 0.8:
                about = ", ".join(v for k, v in line.items() if isinstance(v, str) and k != "set")
                said.append(f"{title}, {about}: a 90 % interval holds the truth in {value(covered):.0%}.")
    return list(dict.fromkeys(said))


def page(args: argparse.Namespace, parts: dict[str, dict[str, Any]]) -> str:
    """The page of the documentation."""
    made_by = next(iter(parts.values()))["made_by"]
    words = ["python scripts/report.py", "--data DATA", "--n N", f"--size {args.size}"]
    words += [f"--most-steps {args.most_steps}", f"--seed {args.seed}"]
    out = [
        "# Measured",
        f"`{made_by['model']}` ({made_by['model_hash'][:16]}), on test rows, by `{' '.join(words)}` with the "
        "n of each part. How to read the tables is told in [Measure a model](../how-to/evaluate.md). Figures "
        "of few images are coarse: read the intervals.",
        "\n".join(f"- {text}" for text in summary(parts)),
    ]
    if missing := [name for name in KNOWN if name not in parts]:
        out.append(f"Not measured for these weights: {', '.join(missing)}.")
    if said := poor(parts):
        out.append("## Where it is poor\n\n" + "\n".join(f"- {text}" for text in said))
    for name, found in parts.items():
        part, said = PARTS.get(name, AUDIT), found["protocol"]
        out.append(f"## {part.title}")
        count = (
            said["n"] if isinstance(said["n"], int) else ", ".join(f"{k} {v}" for k, v in said["n"].items())
        )
        out.append(
            f"Protocol `{said['hash'][:16]}`; n {count}; {said['size']} px; {', '.join(said['sources'])}."
        )
        out += [f"- {note}" for note in found["notes"]]
        for title in part.tables:
            if title in found["tables"]:
                out.append(f"### {title}\n\n{report.table(shown(title, found['tables'][title]))}")
        for figure in part.figures:
            if (args.output / name / figure).exists():
                picture = f"measured-{name}-{figure}"
                write_bytes(
                    args.docs / "images" / picture, small(args.output / name / figure), overwrite=True
                )
                out.append(f"![{name}, {figure.removesuffix('.png')}](../images/{picture})")
    return "\n\n".join(out) + "\n"


def shown(title: str, table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table's lines for the page.

    Of the probes the networks, and of each noise level the block that reads held-out training places best.
    """
    if title != "linear probes":
        return [{k: v for k, v in line.items() if not k.startswith("rank ")} for line in table]
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in table:
        key = (line["labels"], line["share"], line["sigma"] or line["features"])
        if key not in best or line["read_held_out"] > best[key]["read_held_out"]:
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
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="compact")
    parser.add_argument(
        "--n",
        type=int,
        default=256,
        help="images of each part; eight times as many for probes, a quarter for sampling",
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-steps", type=int, default=100, help="of the part sampling")
    parser.add_argument("--only", nargs="+", choices=KNOWN, default=KNOWN, help="parts to do now")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        sat = DiffusionSat.from_pretrained(args.model, device=args.device)
        for name in KNOWN:
            if name in args.only:
                tables_of(args, sat, name, functools.partial(progress, name))
        done = [name for name in KNOWN if (args.output / name / report.REPORT).exists()]
        parts = {name: tables_of(args, sat, name, None) for name in done}
        write_bytes(args.docs / "reference/measured.md", page(args, parts).encode(), overwrite=True)
    except DiffusionSatError as error:
        raise SystemExit(str(error)) from None
    print("\n".join(f"- {text}" for text in summary(parts)))


def progress(part: str, name: str, done: int, of: int) -> None:
    """Tell what is done of the units of a part."""
    print(f"\r{part}: {name} {done} of {of}   ", end="\n" if done == of else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
