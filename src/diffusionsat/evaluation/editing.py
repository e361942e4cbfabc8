"""The task `edit` in an evaluation: real images changed into another class of their data set by its words."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffusionsat.errors import ConfigError
from diffusionsat.evaluation import quality, words
from diffusionsat.evaluation.cases import Case, Cases
from diffusionsat.evaluation.controllability import cycle
from diffusionsat.evaluation.evidence import THUMBNAILS, Evidence
from diffusionsat.evaluation.paired import UNIT
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.section import Line, Section, over_places
from diffusionsat.evaluation.trials import framed, sampled
from diffusionsat.evaluation.units import Arrays, digest
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.edit import EditRequest
from diffusionsat.tasks.restoring import restore
from diffusionsat.tasks.sampling import SamplingRequest, Settings, guidance_of


class Reworded(Cases):
    """Cases of a labelled set, asked for in the words of another one's class; the others are left out.

    Args:
        cases: The cases.
        seed: Of the choice of the other ones.

    Raises:
        ConfigError: If fewer than two are of a set of several classes.
    """

    def __init__(self, cases: Cases, seed: int) -> None:
        rng, there, said = np.random.Generator(np.random.Philox(seed)), [], []
        by_label: dict[tuple[str, str], list[Case]] = {}
        for case in cases.cases:
            if case.label is not None:
                by_label.setdefault((case.source, case.label), []).append(case)
        for row, case in enumerate(cases.cases):
            own = (case.source, case.label)
            others = [key for key in by_label if key[0] == case.source and key != own]
            if case.label is not None and others:
                of_class = by_label[others[int(rng.integers(len(others)))]]
                there.append(row)
                said.append(of_class[int(rng.integers(len(of_class)))])
        if len(there) < 2:
            raise ConfigError(
                "edit wants images of several classes. Give a data set with labels, or a larger -n."
            )
        super().__init__(cases.sources, cases.picked[there], cases.size, cases.fit)
        self.words = tuple((other.label, other.prompt) for other in said)

    @property
    def cases(self) -> list[Case]:
        """All of them."""
        return self._reworded(super().cases, 0)

    @property
    def digest(self) -> str:
        """SHA-256 of all that they say and show, and of the words."""
        return digest([super().digest, self.words])

    def part(self, rows: range) -> list[Case]:
        """Some of them."""
        return self._reworded(super().part(rows), rows.start)

    def _reworded(self, cases: Sequence[Case], first: int) -> list[Case]:
        words_ = self.words[first : first + len(cases)]
        return [replace(c, label=label, prompt=p) for c, (label, p) in zip(cases, words_, strict=True)]


class Edit:
    """See `diffusionsat.evaluation.working.Task`."""

    def asks(self, cases: Cases, request: EvaluateRequest) -> Cases:
        """The cases in the words of other classes."""
        return Reworded(cases, request.seed)

    def conditions(self, request: EvaluateRequest) -> dict[str, Any]:
        """How much is changed."""
        return {"strength": request.strength, "words": "of another class of the data set"}

    def settings(self, sat: DiffusionSat, request: EvaluateRequest, size: int) -> Settings:
        """How every image is sampled.

        Raises:
            ConfigError: If an option is not possible.
        """
        return SamplingRequest(
            negative=request.negative,
            seed=request.seed,
            steps=request.steps,
            solver=request.solver,
            guidance=guidance_of(sat, request.guidance, request.metadata_guidance),
            strict=request.strict,
        ).settings(sat)

    def unit(self, settings: Settings) -> int:
        """Images that are kept together."""
        return UNIT

    def make(self, sat: DiffusionSat, request: EvaluateRequest, asked: Cases, rows: range) -> Arrays:
        """The real images of some cases, changed."""
        guidance, made = self.settings(sat, request, asked.size).guidance, []
        for row, case, pixels in zip(rows, asked.part(rows), asked.pixels(rows), strict=True):
            wanted = sampled(request, case) | {"guidance": guidance, "strength": request.strength}
            del wanted["control"]
            job = EditRequest(image=framed(pixels, case.metadata), **wanted).job(sat)
            made.append(restore(job.sample(row)).pixels)
        return {"pixels": np.stack(made)}

    def sections(self, evidence: Evidence) -> list[Section]:
        """Quality, the words, and whether the layout stays; ``real`` are the images before."""
        return [quality.measure(evidence), words.measure(evidence), _layout(evidence)]


def _layout(evidence: Evidence) -> Section:
    """Correlation of small pictures without colour: with the image that was changed, and with another.

    Pearson's over the pixels of grey thumbnails: sum(a b) of ones of mean 0 and length 1. -1 to 1, no unit;
    higher is better beside that of another. Source: the project's definition.
    """
    made, before = (seen.features(THUMBNAILS).double() for seen in (evidence.made, evidence.real))
    places = [case.place for case in evidence.asked.cases]
    other = before[cycle(len(before), evidence.seed)]
    own, others = ((made * x).sum(1).numpy() for x in (before, other))  # they have length 1
    line: Line = {"n": len(own), "correlation": over_places(own, places)}
    line["correlation_of_another"] = over_places(others, places)
    return Section({"layout": [line]}, {"layout_correlation": own})
