"""The commands on rasters, through the program's own entry."""

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from diffusionsat import ConfigError, RasterError
from diffusionsat.cli.main import run
from diffusionsat.cli.options import parse_dates


@pytest.fixture
def houses(tmp_path):
    """Two pictures of one place, of smooth colours with little noise."""
    for seed, year in enumerate((2018, 2020)):
        noise = np.random.default_rng(seed).integers(0, 4, (3, 32, 40))
        values = (np.linspace(90, 150, 40) + 10 * seed + noise).astype(np.uint8)
        with rasterio.open(
            tmp_path / f"{year}.tif",
            "w",
            driver="GTiff",
            width=40,
            height=32,
            count=3,
            dtype="uint8",
            crs="EPSG:32632",
            transform=Affine(1, 0, 4e5, 0, -1, 5e6),
            photometric="RGB",
        ) as file:
            file.write(values)
    return tmp_path


@pytest.fixture
def command(houses, steered_folder, capsys, monkeypatch):
    monkeypatch.chdir(houses)

    def call(name, *words):
        model = ["--model", str(steered_folder), "--device", "cpu", "--precision", "fp32", "--steps", "2"]
        code = run([name, *words, *model])
        said = capsys.readouterr()
        return code, [json.loads(line) for line in said.out.splitlines()], said.err

    return call


def pixels(path):
    with rasterio.open(path) as file:
        return file.read()


def test_upscale(command):
    code, (line,), _ = command(
        "upscale", "2018.tif", "--factor", "3", "--samples", "2", "--details", "-o", "a.tif"
    )
    assert code == 0
    assert line["synthetic"]
    assert line["factor"] == 3
    assert sorted(line["layers"]) == ["invented", "measured", "samples", "spread", "support"]
    assert line["consistency"]["noise"] < 1
    with rasterio.open("a.tif") as file, rasterio.open("2018.tif") as before:
        assert (file.width, file.height) == (120, 96)
        assert file.bounds == before.bounds
        assert file.tags()["SYNTHETIC"] == "YES"
    code, (about,), _ = command_info("a.tif")
    assert code == 0
    assert about["task"] == "upscale"


def test_names_of_bands_are_those_of_references_without_any_too(command, houses):
    for year in (2018, 2020):
        with rasterio.open(f"{year}.tif") as file:
            values = np.concatenate([file.read(), file.read([1])])
            profile = file.profile | {"count": 4, "photometric": "minisblack"}
        with rasterio.open(f"bare-{year}.tif", "w", **profile) as file:
            file.write(values.astype("uint8"))
            file.colorinterp = [rasterio.enums.ColorInterp.gray] * 4
    Image.fromarray(np.eye(32, 40, dtype=np.uint8)).save("mask.png")
    words = ("inpaint", "bare-2020.tif", "mask.png", "--bands", "red,green,blue,nir", "-o", "a.tif")
    code, (line,), _ = command(*words, "--reference", "bare-2018.tif@2018", "--reference", "2018.tif@2019")
    assert code == 0
    assert len(line["inputs"]) == 3


def test_the_prompt_is_not_pushed_where_images_steer(command):
    asked = ("--metadata-guidance", "3", "-o", "a.tif")
    _, (line,), _ = command("upscale", "2018.tif", "--factor", "2", *asked)
    assert (line["guidance"]["text"], line["guidance"]["metadata"]) == (1, 3)
    _, (line,), _ = command("edit", "2018.tif", "forest", *asked, "--overwrite")
    assert (line["guidance"]["text"], line["guidance"]["metadata"]) == (2, 3)


