"""The published pipelines: the published code's numbers, and what it could not do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("diffusers", reason="diffusers (extra [published]) is not installed")

from diffusers import DDIMScheduler

from diffusionsat import ConfigError, Metadata, MetadataError
from diffusionsat.compat.pipelines import DiffusionSatControlNetPipeline, DiffusionSatPipeline

PARITY = Path(__file__).parents[1] / "fixtures/parity"
CASES = json.loads((PARITY / "cases/index.json").read_text())
METADATA = [925.8, 345.2, 411.4, 0.0, 308.3, 166.7, 354.8]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def bare(unet, controlnet=None, prediction="v_prediction"):
    """A pipeline without text encoder and autoencoder, as in the fixtures."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    absent = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    parts = absent | {"unet": unet, "scheduler": scheduler, "requires_safety_checker": False}
    if controlnet is None:
        pipe = DiffusionSatPipeline(**parts)
    else:
        pipe = DiffusionSatControlNetPipeline(**parts, controlnet=controlnet)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def single(network):
    return bare(network("unet_a"))


@pytest.fixture
def sequence(network):
    return bare(network("unet_a"), network("controlnet3d_a_temp"))


@pytest.fixture
def ten_bands(network):
    return bare(network("unet_a"), network("controlnet2d_a_c10s2"))


