"""Scripts as users of the published package write them, on a tiny checkpoint in the released layout."""

import logging
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="diffusers (extra [published]) is not installed")

from diffusionsat import ConfigError

SHIFTED = [272.6, 125.5, 0.5, 0.1, 36.0, 7.0, 14.0]  # as metadata_normalize takes them


@pytest.fixture
def pipe(released):
    from diffusionsat import DiffusionSatPipeline

    pipe = DiffusionSatPipeline.from_pretrained(released / "single")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image_of(pipe, prompt="a road", **more):
    generator = torch.Generator().manual_seed(7)
    metadata = [756.9, 697.2, 500.0, 100.0, 300.0, 583.3, 451.6]
    some = {"metadata": metadata, "num_inference_steps": 2, "output_type": "pt", "generator": generator}
    return pipe(prompt, **some | more).images


def test_a_maker_of_synthetic_sets(released, tmp_path):
    from diffusionsat import DiffusionSatPipeline, SatUNet, metadata_normalize

    root = str(released / "single")
    newest = max(Path(root).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    unet = SatUNet.from_pretrained(newest, subfolder="unet", torch_dtype=torch.float16)
    pipe = DiffusionSatPipeline.from_pretrained(root, unet=unet, torch_dtype=torch.float16).to("cpu")
    for i, name in enumerate(("airport", "dam")):
        image = pipe(
            f"a satellite image of a {name} in Spain",
            metadata=metadata_normalize(SHIFTED).tolist(),
            height=64,
            width=72,
            num_inference_steps=2,
            guidance_scale=7.5,
            generator=torch.Generator(device="cpu").manual_seed(i),
        ).images[0]
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / f"{i}.png")
        assert image.size == (72, 64)
        assert np.asarray(image).std() > 1
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float16


def test_a_maker_of_sequences(released):
    from diffusionsat import (
        ControlNetModel3D,
        DiffusionSatControlNetPipeline,
        MetadataError,
        SatUNet,
        metadata_normalize,
    )

    folder = released / "texas"
    controlnet = ControlNetModel3D.from_pretrained(folder / "checkpoint-50000", subfolder="controlnet")
    unet = SatUNet.from_pretrained(released / "single/checkpoint-10", subfolder="unet")
    pipe = DiffusionSatControlNetPipeline.from_pretrained(folder, unet=unet, controlnet=controlnet)
    frames = torch.rand(1, 9, 64, 64)
    some = {"metadata": metadata_normalize(SHIFTED).tolist(), "is_temporal": True, "num_inference_steps": 2}
    image = pipe("a satellite image of houses", image=frames, **some).images[0]
    assert image.size == (64, 64)
    pictures = [[Image.new("RGB", (70, 66), color) for color in ("red", "green", "blue")]]
    cond_metadata = torch.stack([metadata_normalize(torch.tensor(SHIFTED))] * 3, dim=-1)
    guided = pipe("a", image=pictures, cond_metadata=cond_metadata, guidance_scale=1.0, **some).images[0]
    assert guided.size == (64, 64)
    with pytest.raises(MetadataError, match="of 2 frames, but image has 3"):
        pipe("a", image=pictures, cond_metadata=cond_metadata[:, :2], **some)


def test_a_maker_of_finer_images(released):
    from diffusionsat.controlnet import ControlNetModel
    from diffusionsat.pipeline_controlnet import StableDiffusionControlNetPipeline
    from diffusionsat.sat_unet import SatUNet

    controlnet = ControlNetModel.from_pretrained(released / "superres", subfolder="controlnet")
    unet = SatUNet.from_pretrained(released / "single", subfolder="checkpoint-10/unet")
    pipe = StableDiffusionControlNetPipeline.from_pretrained(
        released / "superres", unet=unet, controlnet=controlnet, safety_checker=None
    )
    row = [756.9, 697.2, 500.0, 100.0, 300.0, 583.3, 451.6]
    coarse = [*row[:2], 10_000.0, *row[3:]]
    some = {"metadata": row, "cond_metadata": coarse, "num_inference_steps": 2}
    bands = torch.rand(1, 10, 32, 32)
    assert pipe("a", image=bands, height=64, width=64, **some).images[0].size == (64, 64)


