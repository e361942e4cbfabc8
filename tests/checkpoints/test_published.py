"""Released folders: a miniature that the published code wrote, and what can be wrong with one."""

import io
import json
import os
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusionsat import CheckpointError, ConfigError, DiffusionSat, Metadata

pytest.importorskip("diffusers", reason="the extra [published] is not installed")

from diffusionsat.checkpoints.conversion import convert
from diffusionsat.checkpoints.published import (
    read_controlnet,
    read_text_encoder,
    read_unet,
    read_vae,
)
from diffusionsat.checkpoints.released import is_released, locate

pytestmark = pytest.mark.filterwarnings("ignore:.*token_id must be.*")


@pytest.fixture(scope="module")
def layout(reference):
    return reference / "checkpoint_layout"


@pytest.fixture(scope="module")
def expected(layout):
    tensors = load_file(layout / "expected.safetensors")
    given = {n[3:]: t for n, t in tensors.items() if n.startswith("in.")}
    given |= {n: given[n].float() / 255 for n in ("controlnet_cond", "image")}
    return given, {n[4:]: t for n, t in tensors.items() if n.startswith("out.")}


@pytest.fixture
def single(layout, tmp_path):
    return shutil.copytree(layout / "single_root", tmp_path / "single")


@pytest.fixture
def control(layout, tmp_path):
    return shutil.copytree(layout / "controlnet2d_root", tmp_path / "control")


def same(actual, wanted):
    torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@torch.inference_mode()
def check_single(root, expected, unet="unet"):
    given, wanted = expected
    noisy = given["sample"], given["timestep"], given["encoder_hidden_states"]
    same(read_unet(locate(root).unet)(*noisy, metadata=given["metadata"]).sample, wanted[unet])
    same(read_text_encoder(root / "text_encoder")(given["input_ids"]).last_hidden_state, wanted["text"])
    vae = read_vae(root / "vae")
    same(vae.decode(given["sample"]).sample, wanted["vae_decode"])
    same(vae.encode(given["image"] * 2 - 1).latent_dist.mean, wanted["vae_moments_mean"])


@torch.inference_mode()
def check_control(root, layout, expected):
    given, wanted = expected
    noisy = given["sample"], given["timestep"], given["encoder_hidden_states"]
    numbers = {"metadata": given["metadata"], "cond_metadata": given["cond_metadata"]}
    residuals = read_controlnet(locate(root).controlnet)(*noisy, given["controlnet_cond"], **numbers)
    same(residuals.mid_block_res_sample, wanted["controlnet_mid"])
    same(residuals.down_block_res_samples[0], wanted["controlnet_down.0"])
    steered = read_unet(layout / "single_root/checkpoint-2/unet")(
        *noisy,
        metadata=given["metadata"],
        down_block_additional_residuals=residuals.down_block_res_samples,
        mid_block_additional_residual=residuals.mid_block_res_sample,
    )
    same(steered.sample, wanted["unet_with_controlnet"])


def test_every_part_of_the_miniature_gives_the_published_numbers(layout, expected):
    check_single(layout / "single_root", expected)
    check_control(layout / "controlnet2d_root", layout, expected)


def test_what_a_path_leads_to(single, control, layout):
    assert locate(single).unet == single / "checkpoint-2/unet"
    shutil.copytree(single / "checkpoint-2", single / "checkpoint-10")
    assert locate(single).unet == single / "checkpoint-10/unet"  # newest by number, not by name
    assert locate(single / "checkpoint-2").unet == single / "checkpoint-2/unet"
    averaged = locate(single / "checkpoint-2/unet_ema")
    assert (averaged.unet, averaged.root) == (single / "checkpoint-2/unet_ema", single)
    assert locate(control).controlnet == control / "controlnet"
    shutil.rmtree(control / "controlnet")
    assert locate(control).controlnet == control
    assert is_released(single)
    assert not is_released(layout)


def test_the_averaged_weights(single, expected):
    check_single(single, expected)
    given, wanted = expected
    unet = read_unet(single / "checkpoint-2/unet_ema")
    noisy = given["sample"], given["timestep"], given["encoder_hidden_states"]
    with torch.inference_mode():
        same(unet(*noisy, metadata=given["metadata"]).sample, wanted["unet_ema"])


