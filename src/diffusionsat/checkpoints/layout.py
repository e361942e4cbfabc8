"""Our checkpoint: a folder with a configuration, safetensors files, a tokenizer and a model card.

    config.json               format, format_version, the networks' sizes, the model's defaults
    denoiser.safetensors      weights of the denoiser
    autoencoder.safetensors   weights of the autoencoder
    text_encoder.safetensors  weights of the text encoder
    control-NAME.safetensors  weights of a ControlNet; any number of them, or none
    tokenizer.json            its tokenizer
    README.md                 the model card
    facts.json                what else is known of the weights, if anything; see `checkpoints.facts`

Nothing in it is code, and nothing outside the folder is read.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from diffusionsat.checkpoints.facts import forget
from diffusionsat.config import parse
from diffusionsat.errors import CheckpointError, ConfigError
from diffusionsat.files import write_bytes

FORMAT = "diffusionsat"
FORMAT_VERSION = 1
FILES = (
    "config.json",
    "denoiser.safetensors",
    "autoencoder.safetensors",
    "text_encoder.safetensors",
    "tokenizer.json",
    "README.md",
)
_CONTROL_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SAFE = {".safetensors", ".json", ".md", ".txt"}
_SAFE_NAMES = {"LICENSE", "NOTICE"}


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What the model does when nothing else is said; measured, see the model card.

    Args:
        size: Width and height in pixels.
        steps: Solver steps.
        solver: Name of the solver.
        guidance: Strength of text and metadata.
        gsd: Metres per pixel where a place is given without one.
        interval: Noise levels between which guidance acts; None is everywhere.
        rescale: Of the guidance, 0 to 1.
        shift: Of the noise levels at 64 pixels; grows with the side.
        layout: Side in pixels in which the layout of larger images is made; 0 makes all at once. See
            `diffusionsat.tasks.drawing`.
        redraw: Share of the steps by which an image is drawn again after each doubling.
    """

    size: tuple[int, int] = (256, 256)
    steps: int = 10
    solver: str = "dpmpp-2m"
    guidance: float = 2.0
    gsd: float = 10.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    shift: float = 1.0
    layout: int = 0
    redraw: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about a checkpoint but its weights.

    Args:
        format: Always `FORMAT`.
        format_version: Version of this layout.
        name: Name of the model.
        version: Version of its weights.
        licence: Of the weights.
        prediction: What the denoiser predicts.
        max_tokens: Tokens of the longest prompt.
        denoiser: Arguments of `CompactDenoiser`.
        autoencoder: Arguments of `CompactAutoencoder`.
        text_encoder: Arguments of `TextEncoder`.
        controls: Arguments of each ControlNet by its name, and its ``design``, one of
            `diffusionsat.models.compact.designs.DESIGNS`, where it is not compact.
        defaults: See `Defaults`.
        images_seen: Training images seen by the denoiser.
        known_answer: Statistics of one image, for the self-test.
    """

    format: str
    format_version: int
    name: str
    version: str
    licence: str
    prediction: str = "flow"
    max_tokens: int = 64
    denoiser: dict[str, Any] = field(default_factory=dict)
    autoencoder: dict[str, Any] = field(default_factory=dict)
    text_encoder: dict[str, Any] = field(default_factory=dict)
    controls: dict[str, dict[str, Any]] = field(default_factory=dict)
    defaults: Defaults = field(default_factory=Defaults)
    images_seen: int = 0
    known_answer: tuple[float, ...] = ()

    def to_json(self) -> str:
        """The text of ``config.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read_config(folder: Path) -> Config:
    """The configuration of a checkpoint folder, after the folder has been looked over.

    Raises:
        CheckpointError: If the folder is absent, foreign, of a newer format, incomplete, or holds pickles,
            code, links that lead out of it or weights that are cut short.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is no folder. Give a checkpoint's folder, or a name from `diffusionsat models`."
        )
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no config.json; it is no checkpoint of diffusionsat.")
    _look_over(folder)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from None
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise CheckpointError(f"{file} is not of format {FORMAT!r}; it is no checkpoint of diffusionsat.")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format_version {version!r}; this package reads {FORMAT_VERSION}. "
            "Update diffusionsat."
        )
    try:
        config = parse(Config, values, str(file))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    for name in config.controls:
        if not _CONTROL_NAME.fullmatch(name):
            raise CheckpointError(f"{file}: {name!r} names a ControlNet; names are of a-z, 0-9 and dashes.")
        weights = control_file(folder, name)
        if not weights.is_file():
            raise CheckpointError(
                f"{weights} is missing. The checkpoint is incomplete: copy or make it again."
            )
    return config


def _look_into(path: Path) -> None:
    """Refuse weights that are cut short; their header says where they end."""
    try:
        with safe_open(path, "numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}.") from None


def control_file(folder: Path, name: str) -> Path:
    """Where the weights of a ControlNet lie."""
    return folder / f"control-{name}.safetensors"


def _look_over(folder: Path) -> None:
    """Refuse a folder that holds more than weights and text; nothing reads hidden files."""
    try:
        inside = folder.resolve(strict=True)
        for path in sorted(folder.rglob("*")):
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue
            if not path.resolve(strict=True).is_relative_to(inside):
                raise CheckpointError(f"{path} leads out of the checkpoint's folder; it is refused.")
            if path.is_file() and path.suffix.lower() not in _SAFE and path.name not in _SAFE_NAMES:
                raise CheckpointError(
                    f"{path} can carry code; a checkpoint holds only safetensors, JSON and text."
                )
            if path.suffix == ".safetensors":
                _look_into(path)
    except (RuntimeError, FileNotFoundError) as error:  # links in a circle, or into nothing
        raise CheckpointError(f"{folder} holds a link that leads nowhere: {error}.") from None


def content_hash(folder: Path) -> str:
    """SHA-256 over the configuration and the weights, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in (*(folder / name for name in FILES[:-1]), *sorted(folder.glob("control-*.safetensors"))):
        if path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_checkpoint(
    folder: Path,
    config: Config,
    networks: Mapping[str, Mapping[str, Any]],
    tokenizer: str,
    card: str,
    storage: Mapping[str, str],
) -> None:
    """Write a checkpoint folder.

    Args:
        folder: Made if absent; files of a checkpoint in it are replaced.
        config: The configuration.
        networks: State dicts of ``denoiser``, ``autoencoder`` and ``text_encoder``; of ``control-NAME`` for
            each name in the configuration's ``controls``.
        tokenizer: JSON text of the tokenizer.
        card: Text of the model card.
        storage: ``"fp32"``, ``"bf16"`` or ``"int8"`` for each network.
    """
    from diffusionsat.checkpoints.tensors import write_tensors

    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in networks.items():
        write_tensors(folder / f"{name}.safetensors", dict(tensors), storage[name])
    for name, text in (("tokenizer.json", tokenizer), ("README.md", card), ("config.json", config.to_json())):
        write_bytes(folder / name, text.encode(), overwrite=True)


