"""Many images in one job: one a GeoJSON feature, written as a data set, taken up again where it stopped."""

import hashlib
import itertools
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
from diffusionsat.tasks.generate import GenerateRequest, Resolved, batch_size, grid_of, make_batch
from diffusionsat.tasks.scene import Scene

log = logging.getLogger(__name__)

JOB = "diffusionsat-job.json"


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

    A feature's properties go before the base's values. Under the base's seed every feature has its own index,
    so that no two share their noise; a feature with a seed of its own has index 0.

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
    grid_of(request)  # an extent that cannot be mapped is this feature's fault and is told as such
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
        overwrite: Make everything anew, over what is there.
        on_image: Called with the number of images done.

    Yields:
        Every file, as soon as it is whole.

    Raises:
        RasterError: If the folder holds something else than this job, or cannot be written.
    """
    _claim(folder, _fingerprint(sat, planned, form), overwrite)
    writer, done = FORMS[form], 0
    pending: dict[int, list[Item]] = {}
    groups = [range(i, min(i + writer.group, len(planned))) for i in range(0, len(planned), writer.group)]
    files = [
        [folder / p for p in writer.paths(number, [(planned[i].name, planned[i].label) for i in group])]
        for number, group in enumerate(groups)
    ]
    missing = {n for n in range(len(groups)) if overwrite or not all(file.exists() for file in files[n])}
    for batch in _batches(planned):
        if {i // writer.group for i in batch} & missing:
            images = [(planned[i].request, planned[i].index) for i in batch]
            for i, scene in zip(batch, make_batch(sat, images), strict=True):
                pending.setdefault(i // writer.group, []).append(_item(planned[i], scene))
        for i in batch:
            number = i // writer.group
            if i == groups[number][-1]:
                if number in missing:
                    writer.write(files[number], pending.pop(number))
                yield from files[number]
            done += 1
            if on_image:
                on_image(done)
    if form == "folder":
        index = [_summary(p, str(f[0].relative_to(folder))) for p, f in zip(planned, files, strict=True)]
        write_bytes(folder / "index.json", (json.dumps(index, indent=1) + "\n").encode(), overwrite=True)
        yield folder / "index.json"


def _batches(planned: Sequence[Planned]) -> Iterator[list[int]]:
    """Positions that are made together: neighbours of equal settings, as many as a batch holds."""

    def settings(i: int) -> tuple:
        r = planned[i].request
        return r.size, r.steps, r.solver, r.guidance, r.negative

    for _, same in itertools.groupby(range(len(planned)), settings):
        group = list(same)
        count = batch_size(planned[group[0]].request)
        for start in range(0, len(group), count):
            yield group[start : start + count]


def _item(planned: Planned, scene: Scene) -> Item:
    return Item(
        name=planned.name,
        label=planned.label,
        metadata=scene.metadata,
        caption=planned.request.prompt,
        png=scene.to_png,
        tif=scene.to_geotiff,
        provenance=scene.provenance,
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
    digest = hashlib.sha256(f"{sat.checkpoint} {sat.precision} {form}".encode())
    for one in planned:
        digest.update(json.dumps(asdict(one), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _claim(folder: Path, fingerprint: str, overwrite: bool) -> None:
    """Make the folder this job's, unless it is another's."""
    job = folder / JOB
    if folder.exists() and not folder.is_dir():
        raise RasterError(f"{folder} is a file. Give a folder for the images.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        held = json.loads(job.read_text()).get("fingerprint") if job.is_file() else None
        if held != fingerprint:
            raise RasterError(
                f"{folder} holds other files or another job. Give another folder, the same features and "
                "options to go on with that job, or --overwrite."
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RasterError(f"{folder} cannot be made: {error.strerror}.") from error
    write_bytes(job, (json.dumps({"fingerprint": fingerprint}) + "\n").encode(), overwrite=True)