def test_a_would_be_in_painter(released):
    from diffusionsat import (
        ConfigError,
        ControlNetModel,
        DiffusionSatControlNetPipeline,
        SatUNet,
        metadata_normalize,
    )

    controlnet = ControlNetModel.from_pretrained(released / "superres", subfolder="controlnet")
    unet = SatUNet.from_pretrained(released / "single/checkpoint-10", subfolder="unet")
    pipe = DiffusionSatControlNetPipeline.from_pretrained(
        released / "superres", unet=unet, controlnet=controlnet
    )
    with pytest.warns(UserWarning, match=r"unshifted.*diffusionsat\.Metadata"):
        metadata = metadata_normalize([-76.6, 28.7, 1.0, 0.0, 2015, 2, 27]).tolist()
    metadata_normalize([103.4, 118.7, 1.0, 0.0, 2015, 2, 27], base_year=0)  # warns of nothing
    with pytest.raises(ConfigError, match=r"3 bands.*takes 10.*No published network fills a masked part"):
        pipe("a road", image=[Image.new("RGB", (64, 64))], metadata=metadata)


def test_a_user_of_the_frozen_backbone(released, caplog):
    from diffusionsat import SatUNet

    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    unet = SatUNet.from_pretrained(
        str(released / "single"),
        subfolder="checkpoint-10/unet",
        num_metadata=0,
        use_metadata=False,
        low_cpu_mem_usage=False,
    )
    logger.removeHandler(caplog.handler)
    unused = [message for message in caplog.messages if "were not used" in message]
    assert len(unused) == 1
    assert len(re.findall(r"metadata_embedding\.\d\.linear_\d\.(?:weight|bias)", unused[0])) == 28
    maps = {}
    for name, module in unet.named_modules():
        if "up_blocks" in name and name.endswith(("attn1", "conv2")):
            module.register_forward_hook(lambda _, args, out, name=name: maps.update({name: out.detach()}))
    x, states = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 32)
    with torch.no_grad():
        by_position = unet(x, 1, states)[0]
        assert unet(x, torch.tensor(1.0), encoder_hidden_states=states).sample.equal(by_position)
        before = unet(x, -1.0, encoder_hidden_states=states).sample
    assert not before.equal(by_position)
    assert sum(name.endswith("conv2") for name in maps) == 8
    assert sum(name.endswith("attn1") for name in maps) == 6
    assert all(torch.isfinite(value).all() for value in maps.values())


@torch.no_grad()
def test_an_inversion_over_the_parts_of_a_pipeline(pipe):
    """Image to noise by DDIM run backwards, and to the image again."""
    tokens = pipe.tokenizer(
        "a road", padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    )
    assert tokens.input_ids.shape == (1, 77)
    assert tokens.input_ids[0, -1] == 0  # padded with "!", as Stable Diffusion 2 is
    states = pipe.text_encoder(tokens.input_ids.to(pipe.device))[0]
    alphas = torch.cumprod(1 - pipe.scheduler.betas, 0)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    clean = pipe.vae.encode(image).latent_dist.mean * pipe.vae.config.scaling_factor
    pipe.scheduler.set_timesteps(25)
    steps = pipe.scheduler.timesteps.flip(0).tolist()

    def move(x, start, end):
        a, b = alphas[start], alphas[end]
        v = pipe.unet(x, start, encoder_hidden_states=states).sample
        x0, noise = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
        return b.sqrt() * x0 + (1 - b).sqrt() * noise

    x = clean
    for start, end in pairwise(steps):
        x = move(x, start, end)
    assert (x - clean).abs().mean() > 0.1
    for start, end in pairwise(reversed(steps)):
        x = move(x, start, end)
    assert (x - clean).abs().mean() < 0.25 * clean.abs().mean()  # of 25 steps of first order


