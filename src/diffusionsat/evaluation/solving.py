"""Quality against steps for every solver and schedule, and against the strengths of guidance.

Every arm is made with the noise of the images that are judged, so that small differences can be told.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from diffusionsat.diffusion.schedules import Schedule, flow, karras
from diffusionsat.diffusion.solvers import SOLVERS
from diffusionsat.evaluation import figures
from diffusionsat.evaluation.arms import Arm, moved
from diffusionsat.evaluation.cases import Cases
from diffusionsat.evaluation.controllability import ERRORS, KNOWN, LEAST, errors
from diffusionsat.evaluation.evidence import Evidence, Seen
from diffusionsat.evaluation.protocol import EvaluateRequest
from diffusionsat.evaluation.quality import briefly, moments_of
from diffusionsat.evaluation.section import Line, Section
from diffusionsat.evaluation.telling import read_share
from diffusionsat.metrics.distributions import frechet_distance
from diffusionsat.model import DiffusionSat

STEPS = (5, 10, 20, 50, 100)
STRENGTHS = (1.0, 1.5, 2.0, 3.0, 5.0)
EVALUATIONS: dict[str, Callable[[int], int]] = {  # of the denoiser, for so many steps
    "euler": lambda steps: steps,
    "dpmpp-2m": lambda steps: steps,
    "heun": lambda steps: 2 * steps - 1,
    "midpoint": lambda steps: 2 * steps,
}
WITHIN = 0.02  # of the distance at the most steps
_OWN = "the model's"


@dataclass(frozen=True, slots=True)
class _Spaced:
    """A model's schedule with other noise levels.

    Args:
        own: What says by what time the networks know a level.
        spaced: Steps to levels.
    """

    own: Schedule
    spaced: Callable[[int], Tensor]

    def time(self, sigma: float) -> float:
        """The network's time of a noise level."""
        return self.own.time(sigma)

    def levels(self, steps: int, size: tuple[int, int]) -> Tensor:
        """Noise levels, whatever the size."""
        return self.spaced(steps)


SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "flow, shifted by 3": lambda steps: flow(steps, 3.0),
    "karras": lambda steps: karras(steps, 0.02, 80.0),
}


def scheduled(sat: DiffusionSat, name: str | None) -> DiffusionSat:
    """The model with one of `SCHEDULES` in place of its own; itself for None."""
    if name is None:
        return sat
    other = copy.copy(sat)
    other.schedule = _Spaced(sat.schedule, SCHEDULES[name])
    return other


def arms(request: EvaluateRequest, asked: Cases) -> Iterator[Arm]:
    """All solvers, schedules and numbers of steps; then strengths of text, of metadata and of both."""
    for schedule in (None, *SCHEDULES):
        for solver in SOLVERS:
            for steps in STEPS:
                about = {"schedule": schedule or _OWN, "solver": solver, "steps": steps}
                if steps <= request.most_steps:
                    other = replace(request, solver=solver, steps=steps, schedule=schedule)
                    yield Arm(request=other, asked=asked, about=about)
    for steered in ("text", "metadata", "both"):
        for strength in STRENGTHS:
            text, metadata = (strength if steered in (kind, "both") else 1.0 for kind in ("text", "metadata"))
            other = replace(request, guidance=text, metadata_guidance=metadata)
            yield Arm(request=other, asked=asked, about={"guided": steered, "strength": strength})


def measure(evidence: Evidence, made: Sequence[tuple[Arm, Seen]]) -> Section:
    """Distances of every arm, and which settings come near those of the most steps.

    Distances are taken on the last network, which is not the project's own where there is another.

    Args:
        evidence: The images that are judged.
        made: The arms.
    """
    name = evidence.networks[-1].name
    reference = evidence.reference.features(name)
    moments = moments_of(reference)

    def line(arm: Arm, seen: Seen) -> Line:
        found = briefly(seen.features(name), reference, moments, evidence.seed)
        return {**arm.about, "features": name, **found}

    steps, strengths = [], []
    most = {(arm.about["schedule"], arm.about["solver"]): seen for arm, seen in made if "solver" in arm.about}
    for arm, seen in made:
        said = line(arm, seen)
        if "solver" in arm.about:
            kind = (arm.about["schedule"], arm.about["solver"])
            said["evaluations"] = EVALUATIONS[kind[1]](arm.about["steps"])
            said["moved"] = moved(seen.features(name), most[kind].features(name))
            steps.append(said)
        else:
            strengths.append(said | {"read": read_share(evidence, seen)} | _errors(evidence, seen))
    best = _best(steps)
    for said in steps:
        said["excess"] = said["frechet_distance"] / best["frechet_distance"] - 1
    floor = frechet_distance(moments_of(evidence.real.features(name)), moments)
    return Section(
        {"steps": _named(steps, "steps"), "guidance": _named(strengths, "strength")},
        files={"sampling.png": figures.sampling(steps, strengths, floor)},
        notes=[_verdict(steps, reference.shape)],
    )


def _named(lines: Sequence[Line], key: str) -> list[Line]:
    """Lines with a number as text, since it says what a line is about."""
    return [{**line, key: format(line[key], "g")} for line in lines]


def _errors(evidence: Evidence, seen: Seen) -> Line:
    """Mean error of month, place and gsd as the first probes that can read it."""
    found: Line = {}
    metadata = [case.metadata for case in evidence.asked.cases]
    for field in ERRORS:
        rows = [i for i, m in enumerate(metadata) if KNOWN[field](m) is not None]
        probes = next((p for p in evidence.probes if field in p.fields), None)
        if probes is not None and len(rows) >= LEAST:
            features, wanted = seen.features(probes.network), [metadata[i] for i in rows]
            found[f"{field} error"] = float(errors(field, probes, features, rows, wanted).mean())
    return found


def _best(steps: Sequence[Line]) -> Line:
    """The solver and schedule of the smallest distance at the most steps."""
    most = max(line["steps"] for line in steps)
    return min((x for x in steps if x["steps"] == most), key=lambda x: x["frechet_distance"])


def _verdict(steps: Sequence[Line], shape: Sequence[int]) -> str:
    """The cheapest setting that is as good as many steps; ``shape`` is that of the features."""
    best = _best(steps)
    near = [x for x in steps if x["excess"] <= WITHIN and x["steps"] < best["steps"]]
    of = f"the distance of {best['solver']} with {best['steps']} steps, schedule: {best['schedule']}"
    if not near:
        return f"No setting comes within {WITHIN:.0%} of {of}."
    found = min(near, key=lambda x: (x["evaluations"], x["frechet_distance"]))
    few = " Of so few images it is a hint." if shape[0] < shape[1] else ""
    return (
        f"The cheapest setting within {WITHIN:.0%} of {of}, the best of the most steps: {found['solver']} "
        f"with {found['steps']}, schedule: {found['schedule']}, which is {found['evaluations']} evaluations. "
        f"Where guidance acts, each is two passes of the network, or three.{few}"
    )
