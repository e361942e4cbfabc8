"""The task `generate` in an evaluation: an image of the words and the metadata of every case."""

from dataclasses import replace
from typing import Any

from diffusionsat.evaluation import controllability, copying, geography, quality, words
from diffusionsat.evaluation.cases import Cases
from diffusionsat.evaluation.evidence import Evidence
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.sampling import make_part
from diffusionsat.evaluation.section import Section
from diffusionsat.evaluation.units import Arrays
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.generate import GenerateRequest, Resolved, batch_size
from diffusionsat.tasks.sampling import guidance_of


class Generate:
    """See `diffusionsat.evaluation.working.Task`."""

    def asks(self, cases: Cases, request: EvaluateRequest) -> Cases:
        """The cases as they are."""
        return cases

    def conditions(self, request: EvaluateRequest) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def settings(self, sat: DiffusionSat, request: EvaluateRequest, size: int) -> Resolved:
        """How every image is sampled.

        Raises:
            ConfigError: If an option is not possible.
        """
        return _template(sat, request, size).resolved(sat)

    def unit(self, settings: Resolved) -> int:
        """Images that are made at once."""
        return batch_size(settings)

    def make(self, sat: DiffusionSat, request: EvaluateRequest, asked: Cases, rows: range) -> Arrays:
        """The images of some cases."""
        template = _template(sat, request, asked.size)
        wanted = [
            replace(template, prompt=case.prompt, metadata=case.metadata).resolved(sat)
            for case in asked.part(rows)
        ]
        return {"pixels": make_part(sat, wanted, rows.start)}

    def sections(self, evidence: Evidence) -> list[Section]:
        """Quality always, and what needs an image to answer its case where it does."""
        always = [quality.measure(evidence), copying.measure(evidence)]
        if not evidence.matched:
            return always
        return [
            *always,
            words.measure(evidence),
            controllability.measure(evidence),
            words.usefulness(evidence),
            geography.measure(evidence),
        ]


def _template(sat: DiffusionSat, request: EvaluateRequest, size: int) -> GenerateRequest:
    return GenerateRequest(
        size=(size, size),
        seed=request.seed,
        steps=request.steps,
        solver=request.solver,
        guidance=guidance_of(sat, request.guidance, request.metadata_guidance),
        negative=request.negative,
        strict=request.strict,
    )
