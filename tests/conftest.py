"""Fixtures. Nothing imports torch before a test asks: torch-free rooms are tested without it."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from diffusionsat import DiffusionSat

with contextlib.suppress(ImportError):  # the published scripts' environment has none
    from hypothesis import HealthCheck, settings

    # The same examples everywhere, and no limit in time: how fast a machine is, is not what is tried.
    settings.register_profile(
        "steady",
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _plain_log() -> Iterator[None]:
    """Commands set up the package's log; no other test is to see that."""
    yield
    logger = logging.getLogger("diffusionsat")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Fixtures of the published model; see fixtures/parity/README.md."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint; not to be changed."""
    from diffusionsat.testing import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="session")
def sat(tiny: Path) -> "DiffusionSat":
    """The tiny model in float32."""
    from diffusionsat import DiffusionSat

    return DiffusionSat.from_pretrained(tiny, device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def steered_folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with both ControlNets, of random weights; not to be changed."""
    from diffusionsat.testing import add_tiny_control

    folder = tmp_path_factory.mktemp("steered") / "model"
    shutil.copytree(tiny, folder)
    for seed, name in enumerate(("super-resolution", "temporal")):
        add_tiny_control(folder, name, seed)
    return folder


@pytest.fixture(scope="session")
def steered(steered_folder: Path) -> "DiffusionSat":
    """The tiny model with its ControlNets in float32."""
    from diffusionsat import DiffusionSat

    return DiffusionSat.from_pretrained(steered_folder, device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of a released single-image checkpoint; not to be changed."""
    pytest.importorskip("diffusers", reason="the extra [published] is not installed")
    from diffusionsat.testing.published import tiny_published

    return tiny_published(tmp_path_factory.mktemp("published")) / "single"