def test_a_converted_folder_gives_the_same_numbers(single, control, layout, expected, tmp_path):
    made = convert(single, tmp_path / "made", precision="fp32")
    check_single(made, expected)
    check_control(convert(control, tmp_path / "steer", precision="fp32"), layout, expected)
    assert not list(tmp_path.rglob("*made/**/*.bin"))
    assert "CreativeML Open RAIL++-M" in (made / "README.md").read_text()
    halved = convert(made, tmp_path / "halved")  # a converted one is a release like any other
    assert {t.dtype for t in load_file(halved / "unet/diffusion_pytorch_model.safetensors").values()} == {
        torch.float16
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["control", "halved", "made", "single", "steer"]


def test_one_of_several_checkpoints_is_converted(single, tmp_path):
    shutil.copytree(single / "checkpoint-2", single / "checkpoint-10")
    made = convert(single, tmp_path / "made", part="checkpoint-2", precision="fp32")
    again = convert(made, tmp_path / "other-name")  # where the name and the size are not lost
    notes = [json.loads((f / "model_index.json").read_text())["_diffusionsat"] for f in (made, again)]
    assert notes[0] == notes[1] == {"name": "single", "version": "2", "side": 512}
    with pytest.raises(CheckpointError, match=r"has no checkpoint-3\. It holds checkpoint-10"):
        convert(single, tmp_path / "third", part="checkpoint-3")


def test_trained_weights_go_before_stable_diffusions(single):
    shutil.copytree(single / "checkpoint-2/unet", single / "unet")
    edit(single / "unet", _class_name="UNet2DConditionModel")
    shutil.rmtree(single / "checkpoint-2/unet")
    assert locate(single).unet == single / "checkpoint-2/unet_ema"


def test_plain_stable_diffusion(single, tmp_path):
    folder = single / "checkpoint-2/unet"
    tensors = torch.load(folder / "diffusion_pytorch_model.bin", weights_only=True)
    plain = {n: t for n, t in tensors.items() if not n.startswith("metadata_embedding.")}
    save_file(plain, folder / "diffusion_pytorch_model.safetensors")
    edit(folder, _class_name="UNet2DConditionModel", use_metadata=None)
    unet = read_unet(folder)
    assert unet.metadata_embedding is None
    edit(folder, _class_name="SatUNet", use_metadata=True)
    with pytest.raises(CheckpointError, match=r"metadata_embedding\.0\.linear_1\.weight is missing"):
        read_unet(folder)


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("pickled", [True, False])
def test_shards_and_names_of_variants(single, expected, pickled):
    folder = single / "checkpoint-2/unet"
    whole = folder / "diffusion_pytorch_model.bin"
    tensors = torch.load(whole, weights_only=True)
    whole.unlink()
    suffix = "bin" if pickled else "safetensors"
    write = torch.save if pickled else save_file
    names = sorted(tensors)
    halves = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.{suffix}": names[i::2] for i in range(2)}
    for file, part in halves.items():
        write({n: tensors[n] for n in part}, folder / file)
    index = {"weight_map": {n: file for file, part in halves.items() for n in part}}
    (folder / f"diffusion_pytorch_model.{suffix}.index.json").write_text(json.dumps(index))
    check_single(single, expected)
    (folder / min(halves)).unlink()
    with pytest.raises(CheckpointError, match=r"00001-of-00002\S* is missing"):
        read_unet(folder)
    write({n: t.half() for n, t in tensors.items()}, folder / f"diffusion_pytorch_model.fp16.{suffix}")
    (folder / f"diffusion_pytorch_model.{suffix}.index.json").unlink()
    assert read_unet(folder).dtype == torch.float16


def test_a_shard_outside_the_folder(single):
    folder = single / "checkpoint-2/unet"
    whole = folder / "diffusion_pytorch_model.bin"
    whole.rename(single / "elsewhere.bin")
    index = {"weight_map": {"conv_in.weight": "../../elsewhere.bin"}}
    (folder / "diffusion_pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="outside its folder"):
        read_unet(folder)


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harm",)


def spoil_truncated(file):
    file.write_bytes(file.read_bytes()[:-5000])


def spoil_missing(file):
    tensors = torch.load(file, weights_only=True)
    tensors.pop("conv_out.weight")
    torch.save(tensors, file)


def spoil_shape(file):
    tensors = torch.load(file, weights_only=True)
    torch.save(tensors | {"conv_out.weight": torch.zeros(2, 2)}, file)


def spoil_foreign(file):
    torch.save(torch.load(file, weights_only=True) | {"stray": torch.zeros(1)}, file)


def spoil_nan(file):
    tensors = torch.load(file, weights_only=True)
    tensors["conv_out.weight"][0] = torch.nan
    torch.save(tensors, file)


def spoil_code(file):
    torch.save({"conv_out.weight": Harmful()}, file)


def spoil_bomb(file):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    file.write_bytes(packed.getvalue())


def spoil_directory(file):
    content = bytearray(file.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 1] ^= 255
    file.write_bytes(content)


def spoil_lora(file):
    torch.save({"unet.down_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(4, 8)}, file)


def spoil_kind(file):
    torch.save([torch.zeros(1)], file)


def spoil_text(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_truncated, "is damaged"),
        (spoil_missing, "conv_out.weight is missing"),
        (spoil_shape, r"conv_out.weight has shape \(2, 2\)"),
        (spoil_foreign, "stray belongs to no part"),
        (spoil_nan, "not finite"),
        (spoil_code, "wants to run code"),
        (spoil_bomb, "far more than its size"),
        (spoil_lora, "a LoRA adapter, not a model"),
        (spoil_directory, "is damaged"),
        (spoil_kind, "no flat table of tensors"),
        (spoil_text, "is damaged"),
    ],
)
def test_bad_weights_are_refused_and_nothing_is_written(single, tmp_path, monkeypatch, spoil, says):
    monkeypatch.chdir(tmp_path)
    spoil(single / "checkpoint-2/unet/diffusion_pytorch_model.bin")
    before = sorted(tmp_path.rglob("*"))
    for refused in (lambda: convert(single, tmp_path / "made"), lambda: DiffusionSat.from_pretrained(single)):
        with pytest.raises(CheckpointError, match=says):
            refused()
    assert sorted(tmp_path.rglob("*")) == before


def test_networks_of_another_kind(single, control, layout, tmp_path):
    shutil.rmtree(single / "checkpoint-2/unet")
    shutil.copytree(control / "controlnet", single / "checkpoint-2/unet")
    with pytest.raises(CheckpointError, match="a ControlNet where a U-Net is due"):
        read_unet(single / "checkpoint-2/unet")
    with pytest.raises(CheckpointError, match="holds no ControlNet"):
        read_controlnet(single / "checkpoint-2/unet_ema")
    edit(control / "controlnet", _class_name="ControlNetModel3D")
    with pytest.raises(CheckpointError, match=r"weights of a ControlNetModel, but .* ControlNetModel3D"):
        read_controlnet(control / "controlnet")
    with pytest.raises(CheckpointError, match="a ControlNet but no U-Net"):
        DiffusionSat.from_pretrained(control)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("checkpoint-2/unet/config.json", "{", "cannot be read"),
        ("checkpoint-2/unet/config.json", '{"block_out_channels": []}', "describes no such network"),
        ("checkpoint-2/unet/config.json", "{}", "the configuration says"),
        ("text_encoder/config.json", "[]", "holds no JSON object"),
        ("text_encoder/config.json", '{"hidden_size": "x"}', "describes no such network"),
        ("scheduler/scheduler_config.json", '{"trained_betas": [1]}', "trained_betas is"),
        ("vae/config.json", '{"norm_num_groups": 0}', "describes no such network"),
        ("scheduler/scheduler_config.json", '{"prediction_type": "score"}', "prediction_type 'score'"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": "many"}', "describes no schedule"),
        ("scheduler/scheduler_config.json", '{"timestep_spacing": "wide"}', "timestep spacing is 'wide'"),
    ],
)
def test_bad_configurations(single, name, text, says):
    (single / name).write_text(text)
    with pytest.raises(CheckpointError, match=says):
        DiffusionSat.from_pretrained(single)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "scheduler", "tokenizer"])
