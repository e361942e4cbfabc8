"""What the jobs on rasters have in common: from solved latents to rasters on the ground, block by block.

A `Restoration` says what is solved and what becomes of a rectangle of it; `restore` makes a `Scene` of it in
memory, `restore_to` files of any size.
The class and both ways of doing it stand here, as they know each other.
"""

import contextlib
import copy
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffusionsat.checkpoints.facts import Calibration
from diffusionsat.data.radiometry import rounded
from diffusionsat.diffusion.constraints import INVENTED
from diffusionsat.diffusion.solvers import Cancelled, OnStep, StepInfo
from diffusionsat.errors import ConfigError, RasterError
from diffusionsat.execution import Execute
from diffusionsat.files import write_bytes
from diffusionsat.geo.images import read_tags
from diffusionsat.geo.publishing import RasterWriter, check_replaceable
from diffusionsat.geo.rasters import ArrayRaster, Pixels
from diffusionsat.tasks.job import Job
from diffusionsat.tasks.limits import warn
from diffusionsat.tasks.output import Output
from diffusionsat.tasks.sampling import provenance
from diffusionsat.tasks.scene import Scene, deciding, forget_layers, layer_path, tags

log = logging.getLogger(__name__)

BLOCK = 512  # pixels of a side that are made at once, about

_BEGUN = "begun"  # in a layer's folder once it is being published: what then has its name is the job's own
_DIFFERENCES, _CLASSES = ("spread", "invented"), ("support",)  # layers without the offset, and of no unit

OnShare = Callable[[float], bool | None]


