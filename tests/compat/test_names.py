"""Names and module paths of the published package."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import diffusionsat
from diffusionsat.compat.names import MODULES, PUBLISHED

KINDS = ("fmow", "satlas", "spacenet", "texas", "xbd")
PREPROCESSING = {
    "metadata_normalize",
    "metadata_unnormalize",
    "combine_text_and_metadata",
    "SampleEqually",
    "SentinelNormalize",
    "SentinelDropBands",
    "SentinelFlipBGR",
    "IdentityTransform",
    "percentile_normalization",
    "fmow_temporal_images",
    *(f"{kind}_tokenize_caption" for kind in KINDS),
    *(f"{kind}_numerical_metadata" for kind in KINDS),
}
ON_DIFFUSERS = {
    "SatUNet",
    "ControlNetModel",
    "ControlNetModel3D",
    "DiffusionSatPipeline",
    "DiffusionSatControlNetPipeline",
}


def run(code):
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_tables_hold_what_users_import():
    assert PUBLISHED.keys() == PREPROCESSING | ON_DIFFUSERS
    assert not PUBLISHED.keys() & diffusionsat._HOMES.keys()
    assert MODULES["data_util"].keys() == PREPROCESSING
    assert {name for names in MODULES.values() for name in names.values()} == PUBLISHED.keys()


def test_no_old_module_hides_one_of_ours():
    root = Path(diffusionsat.__file__).parent
    assert not {path.stem for path in root.iterdir()} & MODULES.keys()


@pytest.mark.parametrize("name", sorted(PREPROCESSING))
def test_preprocessing(name):
    assert getattr(diffusionsat, name) is getattr(importlib.import_module("diffusionsat.data_util"), name)
    assert getattr(diffusionsat, name) is getattr(diffusionsat.data_util, name)


def test_networks_and_pipelines():
    pytest.importorskip("diffusers", reason="diffusers (extra [published]) is not installed")
    from diffusionsat.controlnet import ControlNetModel
    from diffusionsat.controlnet_3d import ControlNetModel3D
    from diffusionsat.pipeline import StableDiffusionPipeline
    from diffusionsat.pipeline_controlnet import StableDiffusionControlNetPipeline

    from diffusionsat import DiffusionSatControlNetPipeline, DiffusionSatPipeline, SatUNet, sat_unet

    assert sat_unet.SatUNet is SatUNet
    assert StableDiffusionPipeline is DiffusionSatPipeline
    assert StableDiffusionControlNetPipeline is DiffusionSatControlNetPipeline
    assert diffusionsat.ControlNetModel is ControlNetModel
    assert diffusionsat.ControlNetModel3D is ControlNetModel3D


def test_what_was_never_there_is_not_there_now():
    with pytest.raises(ImportError, match="cannot import name 'UNet'"):
        from diffusionsat.sat_unet import UNet  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"diffusionsat\.multicontrolnet"):
        importlib.import_module("diffusionsat.multicontrolnet")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("diffusionsat.compat.sat_unet")


def test_modules_load_nothing_before_a_name_is_asked_for():
    paths = ", ".join(f"diffusionsat.{name}" for name in MODULES)
    heavy = "{'torch', 'diffusers', 'transformers', 'numpy'} & sys.modules.keys()"
    run(f"import sys, {paths}; assert not {heavy}, {heavy}")


def test_without_diffusers_the_message_names_the_extra():
    run(
        "import sys; sys.modules['diffusers'] = None\n"
        "import diffusionsat, importlib\n"
        f"for name in {sorted(ON_DIFFUSERS)}:\n"
        "    try: getattr(diffusionsat, name)\n"
        "    except diffusionsat.MissingExtraError as e: assert \"'diffusionsat[published]'\" in str(e), e\n"
        "    else: raise SystemExit(name)\n"
        "try: from diffusionsat.pipeline import StableDiffusionPipeline\n"
        "except diffusionsat.MissingExtraError: pass\n"
        "from diffusionsat import metadata_normalize"
    )
