"""What models there are."""

from dataclasses import asdict
from typing import Any

from diffusionsat.checkpoints.layout import read_config
from diffusionsat.checkpoints.released import is_released
from diffusionsat.checkpoints.shipped import SHIPPED, cached, find
from diffusionsat.diffusion.solvers import SOLVERS
from diffusionsat.errors import CheckpointError
from diffusionsat.model import DiffusionSat


def models(sat: DiffusionSat) -> dict[str, Any]:
    """The models on this machine, and what the one in use does if nothing else is said."""
    found = []
    for where, folders in (("shipped", [find(name) for name in SHIPPED]), ("cache", cached())):
        for folder in folders:
            about: dict[str, Any] = {"name": folder.name, "where": where}
            try:
                if is_released(folder):
                    about["kind"] = "published"
                else:
                    config = read_config(folder)
                    about |= {"kind": "compact", "version": config.version, "licence": config.licence}
            except CheckpointError as error:
                about["error"] = str(error).replace(str(folder), folder.name)
            found.append(about)
    return {
        "models": found,
        "default": f"{sat.config.name}@{sat.config.version}",
        "model_hash": sat.checkpoint,
        "licence": sat.config.licence,
        "defaults": asdict(sat.config.defaults),
        "multiple": sat.multiple,
        "controls": list(sat.controls),
        "solvers": list(SOLVERS),
        "device": sat.device.type,
        "precision": sat.precision,
    }