def test_several_results_are_of_other_noise(command, houses):
    words = ("edit", "2018.tif", "forest", "--samples", "2", "-o")
    _, (alone,), _ = command(*words, "one.tif")
    code, lines, _ = command(*words, "a.tif", "-n", "3")
    assert code == 0
    assert [(line["path"], line["index"]) for line in lines] == [(f"a-00{i}.tif", i) for i in range(3)]
    first, second, third = (pixels(line["path"]) for line in lines)
    assert np.array_equal(first, pixels("one.tif"))
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)
    assert alone["index"] == 0

    for file in houses.glob("a-001.*"):
        file.unlink()
    code, (again,), _ = command(*words, "a.tif", "-n", "3")  # takes up what is missing
    assert (code, again["path"]) == (0, "a-001.tif")
    assert np.array_equal(pixels("a-001.tif"), second)
    (houses / "a-002.tif").write_bytes((houses / "one.tif").read_bytes())  # of another index
    code, _, err = command(*words, "a.tif", "-n", "3")
    assert code == 2
    assert "a-002.tif exists" in err
    assert command(*words, "a.tif", "-n", "3", "--overwrite")[0] == 0
    assert np.array_equal(pixels("a-002.tif"), third)


def test_how_many_results_cannot_be(command):
    code, _, err = command("edit", "2018.tif", "forest", "-o", "a.tif", "-n", "0")
    assert code == 2
    assert "n is 0. Give a whole number from 1" in err
    code, _, err = command("predict", "2018.tif@2018", "--dates", "2019,2021", "-o", "s.gif", "-n", "2")
    assert code == 2
    assert "leave it out with --dates" in err


def test_frames_are_pushed_as_asked_for(command):
    words = ("predict", "2018.tif@2018", "--date", "2019", "-o", "a.tif", "--frames-guidance")
    code, (line,), _ = command(*words, "1.5")
    assert (code, line["guidance"]["frames"], line["guidance"]["text"]) == (0, 1.5, 1)
    code, _, err = command(*words, "-2", "--overwrite")
    assert code == 2
    assert "guidance of the frames is -2.0. Give a number from 0 to 100" in err


def command_info(path):
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = run(["info", path])
    return code, [json.loads(out.getvalue())], ""


def test_predict_one_date_and_a_series(command):
    code, (line,), _ = command("predict", "2018.tif@2018", "2020.tif@2020", "--date", "2019", "-o", "a.tif")
    assert code == 0
    assert line["date"] == "2019"
    assert line["control"] == "temporal"
    code, lines, _ = command("predict", "2018.tif@2018", "--dates", "2019,2021-07", "-o", "s.gif")
    assert code == 0
    assert [line["path"] for line in lines] == ["s-2019.tif", "s-2021-07.tif"]
    with Image.open("s.gif") as gif:
        assert gif.n_frames == 2
    assert command("predict", "2018.tif", "--date", "2019", "-o", "b.tif")[0] == 2
    code, _, err = command("predict", "2018.tif@2018", "-o", "b.tif")
    assert code == 2
    assert "--date" in err


def test_a_series_goes_on_where_it_was_stopped(command, houses, monkeypatch):
    words = ("predict", "2018.tif@2018", "--dates", "2019/2021", "-o", "s.gif")
    from diffusionsat.tasks import animation

    with monkeypatch.context() as patch:
        patch.setattr(animation, "animate", lambda *_, **__: (_ for _ in ()).throw(RasterError("No room.")))
        code, lines, err = command(*words)
    assert (code, len(lines)) == (3, 3)
    assert "No room. The same command goes on from here." in err
    kept = (houses / "s-2020.tif").read_bytes()
    (houses / "s-2021.tif").unlink()
    code, lines, _ = command(*words)
    assert (code, [line["path"] for line in lines]) == (0, ["s-2021.tif"])
    assert (houses / "s-2020.tif").read_bytes() == kept
    with Image.open("s.gif") as gif:
        assert gif.n_frames == 3
    (houses / "s.gif").unlink()
    code, lines, err = command(*words, "--seed", "1")
    assert (code, lines) == (2, [])
    assert "s-2019.tif exists" in err


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("2019,2021-07,2019", ["2019", "2021-07"]),
        ("2019-11/2021-02", [f"2019-{m}" for m in (11, 12)] + [f"2020-{m:02}" for m in range(1, 13)]
         + ["2021-01", "2021-02"]),
        ("2000/2020/5", ["2000", "2005", "2010", "2015", "2020"]),
    ],
)  # fmt: skip
def test_dates_of_a_series(text, dates):
    assert parse_dates(text) == dates


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2021/2019", "from early to late"),
        ("2019/2020-02", "from early to late"),
        ("2019/2020/0", "A/B/N"),
        ("2019-01-01/2019-12-31", "365 dates; at most 100"),
    ],
)
def test_what_is_no_series(text, says):
    with pytest.raises(ConfigError, match=says):
        parse_dates(text)


