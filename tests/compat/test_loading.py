"""Pipelines from folders as released."""

import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers", reason="diffusers (extra [published]) is not installed")

from transformers import CLIPTokenizer

from diffusionsat import CheckpointError
from diffusionsat.compat.pipelines import DiffusionSatControlNetPipeline, DiffusionSatPipeline
from diffusionsat.models.published import ControlNetModel, ControlNetModel3D, SatUNet

LAYOUT = Path(__file__).parents[1] / "fixtures/checkpoint_layout"


@pytest.fixture
def single(released, tmp_path):
    """A copy that may be changed."""
    return Path(shutil.copytree(released / "single", tmp_path / "single"))


def test_every_component_is_the_published_one():
    """Folders that the published code wrote, against what it computed with them; they have no tokenizer."""
    t = load_file(LAYOUT / "expected.safetensors")
    pipe = DiffusionSatPipeline.from_pretrained(LAYOUT / "single_root", tokenizer=None)
    control = DiffusionSatControlNetPipeline.from_pretrained(
        LAYOUT / "controlnet2d_root", tokenizer=None, unet=pipe.unet
    )
    assert type(control.controlnet) is ControlNetModel
    assert pipe.safety_checker is None
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    states, known = t["in.encoder_hidden_states"], t["in.metadata"]
    with torch.no_grad():
        ours = {
            "unet": pipe.unet(t["in.sample"], t["in.timestep"], states, known).sample,
            "text": pipe.text_encoder(t["in.input_ids"]).last_hidden_state,
            "vae_decode": pipe.vae.decode(t["in.sample"]).sample,
            "controlnet_mid": control.controlnet(
                t["in.sample"],
                t["in.timestep"],
                states,
                t["in.controlnet_cond"].float() / 255,
                metadata=known,
                cond_metadata=t["in.cond_metadata"],
            ).mid_block_res_sample,
        }
    for name, value in ours.items():
        torch.testing.assert_close(value, t[f"out.{name}"], rtol=1e-5, atol=1e-5)


def test_the_newest_checkpoint_is_taken_and_named(single, caplog):
    caplog.set_level(logging.INFO, "diffusionsat")
    pipe = DiffusionSatPipeline.from_pretrained(single)
    assert f"unet is loaded from {single / 'checkpoint-10/unet'}" in caplog.messages
    newest = torch.load(single / "checkpoint-10/unet/diffusion_pytorch_model.bin")
    assert pipe.unet.conv_in.weight.equal(newest["conv_in.weight"])
    old = torch.load(single / "vae/diffusion_pytorch_model.bin")
    query = old["decoder.mid_block.attentions.0.query.weight"]
    assert pipe.vae.decoder.mid_block.attentions[0].to_q.weight.equal(query)
    shutil.copytree(single / "checkpoint-9/unet", single / "unet")
    beside = DiffusionSatPipeline.from_pretrained(str(single)).unet
    assert not beside.conv_in.weight.equal(newest["conv_in.weight"])


def test_what_is_passed_is_taken(single, caplog):
    caplog.set_level(logging.WARNING, "diffusionsat")
    tokenizer = CLIPTokenizer.from_pretrained(single / "tokenizer")
    shutil.rmtree(single / "tokenizer")
    with pytest.raises(CheckpointError, match="has no folder tokenizer"):
        DiffusionSatPipeline.from_pretrained(single)
    unet = SatUNet.from_pretrained(single / "checkpoint-9", subfolder="unet")
    for dtype in ({"torch_dtype": torch.bfloat16}, {"dtype": torch.bfloat16}):
        pipe = DiffusionSatPipeline.from_pretrained(
            single, tokenizer=tokenizer, unet=unet, revision="main", safety_checker=None, **dtype
        )
        assert pipe.unet is unet
        assert pipe.tokenizer is tokenizer
        assert (pipe.vae.dtype, pipe.text_encoder.dtype) == (torch.bfloat16, torch.bfloat16)
    assert "DiffusionSatPipeline.from_pretrained ignores: revision" in caplog.messages


def test_a_controlnet_folder_has_no_unet(released):
    with pytest.raises(CheckpointError, match="has no unet"):
        DiffusionSatControlNetPipeline.from_pretrained(released / "texas")
    pipe = DiffusionSatControlNetPipeline.from_pretrained(released / "texas", unet=None)
    assert type(pipe.controlnet) is ControlNetModel3D


def test_a_name_that_is_no_folder_tells_where_the_weights_are():
    with pytest.raises(
        CheckpointError, match=r"`diffusionsat download` \(Zenodo.*13751498.*from_pretrained\(FOLD"
    ):
        DiffusionSatPipeline.from_pretrained("samar-khanna/DiffusionSat")


def test_plain_stable_diffusion_has_no_metadata(single):
    from diffusers import UNet2DConditionModel

    sizes = {
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    }
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    }
    plain = UNet2DConditionModel(**sizes, **blocks, sample_size=8, cross_attention_dim=32)
    plain.save_pretrained(single / "unet")
    assert DiffusionSatPipeline.from_pretrained(single).unet.metadata_embedding  # the checkpoint's goes first
    for checkpoint in single.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    pipe = DiffusionSatPipeline.from_pretrained(single)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.metadata_embedding is None
    same = [
        pipe(
            "a",
            metadata=metadata,
            num_inference_steps=1,
            output_type="pt",
            generator=torch.Generator().manual_seed(0),
        ).images
        for metadata in (None, [500.0] * 7)
    ]
    assert same[0].equal(same[1])


def test_damaged_and_foreign_files_are_refused(single):
    file = single / "checkpoint-10/unet/diffusion_pytorch_model.bin"
    states = torch.load(file)
    del states["metadata_embedding.3.linear_1.weight"]
    torch.save(states, file)
    with pytest.raises(CheckpointError, match=r"metadata_embedding\.3\.linear_1\.weight is missing"):
        DiffusionSatPipeline.from_pretrained(single)
    file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"checkpoint-10/unet/diffusion_pytorch_model\.bin is damaged"):
        DiffusionSatPipeline.from_pretrained(single)


class _Code:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("name", ["vae/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin"])
def test_pickled_code_is_not_run(single, name, monkeypatch):
    monkeypatch.chdir(single)
    (single / name).write_bytes(pickle.dumps(_Code()))
    with pytest.raises(CheckpointError, match="wants to run code"):
        DiffusionSatPipeline.from_pretrained(single)
    assert not Path("ran").exists()


def test_a_saved_pipeline_is_loaded_again(released, tmp_path):
    first = DiffusionSatPipeline.from_pretrained(released / "single")
    first.save_pretrained(tmp_path)
    assert (tmp_path / "unet/diffusion_pytorch_model.safetensors").is_file()
    again = DiffusionSatPipeline.from_pretrained(tmp_path)
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(again, name).state_dict(), getattr(first, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in theirs)