def test_a_missing_part_is_named(published, tmp_path, part):
    root = shutil.copytree(published, tmp_path / "root")
    shutil.rmtree(root / part)
    with pytest.raises(CheckpointError, match=f"has no folder {part}"):
        DiffusionSat.from_pretrained(root)


def test_a_folder_that_is_no_release(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no release of DiffusionSat"):
        DiffusionSat.from_pretrained(tmp_path)


def test_destinations(single, tmp_path):
    with pytest.raises(ConfigError, match="precision is 'int8'"):
        convert(single, tmp_path / "made", precision="int8")
    for inside in (single, single / "made", tmp_path):
        with pytest.raises(CheckpointError, match="lie in one another"):
            convert(single, inside, overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="exists"):
        convert(single, other)
    with pytest.raises(CheckpointError, match="is no release"):
        convert(single, other, overwrite=True)
    with pytest.raises(CheckpointError, match=r"neither a folder nor a \.zip"):
        convert(other / "thesis.tex", tmp_path / "made")
    convert(single, tmp_path / "made", precision="fp32")
    spoil_missing(single / "checkpoint-2/unet/diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is missing"):
        convert(single, tmp_path / "made", overwrite=True)
    assert (tmp_path / "made/unet/config.json").is_file()  # what was there stays


def test_an_overflow_in_half_precision(single, tmp_path):
    file = single / "checkpoint-2/unet/diffusion_pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    tensors["conv_out.weight"][0] = 1e6
    torch.save(tensors, file)
    with pytest.raises(CheckpointError, match=r"conv_out.weight does not fit fp16. Give bf16 or fp32"):
        convert(single, tmp_path / "made")
    convert(single, tmp_path / "made", precision="bf16")


def zipped(root, archive, climb=False):
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(root.rglob("*")):
            out.write(file, f"release/{file.relative_to(root)}")
        if climb:
            out.writestr("../outside.txt", "climbed")
    return archive


def test_a_zip_opens_and_converts(published, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONSAT_CACHE", str(tmp_path / "cache"))
    archive = zipped(published, tmp_path / "release.zip")
    made = convert(archive, tmp_path / "made", precision="fp32")
    scenes = [
        DiffusionSat.from_pretrained(path, precision="fp32").generate("a river", size=(64, 64), steps=2)
        for path in (published, archive, made)
    ]
    assert (scenes[0].pixels == scenes[1].pixels).all()
    difference = scenes[0].pixels.astype(int) - scenes[2].pixels  # memory laid out in another way rounds so
    assert abs(difference).max() <= 1
    assert {s.provenance["model_hash"] for s in scenes[:2]} == {scenes[0].provenance["model_hash"]}


def test_a_controlnet_of_its_own_release(published, control):
    sat = DiffusionSat.from_pretrained(published, controlnets={"superres": control}, precision="fp32")
    alone = DiffusionSat.from_pretrained(published, precision="fp32")
    assert (sat.controls, alone.controls) == (("superres",), ())
    assert sat.checkpoint != alone.checkpoint
    assert sat.control("superres") is sat.control("superres")


def test_a_zip_that_climbs_out(published, tmp_path):
    archive = zipped(published, tmp_path / "release.zip", climb=True)
    with pytest.raises(CheckpointError, match=r"'\.\./outside.txt' leads out"):
        convert(archive, tmp_path / "made")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["release.zip"]


def test_a_published_checkpoint_does_the_same_jobs(published, tmp_path):
    sat = DiffusionSat.from_pretrained(published, precision="fp32")
    metadata = Metadata(lon=7.44, lat=46.95, gsd=1, date="2017-02-11")
    one, two = sat.generate("a river", metadata, n=2, size=(64, 64), steps=3, seed=5)
    again = sat.generate("a river", metadata, size=(64, 64), steps=3, seed=5)
    assert (one.pixels == again.pixels).mean() > 0.99  # another batch shape rounds in another way
    assert (one.pixels != two.pixels).any()
    assert one.grid is not None
    elsewhere = sat.generate("a river", metadata.replace(lon=100), size=(64, 64), steps=3, seed=5)
    assert (elsewhere.pixels != one.pixels).any()
    assert sat.networks.lost("a" * 60 + " " + "b" * 16) == "b" * 16  # the miniature spells
    with pytest.raises(ConfigError, match="multiples of 8 pixels"):
        sat.generate("a river", size=(60, 64))
    with pytest.raises(ConfigError, match="at most 999"):
        sat.generate("a river", size=(64, 64), steps=1000)


def test_bfloat16_does_not_round_the_metadata(published):
    sat = DiffusionSat.from_pretrained(published, precision="bf16")
    metadata = Metadata(lon=153.3, lat=-27.9, gsd=0.5)
    near, far = (
        sat.generate("", m, size=(64, 64), steps=2).pixels for m in (metadata, metadata.replace(lon=153.4))
    )
    assert (near != far).any()  # bfloat16 would hold both as the same number