def test_a_fine_tuner(pipe):
    """A training step over the helper methods of the pipeline."""
    from diffusionsat import metadata_normalize

    unet, scheduler = pipe.unet.train(), pipe.scheduler
    states = pipe._encode_prompt("a road", pipe.device, 2, False)
    assert states.shape == (2, 77, 32)
    guided = pipe._encode_prompt(["a", "b"], pipe.device, 1, True, negative_prompt=["c", "c"])
    assert guided.shape == (4, 77, 32)
    assert guided[0].equal(guided[1])
    row = metadata_normalize(SHIFTED)
    metadata = pipe.prepare_metadata(2, row.tolist(), False, pipe.device, torch.float16)
    torch.testing.assert_close(metadata, row.expand(2, 7))
    latents = pipe.vae.encode(torch.rand(2, 3, 64, 64)).latent_dist.sample() * pipe.vae.config.scaling_factor
    noise, t = torch.randn_like(latents), torch.tensor([10, 700])
    noisy = scheduler.add_noise(latents, noise, t)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
    prediction = unet(noisy, t, metadata=metadata, encoder_hidden_states=states.detach()).sample
    (prediction - scheduler.get_velocity(latents, noise, t)).square().mean().backward()
    assert unet.metadata_embedding[2].linear_1.weight.grad.any()
    optimizer.step()
    start = pipe.prepare_latents(2, 4, 64, 64, torch.float32, pipe.device, torch.Generator().manual_seed(0))
    assert start.shape == (2, 4, 8, 8)
    assert pipe.prepare_extra_step_kwargs(None, 0.5) == {"eta": 0.5, "generator": None}
    pipe.enable_vae_slicing()
    with torch.no_grad():
        whole = pipe.decode_latents(start)
    pipe.disable_vae_slicing()
    assert whole.shape == (2, 64, 64, 3)
    assert 0 <= whole.min() < whole.max() <= 1


def test_a_croppers_script(pipe):
    from diffusionsat import CheckpointError, DiffusionSatPipeline, MetadataError, metadata_normalize

    with pytest.raises(CheckpointError, match="diffusionsat download"):
        DiffusionSatPipeline.from_pretrained("samar-khanna/DiffusionSat", torch_dtype=torch.float16)
    with pytest.raises(MetadataError, match="metadata_normalize"):
        pipe(["wheat"], metadata={"lat": 46.9, "lng": 7.4, "ts": "2019-07-14"})
    with pytest.raises(MetadataError, match="'ts'"):
        metadata_normalize({"lat": 46.9, "lng": 7.4, "ts": "2019-07-14"})
    metadata = metadata_normalize({"lat": 46.9, "lng": 7.4, "date": "2019-07-14"})
    assert len(pipe(["wheat"], metadata=metadata, num_inference_steps=1).images) == 1