class Restoration(Job):
    """A job that makes a raster of rasters.

    Args:
        *args: See `Job`.
        task: Its name.
        output: Form of what is made.
        samples: Images that are made; their mean is the result.
        inputs: Names and hashes of the inputs.
        files: Those that the inputs are read from, which must not be written over.
        said: Tags that let the output be read as the input was.
        more: What else provenance says.
        **kwargs: See `Job`.
    """

    margin = 0  # pixels around a block that its finish looks at
    block = BLOCK
    apart = True  # whether each of several samples is given beside their mean
    details = False  # whether `measured` and `support` say something; they are asked only then

    def __init__(
        self,
        *args: Any,
        task: str,
        output: Output,
        samples: int = 1,
        inputs: Mapping[str, str],
        files: Sequence[Path],
        said: Mapping[str, str],
        more: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.task, self.output, self.samples, self.inputs = task, output, samples, inputs
        self.files, self.said, self.more = tuple(files), dict(said), dict(more)
        name, learnt = self.sat.config.name, self.sat.facts.of(self.control)
        warn(name, learnt, self.metadata, (self.width, self.height), self.views)
        if samples > 1 and self.calibration is None:
            log.warning(
                "%s has no calibration for such a job: the spread is that of the samples, and there is no "
                "interval",
                name,
            )

    @cached_property
    def calibration(self) -> Calibration | None:
        """Of the spread and the interval; None if the model has none for such a job."""
        said = self._said()
        return self.sat.facts.calibration(self.sat.checkpoint, said) if self.samples > 1 else None

    def sample(self, index: int) -> "Restoration":
        """The same job with the noise of its index-th sample."""
        other = copy.copy(self)
        other.index, other._kept = self.index + index, {}
        return other

    def image(self, number: int) -> "Restoration":
        """The same job with the noise of the image of a number, counted from 0."""
        return self.sample(number * self.samples)

    def finish(self, light: np.ndarray, rows: range, columns: range) -> np.ndarray:
        """Light as it is to be written, of light as it was decoded, (K, 3, rows, columns)."""
        return light

    def measured(self, rows: range, columns: range) -> np.ndarray:
        """What a measurement determines of red, green and blue, (3, rows, columns), as numbers are stored.

        Here nothing was measured.
        """
        return np.zeros((3, len(rows), len(columns)))

    def support(self, rows: range, columns: range) -> np.ndarray:
        """How far a measurement determines each pixel, one of the classes of `constraints.support`.

        Here all is invented.
        """
        return np.full((len(rows), len(columns)), INVENTED, np.uint8)

    def new(self, rows: range, columns: range) -> np.ndarray:
        """Weights, 0 to 1, of what was made in what is written, float32 (rows, columns); here all is new."""
        return np.ones((len(rows), len(columns)), np.float32)

    def others(self, rows: range, columns: range) -> Pixels:
        """The bands of the output as they were, those that are made included; here none were."""
        shape = (len(self.output.bands), len(rows), len(columns))
        return np.zeros(shape, self.output.dtype), np.ones(shape, bool)

    def composed(
        self, made: np.ndarray, before: np.ndarray, valid: np.ndarray, rows: range, columns: range
    ) -> Pixels:
        """Red, green and blue of what was made, stored numbers but not rounded, and of what was before."""
        return rounded(made, self.output.dtype, self.output.nodata), valid

    @property
    def layers(self) -> dict[str, tuple[tuple[str, ...], np.dtype, float | None]]:
        """Bands, dtype and nodata of each raster that is made."""
        rgb, single = ("red", "green", "blue"), np.dtype(np.float32)
        out = self.output
        found = {"image": (out.bands, out.dtype, out.nodata)}
        if self.samples > 1:
            found["spread"] = (rgb, single, None)
        if self.calibration is not None:
            found["interval"] = (tuple(f"{c}_{end}" for end in ("low", "high") for c in rgb), single, None)
        if self.samples > 1 and self.apart:
            numbered = tuple(f"{c}_{i}" for i in range(1, self.samples + 1) for c in rgb)
            found["samples"] = (numbered, out.dtype, out.nodata)
        if self.details:
            found |= {"measured": (rgb, single, None), "invented": (rgb, single, None)}
            found["support"] = (("support",), np.dtype(np.uint8), None)
        return found

    def render(self, latents: Sequence[np.ndarray], rows: range, columns: range) -> dict[str, Pixels]:
        """All layers of a rectangle.

        Args:
            latents: Of each sample.
            rows: Of the image, a block that `blocks` gives.
            columns: Likewise.
        """
        high, wide = self.with_margin(rows, self.height), self.with_margin(columns, self.width)
        radiometry, renderer = self.output.radiometry, self.renderer
        light = np.stack([radiometry.unshow(renderer.decode(part, high, wide)) for part in latents])
        light = self.finish(light.astype(np.float32), high, wide)
        inner = (
            slice(rows.start - high.start, rows.stop - high.start),
            slice(columns.start - wide.start, columns.stop - wide.start),
        )
        mean = light.mean(0)
        values, valid = self.others(rows, columns)
        places = list(self.output.colours)
        nothing = self.output.dtype.type(self._nothing)
        before = values[places], valid[places]

        def composed(light: np.ndarray) -> Pixels:
            made = radiometry.stored(light[(slice(None), *inner)])
            return self.composed(made, *before, rows, columns)

        values[places], valid[places] = composed(mean)
        layers = {"image": (np.where(valid, values, nothing), valid)}
        everywhere = np.broadcast_to(valid[places].all(0), (3, len(rows), len(columns)))
        if self.samples > 1:
            deviation, new = light[(..., *inner)].std(0, ddof=1), self.new(rows, columns)
            scale = 1.0 if self.calibration is None else self.calibration.scale
            spread = radiometry.stored_spread(scale * new * deviation)
            layers["spread"] = (spread.astype(np.float32), everywhere)
            if self.calibration is not None:
                interval = self._interval(values[places], new, deviation, self.calibration)
                layers["interval"] = (interval, np.concatenate([everywhere] * 2))
        if "samples" in self.layers:
            each, seen = map(np.concatenate, zip(*map(composed, light), strict=True))
            layers["samples"] = (np.where(seen, each, nothing), seen)
        if self.details:
            seen = self.measured(high, wide)[(slice(None), *inner)].astype(np.float32)
            layers["measured"] = (seen, everywhere)
            layers["invented"] = ((values[places] - seen.astype(np.float64)).astype(np.float32), everywhere)
            layers["support"] = (self.support(rows, columns)[None], everywhere[:1])
        return layers

    def _interval(
        self, centre: np.ndarray, new: np.ndarray, deviation: np.ndarray, calibration: Calibration
    ) -> np.ndarray:
        """Lower ends, then upper ends, about stored numbers, float32 (6, rows, columns)."""
        radiometry = self.output.radiometry
        half = radiometry.stored_spread(new * calibration.quantile * (deviation + calibration.floor))
        least, most = (radiometry.stored(end) for end in self.output.limits())
        ends = [np.clip(centre + distance, least, most) for distance in (-half, half)]
        return np.concatenate(ends).astype(np.float32)

    @property
    def _nothing(self) -> float:
        """What stands where a band has no number: NaN, where nothing else is agreed on and it can."""
        if self.output.nodata is None:
            return math.nan if self.output.dtype.kind == "f" else 0
        return self.output.nodata

    def with_margin(self, inner: range, length: int) -> range:
        """A range with what `finish` looks at around it."""
        return range(max(0, inner.start - self.margin), min(length, inner.stop + self.margin))

    def blocks(self) -> Iterator[tuple[range, range]]:
        """Rectangles that make up the image."""
        for top in range(0, self.height, self.block):
            for left in range(0, self.width, self.block):
                yield (
                    range(top, min(top + self.block, self.height)),
                    range(left, min(left + self.block, self.width)),
                )

    def provenance(self) -> dict[str, Any]:
        """How it is made."""
        calibrated = {"calibration": self.calibration and asdict(self.calibration)}
        return self._said() | (calibrated if self.samples > 1 else {})

    def _said(self) -> dict[str, Any]:
        return provenance(
            self.sat,
            self.settings,
            self.task,
            size=[self.width, self.height],
            index=self.index // self.samples,
            samples=self.samples,
            control=self.control,
            inputs=dict(self.inputs),
            inputs_read_as=self._read_as,
            **self.more,
        )

    @cached_property
    def _read_as(self) -> str:
        """SHA-256 of what the inputs' numbers are taken for: bands, scales, and what is known of each."""
        views = [[v.metadata.to_dict(), v.slots, asdict(v.radiometry)] for v in self.views]
        out = self.output
        told = [views, out.bands, out.colours, asdict(out.radiometry), self.said]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """What is equal for jobs of equal pixels."""
        said = {k: v for k, v in self.provenance().items() if k != "created"} | self.metadata.to_dict()
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def scene(self, made: Mapping[str, ArrayRaster]) -> Scene:
        """What is returned."""
        image = made["image"]
        image.scales = self.output.scales
        colours = image.values[list(self.output.colours)]
        there = image.valid[list(self.output.colours)]
        shown = self.output.radiometry.show(self.output.radiometry.light(np.where(there, colours, 0)))
        return Scene(
            pixels=np.moveaxis(np.rint(255 * shown).astype(np.uint8), 0, 2),
            grid=self.grid,
            metadata=self.metadata,
            provenance=self.provenance(),
            raster=image,
            said=self.said,
            layers={name: raster for name, raster in made.items() if name != "image"},
            files=self.files,
        )


def restore(job: Restoration, on_step: OnStep | None = None) -> Scene:
    """Do a job in memory.

    Raises:
        RasterError: If an input cannot be read.
        Cancelled: If ``on_step`` returned False.
    """
    latents = [job.sample(i).solve(_counted(on_step, i, job.samples)) for i in range(job.samples)]
    made = {name: _blank(job, *form) for name, form in job.layers.items()}
    for rows, columns in job.blocks():
        place = (slice(None), slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        for name, (values, valid) in job.render(latents, rows, columns).items():
            made[name].values[place], made[name].valid[place] = values, valid
    return job.scene(made)


def _counted(on_step: OnStep | None, sample: int, samples: int) -> OnStep | None:
    """What is called with the steps of all samples counted."""
    if on_step is None:
        return None

    def tell(info: StepInfo) -> bool | None:
        return on_step(replace(info, step=sample * info.steps + info.step, steps=samples * info.steps))

    return tell


def _blank(job: Restoration, bands: tuple[str, ...], dtype: np.dtype, nodata: float | None) -> ArrayRaster:
    shape, out = (len(bands), job.height, job.width), job.output
    return ArrayRaster(
        np.zeros(shape, dtype),
        bands,
        valid=np.zeros(shape, bool),
        crs=out.crs,
        transform=out.transform,
        nodata=nodata,
    )


def paths_of(job: Restoration, path: Path) -> dict[str, Path]:
    """Where each layer goes: the image to ``path``, others beside it, ``OUT.spread.tif`` and so on."""
    return {name: path if name == "image" else layer_path(path, name) for name in job.layers}


def is_made(job: Restoration, path: Path) -> bool:
    """Whether what a job makes is there already, as far as the image's tags say."""
    if not all(each.is_file() for each in paths_of(job, path).values()):
        return False
    held = read_tags(path) or {}
    wanted = json.loads(json.dumps(job.provenance())) | {"metadata": job.metadata.to_dict()}
    return all(held.get(name) == value for name, value in wanted.items() if name != "created")


def restore_to(
    job: Restoration,
    path: Path,
    *,
    overwrite: bool = False,
    execute: Execute = map,
    on_share: OnShare | None = None,
) -> dict[str, Path]:
    """Do a job in a folder beside its output, in memory that does not grow with the image.

    What was interrupted is taken up again by the same call, whatever the number of workers then.

    Args:
        job: What to do.
        path: GeoTIFF to write.
        overwrite: Replace existing files.
        execute: Who does the work.
        on_share: Called with the share of the work that is done; returning False stops, and all is kept.

    Returns:
        The files by the name of their layer.

    Raises:
        RasterError: If an input cannot be read or an output not written; nothing is replaced then.
        ConfigError: If the folder holds another job, which ``overwrite`` throws away.
        Cancelled: If ``on_share`` returned False.
    """
    paths, work = paths_of(job, path), path.with_name(f".{path.name}.work")
    own = {name: overwrite or (work / name / _BEGUN).exists() for name in paths}
    for name, each in paths.items():
        check_replaceable(each, inputs=job.files, overwrite=own[name])
    _claim(work, job.identity, overwrite=overwrite)
    latents = []
    for index in range(job.samples):
        folder = work / f"sample-{index}"
        folder.mkdir(exist_ok=True)
        told = _shares(on_share, index, job.samples + 1)
        solved = job.sample(index).solve_on_disk(folder, job.identity, execute=execute, on_unit=told)
        latents.append(str(solved))
    drawing = _Drawing(job, latents, _writers(job, paths, work, own))
    told, blocks = _shares(on_share, job.samples, job.samples + 1), len(list(job.blocks()))
    missing = [block for block in range(blocks) if not drawing.has(block)]
    for done, _ in enumerate(execute(drawing, missing), blocks - len(missing) + 1):
        if told is not None and told(done, blocks) is False:
            raise Cancelled(f"stopped after {done} of {blocks} blocks")
    for writer in drawing.writers.values():
        writer.join()
    with _as_before(paths, work):
        for name in sorted(paths, key=lambda name: name == "image"):  # which is only there with its layers
            if not paths[name].exists():
                (work / name / _BEGUN).touch()
            drawing.writers[name].publish()
    if overwrite:
        forget_layers(path, paths, job.files)
    shutil.rmtree(work)
    return paths


@contextlib.contextmanager
def _as_before(paths: Mapping[str, Path], work: Path) -> Iterator[None]:
    """What several files were, should one of them not be replaced."""
    kept = {}
    for name, path in paths.items():
        if path.exists():
            kept[name] = work / f"{name}.before"
            kept[name].unlink(missing_ok=True)
            try:
                os.link(path, kept[name])
            except OSError:  # there are file systems without
                shutil.copy2(path, kept[name])
    try:
        yield
    except RasterError:
        for name, path in paths.items():
            if name in kept:
                kept[name].replace(path)
            else:
                path.unlink(missing_ok=True)
                (work / name / _BEGUN).unlink(missing_ok=True)
        raise


def _shares(on_share: OnShare | None, stage: int, stages: int) -> Callable[[int, int], bool | None] | None:
    """What is called with units of one of several stages, and tells how much of the whole is done."""
    if on_share is None:
        return None
    return lambda done, units: on_share((stage + done / units) / stages)


def _claim(work: Path, identity: str, *, overwrite: bool) -> None:
    """Make the folder of a job, or see that it is this job's."""
    note = work / "identity"
    if work.exists() and not note.exists() and any(work.iterdir()):
        raise ConfigError(f"{work} is in the way: what it holds is no work of this program. Move it away.")
    if work.exists() and (not note.exists() or note.read_text() != identity):
        if not overwrite and note.exists():
            raise ConfigError(
                f"{work} holds unfinished work of another job. Finish that one, or remove the folder, or "
                "--overwrite."
            )
        shutil.rmtree(work)
    if not work.exists():
        try:
            work.mkdir()
        except OSError as error:
            raise RasterError(f"{work} cannot be made: {error.strerror}.") from None
        write_bytes(note, identity.encode())


def _writers(
    job: Restoration, paths: Mapping[str, Path], work: Path, own: Mapping[str, bool]
) -> dict[str, RasterWriter]:
    """What writes each layer; a file that is the job's own already may be replaced."""
    said = tags(job.metadata, job.provenance()) | job.said
    out = job.output
    return {
        name: RasterWriter(
            paths[name],
            work / name,
            width=job.width,
            height=job.height,
            bands=bands,
            dtype=dtype,
            deciding=deciding(bands, job.more),
            nodata=nodata,
            scales=_scales(out, name, len(bands)),
            crs=out.crs,
            transform=out.transform,
            tags=said | ({} if name == "image" else {"LAYER": name}),
            inputs=job.files,
            overwrite=own[name],
        )
        for name, (bands, dtype, nodata) in job.layers.items()
    }


def _scales(out: Output, layer: str, bands: int) -> list[tuple[float, float]]:
    """See `RasterWriter`: of the image's bands, or of a layer's, whose colours may come several times."""
    if layer == "image":
        return list(out.scales)
    if layer in _CLASSES:
        return [(1.0, 0.0)] * bands
    colours = [out.scales[i] for i in out.colours] * (bands // 3)
    return [(scale, 0.0 if layer in _DIFFERENCES else offset) for scale, offset in colours]


@dataclass(frozen=True, slots=True)
class _Drawing:
    """Draws blocks of a job, by number; a worker's work.

    Args:
        job: The job.
        latents: Files of each sample's.
        writers: One a layer.
    """

    job: Restoration
    latents: list[str]
    writers: dict[str, RasterWriter]

    def has(self, block: int) -> bool:
        """Whether all layers of a block are there."""
        place = list(self.job.blocks())[block]
        return all(writer.has(*place) for writer in self.writers.values())

    def __call__(self, block: int) -> int:
        """Draw a block."""
        rows, columns = list(self.job.blocks())[block]
        latents = [np.load(path, mmap_mode="r") for path in self.latents]
        for name, (values, valid) in self.job.render(latents, rows, columns).items():
            self.writers[name].write(rows, columns, values, valid)
        return block
