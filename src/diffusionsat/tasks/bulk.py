"""Many images in one job: one a GeoJSON feature, written as a data set, taken up again where it stopped."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from diffusionsat.data.writers import FORMS, Item, file_name
from diffusionsat.errors import DiffusionSatError, RasterError
from diffusionsat.files import write_bytes
from diffusionsat.geo.features import Feature
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.drawing import grid_of
from diffusionsat.tasks.generate import GenerateRequest, Resolved, batch_size, make_batch
from diffusionsat.tasks.scene import Scene

log = logging.getLogger(__name__)

JOB = "diffusionsat-job.json"
INDEX = "index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One image of a job.

    Args:
        name: Its name in the output.
        label: Its class, or empty.
        request: What to make, resolved.
        index: Its index under the request's seed.
    """

    name: str
    label: str
    request: Resolved
    index: int


def plan(
    sat: DiffusionSat, features: Sequence[Feature], base: GenerateRequest
) -> tuple[list[Planned], list[tuple[int, str]]]:
    """The images of a job, and what is wrong with the features that give none.

    A feature's properties go before the base's values; size, steps, solver, guidance and negative are the
    base's. Under the base's seed every feature has its own index, so that no two share their noise; a feature
    with a seed of its own has index 0.

    Args:
        sat: The model.
        features: As `read_features` gives them.
        base: Fills gaps.

    Returns:
        Images, and (index, complaint) of bad features.
    """
    planned: list[Planned] = []
    bad: list[tuple[int, str]] = []
    names: set[str] = set()
    for feature in features:
        if feature.error:
            bad.append((feature.index, feature.error))
            continue
        try:
            one = _planned(sat, feature, base)
        except DiffusionSatError as error:
            bad.append((feature.index, str(error)))
            continue
        if feature.place is None:
            known = one.request.metadata.lon is not None
            taken = "the place given in the options is taken" if known else "its image has no place"
            log.warning("feature %d has no geometry; %s", feature.index, taken)
        while one.name in names:
            one = replace(one, name=f"{one.name}-{feature.index:06d}")
        names.add(one.name)
        planned.append(one)
    return planned, bad


def _planned(sat: DiffusionSat, feature: Feature, base: GenerateRequest) -> Planned:
    given = dict(feature.properties)
    label = str(given.pop("label", ""))
    prompt = str(given.pop("prompt", label or base.prompt))
    name = file_name(str(given.pop("id", f"{feature.index:06d}")))
    index = 0 if "seed" in given else feature.index
    seed = given.pop("seed", base.seed)
    if feature.place is not None:
        given["lon"], given["lat"] = feature.place
    request = replace(base, prompt=prompt, seed=seed, metadata=base.metadata.replace(**given)).resolved(sat)
    # An extent that cannot be mapped is this feature's fault and is told as such.
    grid_of(request.metadata, request.size)
    return Planned(name=name, label=label, request=request, index=index)


def run(
    sat: DiffusionSat,
    planned: Sequence[Planned],
    folder: Path,
    form: str,
    *,
    overwrite: bool = False,
    on_image: Callable[[int], None] | None = None,
) -> Iterator[Path]:
    """Make a job's images and write them; what is there already is not made again.

    Batches are cut by position, never by what is left to do, so that a job taken up again gives the pixels
    that it would have given.

    Args:
        sat: The model.
        planned: The images.
        folder: Where they go; made if absent.
        form: One of `FORMS`.
        overwrite: Remove what the folder holds of this or another job, and begin anew.
        on_image: Called with the number of images done.

    Yields:
        Every file, as soon as it is whole.

    Raises:
        RasterError: If the folder holds something else than this job, or cannot be written.
    """
    writer = FORMS[form]
    writer.check()
    groups = [range(i, min(i + writer.group, len(planned))) for i in range(0, len(planned), writer.group)]
    names = [
        writer.path(n, planned[group[0]].name, planned[group[0]].label) for n, group in enumerate(groups)
    ]
    _claim(folder, _fingerprint(sat, planned, form), names, overwrite)
    files = [folder / name for name in names]
    missing = {n for n, file in enumerate(files) if not file.exists()}
    pending: dict[int, list[Item]] = {}
    count = batch_size(planned[0].request) if planned else 1
    for start in range(0, len(planned), count):
        batch = range(start, min(start + count, len(planned)))
        if {i // writer.group for i in batch} & missing:
            images = [(planned[i].request, planned[i].index) for i in batch]
            for i, scene in zip(batch, make_batch(sat, images), strict=True):
                pending.setdefault(i // writer.group, []).append(_item(planned[i], scene))
        for i in batch:
            number = i // writer.group
            if i == groups[number][-1]:
                if number in missing:
                    writer.write(files[number], pending[number])
                pending.pop(number, None)
                yield files[number]
            if on_image:
                on_image(i + 1)
    if form == "folder":
        index = [_summary(p, name) for p, name in zip(planned, names, strict=True)]
        write_bytes(folder / INDEX, (json.dumps(index, indent=1) + "\n").encode(), overwrite=True)
        yield folder / INDEX


def _item(planned: Planned, scene: Scene) -> Item:
    return Item(
        name=planned.name,
        label=planned.label,
        metadata=scene.metadata,
        caption=planned.request.prompt,
        png=scene.to_png,
        tif=scene.to_geotiff,
        provenance=scene.provenance,
        grid=scene.grid,
        size=planned.request.size,
    )


def _summary(planned: Planned, file: str) -> dict:
    r = planned.request
    return {
        "file": file,
        "synthetic": True,
        "label": planned.label or None,
        "caption": r.prompt,
        "seed": r.seed,
    } | r.metadata.to_dict()


def _fingerprint(sat: DiffusionSat, planned: Sequence[Planned], form: str) -> str:
    digest = hashlib.sha256(f"{sat.checkpoint} {sat.precision} {sat.device.type} {form}".encode())
    for one in planned:
        digest.update(json.dumps(asdict(one), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _claim(folder: Path, fingerprint: str, names: Sequence[str], overwrite: bool) -> None:
    """Make the folder this job's, unless it is another's; to overwrite, remove the old job's files first."""
    job = folder / JOB
    if folder.exists() and not folder.is_dir():
        raise RasterError(f"{folder} is a file. Give a folder for the images.")
    held = _held(job)
    if held.get("fingerprint") == fingerprint and not overwrite:
        return
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise RasterError(
            f"{folder} holds other files or another job. Give another folder, the same features and "
            "options to go on with that job, or --overwrite."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        job.unlink(missing_ok=True)
        for name in {*held.get("files", []), *names, INDEX}:
            for file in (folder / name, (folder / name).with_suffix(".pgw")):
                if file.resolve().is_relative_to(folder.resolve()) and not file.is_dir():
                    file.unlink(missing_ok=True)
    except OSError as error:
        raise RasterError(f"{folder} cannot be prepared: {error.strerror}.") from error
    content = json.dumps({"fingerprint": fingerprint, "files": list(names)})
    write_bytes(job, (content + "\n").encode(), overwrite=True)


def _held(job: Path) -> dict:
    """The job whose files a folder holds; empty if none."""
    try:
        held = json.loads(job.read_text())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
