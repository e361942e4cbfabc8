"""Sweep: images of one seed over the values of one field, as a labelled sheet."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffusionsat.diffusion.solvers import OnStep
from diffusionsat.geo.images import save_png
from diffusionsat.model import DiffusionSat
from diffusionsat.tasks.generate import GenerateRequest, batches, make_batch
from diffusionsat.tasks.scene import Scene
from diffusionsat.tasks.sheet import contact_sheet


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """Scenes that differ in one field of metadata alone.

    Args:
        field: Name of the field.
        values: Its values.
        scenes: One a value, all of one seed and index.
    """

    field: str
    values: Sequence[Any]
    scenes: list[Scene]

    def sheet(self, columns: int = 6) -> np.ndarray:
        """The images side by side, each with its value under it, uint8 (H, W, 3)."""
        made = self.scenes[0].provenance
        title = f"SYNTHETIC  seed {made['seed']}, {self.field}, {made['prompt'] or '(no prompt)'}"
        labels = [v if isinstance(v, str) else format(v, ".4g") for v in self.values]
        images = [scene.pixels for scene in self.scenes]
        return contact_sheet(images, labels, columns=min(columns, len(images)), title=title)

    def save(self, path: Path, *, overwrite: bool = False) -> Path:
        """Write the sheet as a PNG that says what it is.

        Raises:
            RasterError: If the file exists or cannot be written.
        """
        tags = self.scenes[0].tags() | {"SWEEP": json.dumps({self.field: list(self.values)})}
        save_png(path, self.sheet(), None, tags, overwrite=overwrite)
        return path


def sweep(
    sat: DiffusionSat,
    request: GenerateRequest,
    field: str,
    values: Sequence[Any],
    on_step: OnStep | None = None,
) -> Sweep:
    """Make one image for each value of a field of the metadata, of the same noise.

    Args:
        sat: The model.
        request: What stays the same.
        field: lon, lat, gsd, cloud_cover or date.
        values: At least one.
        on_step: As in `generate`.

    Raises:
        MetadataError: If a value is not possible.
        ConfigError: If an option of the request is not.
    """
    requests = [
        replace(request, metadata=request.metadata.replace(**{field: v})).resolved(sat) for v in values
    ]
    images = [(resolved, 0) for resolved in requests]
    scenes = [scene for batch in batches(images) for scene in make_batch(sat, batch, on_step)]
    return Sweep(field=field, values=values, scenes=scenes)