def test_a_released_controlnet_is_given_by_its_path(published, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(published.parent)
    names = ["B04", "B03", "B02", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
    values = np.random.default_rng(0).integers(500, 2500, (10, 16, 16)).astype(np.uint16)
    place = {"crs": "EPSG:32632", "transform": Affine(10, 0, 5e5, 0, -10, 5.2e6), "nodata": 0}
    size = {"driver": "GTiff", "width": 16, "height": 16, "count": 10, "dtype": "uint16"}
    with rasterio.open(tmp_path / "in.tif", "w", **size, **place) as file:
        file.write(values)
        file.descriptions = names
    words = ["--model", str(published), "--control", "./superres", "--steps", "1", "--precision", "fp32"]
    assert run(["upscale", str(tmp_path / "in.tif"), *words, "-o", str(tmp_path / "out.tif")]) == 0
    assert json.loads(capsys.readouterr().out)["control"] == "./superres"
    assert pixels(tmp_path / "out.tif").shape == (3, 64, 64)


def test_inpaint_edit_and_declouds(command):
    mask = np.zeros((32, 40), np.uint8)
    mask[4:12, 6:20] = 255
    Image.fromarray(mask).save("mask.png")
    with rasterio.open("2018.tif") as file:
        profile = file.profile | {"count": 1, "photometric": "MINISBLACK"}
    with rasterio.open("mask.tif", "w", **profile) as file:
        file.write(mask, 1)
    for name, words in (
        ("inpaint", ["2018.tif", "mask.tif"]),
        ("declouds", ["2018.tif", "--mask", "mask.tif", "--grow", "0"]),
        ("edit", ["2018.tif", "a forest", "--mask", "mask.tif"]),
    ):
        code, (line,), _ = command(name, *words, "--feather", "0", "-o", f"{name}.tif")
        assert code == 0
        assert line["task"] == name
        same = pixels(f"{name}.tif") == pixels("2018.tif")
        assert same[:, mask == 0].all()
        assert not same[:, mask != 0].all()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["upscale", "-o", "a.tif"], "no image"),
        (["upscale", "no.tif", "-o", "a.tif"], "no.tif is no file"),
        (["upscale", "2018.tif", "-o", "a.png"], "Give .tif"),
        (["upscale", "2018.tif", "-o", "2018.tif"], "exists"),
        (["upscale", "2018.tif", "-o", "2018.tif", "--overwrite"], "over the input"),
        (["upscale", "2018.tif", "-o", "no/a.tif"], "does not exist"),
        (["upscale", "2018.tif", "--workers", "0", "-o", "a.tif"], "workers is 0"),
        (["upscale", "2018.tif", "--bands", "x,y", "-o", "a.tif"], "x, y"),
        (["upscale", "--stac", "http://127.0.0.1:9", "-o", "a.tif"], "--search"),
        (["upscale", "2018.tif", "--size", "16x16", "-o", "a.tif"], "are for --stac"),
        (["inpaint", "2018.tif", "-o", "a.tif"], "no gap to fill"),
        (["declouds", "2018.tif", "-o", "a.tif"], "Nothing tells where"),
        (["edit", "2018.tif", "x", "--strength", "2", "-o", "a.tif"], "strength is 2"),
        (["predict", "2018.tif@2018", "--date", "2019-13", "-o", "a.tif"], "calendar|2019-13"),
    ],
)
def test_bad_words_leave_nothing(command, houses, words, says):
    import re

    before = sorted(path.name for path in houses.iterdir())
    held = pixels("2018.tif")
    code, lines, err = command(*words)
    assert code == 2
    assert not lines
    assert re.search(says, err), err
    assert "Traceback" not in err
    assert sorted(path.name for path in houses.iterdir()) == before
    assert np.array_equal(held, pixels("2018.tif"))
