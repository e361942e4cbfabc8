"""The floors of docs/explanation/architecture.md: a room imports from lower floors only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffusionsat

ROOT = Path(diffusionsat.__file__).parent
FLOORS = [
    {"errors"},  # which everyone may raise
    {"metadata", "config", "noise_keys", "files", "execution"},
    {"geo", "models", "diffusion", "metrics"},
    {"checkpoints", "data"},
    {"model", "tasks"},
    {"training", "evaluation"},
    {"compat", "service", "testing"},
    {"cli"},  # whose commands start the service too
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ONE_ROOM = {"model", "tasks"}  # the object and its jobs
NO_TORCH = {"metadata", "errors", "config", "noise_keys", "files", "execution", "geo", "data"}
TORCH_AFTER_ALL = ROOT / "data/published"  # whose functions give tensors, as published
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module)
            if node.module == "diffusionsat":
                found |= {f"diffusionsat.{diffusionsat._HOMES.get(a.name, a.name)}" for a in node.names}
    return found


def test_every_room_has_a_floor():
    assert {room(p) for p in FILES} <= FLOOR.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    here = room(path)
    for name in imports(path):
        if name == "torch" or name.startswith("torch."):
            free = here not in NO_TORCH or TORCH_AFTER_ALL in path.parents
            assert free, f"{path} may not import torch"
        if not name.startswith("diffusionsat."):
            continue
        there = name.split(".")[1]
        allowed = there == here or FLOOR[there] < FLOOR[here] or {here, there} <= ONE_ROOM
        assert allowed, f"{path} may not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_global_random_numbers(path):
    text = path.read_text()
    allowed = {
        ROOT / "testing/checkpoint.py",  # initial weights, under fork_rng
        ROOT / "data/published/draws.py",  # old scripts seed the module-level generator
    }
    if path not in allowed:
        assert "torch.manual_seed" not in text
        assert "np.random.seed" not in text
        assert "import random" not in text


def test_no_drawer_for_odds_and_ends():
    assert not {p.stem for p in FILES} & {"utils", "util", "helpers", "common", "misc"}


def test_importing_the_package_loads_no_torch():
    code = "import sys, diffusionsat; diffusionsat.Metadata; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names():
    assert diffusionsat.__all__ == [
        "Cancelled",
        "CheckpointError",
        "ConfigError",
        "DatasetError",
        "DecloudsRequest",
        "DiffusionSat",
        "DiffusionSatError",
        "EditRequest",
        "Frame",
        "GenerateRequest",
        "Grid",
        "Guidance",
        "InpaintRequest",
        "Metadata",
        "MetadataError",
        "MissingExtraError",
        "PredictRequest",
        "RasterError",
        "Scene",
        "StepInfo",
        "UpscaleRequest",
        "open_frame",
    ]
    assert all(getattr(diffusionsat, name) for name in diffusionsat.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        diffusionsat.nothing  # noqa: B018