def add_control(
    folder: Path,
    name: str,
    sizes: Mapping[str, Any],
    tensors: Mapping[str, Any],
    storage: str,
    licence: str | None = None,
) -> None:
    """Add a ControlNet to a checkpoint folder, or replace it and what was known of it.

    Args:
        folder: A checkpoint.
        name: Of the ControlNet: a-z, 0-9 and dashes.
        sizes: Its ``sizes``.
        tensors: Its state dict.
        storage: As in `write_checkpoint`.
        licence: Of the ControlNet; if it is another, the checkpoint's licence tells both.

    Raises:
        CheckpointError: If the folder is no checkpoint.
        ConfigError: If the name is not possible.
    """
    from diffusionsat.checkpoints.tensors import write_tensors

    config = read_config(folder)
    if not _CONTROL_NAME.fullmatch(name):
        raise ConfigError(f"A ControlNet cannot be named {name!r}. Give a-z, 0-9 and dashes.")
    forget(folder, name)
    write_tensors(control_file(folder, name), dict(tensors), storage)
    told = f"ControlNet {name}: {licence}"
    if licence not in (None, config.licence) and told not in config.licence:
        config = replace(config, licence=f"{config.licence}; {told}")
    config = replace(config, controls=config.controls | {name: dict(sizes)})
    write_bytes(folder / "config.json", config.to_json().encode(), overwrite=True)
