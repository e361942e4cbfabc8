import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusionsat import CheckpointError, DiffusionSat
from diffusionsat.checkpoints.layout import content_hash, read_config
from diffusionsat.checkpoints.shipped import find
from diffusionsat.checkpoints.tensors import read_tensors, write_tensors


@pytest.fixture
def broken(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "broken")


def refused(folder, says):
    with pytest.raises(CheckpointError, match=says) as error:
        DiffusionSat.from_pretrained(folder)
    assert str(folder) in str(error.value)
    assert isinstance(error.value, OSError)


@pytest.mark.parametrize(
    "name", ["denoiser.safetensors", "autoencoder.safetensors", "text_encoder.safetensors", "tokenizer.json"]
)
def test_a_missing_file(broken, name):
    (broken / name).unlink()
    refused(broken, f"{name} is missing")


@pytest.mark.parametrize("length", [0, 7, 100, 4000])
def test_a_truncated_file(broken, length):
    path = broken / "denoiser.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refused(broken, "denoiser.safetensors is damaged")
    with pytest.raises(CheckpointError, match=r"denoiser\.safetensors is damaged"):  # as `info` sees it
        read_config(broken)


def changed(folder, change):
    path = folder / "denoiser.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_the_first_offending_key_is_named(broken):
    changed(broken, lambda t: t.pop("conv_in.weight"))
    refused(broken, "denoiser.safetensors: conv_in.weight is missing")


def test_a_foreign_key(broken):
    changed(broken, lambda t: t.update(stray=torch.zeros(1)))
    refused(broken, "denoiser.safetensors: stray belongs to no part")


def test_another_shape(broken):
    changed(broken, lambda t: t.update({"conv_in.weight": torch.zeros(2, 2)}))
    refused(broken, r"conv_in.weight has shape \(2, 2\); the configuration says \(16, 4, 3, 3\)")


def test_values_that_are_not_finite(broken):
    changed(broken, lambda t: t["conv_in.weight"].fill_(torch.nan))
    refused(broken, "conv_in.weight has values that are not finite")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "diffusers"}, "not of format 'diffusionsat'"),
        ({"format_version": 2}, "format_version 2; this package reads 1"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"max_tokens": "many"}, "max_tokens is 'many'"),
        ({"defaults": {"step": 3}}, "unknown key 'defaults.step'. Did you mean 'steps'"),
        ({"denoiser": {"depth": 3}}, "CompactDenoiser cannot have these sizes"),
        ({"denoiser": {"channels": []}}, "CompactDenoiser cannot have these sizes"),
        ({"denoiser": {"bandwidth": {"foo": 1}}}, "CompactDenoiser cannot have these sizes"),
        ({"prediction": "magic"}, "prediction does not fit"),
        ({"max_tokens": 17}, "max_tokens does not fit"),
        ({"defaults": {"size": [3, 3]}}, "defaults.size does not fit"),
        ({"defaults": {"solver": "magic"}}, "defaults.solver does not fit"),
        ({"denoiser": {"channels": [16, -32]}}, "cannot have these sizes|configuration says"),
    ],
)
def test_a_foreign_configuration(broken, change, says):
    path = broken / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(broken, says)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
def test_a_configuration_that_is_no_json(broken, text):
    (broken / "config.json").write_text(text, encoding="latin-1")
    refused(broken, "config.json")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "x.pkl", "model.py", "deep/down.pt", "run.sh", "pickle"]
)
def test_code_and_pickles_are_refused(broken, name):
    (broken / name).parent.mkdir(exist_ok=True)
    (broken / name).write_bytes(pickle.dumps("harmless"))
    refused(broken, "can carry code")


def test_links_out_of_the_folder_are_refused(broken, tmp_path):
    outside = tmp_path / "outside.safetensors"
    (broken / "denoiser.safetensors").rename(outside)
    (broken / "denoiser.safetensors").symlink_to(outside)
    refused(broken, "leads out of the checkpoint's folder")


def test_links_in_a_circle_are_refused(broken):
    (broken / "one.txt").symlink_to("two.txt")
    (broken / "two.txt").symlink_to("one.txt")
    refused(broken, "a link that leads nowhere")


def test_eight_bits_need_their_scales(broken):
    path = broken / "denoiser.safetensors"
    tensors = load_file(path)
    for scale in (None, torch.ones(1), torch.ones(3)):
        stored = tensors | {"conv_in.weight": torch.zeros(16, 4, 3, 3, dtype=torch.int8)}
        if scale is not None:
            stored["conv_in.weight::scale"] = scale
        save_file(stored, path)
        refused(broken, "conv_in.weight is stored in eight bits without a scale")
    save_file(tensors | {"stray::scale": torch.ones(1)}, path)
    refused(broken, "stray::scale belongs to no part")


def test_an_integer_where_a_number_is_due(broken):
    changed(broken, lambda t: t.update({"conv_in.weight": torch.zeros(16, 4, 3, 3, dtype=torch.int64)}))
    refused(broken, "conv_in.weight is of type torch.int64")


def test_folders_that_are_no_checkpoint(tmp_path):
    refused(tmp_path, "no config.json")
    with pytest.raises(CheckpointError, match="neither a folder, a zip nor one of compact"):
        find("no-such-model")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "is no folder")


def test_the_hash_follows_the_content(broken, tiny):
    assert content_hash(broken) == content_hash(tiny)
    changed(broken, lambda t: t["conv_in.bias"].add_(1e-3))
    assert content_hash(broken) != content_hash(tiny)
    assert read_config(tiny).name == "tiny"


@pytest.mark.parametrize(("storage", "error"), [("fp32", 0), ("bf16", 2**-8), ("int8", 1 / 127)])
def test_storage(tmp_path, storage, error):
    torch.manual_seed(0)
    tensors = {
        "w": torch.randn(8, 4, 3, 3),
        "b": torch.randn(8),
        "zero": torch.zeros(2, 2),
        "n": torch.tensor([3]),
    }
    write_tensors(tmp_path / "x.safetensors", tensors, storage)
    back = read_tensors(tmp_path / "x.safetensors")
    assert back.keys() == tensors.keys()
    largest = tensors["w"].flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    assert ((back["w"].float() - tensors["w"]).abs() <= error * largest).all()
    assert back["n"].equal(tensors["n"])
    assert not back["zero"].any()
    sizes = {"fp32": 4, "bf16": 2, "int8": 1}
    assert (tmp_path / "x.safetensors").stat().st_size < sizes[storage] * 288 + 700
