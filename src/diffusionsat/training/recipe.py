"""What a training run is made of, as one tree of dataclasses; files of it are in `diffusionsat.configs`.

Everything is counted in images seen, so that a recipe means the same at any batch size.
"""

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from diffusionsat.config import read_named
from diffusionsat.data.conditions import Conditions
from diffusionsat.data.dropout import Rates
from diffusionsat.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, where it goes, and how often something is written.

    Args:
        task: What is learned.
        output: The run's folder: ``last.pt``, ``log.jsonl``, ``config.toml``, sheets, and in the end the
            checkpoint ``model``.
        images: To see in all.
        seed: Of initial weights, order, crops, noise and dropping, 0 to 2**31 - 1.
        device: Where to train; auto takes what is there.
        precision: fp32; or autocast to bf16 or fp16, with weights and optimiser in fp32 all the same; auto is
            bf16 where the device is fast at it, else fp32, and stays what it was when a run is taken up.
        threads: Of the CPU's arithmetic; 0 leaves it to torch.
        log_every: Images between two lines of the log.
        save_every: Images between two saves of the state.
        validate_every: Images between two validation losses; 0 is never.
        sheet_every: Images between two sheets of samples; 0 is never. None is made of sharded weights.
        sharding: Of weights over several processes: none (DDP), or fsdp.
        trackers: Where lines of the log and sheets go too: tensorboard, wandb (extras of these names).
    """

    task: Literal["autoencoder", "text-to-image", "controlnet", "controlnet-3d"]
    output: str
    images: Count
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: Whole = 0
    log_every: Count = 8192
    save_every: Count = 65_536
    validate_every: Whole = 65_536
    sheet_every: Whole = 0
    sharding: Literal["none", "fsdp"] = "none"
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Shards of one data set.

    Args:
        name: As it stands in logs.
        path: A Parquet file, a folder of them, or an address.
        weight: Share of the images, relative to the other sources.
    """

    name: str
    path: str
    weight: Positive = 1.0


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where images come from and how they are put into batches.

    Args:
        procedural: Images drawn by this package instead of sources: for tests, first tries and crash trials.
        sources: The data sets.
        sizes: Share of the batches of each side in pixels.
        batch_size: Images a step over all processes, at the smallest size; larger sizes come in smaller
            batches of about equal area.
        cache: Encode so many images once, at most those of the run, and of larger sizes as many as fill the
            same room, and train on their latents; 0 encodes every step.
        cache_folder: Where these latents lie; empty is ``cache`` in the run's folder.
        workers: Threads that read and crop images.
        processes: Processes that do it instead, where these threads are too slow for a GPU; 0 is none.
        held_out: Images of held-out places, a tenth of the Earth's cells, for the validation loss; 0 learns
            from these places too.
        frames: Of a compact ControlNet: what is given.
        targets: Of a published ControlNet, and so the next five: roles of the frames that are predicted;
            empty is all that have colours.
        conditions: Roles of the frames that are given; empty is all.
        condition_bands: Bands of a frame that is given.
        condition_ranges: For each band the two values that become 0 and 1; empty leaves reflectance, and
            shares of the display range, as they are.
        condition_frames: Frames that are given; where there are fewer they are repeated.
        condition_scale: How many times smaller than the image such a frame is.
        numbers_in_words: Write the numbers into the caption instead of giving them as such; for comparisons.
        no_piece: Chance of each piece of a caption to be left out.
        phrasings: Whether captions are said in other words at times, and with the month.
        unplaced: Chance of the place of a single image to be withheld, so that it may be turned any way.
        no_number: Chance of each of the seven numbers alone to be unknown, besides ``dropping``.
        dropping: How often conditions are unknown.
    """

    procedural: bool = False
    sources: tuple[DataSource, ...] = ()
    sizes: dict[int, Positive] = field(default_factory=lambda: {64: 1.0})
    batch_size: Count = 128
    cache: Whole = 0
    cache_folder: str = ""
    workers: Count = 2
    processes: Whole = 0
    held_out: Whole = 256
    frames: Conditions | None = None
    targets: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    condition_bands: tuple[str, ...] = ("red", "green", "blue")
    condition_ranges: tuple[tuple[float, float], ...] = ()
    condition_frames: Count = 1
    condition_scale: Literal[1, 2, 4, 8] = 1
    numbers_in_words: bool = False
    no_piece: Share = 0.1
    phrasings: bool = True
    unplaced: Share = 0.0
    no_number: Share = 0.0
    dropping: Rates = field(default_factory=Rates)


@dataclass(frozen=True, kw_only=True)
class Model:
    """The networks.

    Args:
        family: compact, or published (extra ``[published]``).
        start: Checkpoint to start from, a folder or a name; empty starts from random weights. Of a compact
            ControlNet one that has it already; empty starts from the weights of the denoiser of ``parts``.
        parts: Checkpoint of the frozen parts (autoencoder, text encoder) where there is no ``start``; of a
            compact ControlNet the one that it is to be added to.
        autoencoder: Checkpoint or autoencoder's run whose autoencoder is taken instead; compact family.
        sizes: Arguments of the trained network where it has no ``start``; of a compact ControlNet those that
            are to differ from the denoiser's.
        design: Of a compact ControlNet without ``start``: compact, or a published one at compact size, to
            compare with.
        lora_rank: Rank of adapters that are trained instead of the whole network; 0 trains the network.
        checkpointing: Recompute activations on the way back instead of keeping them; published family.
        temporal_attention: Of a 3D ControlNet: whether frames attend to each other.
        name: Of the checkpoint that is written, or of the ControlNet in it.
        licence: Of the checkpoint that is written.
        storage: Precision of the weights that are written; int8 for the compact family alone.
    """

    family: Literal["compact", "published"] = "compact"
    start: str = ""
    parts: str = "compact"
    autoencoder: str = ""
    sizes: dict[str, Any] = field(default_factory=dict)
    design: Literal["compact", "published-2d", "published-3d"] = "compact"
    lora_rank: Whole = 0
    checkpointing: bool = False
    temporal_attention: bool = True
    name: str = "trained"
    licence: str = "unknown"
    storage: Literal["fp32", "bf16", "int8"] = "bf16"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the network is asked for, and how much each noise level counts.

    Args:
        prediction: epsilon or v at 1000 discrete noise levels, or flow matching.
        weighting: none; min-snr; or published, min-SNR with epsilon's weight whatever is predicted.
        gamma: Of min-SNR.
        shift: Of flow: more than 1 moves the times that are learned from towards noise, where frames that
            steer tell most.
        regression: Learn from pure noise alone, so that one step of Euler gives the mean of the possible
            images: what a network without diffusion learns, to compare with; flow.
        kl: Of an autoencoder: weight of the divergence from a standard normal.
        perceptual: Of an autoencoder: weight of the perceptual distance (extra ``[train]``).
        turned: Of an autoencoder: share of batches decoded from turned or mirrored latents.
        reduced: Of an autoencoder: share of batches, among these, from latents of half or a quarter of the
            size too.
    """

    prediction: Literal["epsilon", "v", "flow"] = "flow"
    weighting: Literal["none", "min-snr", "published"] = "none"
    gamma: Positive = 5.0
    shift: Positive = 1.0
    regression: bool = False
    kl: Annotated[float, Field(ge=0)] = 1e-5
    perceptual: Annotated[float, Field(ge=0)] = 0.05
    turned: Share = 0.3
    reduced: Share = 0.12


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """How weights follow gradients.

    Args:
        name: muon (hidden matrices; AdamW for the rest) or adamw.
        lr: Learning rate; of the hidden matrices with muon.
        adam_lr: With muon, learning rate of the rest.
        betas: Of AdamW.
        eps: Of AdamW; a large one keeps rounding errors of small gradients small.
        weight_decay: Decoupled.
        clip: Largest norm of the gradient; 0 does not clip.
        accumulation: Parts that a batch is computed in, to save memory; the result is the same.
    """

    name: Literal["muon", "adamw"] = "muon"
    lr: Positive = 0.02
    adam_lr: Positive = 6e-4
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(ge=0)] = 0.0
    accumulation: Count = 1


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Factor of the learning rates: a linear rise, a plateau, a linear fall.

    Args:
        warm_up: Images of the rise.
        decay: Images of the fall.
        floor: Where the fall ends.
    """

    warm_up: Whole = 4000
    decay: Whole = 0
    floor: Share = 0.0


@dataclass(frozen=True, kw_only=True)
class Average:
    """Running average of the weights; what is written in the end.

    Args:
        kind: none; power, over the last part of the run whatever its length; or published.
        widths: Of power: relative widths (EDM2's sigma_rel) that are kept; the first is written, and of two
            any width between can be made after training from snapshots.
        decay: Of published: the largest decay.
        snapshots: Of power: how many snapshots of the averages are kept over the run.
        write: Of power: the relative width that is written in the end, made from the snapshots if it is
            none of the widths; 0 is the first of them.
    """

    kind: Literal["none", "power", "published"] = "power"
    widths: tuple[Annotated[float, Field(gt=0, lt=0.28)], ...] = (0.1,)
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9999
    snapshots: Whole = 0
    write: Annotated[float, Field(ge=0, lt=0.28)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run."""

    run: Run
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    average: Average = field(default_factory=Average)

    def __post_init__(self) -> None:
        """Refuse what fits no run.

        Raises:
            ConfigError: With the two keys that do not fit together.
        """
        problems = {
            "data.procedural is false and data.sources is empty; give one of them": (
                not self.data.procedural and not self.data.sources
            ),
            "objective.weighting is for epsilon and v; with flow give none": (
                self.objective.prediction == "flow" and self.objective.weighting != "none"
            ),
            "objective.shift is of flow; with epsilon and v leave it 1": (
                self.objective.prediction != "flow" and self.objective.shift != 1
            ),
            "data.cache holds latents, which an autoencoder does not learn from; give 0": (
                self.run.task == "autoencoder" and self.data.cache > 0
            ),
            "run.output is empty; give a folder": not self.run.output,
            "objective.regression is for flow": (
                self.objective.regression and self.objective.prediction != "flow"
            ),
            "model.family published needs model.start, a released folder or a Stable Diffusion 2.1": (
                self.model.family == "published" and not self.model.start
            ),
            "model.lora_rank adapts a model of text-to-image; give model.start": (
                self.model.lora_rank > 0 and (self.run.task != "text-to-image" or not self.model.start)
            ),
            "model.storage int8 is for the compact family; give fp32 or bf16": (
                self.model.family == "published" and self.model.storage == "int8"
            ),
            "run.sharding fsdp takes no fp16; give run.precision bf16 or fp32": (
                self.run.sharding == "fsdp" and self.run.precision == "fp16"
            ),
            "run.task controlnet is for the published family; give controlnet-3d": (
                self.model.family == "compact" and self.run.task == "controlnet"
            ),
            "data.frames is what a compact ControlNet is given; it goes with controlnet-3d of that family": (
                (self.data.frames is not None)
                != ((self.model.family, self.run.task) == ("compact", "controlnet-3d"))
            ),
            "data.unplaced is for single images, since frames would tell how an image was turned": (
                self.data.unplaced > 0 and self.run.task.startswith("controlnet")
            ),
            "model.design is of a compact ControlNet that has no model.start": (
                self.model.design != "compact" and (self.data.frames is None or bool(self.model.start))
            ),
            "model.autoencoder of a ControlNet is its checkpoint's; leave it empty": (
                self.data.frames is not None and bool(self.model.autoencoder)
            ),
            "model.checkpointing is for the published family": (
                self.model.family == "compact" and self.model.checkpointing
            ),
            "data.condition_ranges must have one pair for each of data.condition_bands": (
                len(self.data.condition_ranges) not in (0, len(self.data.condition_bands))
            ),
            "average.write is for average.kind power": (
                self.average.write != 0 and self.average.kind != "power"
            ),
            "average.kind power needs average.widths": (
                self.average.kind == "power" and not self.average.widths
            ),
            "average.write is a width to be made of snapshots of two others; give average.snapshots, and two "
            "average.widths on both sides of it": (
                self.average.kind == "power"
                and self.average.write not in (0.0, *self.average.widths)
                and not (
                    self.average.snapshots
                    and min(self.average.widths) < self.average.write < max(self.average.widths)
                )
            ),
            "average.snapshots are more than run.images": self.average.snapshots > self.run.images,
            "data.sizes is empty; give sides in pixels, multiples of 8": not self.data.sizes,
            "data.sizes are multiples of 8": any(side % 8 for side in self.data.sizes),
            "run.task autoencoder is for the compact family, which trains its own": (
                self.model.family == "published" and self.run.task == "autoencoder"
            ),
            "run.sharding fsdp splits the matrices that muon needs whole; give optimiser.name adamw": (
                self.run.sharding == "fsdp" and self.optimiser.name == "muon"
            ),
        }
        for problem, there in problems.items():
            if there:
                raise ConfigError(f"{problem}.")


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name; beside them lie protocols of evaluations."""
    folder = Path(str(resources.files("diffusionsat"))) / "configs"
    names = {str(f.relative_to(folder).with_suffix("")): f for f in sorted(folder.rglob("*.toml"))}
    return {name: file for name, file in names.items() if not name.startswith("evaluation/")}


def read_recipe(name_or_path: str, settings: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a shipped name or of a file, with some settings changed.

    Raises:
        ConfigError: If there is no such config, or it is wrong.
    """
    return read_named(Recipe, name_or_path, shipped(), settings)
