"""Opening a checkpoint folder, whatever its kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffusionsat.checkpoints.layout import Config
from diffusionsat.diffusion.schedules import Schedule
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


def open_checkpoint(path: Path) -> Opened:
    """Open a checkpoint of ours or one in the published layout.

    Raises:
        CheckpointError: If it is absent, damaged, foreign, mismatched or unsafe.
        MissingExtraError: If it is a published one and diffusers is not installed.
    """
    from diffusionsat.checkpoints.released import is_released

    if is_released(path):
        from diffusionsat.checkpoints.published import open_published

        return open_published(path)
    from diffusionsat.checkpoints.compact import open_compact

    return open_compact(path)
