"""What the published networks add to diffusers' loading: errors that say where the weights are."""

import json
from pathlib import Path
from typing import Any, Self

from diffusionsat.errors import CheckpointError

WHERE = (
    "Fetch the released weights with `diffusionsat download` (Zenodo records 13751498: single image, 512 px; "
    "13756199: 256 px; 13756211: Texas; 13756246: super-resolution) and load the folder"
)


class FromFolder:
    """`from_pretrained` of networks, before diffusers' own."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load from a folder (or its ``subfolder``), with the arguments of diffusers.

        Raises:
            CheckpointError: If there is no such folder, or it holds another kind of network.
        """
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} is no folder, and no hub repository is looked for. {WHERE}: "
                f"{cls.__name__}.from_pretrained(FOLDER)."
            )
        file = folder / "config.json"
        named = json.loads(file.read_text(encoding="utf-8")).get("_class_name") if file.is_file() else None
        steering = any("ControlNet" in str(name) for name in (named, cls.__name__))
        if steering and named not in (None, cls.__name__):
            raise CheckpointError(f"{folder} holds a {named}, not a {cls.__name__}.")
        load = super().from_pretrained  # pyright: ignore[reportAttributeAccessIssue], of the network's class
        return load(pretrained_model_name_or_path, **kwargs)
