"""An evaluation from its request to its report."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffusionsat.errors import CheckpointError, ConfigError, DatasetError, MissingExtraError, RasterError
from diffusionsat.evaluation import alignment, backbone, contest, figures, report, solving, telling
from diffusionsat.evaluation.arms import Arm, Variation
from diffusionsat.evaluation.cases import FITS, Cases, choose, every, open_sources
from diffusionsat.evaluation.editing import Edit
from diffusionsat.evaluation.elsewhere import files_of, matching
from diffusionsat.evaluation.evidence import LOOK, Evidence, MadeUnits, Seen, network_of
from diffusionsat.evaluation.features import NETWORKS, load_classifier
from diffusionsat.evaluation.generating import Generate
from diffusionsat.evaluation.inpainting import Inpaint
from diffusionsat.evaluation.paired import SIZE, UNIT, Paired
from diffusionsat.evaluation.predicting import Predict
from diffusionsat.evaluation.probes import Probes, fit_probes
from diffusionsat.evaluation.protocol import EDIT, FEATURES, EvaluateRequest, protocol, unheeded, versions
from diffusionsat.evaluation.section import Section
from diffusionsat.evaluation.trials import DIRECTIONS, Given
from diffusionsat.evaluation.units import OnUnit, digest, on_threads
from diffusionsat.evaluation.upscaling import Upscale
from diffusionsat.evaluation.working import Scoring, Task, Work, load_model, made_by, model_of
from diffusionsat.execution import Execute
from diffusionsat.files import write_bytes
from diffusionsat.models.compact.classifier import SMALLEST
from diffusionsat.tasks.sampling import Settings, check_seed

TAUGHT = 2_000  # training images that linear probes learn from
PARTS = "parts"  # folder of what is kept while the work goes on
SHOWN = 24
_UNANSWERED = (
    "{} holds {} images; {} are asked for, 000000.png and so on. Give an image for each line of --cases, and "
    "the same -n, --size and --seed."
)

_AS_A_SET = (
    "The images are not named 000000 and so on: they are judged as a set, and nothing is said of words, text "
    "alignment, fields or places."
)

TASKS: dict[str, Task | Paired] = {
    "generate": Generate(),
    EDIT: Edit(),
    "upscale": Upscale(),
    "predict": Predict(),
    "inpaint": Inpaint(clouds=False),
    "declouds": Inpaint(clouds=True),
}


VARIATIONS: dict[str, Variation] = {"metadata": telling, "sampling": solving}


def evaluate(
    request: EvaluateRequest,
    folder: Path,
    *,
    execute: Execute = map,
    on_unit: OnUnit | None = None,
    overwrite: bool = False,
    beside: Sequence[Section] = (),
) -> dict[str, Any]:
    """Run a task over a split, measure what it makes, and write a report.

    A run that was stopped goes on by the same call. Numbers depend neither on that nor on who does the work.

    Args:
        request: What is to be measured.
        folder: Where the report goes; made if absent.
        execute: Who does the work.
        on_unit: Called with the name of what is done, units done and units in all.
        overwrite: Replace an existing report, and what is kept of another run.
        beside: What others say, to stand in the report too.

    Returns:
        What ``report.json`` says.

    Raises:
        ConfigError: If an option is not possible.
        DatasetError: If the data, or the images from elsewhere, are not as they should be.
        CheckpointError: If a network cannot be loaded.
        RasterError: If the folder holds a report already, or cannot be written.
        MissingExtraError: If a package is not installed.
    """
    load_model.cache_clear()
    network_of.cache_clear()
    figures.check()
    _check(request)
    report.check(folder, PARTS, overwrite=overwrite)
    names, reader = _networks(request)
    work = Work(folder=folder / PARTS, execute=execute, on_unit=on_unit)
    with on_threads(1):
        if request.task == FEATURES:
            return _probe(request, folder, work, names, overwrite=overwrite)
        task = TASKS[request.task]
        if isinstance(task, Paired):
            return _contest(task, request, folder, work, names, beside, overwrite=overwrite)
        return _judge(task, request, folder, work, names, reader, beside, overwrite=overwrite)


def _judge(
    task: Task,
    request: EvaluateRequest,
    folder: Path,
    work: Work,
    names: Sequence[str],
    reader: Probes | None,
    beside: Sequence[Section],
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """`evaluate` for a task whose images are judged as a set."""
    files: tuple[Path, ...] = ()
    settings: Settings | None = None
    if request.model is not None:
        sat = model_of(request)
        size = request.size or min(sat.config.defaults.size)
        settings = task.settings(sat, request, size)
    else:
        files, size = files_of(request)
    _check_size(size)
    alignment.check(request.clip)
    matched = files == () or matching(files)
    sources = open_sources(request.data, request.split)
    asked, others = choose(
        sources, n=request.n if matched else len(files), size=size, seed=request.seed, fit=request.fit
    )
    if files and len(files) != len(asked):
        raise DatasetError(_UNANSWERED.format(request.images, len(files), len(asked)))
    asked = task.asks(asked, request)
    trained, taught, lacking = _trained(request, size)
    networks = [network_of(name) for name in names]
    said = protocol(request, asked, others, networks, settings, (trained, taught), task.conditions(request))
    report.prepare(folder, PARTS, overwrite=overwrite)
    unit = LOOK if settings is None else task.unit(settings)
    made, maker = work.images(request, task, settings, asked, files, unit)
    pixels = MadeUnits(made)
    evidence = Evidence(
        asked=asked,
        made=work.look("made", [maker, said["hash"]], len(asked), unit, pixels, names),
        real=work.look_at("real", asked, names),
        others=others,
        reference=work.look_at("reference", others, names),
        trained=trained,
        train=None if trained is None else work.look_at("train", trained, ()),
        networks=networks,
        probes=[*([reader] if reader else []), *_taught(work, taught, names)],
        matched=matched,
        seed=request.seed,
        clip=request.clip,
    )
    sections = [*task.sections(evidence), _sheets(evidence, request.task == EDIT)]
    for name in request.vary:
        sections.append(_varied(work, name, request, task, evidence, [maker, said["hash"]], names))
    sections += [*beside, Section({}, notes=[*lacking, *([] if matched else [_AS_A_SET])])]
    written = report.write(folder, said, maker, asked.cases, sections, matched=evidence.matched)
    shutil.rmtree(folder / PARTS)
    return written


def _varied(
    work: Work,
    name: str,
    request: EvaluateRequest,
    task: Task,
    evidence: Evidence,
    identity: Any,
    names: Sequence[str],
) -> Section:
    """The images made in other ways, and what is said of them; ways that come to the same are made once."""
    made: list[tuple[Arm, Seen]] = []
    asked, own = evidence.asked, task.settings(model_of(request), request, evidence.asked.size)
    done = {_way(own, request, asked): evidence.made}
    for number, arm in enumerate(VARIATIONS[name].arms(replace(request, vary=()), asked)):
        settings = task.settings(model_of(arm.request), arm.request, arm.asked.size)
        way = _way(settings, arm.request, arm.asked)
        if way not in done:
            unit, folder = task.unit(settings), f"{name}-{number:03d}"
            kept, _ = work.images(arm.request, task, settings, arm.asked, (), unit, folder)
            seen = [identity, *way]
            done[way] = work.look(f"{folder}-seen", seen, len(arm.asked), unit, MadeUnits(kept), names)
        made.append((arm, done[way]))
    return VARIATIONS[name].measure(evidence, made)


def _way(settings: Any, request: EvaluateRequest, asked: Cases) -> tuple[str, str | None, str]:
    """What decides the images of an arm."""
    return repr(settings), request.schedule, asked.digest


def _contest(
    task: Paired,
    request: EvaluateRequest,
    folder: Path,
    work: Work,
    names: Sequence[str],
    beside: Sequence[Section],
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """`evaluate` for a task whose every image answers to a true one."""
    size, files = request.size or SIZE, ()
    _check_size(size)
    conditions = task.conditions(request, size)
    settings = None
    if request.model is not None:
        settings = task.settings(model_of(request), request)
    else:
        files, _ = files_of(request)
    asked = task.choose(open_sources(request.data, request.split), request, size)
    if files and (len(files) != len(asked) or not matching(files)):
        raise DatasetError(_UNANSWERED.format(request.images, len(files), len(asked)))
    networks = [network_of(name) for name in names]
    said = protocol(request, asked, None, networks, settings, (), conditions)
    report.prepare(folder, PARTS, overwrite=overwrite)
    made, maker = work.images(request, task, settings, asked, files, UNIT)
    scoring = Scoring(task, request, asked, made, tuple(names))
    scores = work.complete("scores", [maker, said["hash"]], -(-len(asked) // UNIT), scoring)
    section = contest.measure(task, request, asked, made, scores, names)
    written = report.write(folder, said, maker, asked.cases, [section, *beside], matched=True)
    shutil.rmtree(folder / PARTS)
    return written


def _probe(
    request: EvaluateRequest, folder: Path, work: Work, names: Sequence[str], *, overwrite: bool
) -> dict[str, Any]:
    """`evaluate` for the network as a backbone, beside the feature networks."""
    sources = tuple(Path(address) for address in request.data)
    _check_size(request.size or SIZE)
    plan = backbone.Plan(
        sources=sources, n=request.n or backbone.MOST, size=request.size or SIZE, seed=request.seed
    )
    networks = [network_of(name) for name in names]
    said: dict[str, Any] = {"task": FEATURES, "split": "test", **plan.protocol}
    said |= {"features": {n.name: n.digest for n in networks}, **versions()}
    said |= {"hash": digest(said)}
    sat = model_of(request)
    looks = {sat.checkpoint: backbone.of_model(sat, request.seed)}
    looks |= {network.digest: backbone.of_network(network) for network in networks}
    report.prepare(folder, PARTS, overwrite=overwrite)
    section = backbone.measure(looks, plan, work.folder, work.on_unit)
    written = report.write(folder, said, made_by(sat), [], [section], matched=False)
    shutil.rmtree(work.folder)
    return written


def cases(request: EvaluateRequest) -> Cases:
    """What an evaluation asks for, so that others can make the images.

    Raises:
        ConfigError: If an option is not possible.
        DatasetError: If the data are not as they should be.
    """
    _check(request)
    if request.task in (EDIT, FEATURES):
        raise ConfigError(f"{request.task} asks nobody else for images, so there are no cases.")
    task = TASKS[request.task]
    if isinstance(task, Paired):
        task.conditions(request, request.size or SIZE)
        return task.choose(open_sources(request.data, request.split), request, request.size or SIZE)
    size = request.size
    if size is None:
        size = files_of(request)[1] if request.model is None else min(model_of(request).config.defaults.size)
    return choose(
        open_sources(request.data, request.split), n=request.n, size=size, seed=request.seed, fit=request.fit
    )[0]


def ask(request: EvaluateRequest, path: Path, *, overwrite: bool = False) -> int:
    """Write what an evaluation asks for.

    Args:
        request: What is to be measured.
        path: A file of GeoJSON lines; for a task whose images answer to true ones a folder with such a file,
            ``cases.geojsonl``, and the inputs of case 0 in ``000000/``: ``given-0.png`` and so on, each with
            what is true of it in ``given-0.json``.
        overwrite: Replace files.

    Returns:
        The number of cases.

    Raises:
        ConfigError: If an option is not possible.
        DatasetError: If the data are not as they should be.
        RasterError: If a file exists or cannot be written.
    """
    asked, task = cases(request), TASKS[request.task]
    if isinstance(task, Paired) and path.exists() and not path.is_dir():
        raise RasterError(f"{path} is a file. Give a folder for the inputs of {request.task}.")
    content = "".join(json.dumps(case.feature(i)) + "\n" for i, case in enumerate(asked.cases)).encode()
    if not isinstance(task, Paired) or not isinstance(asked, Given):
        write_bytes(path, content, overwrite=overwrite)
        return len(asked)
    for row in range(len(asked)):
        inside = path / f"{row:06d}"
        inside.mkdir(parents=True, exist_ok=True)
        for i, (pixels, known) in enumerate(task.trial(request, asked, row).given):
            write_bytes(inside / f"given-{i}.png", figures.png(pixels), overwrite=overwrite)
            said = json.dumps(known.to_dict()).encode()
            write_bytes(inside / f"given-{i}.json", said, overwrite=overwrite)
    write_bytes(path / report.CASES, content, overwrite=overwrite)
    return len(asked)


def _check_size(size: int) -> None:
    """Refuse images that feature networks do not take, before any is made."""
    if size < SMALLEST or size % 2:
        raise ConfigError(f"size is {size}. Give an even number of pixels, at least {SMALLEST}.")


def _check(request: EvaluateRequest) -> None:
    known = (*TASKS, FEATURES)
    if request.task not in known:
        raise ConfigError(f"There is no task {request.task!r} to evaluate. Known are: {', '.join(known)}.")
    if request.task in (EDIT, FEATURES) and request.model is None:
        raise ConfigError(f"{request.task} measures a model, not images. Give --model.")
    if not request.data:
        raise ConfigError("No data are given. Give a folder of a data set.")
    if (request.model is None) == (request.images is None):
        raise ConfigError("Give either a model or a folder of images, not both and not neither.")
    unknown = [name for name in request.vary if name not in VARIATIONS]
    if unknown or (request.vary and (request.task != "generate" or request.model is None)):
        raise ConfigError(
            f"vary is {', '.join(request.vary)}. Give some of {', '.join(VARIATIONS)}, with a model and the "
            "task generate."
        )
    if deaf := unheeded(request):
        raise ConfigError(f"The task {request.task} does not know {', '.join(deaf)}. Leave that out.")
    for name, allowed in (("fit", FITS), ("direction", DIRECTIONS)):
        if getattr(request, name) not in allowed:
            raise ConfigError(f"{name} is {getattr(request, name)!r}. Give one of {', '.join(allowed)}.")
    check_seed(request.seed)
    if "sampling" in request.vary and request.most_steps < min(solving.STEPS):
        raise ConfigError(f"most_steps is {request.most_steps}. Give at least {min(solving.STEPS)}.")
    if request.trained < 0:
        raise ConfigError(f"trained is {request.trained}. Give a number of images from 0.")
    if request.n is not None and request.n < 2:
        raise ConfigError(f"n is {request.n}. Give at least 2 images.")


def _networks(request: EvaluateRequest) -> tuple[list[str], Probes | None]:
    """Names of the feature networks, and what reads by the classifier, if there is one."""
    own = "compact-classifier" if request.classifier is None else str(request.classifier)
    names, reader = list(request.features), None
    try:
        reader = load_classifier(request.classifier).probes
    except CheckpointError:
        if request.classifier is not None:
            raise
    if reader is not None:
        names = [own, *(name for name in names if name not in (own, "compact-classifier"))]
    if not request.features:
        for name in NETWORKS:
            try:
                if name != "compact-classifier":
                    network_of(name)
                    names.append(name)
            except MissingExtraError:
                continue
    if not names:
        raise ConfigError(
            "No feature network is installed. Give --features, or pip install 'diffusionsat[eval]'."
        )
    found = [network_of(name).name for name in names]
    if len(set(found)) < len(found):
        raise ConfigError(f"Two feature networks have one name: {', '.join(found)}. Rename a file.")
    return names, reader


def _trained(request: EvaluateRequest, size: int) -> tuple[Cases | None, Cases | None, list[str]]:
    """Training images to look for copies in, those that probes learn from, and notes of sets without any."""
    folders = [address for address in request.data if not address.endswith(".parquet")]
    if request.split == "train" or not folders:
        return None, None, []
    sources, notes = [], []
    for folder in folders:
        try:
            sources += open_sources([folder], "train")
        except DatasetError as error:
            notes.append(f"No training images of {Path(folder).name} were looked at: {error}")
    common: dict[str, Any] = {"size": size, "seed": request.seed, "fit": request.fit}
    return every(sources, most=request.trained, **common), every(sources, most=TAUGHT, **common), notes


def _taught(work: Work, taught: Cases | None, names: Sequence[str]) -> list[Probes]:
    """Linear probes on every network, learned from training images."""
    if taught is None:
        return []
    seen = work.look_at("taught", taught, names)
    networks = [network_of(name).name for name in names]
    probes = [fit_probes(network, seen.features(network), taught.cases) for network in networks]
    return [one for one in probes if one.fields or one.classes]


def _sheets(evidence: Evidence, edited: bool) -> Section:
    """Generated images beside the real ones of their cases."""
    order = np.random.Generator(np.random.Philox(evidence.seed)).permutation(len(evidence.asked))
    rows = sorted(order[:SHOWN].tolist())
    pairs = zip(evidence.made.images(rows), evidence.real.images(rows), strict=True)
    images, captions = [image for pair in pairs for image in pair], []
    for row in rows:
        case = evidence.asked.cases[row]
        said = " ".join(filter(None, (case.prompt, case.metadata.date)))
        real = "real, before" if edited else f"real {said}"
        captions += [f"SYNTHETIC {said}" if evidence.matched else "SYNTHETIC", real]
    title = f"{'edited' if edited else 'generated'} images (left of each pair) beside real ones"
    return Section({}, files={"sheet.png": figures.sheet(images, captions, 8, title)})
