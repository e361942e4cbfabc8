"""Opening a checkpoint folder, whatever its kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffusionsat.checkpoints.layout import Config
from diffusionsat.diffusion.schedules import Schedule
from diffusionsat.errors import CheckpointError
from diffusionsat.models.networks import Control, Networks


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What lies in a checkpoint, ready for `DiffusionSat`.

    Args:
        config: What is said about it.
        networks: Its networks, in float32 or as stored, on the CPU.
        schedule: Noise levels and times.
        digest: SHA-256 of all that decides pixels, 64 hexadecimal digits.
        controls: What opens each of its ControlNets.
    """

    config: Config
    networks: Networks
    schedule: Schedule
    digest: str
    controls: Mapping[str, Callable[[], Control]] = field(default_factory=dict)


def open_checkpoint(path: Path, controlnets: Mapping[str, Path]) -> Opened:
    """Open a checkpoint of ours or one in the published layout.

    Args:
        path: A folder, or a zip of a release.
        controlnets: Releases of ControlNets that steer a published one, by name.

    Raises:
        CheckpointError: If it is absent, damaged, foreign, mismatched or unsafe.
        MissingExtraError: If it is a published one and diffusers is not installed.
    """
    from diffusionsat.checkpoints.released import is_released

    if is_released(path):
        from diffusionsat.checkpoints.published import open_published

        return open_published(path, controlnets)
    if controlnets:
        raise CheckpointError(f"{path} is no published model; ControlNets of releases do not fit it.")
    from diffusionsat.checkpoints.compact import open_compact

    return open_compact(path)