def given(prompts=1, seed=0, **more):
    """Arguments that need no text encoder, for latents out."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(2, prompts, 7, 32, generator=generator)
    return {
        "prompt_embeds": states[0],
        "negative_prompt_embeds": states[1],
        "num_inference_steps": 2,
        "output_type": "latent",
        "latents": torch.randn(prompts, 4, 8, 8, generator=generator),
    } | more


def seen_by(network):
    """The keyword arguments of each call of a network."""
    calls = []
    network.register_forward_hook(lambda _, args, kwargs, out: calls.append(kwargs), with_kwargs=True)
    return calls


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("pipeline")])
def test_every_step_agrees_with_the_published_pipelines(case, network):
    about, t = CASES[case], load_file(PARITY / "cases" / f"{case}.safetensors")
    controlnet = network(about["controlnet"]) if about["controlnet"] else None
    pipe = bare(network(about["unet"]), controlnet, about["prediction_type"])
    conditions = {}
    if controlnet is not None:
        conditions["controlnet_conditioning_scale"] = about["conditioning_scale"]
        conditions["cond_metadata"] = t["in.cond_metadata"]
        if "in.frames" in t:  # a list a prompt, of its frames
            conditions["image"] = [[frame[None].float() / 255 for frame in row] for row in t["in.frames"]]
            conditions["is_temporal"] = True
        else:
            conditions |= {"image": t["in.image"].float() / 255, "height": 64, "width": 64}
    steps = []
    with_hook = pipe.unet.register_forward_hook(
        lambda _, args, kwargs, out: steps.append(kwargs["metadata"]), with_kwargs=True
    )
    seen = []
    pipe(
        prompt_embeds=t["in.prompt_embeds"],
        negative_prompt_embeds=t["in.negative_prompt_embeds"],
        metadata=t["in.metadata"],
        latents=t["in.latents"],
        guidance_scale=about["guidance_scale"],
        num_inference_steps=about["num_inference_steps"],
        output_type="latent",
        callback=lambda i, timestep, latents: seen.append((int(timestep), latents.clone())),
        **conditions,
    )
    with_hook.remove()
    assert [timestep for timestep, _ in seen] == t["out.timesteps"].tolist()
    assert all(metadata.equal(t["out.unet_metadata"]) for metadata in steps)
    for k, (_, latents) in enumerate(seen):
        theirs = t[f"out.latents.{k}"]
        assert latents.shape == theirs.shape
        assert (latents - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max()))


def test_pil_conditions_are_prepared_as_published(single, sequence):
    t = load_file(PARITY / "data/images.safetensors")
    image = Image.fromarray(t["notebook_pil.out.pil_uint8"].numpy())
    prepared = sequence.prepare_image(image, 24, 16, 2, 2, "cpu", torch.float32, True)
    assert prepared.shape == (4, 3, 16, 24)
    expected = t["notebook_pil.out.prepare_image_16x24"].expand(4, 3, 16, 24)
    torch.testing.assert_close(prepared, expected, rtol=0, atol=1e-5)
    assert len(sequence.prepare_image(image, 24, 16, 1, 1, "cpu", torch.float32, True, guess_mode=True)) == 1


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_several_images_a_prompt(single, guidance):
    rows = torch.tensor([METADATA, METADATA[::-1]])
    some = given(2, guidance_scale=guidance, metadata=rows)
    start = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    together = single(**some | {"latents": start, "num_images_per_prompt": 2}).images
    for prompt in range(2):
        one = slice(prompt, prompt + 1)
        for image in (2 * prompt, 2 * prompt + 1):
            alone = some | {
                "prompt_embeds": some["prompt_embeds"][one],
                "negative_prompt_embeds": some["negative_prompt_embeds"][one],
                "metadata": rows[prompt].tolist(),
                "latents": start[image : image + 1],
            }
            close(together[image : image + 1], single(**alone).images)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_one_row_serves_several_prompts(single, guidance):
    some = given(2, guidance_scale=guidance)
    expected = single(**some, metadata=torch.tensor([METADATA, METADATA])).images
    for row in (METADATA, [METADATA], np.array(METADATA), torch.tensor(METADATA, dtype=torch.float64)):
        close(single(**some, metadata=row).images, expected)


def test_unknown_metadata_is_zero(single):
    zeros = single(**given(), metadata=[0.0] * 7).images
    for unknown in (None, [None] * 7, [float("nan")] * 7):
        close(single(**given(), metadata=unknown).images, zeros)
    partly = single(**given(), metadata=[*METADATA[:6], None]).images
    close(partly, single(**given(), metadata=[*METADATA[:6], 0.0]).images)
    assert not torch.allclose(partly, zeros)


def test_metadata_is_never_rounded(released):
    """bfloat16 has steps of 64 near 10,000 and of 4 near 900."""
    pipe = DiffusionSatPipeline.from_pretrained(released / "single", torch_dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    calls = seen_by(pipe.unet)
    exact = [925.8, 345.2, 10_001.0, 0.0, 308.3, 166.7, 354.8]
    image = pipe("a", metadata=exact, num_inference_steps=1, output_type="np").images
    assert np.isfinite(image).all()
    assert calls[0]["metadata"].equal(torch.tensor([[0.0] * 7, exact]))
    prepared = pipe.prepare_metadata(1, exact, True, "cpu", torch.float16)
    assert prepared.equal(calls[0]["metadata"])
    assert not pipe.unet._forward_pre_hooks  # nothing of the call stays


@torch.no_grad()
def test_guess_mode_with_guidance(sequence):
    """Against the loop written out: the unconditional half has neither metadata nor residuals."""
    frames, of_frames = torch.rand(1, 3, 2, 64, 64), 1000 * torch.rand(1, 7, 2)
    some = given(1, guidance_scale=3.0)
    ours = sequence(**some, image=frames, metadata=METADATA, cond_metadata=of_frames, guess_mode=True).images
    metadata, scheduler, x = torch.tensor([METADATA]), sequence.scheduler, some["latents"]
    scheduler.set_timesteps(2)
    for t in scheduler.timesteps:
        down, middle = sequence.controlnet(
            x, t, some["prompt_embeds"], frames, 1.0, metadata, of_frames, guess_mode=True, return_dict=False
        )
        without = sequence.unet(x, t, some["negative_prompt_embeds"], torch.zeros(1, 7)).sample
        guess = sequence.unet(
            x,
            t,
            some["prompt_embeds"],
            metadata,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        x = scheduler.step(without + 3 * (guess - without), t, x).prev_sample
    close(ours, x)


def test_frames_may_be_given_in_every_published_form(sequence):
    frames = torch.rand(1, 3, 3, 64, 64)  # B, T, C, H, W
    by_list = [list(frames[0][:, None])]
    some = given(metadata=METADATA, cond_metadata=(1000 * torch.rand(7, 3)))
    expected = sequence(**some, image=frames.transpose(1, 2)).images
    for image in (by_list, [list(frames[0])], frames.flatten(1, 2)):
        close(sequence(**some, image=image, is_temporal=True).images, expected)
    pictures = [Image.fromarray((255 * f.permute(1, 2, 0)).byte().numpy()) for f in frames[0]]
    near = sequence(**some, image=[pictures], is_temporal=True).images
    torch.testing.assert_close(near, expected, rtol=0.05, atol=0.05)  # 8 bits
    backwards = sequence(**some, image=frames.flip(1).flatten(1, 2), is_temporal=True).images
    assert not torch.allclose(backwards, expected, rtol=0.05, atol=0.05)


def test_several_conditions_and_images_a_prompt(ten_bands):
    bands, rows = torch.rand(2, 10, 32, 32), torch.tensor([METADATA, METADATA[::-1]])
    some = given(2, metadata=rows, cond_metadata=rows.flip(1))
    start = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    many = {"latents": start, "num_images_per_prompt": 2, "image": bands, "height": 64, "width": 64}
    together = ten_bands(**some | many).images
    last = given(2) | {
        "prompt_embeds": some["prompt_embeds"][1:],
        "negative_prompt_embeds": some["negative_prompt_embeds"][1:],
        "latents": start[3:],
    }
    alone = ten_bands(**last, image=bands[1:], metadata=rows[1], cond_metadata=rows.flip(1)[1]).images
    close(together[3:], alone)  # the size was that for which the bands are


def test_metadata_of_seven_frames_is_told_from_seven_rows(sequence):
    table = 1000 * torch.rand(7, 7)
    assert sequence.prepare_metadata(1, table, 3, False, "cpu", None).equal(table[None])
    assert sequence.prepare_metadata(7, table, 3, False, "cpu", None).equal(table)
    assert sequence.prepare_metadata(2, table[:, :3], 3, True, "cpu", None).shape == (4, 7, 3)
    assert sequence.prepare_metadata(2, METADATA, 2, True, "cpu", None).shape == (4, 7)
    assert sequence.prepare_metadata(2, None, 2, True, "cpu", None) is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"lat": 46.9, "lng": 7.4, "ts": "2019"},
            "given as a dict.*metadata_normalize.*diffusionsat.Metadata",
        ),
        (Metadata(lat=46.9, lon=7.4), "given as a Metadata.*metadata_normalize"),
        ([{"lat": 46.9}], "given as a dict"),
        (METADATA[:5], r"shape \(1, 5\). Give \(7,\) or \(1, 7\)"),
        ([METADATA] * 3, r"shape \(3, 7\). Give"),
        (3.0, r"shape \(\)"),
        (["east"] * 7, "no table of numbers"),
        ([float("inf")] * 7, "infinite"),
    ],
)
def test_metadata_that_cannot_be_is_refused(single, metadata, message):
    with pytest.raises(MetadataError, match=message):
        single(**given(), metadata=metadata)


def test_conditions_that_do_not_fit_are_refused(sequence, ten_bands):
    picture = Image.new("RGB", (64, 64))
    for image in (picture, [picture], torch.rand(1, 3, 32, 32)):
        with pytest.raises(
            ConfigError,
            match=r"image has 3 bands.*this ControlNet takes 10.*No published network fills",
        ):
            ten_bands(**given(), image=image)
    with pytest.raises(ConfigError, match="is_temporal=True is for a ControlNetModel3D"):
        ten_bands(**given(), image=torch.rand(1, 10, 32, 32), is_temporal=True)
    with pytest.raises(ConfigError, match=r"3 conditions for 1 prompt.*image=\[\[first, second\]\]"):
        sequence(**given(), image=[picture] * 3, is_temporal=True)
    with pytest.raises(ConfigError, match=r"8 bands.*takes 3 a frame"):
        sequence(**given(), image=torch.rand(1, 8, 64, 64))
    with pytest.raises(ConfigError, match=r"image is NoneType. Give a tensor"):
        sequence(**given())
    with pytest.raises(ConfigError, match="different shapes"):
        sequence(**given(2), image=[torch.rand(3, 64, 64), torch.rand(3, 32, 32)])
    with pytest.raises(ConfigError, match=r"66 and 64. Give multiples of 8"):
        sequence(**given(), image=torch.rand(1, 3, 64, 64), height=66, width=64)
    generators = [torch.Generator(), torch.Generator()]
    with pytest.raises(ConfigError, match="2 generators for 1 images"):
        sequence(**given(latents=None), image=torch.rand(1, 3, 64, 64), generator=generators)


def test_inputs_are_checked_with_the_published_signatures(single, sequence):
    states = torch.zeros(1, 7, 32)
    single.check_inputs(None, 64, 64, 1, None, states)
    sequence.check_inputs(None, torch.rand(1, 3, 64, 64), 64, 64, 1, None, states, states, 1.0)
    for pipe, arguments in (
        (single, ("a", 64, 64, 0)),
        (sequence, ("a", torch.rand(1, 3, 64, 64), 64, 64, 0)),
    ):
        with pytest.raises(ValueError, match="callback_steps"):
            pipe.check_inputs(*arguments)
