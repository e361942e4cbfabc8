"""Pages of data sets: layout and licence are the adapter's, and the commands run on a fake of the release.

Python stands in blocks marked `py`, since those marked `python` are run by themselves.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from fakes import eurosat, files, fmow, folder, satlas, spacenet, webdataset, xbd

from diffusionsat.cli import main
from diffusionsat.data.adapters import ADAPTERS
from diffusionsat.training.recipe import read_recipe, shipped

ROOT = Path(__file__).parents[2]
RELEASES = {  # of every page the folder that it names, and what makes a fake of what lies there
    "fmow": ("/data/fmow-rgb", fmow.make_rgb),
    "fmow-sentinel": ("/data/fmow", fmow.make_pairs),
    "satlas": ("/data/satlas", satlas.make),
    "spacenet": ("/data/spacenet", spacenet.make),
    "texas-housing": ("/data/texas", webdataset.make_flawed),
    "xbd": ("/data/xbd", xbd.make),
    "eurosat": ("/data/eurosat", eurosat.make_ms),
    "folder": ("/data/mine", folder.make),
    "webdataset": ("/data/shards", webdataset.make_flawed),
    "compact": ("/data/uc_merced", folder.make),
}
SMALL = (
    *("data.sizes={8=1}", "data.batch_size=2", "data.cache=0", "optimiser.accumulation=1"),
    *("run.images=4", "run.validate_every=0", "run.sheet_every=0", "run.device=cpu", "run.precision=fp32"),
)
CONTROL = "model.sizes={conditioning_embedding_out_channels=[4,8,8,16]}"
BANDS = ("B04", "B03", "B02", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def text(page):
    return (ROOT / f"docs/datasets/{page}.md").read_text()


def steps(page):
    """Commands as lists of words and Python as text, in the order of the page."""
    found = re.findall(r"^```py\n(.*?)^```|^    (diffusionsat [^\n]*)", text(page), re.M | re.S)
    yield from (code or shlex.split(command)[1:] for code, command in found)


@pytest.mark.parametrize("name", sorted(ADAPTERS.keys() - {"parquet"}))
def test_the_layout_and_licence_of_an_adapter_are_on_its_page(name):
    pages = [page for page in map(text, RELEASES) if re.search(rf"prepare {name} |`{name}`", page)]
    layout = "".join(f"    {line}\n" for line in ADAPTERS[name].layout.strip().splitlines())
    licence = f"- Licence: {ADAPTERS[name].licence}."
    assert any(layout in page and licence in page for page in pages)


def test_every_set_of_the_compact_recipes_is_on_the_page():
    recipes = [read_recipe(name) for name in shipped() if name.startswith("compact/")]
    named = {source.name for recipe in recipes for source in recipe.data.sources}
    assert named == set(re.findall(r"^\| `(\w+)` \|", text("compact"), re.M))


@pytest.fixture
def place(published, tmp_path, monkeypatch):
    """Where the commands are run: the released models, rasters, and a Sentinel-2 image lie there."""
    monkeypatch.chdir(tmp_path)
    for name in ("single-512", "stable-diffusion-2-1"):
        (tmp_path / name).symlink_to(published)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    values = np.random.default_rng(0).integers(500, 2500, (16, 16, 10)).astype(np.uint16)
    files.geotiff(tmp_path / "sentinel2.tif", values, "EPSG:32632", (5e5, 5.2e6), 10, None, BANDS, nodata=0)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", RELEASES)
def test_the_commands_of_a_page_lead_from_a_release_to_an_image(page, place, tiny, capsys):
    named, make = RELEASES[page]
    make(place / "release")
    for step in steps(page):
        if isinstance(step, str):
            exec(compile(step.replace("control=", "steps=1, control="), page, "exec"), {})
            continue
        words = [word.replace(named, str(place / "release")) for word in step]
        if words[0] == "prepare" and "--workers" in words:
            words[words.index("--workers") + 1] = "1"
        elif words[0] == "train":
            compact = words[1].startswith("compact/")
            more = (f"model.start={tiny}", "model.autoencoder=") if compact else (CONTROL,)
            if page == "compact":  # of all its sets the one that the page prepares
                more += ('data.sources=[{name="uc_merced",path="data/uc_merced"}]',)
            words += [word for setting in (*SMALL, *more) for word in ("--set", setting)]
        elif words[0] == "generate":
            words += ["--steps", "1", "--size", "64x64", "--device", "cpu"]
        assert main.run(words) == 0, (words, capsys.readouterr().err)
    wanted = re.findall(r"-o (\w+\.tif)|save\(\"(\w+\.tif)", text(page))
    assert wanted
    assert all((place / (one or other)).is_file() for one, other in wanted)