def test_a_lora(pipe, released, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from diffusionsat import DiffusionSatPipeline

    base = image_of(pipe)
    pipe.unet.add_adapter(
        peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian")
    )
    for name, parameter in pipe.unet.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    tuned = image_of(pipe)
    assert (tuned - base).abs().max() > 1e-3
    pipe.save_lora_weights(tmp_path, unet_lora_layers=peft.get_peft_model_state_dict(pipe.unet))
    again = DiffusionSatPipeline.from_pretrained(released / "single")
    again.load_lora_weights(tmp_path)
    torch.testing.assert_close(image_of(again), tuned, rtol=1e-4, atol=1e-4)
    again.unload_lora_weights()
    torch.testing.assert_close(image_of(again), base, rtol=1e-4, atol=1e-4)


def test_attention_processors_agree(pipe):
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor

    base = image_of(pipe)
    for processor in (AttnProcessor(), SlicedAttnProcessor(1), AttnProcessor2_0()):
        pipe.unet.set_attn_processor(processor)
        torch.testing.assert_close(image_of(pipe), base, rtol=1e-4, atol=1e-4)
    pipe.enable_attention_slicing()
    torch.testing.assert_close(image_of(pipe), base, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision_makes_the_same_image(pipe, released, dtype, tolerance):
    from diffusionsat import DiffusionSatPipeline

    half = DiffusionSatPipeline.from_pretrained(released / "single", torch_dtype=dtype)
    half.set_progress_bar_config(disable=True)
    ours, base = image_of(half).float(), image_of(pipe)
    assert (ours - base).abs().mean() < tolerance * base.std()


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_other_schedulers(pipe, name):
    import diffusers

    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    assert torch.isfinite(image_of(pipe)).all()


def test_noise_is_scaled_once(pipe, released):
    """Euler's noise is many times larger than DDIM's."""
    from diffusers import EulerDiscreteScheduler

    from diffusionsat import DiffusionSatControlNetPipeline

    control = DiffusionSatControlNetPipeline.from_pretrained(released / "superres", unet=pipe.unet)
    control.scheduler = EulerDiscreteScheduler.from_config(control.scheduler.config)
    bands = torch.ones(1, 10, 32, 32)
    drawn = image_of(control, image=bands)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(image_of(control, image=bands, latents=noise), drawn)


def test_off_loading(pipe):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        pytest.skip("off-loading moves networks to an accelerator, and this machine has none")
    pipe.enable_model_cpu_offload()
    image_of(pipe)
    assert pipe.unet.device.type == "cpu"


def test_accelerates_hooks_leave_the_metadata(pipe):
    """What off-loading does to a network, without an accelerator."""
    hooks = pytest.importorskip("accelerate.hooks", reason="accelerate is not installed")
    base = image_of(pipe)
    hooks.add_hook_to_module(pipe.unet, hooks.AlignDevicesHook(execution_device="cpu", io_same_device=True))
    torch.testing.assert_close(image_of(pipe), base)


def test_callbacks(pipe):
    seen = []
    image_of(
        pipe,
        num_inference_steps=5,
        callback=lambda i, t, x: seen.append((i, int(t), x.shape)),
        callback_steps=2,
    )
    assert seen == [(i, 801 - 200 * i, (1, 4, 8, 8)) for i in (0, 2, 4)]
    from diffusionsat import ConfigError

    with pytest.raises(ConfigError, match="both given"):
        image_of(pipe, callback=print, callback_on_step_end=print)


def test_arguments_that_no_pipeline_has(pipe):
    with pytest.raises(ConfigError, match="no argument 'metdata'"):
        image_of(pipe, metdata=[1.0] * 7)
    with pytest.raises(ConfigError, match="mask_image is given, but no published network fills"):
        image_of(pipe, mask_image=Image.new("L", (64, 64)))


def test_eight_bit_weights(pipe):
    """Weights stored in eight bits and computed with in 32: diffusers' layerwise casting."""
    whole = image_of(pipe)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert pipe.unet.down_blocks[0].resnets[0].conv1.weight.dtype == torch.float8_e4m3fn
    assert float((image_of(pipe) - whole).abs().mean()) < 0.1


def test_networks_say_where_their_weights_are(released):
    from diffusionsat import CheckpointError, ControlNetModel, SatUNet

    with pytest.raises(CheckpointError, match=r"no folder, .*download.*SatUNet\.from_pretrained"):
        SatUNet.from_pretrained("samar-khanna/DiffusionSat")
    with pytest.raises(CheckpointError, match="holds a ControlNetModel3D, not a ControlNetModel"):
        ControlNetModel.from_pretrained(released / "texas/checkpoint-50000", subfolder="controlnet")
