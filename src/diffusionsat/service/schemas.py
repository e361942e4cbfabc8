"""What can be done, and with which inputs: schemas and checks, both of the tasks' request dataclasses."""

import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffusionsat.config import parse
from diffusionsat.model import DiffusionSat
from diffusionsat.service.limits import EXCEPTIONS, Limits, Problem, check
from diffusionsat.tasks.declouds import DecloudsRequest
from diffusionsat.tasks.edit import EditRequest
from diffusionsat.tasks.features import Extractor, FeaturesRequest
from diffusionsat.tasks.generate import GenerateRequest
from diffusionsat.tasks.inpaint import InpaintRequest
from diffusionsat.tasks.inputs import Source
from diffusionsat.tasks.predict import PredictRequest
from diffusionsat.tasks.sampling import SamplingRequest
from diffusionsat.tasks.upscale import UpscaleRequest

REFERENCE = r"^((upload|job):[0-9a-f]{16}|https?://[^\s@]+)(@\d{4}(-\d\d(-\d\d)?)?)?$"
_MOST_LEVELS, _MOST_BLOCKS = 16, 64  # of features
_WHAT = (
    "upload:ID of a file that was posted to /uploads, job:ID of a result, or, where that is allowed, the "
    "http(s) address of a GeoTIFF or STAC item; @DATE gives it a date."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesInputs(FeaturesRequest):
    """Features of an image; see `FeaturesRequest` too.

    Args:
        image: The image.
        known: Tell the network what the image's file tells of it.
    """

    image: Source = None
    known: bool = False

    def request(self) -> FeaturesRequest:
        """The request alone."""
        return FeaturesRequest(**{f.name: getattr(self, f.name) for f in dataclasses.fields(FeaturesRequest)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A job that the service does.

    Args:
        request: Its inputs.
        title: What it does.
        hidden: Fields of the request that are no inputs.
    """

    request: type
    title: str
    hidden: frozenset[str] = frozenset()

    @property
    def fields(self) -> list[str]:
        """Names of the inputs."""
        return [f.name for f in dataclasses.fields(self.request) if f.name not in self.hidden]


PROCESSES = {
    "generate": Process(
        request=GenerateRequest,
        title="Make an image of words, place, date and resolution",
        hidden=frozenset({"n"}),
    ),
    "upscale": Process(request=UpscaleRequest, title="Sharpen a raster, and keep what it measured"),
    "predict": Process(request=PredictRequest, title="Make the same ground at another date"),
    "inpaint": Process(request=InpaintRequest, title="Make a hole in a raster anew"),
    "declouds": Process(request=DecloudsRequest, title="Make the ground under the clouds of a raster"),
    "edit": Process(request=EditRequest, title="Change a raster by words"),
    "features": Process(
        request=FeaturesInputs, title="Give the maps of the network's features that a raster calls forth"
    ),
}
SEVERAL, SINGLE = ("frames", "references"), ("image", "mask")


def process(name: str) -> Process:
    """A process by its name.

    Raises:
        Problem: If there is none.
    """
    if name not in PROCESSES:
        detail = f"There is no process {name[:100]!r}. There are: {', '.join(PROCESSES)}."
        raise Problem(404, detail, kind=f"{EXCEPTIONS}no-such-process")
    return PROCESSES[name]


@functools.cache
def inputs_of(name: str) -> dict[str, dict[str, Any]]:
    """Title, description, schema and occurrence of every input of a process."""
    from pydantic import TypeAdapter

    kind = PROCESSES[name].request
    whole = TypeAdapter(kind).json_schema()
    told, found = _told(kind), {}
    for field in PROCESSES[name].fields:
        schema = _inlined(whole["properties"][field], whole.get("$defs", {}))
        schema = _rasters(field) or {k: v for k, v in schema.items() if k != "title"}
        needed = (field in ("frames", "image")) or (name, field) == ("predict", "on")
        about = {"title": field.replace("_", " ").capitalize(), "description": told.get(field, "")}
        found[field] = about | {"schema": schema, "minOccurs": int(needed), "maxOccurs": 1}
    return found


def parsed(name: str, inputs: Any, sat: DiffusionSat, limits: Limits) -> Any:
    """The request that some inputs make, in which rasters are still references.

    Raises:
        Problem: If an input is unknown, is not possible or beyond a limit.
        ConfigError: Likewise.
        MetadataError: Likewise.
    """
    known = process(name)
    if not isinstance(inputs, dict):
        raise Problem(422, f"inputs is {type(inputs).__name__}. Give an object of the inputs by name.")
    for field in known.hidden & inputs.keys():
        raise Problem(422, f"{field!r} is no input of {name}. Its inputs are: {', '.join(known.fields)}.")
    for field in ("prompt", "negative"):
        if isinstance(inputs.get(field), str):
            check(field, len(inputs[field]), limits.prompt, unit=" characters")
    request = parse(known.request, inputs, "inputs")
    given = [*_references(request)]
    check("The number of rasters", len(given), limits.frames)
    for field, reference in given:
        if field == "mask" and isinstance(reference, Mapping):
            check("mask", len(json.dumps(reference)), limits.mask, unit=" characters")
            continue
        if not isinstance(reference, str) or not re.fullmatch(REFERENCE, reference):
            raise Problem(422, f"{field} is {_short(reference)}. Give {_WHAT}")
    if not isinstance(request, GenerateRequest) and not (given and given[0][0] in ("frames", "image")):
        raise Problem(422, f"{name} has no raster to work on. Give {_WHAT}")
    _check(request, sat, limits)
    return request


def _check(request: Any, sat: DiffusionSat, limits: Limits) -> None:
    """Make sure that a request is possible, as far as can be told without its rasters."""
    if isinstance(request, FeaturesInputs):
        check("The number of noise levels (sigma)", len(request.sigma), _MOST_LEVELS)
        check("The number of blocks", len(request.blocks), _MOST_BLOCKS)
        SamplingRequest(prompt=request.prompt, seed=request.seed).settings(sat)
        Extractor(sat, request.request())
        return
    for field in ("steps", "samples"):
        check(field, getattr(request, field, None) or 0, getattr(limits, field))
    if isinstance(request, GenerateRequest):
        width, height = request.size or sat.config.defaults.size
        check("size in pixels", width * height, limits.generate_pixels)
        request.resolved(sat)
    else:
        request.settings(sat)


def bound(request: Any, opened: Mapping[str, Any]) -> Any:
    """The request with its references replaced by what they mean."""
    changes: dict[str, Any] = {}
    for field in SEVERAL:
        if hasattr(request, field):
            changes[field] = [opened[reference] for reference in getattr(request, field)]
    for field in SINGLE:
        reference = getattr(request, field, None)
        if isinstance(reference, str):
            changes[field] = opened[reference]
    return dataclasses.replace(request, **changes)


def references(request: Any) -> list[str]:
    """The rasters that a request names."""
    return [reference for _, reference in _references(request) if isinstance(reference, str)]


def _references(request: Any) -> Iterator[tuple[str, Any]]:
    """Fields and references of rasters, those that are worked on first."""
    for field in ("frames", "image", "mask", "references"):
        value = getattr(request, field, None)
        if field in SEVERAL:
            yield from ((field, reference) for reference in value or ())
        elif value is not None:
            yield field, value


def _rasters(field: str) -> dict[str, Any] | None:
    one = {"type": "string", "pattern": REFERENCE, "description": _WHAT}
    if field in SEVERAL:
        return {"type": "array", "items": one}
    if field == "mask":
        geojson = {"type": "object", "description": "GeoJSON with polygons, degrees WGS84."}
        return {"anyOf": [one, geojson, {"type": "null"}]}
    return one if field == "image" else None


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with its references to definitions replaced by these."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _told(kind: type) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say of the fields."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        section = re.search(r"Args:\n(.*?)(?:\n\S|\Z)", inspect.cleandoc(each.__doc__ or ""), re.DOTALL)
        entries = re.finditer(r"^    (\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE)
        found |= {entry[1]: " ".join(entry[2].split()) for entry in entries}
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:100]}…"
