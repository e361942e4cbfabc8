"""Tiny checkpoints as released, and the networks of the parity cases."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

PARITY = Path(__file__).parents[1] / "fixtures/parity"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """Folders single, texas and superres; not to be changed."""
    pytest.importorskip("diffusers", reason="diffusers (extra [published]) is not installed")
    from diffusionsat.testing.published import tiny_published

    return tiny_published(tmp_path_factory.mktemp("released") / "tiny")


@functools.cache
def _network(name):
    from diffusionsat.models import published

    entry = json.loads((PARITY / "weights/index.json").read_text())[name]
    network = getattr(published, entry["class_name"]).from_config(PARITY / "weights" / entry["config"])
    weights = {}
    for file in entry["weights"]:
        if file.endswith(".npz"):
            arrays = np.load(PARITY / "weights" / file)
            names = [key.removesuffix(".levels") for key in arrays.files if key.endswith(".levels")]
            weights |= {
                n: torch.from_numpy(arrays[f"{n}.levels"].astype(np.float32) * arrays[f"{n}.scale"])
                for n in names
            }
        else:
            weights |= {key: value.float() for key, value in load_file(PARITY / "weights" / file).items()}
    wanted = network.state_dict()
    network.load_state_dict({key: value.reshape(wanted[key].shape) for key, value in weights.items()})
    return network.eval()


@pytest.fixture(scope="session")
def network():
    """Networks of the parity cases by name."""
    pytest.importorskip("diffusers", reason="diffusers (extra [published]) is not installed")
    return _network
