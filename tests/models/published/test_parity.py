"""The published networks against numbers of the published code; see tests/fixtures/parity/README.md."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers", reason="diffusers (extra [published]) is not installed")

from diffusionsat import ConfigError, DiffusionSat, Metadata
from diffusionsat.checkpoints.layout import Config
from diffusionsat.checkpoints.opening import Opened
from diffusionsat.diffusion.guidance import Guidance, guided
from diffusionsat.diffusion.schedules import Discrete
from diffusionsat.diffusion.solvers import euler
from diffusionsat.model import Steering
from diffusionsat.models import published
from diffusionsat.models.networks import BANDS, Frames
from diffusionsat.models.published import PublishedControl, PublishedNetworks
from diffusionsat.models.published.metadata import embed

FIXTURES = Path(__file__).parents[2] / "fixtures"
PARITY = FIXTURES / "parity"
CASES = json.loads((PARITY / "cases/index.json").read_text())
MODELS = json.loads((PARITY / "weights/index.json").read_text())


@functools.cache
def model(name):
    entry = MODELS[name]
    network = getattr(published, entry["class_name"]).from_config(PARITY / "weights" / entry["config"])
    weights = {}
    for file in entry["weights"]:
        if file.endswith(".npz"):
            arrays = np.load(PARITY / "weights" / file)
            for key in arrays.files:
                if key.endswith(".levels"):
                    matrix = key.removesuffix(".levels")
                    weights[matrix] = torch.from_numpy(
                        arrays[key].astype(np.float32) * arrays[f"{matrix}.scale"]
                    )
        else:
            weights |= {key: value.float() for key, value in load_file(PARITY / "weights" / file).items()}
    wanted = network.state_dict()
    if not network.config["use_metadata"]:
        weights = {key: value for key, value in weights.items() if not key.startswith("metadata_embedding.")}
    network.load_state_dict({key: value.reshape(wanted[key].shape) for key, value in weights.items()})
    return network.eval()


def tensors(case):
    return load_file(PARITY / "cases" / f"{case}.safetensors")


def agree(ours, theirs, tolerance=1e-5):
    ours = ours.detach()
    scale = max(1.0, float(theirs.abs().max()))
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * scale


def inputs(t):
    given = {name.removeprefix("in."): value for name, value in t.items() if name.startswith("in.")}
    for name in ("controlnet_cond", "frames", "image"):
        if name in given:
            given[name] = given[name].float() / 255
    if "frames" in given:
        given["controlnet_cond"] = given.pop("frames").transpose(1, 2)
    return given


def gradients(network, t, given, prefix=""):
    """Check every gradient in the fixture that belongs to a network or to the sample."""
    checked = 0
    for name, theirs in t.items():
        if not name.startswith("grad."):
            continue
        name = name.removeprefix("grad.")
        if name == "sample":
            agree(given["sample"].grad, theirs)
        elif not name.startswith(prefix):
            continue
        elif name == f"{prefix}mixing_attns":
            ours = [p.grad if p.grad is not None else torch.zeros(()) for p in network.mixing_attns]
            agree(torch.stack(ours), theirs)
        else:
            agree(network.get_parameter(name.removeprefix(prefix)).grad, theirs)
        checked += 1
    return checked


def residual_loss(residuals):
    total = torch.zeros(())
    for i, r in enumerate(residuals):
        angles = 0.1 * (torch.arange(r.numel(), dtype=torch.float64) + i)
        total = total + (r.flatten() * angles.cos().float()).sum()
    return total


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("unet_")])
def test_unet(case):
    t, network = tensors(case), model(CASES[case]["model"])
    given = inputs(t)
    network.zero_grad()
    given["sample"].requires_grad_()
    down = [
        given[k]
        for k in sorted((k for k in given if k.startswith("down_block")), key=lambda k: int(k.split(".")[-1]))
    ]
    extra = {}
    if down:
        extra = {
            "down_block_additional_residuals": tuple(down),
            "mid_block_additional_residual": next(v for k, v in given.items() if k.startswith("mid_block")),
        }
    out = network(
        given["sample"],
        given["timestep"],
        given["encoder_hidden_states"],
        metadata=given.get("metadata"),
        **extra,
    ).sample
    agree(out, t["out.sample"])
    if "out.loss" in t:
        loss = (out * given["loss_weight"]).sum()
        agree(loss[None], t["out.loss"])
        loss.backward()
        assert gradients(network, t, given)


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("controlnet")])
def test_controlnet(case):
    about = CASES[case]
    t, network = tensors(case), model(about["model"])
    given = inputs(t)
    network.zero_grad()
    given["sample"].requires_grad_()
    out = network(
        given["sample"],
        given["timestep"],
        given["encoder_hidden_states"],
        given["controlnet_cond"],
        conditioning_scale=about["conditioning_scale"],
        metadata=given["metadata"],
        cond_metadata=given.get("cond_metadata"),
        guess_mode=about["guess_mode"],
    )
    for i, residual in enumerate(out.down_block_res_samples):
        agree(residual, t[f"out.down_block_res_samples.{i}"])
    agree(out.mid_block_res_sample, t["out.mid_block_res_sample"])
    if "out.loss" not in t:
        return
    loss = residual_loss([*out.down_block_res_samples, out.mid_block_res_sample])
    agree(loss[None], t["out.loss"])
    loss.backward()
    assert gradients(network, t, given)


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("combined")])
def test_unet_with_controlnet(case):
    about, t = CASES[case], tensors(case)
    unet, controlnet, given = model(about["unet"]), model(about["controlnet"]), inputs(t)
    unet.zero_grad()
    controlnet.zero_grad()
    given["sample"].requires_grad_()
    down, mid = controlnet(
        given["sample"],
        given["timestep"],
        given["encoder_hidden_states"],
        given["controlnet_cond"],
        metadata=given["metadata"],
        cond_metadata=given["cond_metadata"],
        return_dict=False,
    )
    out = unet(
        given["sample"],
        given["timestep"],
        given["encoder_hidden_states"],
        metadata=given["metadata"],
        down_block_additional_residuals=tuple(down),
        mid_block_additional_residual=mid,
    ).sample
    agree(out, t["out.sample"])
    (out * given["loss_weight"]).sum().backward()
    assert gradients(unet, t, given, "unet.") > 1
    assert gradients(controlnet, t, given, "controlnet.") > 1


def test_metadata_embedding():
    t, network = tensors("metadata_embedding_tiny"), model("unet_a")
    with torch.no_grad():
        ours = embed(network.time_proj, network.metadata_embedding, t["out.normalized"], torch.float32)
    tolerance = 1e-7 * float(t["out.normalized"].abs().max())
    assert float((ours - t["out.sum"]).abs().max()) < max(1e-5, 50 * tolerance)


def test_sinusoid():
    t = tensors("sinusoid_320")
    from diffusers.models.embeddings import Timesteps

    ours = Timesteps(320, True, 0)(t["in.values"])
    assert ((ours - t["out.projection"]).abs() <= 1e-7 * t["in.values"].abs()[:, None] + 1e-6).all()


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("pipeline")])
@torch.no_grad()
def test_our_solver_gives_the_published_pipelines_latents(case):
    about, t = CASES[case], tensors(case)
    unet, given = model(about["unet"]), inputs(t)
    controlnet = model(about["controlnet"]) if about["controlnet"] else None
    schedule = Discrete.scaled_linear()
    batch = len(given["latents"])
    metadata = given["metadata"].reshape(-1, 7).expand(batch, 7)
    condition = given.get("controlnet_cond", given.get("image"))

    def network(latents, timestep, text, known, known_of_condition):
        extra = {}
        if controlnet is not None:
            down, mid = controlnet(
                latents,
                timestep,
                text,
                condition,
                about["conditioning_scale"],
                metadata=known,
                cond_metadata=known_of_condition,
                return_dict=False,
            )
            extra = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": mid}
        return unet(latents, timestep, text, metadata=known, **extra).sample

    def estimates(x, sigma, given_parts):
        from diffusionsat.diffusion.denoisers import PREDICTIONS

        kind = {"v_prediction": "v", "epsilon": "epsilon"}[about["prediction_type"]]
        out = []
        for text, *_ in given_parts:
            states = given["prompt_embeds" if text else "negative_prompt_embeds"]
            of_condition = given.get("cond_metadata")
            prediction = network(
                x / (1 + sigma**2) ** 0.5,
                round(schedule.time(sigma)),
                states,
                metadata if text else metadata * 0,
                of_condition if text or of_condition is None else of_condition * 0,
            )
            out.append(PREDICTIONS[kind](x, prediction, sigma))
        return out

    seen = []
    sigmas = schedule.leading(about["num_inference_steps"])
    start = given["latents"] * float((1 + sigmas[0] ** 2).sqrt())
    euler(guided(estimates, Guidance(text=about["guidance_scale"])), start, sigmas, seen.append)
    for k, info in enumerate(seen):
        agree(info.latents / (1 + info.sigma**2) ** 0.5, t[f"out.latents.{k}"], 1e-4)


class Bare(PublishedNetworks):
    """A U-Net whose words are given as token states."""

    def __init__(self, unet, states):
        self.unet, self.states = unet, states

    def to(self, device, dtype):
        pass

    def text(self, prompts):
        return (self.states,)


def denormalised(x):
    """The numbers that `encodings.published` normalised, (..., 7)."""
    factors = torch.tensor([0.36, 0.18, 0.001, 0.1, 0.12, 0.012, 0.031], dtype=torch.float64)
    numbers = x.double() * factors - torch.tensor([180.0, 90, 0, 0, -1980, 0, 0], dtype=torch.float64)
    numbers[..., 4:] = numbers[..., 4:].round()
    return numbers


def steered(case, row):
    """A row of a pipeline case as a job would ask for it: model, metadata and condition."""
    about, t = CASES[case], tensors(case)
    given = inputs(t)
    *known, year, month, day = denormalised(given["metadata"].reshape(-1, 7)[row]).tolist()
    date = f"{year:.0f}-{month:02.0f}-{day:02.0f}"
    metadata = Metadata(**dict(zip(("lon", "lat", "gsd", "cloud_cover"), known, strict=True)), date=date)
    frames = given["controlnet_cond"] if "controlnet_cond" in given else given["image"][:, :, None]
    frames = frames[row : row + 1].transpose(1, 2)
    _, count, bands, height, width = frames.shape
    visible, others = ("red", "green", "blue"), ("rededge071", "rededge075", "rededge078", "nir", "nir08")
    names = (*visible, *others, "swir16", "swir22")[:bands]
    values = torch.full((1, count, len(BANDS), height, width), torch.nan)
    slots = [BANDS.index(name) for name in names]
    values[:, :, slots] = frames
    has = torch.isin(torch.arange(len(BANDS)), torch.tensor(slots)).expand(1, count, len(BANDS))
    numbers = denormalised(given["cond_metadata"].reshape(-1, 7, count)[row].T)[None].float()
    steering = Steering(
        control="controlnet",
        frames=Frames(values, has, torch.ones(1, count, height, width, dtype=torch.bool), numbers),
        size=(64, 64),
        strength=about["conditioning_scale"],
    )
    states = [given[name][row : row + 1] for name in ("prompt_embeds", "negative_prompt_embeds")]
    opened = Opened(
        config=Config(format="", format_version=1, name="", version="", licence="", prediction="v"),
        networks=Bare(model(about["unet"]), torch.cat(states)),
        schedule=Discrete.scaled_linear(),
        digest="",
        controls={"controlnet": lambda: PublishedControl(model(about["controlnet"]))},
    )
    return DiffusionSat(opened, device=torch.device("cpu"), precision="fp32"), metadata, steering


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("pipeline_control")])
@torch.no_grad()
def test_steering_gives_the_published_pipelines_latents(case):
    """As the test above, but through the model and its frames, as jobs use them."""
    about, t = CASES[case], tensors(case)
    for row in range(len(t["in.latents"])):
        sat, metadata, steering = steered(case, row)
        denoise = sat.conditioned([""], [metadata], "", Guidance(text=about["guidance_scale"]), steering)
        sigmas, seen = sat.schedule.levels(about["num_inference_steps"], (64, 64)), []
        start = t["in.latents"][row : row + 1] * float((1 + sigmas[0] ** 2).sqrt())
        euler(denoise, start, sigmas, seen.append)
        for k, info in enumerate(seen):
            theirs = t[f"out.latents.{k}"][row : row + 1]
            agree(info.latents / (1 + info.sigma**2) ** 0.5, theirs, 1e-4)


def test_frames_that_a_published_controlnet_cannot_take():
    several = steered("pipeline_control3d_v_g1", 0)[2].frames
    sequence, single = (PublishedControl(model(f"controlnet{name}")) for name in ("3d_a_temp", "2d_a_c3"))
    with pytest.raises(ConfigError, match="3 frames; this ControlNet takes one"):
        single.frames(several, (64, 64))
    with pytest.raises(ConfigError, match="lacks a band; this ControlNet takes red, green, blue"):
        sequence.frames(several._replace(bands=~several.bands), (64, 64))
    with pytest.raises(ConfigError, match="64x64 pixels; for images of 128x64 this ControlNet takes 128x64"):
        sequence.frames(several, (128, 64))
    with pytest.raises(ConfigError, match="takes 9 bands"):
        PublishedControl(model("controlnet2d_b_c9"))
    holed = several._replace(values=several.values.clone(), valid=several.valid.clone())
    holed.values[..., 3], holed.valid[..., 3] = torch.nan, False
    (condition,) = sequence.frames(holed, (64, 64))
    assert not condition[..., 3].any()
    assert condition[..., 4:].equal(several.values[:, :, :3].transpose(1, 2)[..., 4:])


@pytest.mark.parametrize("path", sorted((FIXTURES / "manifests").glob("*net*.json")), ids=lambda p: p.stem)
def test_names_and_shapes_at_true_size(path):
    manifest = json.loads(path.read_text())
    with torch.device("meta"):
        network = getattr(published, manifest["config"]["_class_name"]).from_config(manifest["config"])
    ours = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert ours == {name: entry["shape"] for name, entry in manifest["state_dict"].items()}
