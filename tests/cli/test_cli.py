"""The real entry point, as a user runs it; what needs no model of its own runs in this process."""

import json
import os
import resource
import subprocess
import sys
from functools import partial

import pytest
import rasterio

from diffusionsat.cli.main import COMMANDS, run
from diffusionsat.cli.options import parse_values
from diffusionsat.errors import ConfigError


def command(*args, stdin=b"", **env):
    words = [sys.executable, "-m", "diffusionsat.cli.main", *map(str, args)]
    return subprocess.run(words, input=stdin, capture_output=True, env=os.environ | env, check=False)


def generate(capsys, *args):
    """Exit code, lines of stdout as JSON, and stderr of ``diffusionsat generate``."""
    code = run(["generate", *map(str, args)])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def test_help_loads_no_torch_and_names_every_command():
    code = """
import sys
from diffusionsat.cli.main import run
run(['--help'])
run(['generate', '--help'])
assert 'torch' not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)
    assert "Examples:" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_ends_with_examples(name, capsys):
    assert run([name, "--help"]) == 0
    assert "Examples:" in capsys.readouterr().out


def test_a_geotiff_from_the_real_entry_point(tiny, tmp_path):
    out = tmp_path / "x.tif"
    done = command(
        "generate", "a river", "--lnglat", "-58.4,-34.6", "--date", "2019-07", "-o", out, "--model", tiny
    )
    assert done.returncode == 0
    assert done.stderr == b""
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert said["path"] == str(out)
    assert said["synthetic"] is True
    with rasterio.open(out) as file:
        assert file.crs.to_epsg() == 32721
    info = json.loads(command("info", out).stdout)
    assert info["prompt"] == "a river"


def test_several_images(capsys, tiny, tmp_path):
    code, said, _ = generate(capsys, "x", "-n", 3, "-o", tmp_path / "x.png", "--model", tiny)
    assert code == 0
    assert [line["index"] for line in said] == [0, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x-000.png", "x-001.png", "x-002.png"]


def test_a_stopped_run_of_several_goes_on(capsys, tiny, tmp_path):
    several = ("x", "-n", 3, "-o", tmp_path / "x.tif", "--model", tiny)
    assert generate(capsys, *several)[0] == 0
    before = (tmp_path / "x-001.tif").read_bytes()
    (tmp_path / "x-002.tif").unlink()
    code, said, _ = generate(capsys, *several)
    assert code == 0
    assert [line["index"] for line in said] == [2]
    assert (tmp_path / "x-001.tif").read_bytes() == before
    code, _, err = generate(capsys, *several, "--seed", 1)
    assert code == 2
    assert "x-000.tif exists and is another image" in err


def test_json_silences_peoples_text(tiny, tmp_path):
    words = ("generate", "word " * 100, "--model", tiny, "-o", tmp_path / "x.png")
    assert b"it is cut before" in command(*words).stderr
    assert command(*words, "--overwrite", "--json").stderr == b""


BAD = {
    "latitude": (["--lnglat", "0,91"], "lat is 91"),
    "no place": (["--lnglat", "here"], "'here' is no place"),
    "gsd 0": (["--gsd", "0"], "gsd is 0"),
    "gsd nan": (["--gsd", "nan"], "gsd is nan"),
    "cloud": (["--cloud", "140"], "cloud_cover is 140"),
    "date": (["--date", "2019-02-30"], "in no calendar"),
    "solver": (["--solver", "magic"], "solver is 'magic'. Known are"),
    "size": (["--size", "100x64"], "width is 100; the model makes multiples of 8 pixels. Give 96 or 104"),
    "no size": (["--size", "big"], "'big' is no size"),
    "steps": (["--steps", "0"], "steps is 0"),
    "n": (["-n", "0"], "n is 0"),
    "seed": (["--seed", "-1"], "seed is -1"),
    "guidance": (["--guidance", "nan"], "guidance of the text is nan"),
    "long prompt": (["--strict", "word " * 10_000], "longer than the model's 16 tokens"),
    "extent": (["--lnglat", "0,0", "--gsd", "1e6"], "can be mapped"),
    "sweep": (["--sweep", "colour=1/2"], "fields are lon, lat"),
    "model": (["--model", "no-such"], "There is no checkpoint 'no-such'"),
    "option": (["--colour", "red"], "No such option"),
}


@pytest.mark.parametrize(("args", "says"), BAD.values(), ids=BAD)
def test_bad_input(capsys, tiny, tmp_path, args, says):
    code, said, err = generate(capsys, "--model", tiny, "-o", tmp_path / "x.png", *args)
    assert code == 2
    assert not said
    assert says in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "says"),
    [("x.jpg", "Give .tif, .tiff, .png"), ("no/x.tif", "does not exist"), ("x", "has suffix ''")],
)
def test_output_that_cannot_be(capsys, tiny, tmp_path, name, says):
    code, _, err = generate(capsys, "--model", tiny, "-o", tmp_path / name)
    assert code == 2
    assert says in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_without_permission(capsys, tiny, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = generate(capsys, "--model", tiny, "-o", tmp_path / "x.tif")
    assert code == 2
    assert "no permission" in err


def test_existing_output(capsys, tiny, tmp_path):
    out = tmp_path / "x.tif"
    assert generate(capsys, "--model", tiny, "-o", out)[0] == 0
    before = out.read_bytes()
    code, _, err = generate(capsys, "--model", tiny, "-o", out, "--seed", 1)
    assert code == 2
    assert "--overwrite" in err
    assert out.read_bytes() == before
    assert generate(capsys, "--model", tiny, "-o", out, "--seed", 1, "--overwrite")[0] == 0
    assert out.read_bytes() != before


@pytest.mark.parametrize("name", ["x.tif", "x.png"])
def test_a_disk_that_takes_no_more(tiny, tmp_path, name):
    def at_most_a_kilobyte():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    words = [
        sys.executable,
        "-m",
        "diffusionsat.cli.main",
        "generate",
        "--model",
        tiny,
        "-o",
        tmp_path / name,
    ]
    done = subprocess.run(words, capture_output=True, preexec_fn=at_most_a_kilobyte, check=False)
    assert done.returncode == 1
    assert b"cannot be written: File too large. Nothing was left there" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_a_picture_with_its_place(tiny, tmp_path):
    words = [sys.executable, "-m", "diffusionsat.cli.main", "generate", "--lnglat", "7,46", "--model", tiny]
    words += ["-o", tmp_path / "x.png", "--overwrite"]
    subprocess.run(words, check=True, capture_output=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"x.png", "x.pgw"}
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1000, 1000))
    done = subprocess.run([*words, "--seed", "1"], capture_output=True, preexec_fn=limit, check=False)
    assert done.returncode == 1
    assert b"What was there is as it was" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_image_without_a_place_says_so(capsys, tiny, tmp_path):
    code, out, err = generate(capsys, "x", "--model", tiny, "-v", "-o", tmp_path / "nowhere.png")
    assert (code, out[0]["crs"]) == (0, None)
    assert "the image has no georeference" in err
    code, out, err = generate(
        capsys, "x", "--lnglat", "7,46", "--model", tiny, "-v", "-o", tmp_path / "x.png"
    )
    assert out[0]["crs"] == "EPSG:32632"
    assert "georeference" not in err


def test_a_form_of_many_images_is_refused_for_one(capsys, tiny, tmp_path):
    code, _, err = generate(capsys, "x", "--model", tiny, "--as", "parquet", "-o", tmp_path / "x.tif")
    assert (code, "--as parquet is for --features" in err) == (2, True)


def test_an_empty_prompt_is_allowed_and_a_long_one_cut(capsys, tiny, tmp_path):
    assert generate(capsys, "", "--model", tiny, "-o", tmp_path / "empty.png")[0] == 0
    code, _, err = generate(capsys, "word " * 10_000, "--model", tiny, "-o", tmp_path / "long.png")
    assert code == 0
    assert "it is cut before 'word'" in err


def feature(coordinates, **properties):
    geometry = None if coordinates is None else {"type": "Point", "coordinates": coordinates}
    return json.dumps({"type": "Feature", "geometry": geometry, "properties": properties})


def test_features_on_stdin(tiny, tmp_path):
    ring = [[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]]
    polygon = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"id": "across"},
    }
    text = "\ufeff" + "\n".join(
        [feature([1, 2]), "no json", feature(None), json.dumps(polygon), feature([1, 2], date="2019-02-30")]
    )
    out = tmp_path / "out"
    done = command("generate", "--features", "-", "-o", out, "--model", tiny, stdin=text.encode())
    assert done.returncode == 3
    assert sorted(p.name for p in out.glob("*.tif")) == ["000000.tif", "000002.tif", "across.tif"]
    err = done.stderr.decode()
    assert "feature 1: is no JSON" in err
    assert "feature 2 has no geometry; its image has no place" in err
    assert "feature 4: date is '2019-02-30', which is in no calendar" in err
    with rasterio.open(out / "across.tif") as file:
        assert file.crs.to_epsg() in (32601, 32660)
    errors = [json.loads(line) for line in done.stdout.splitlines() if b"error" in line]
    assert [e["feature"] for e in errors] == [1, 4]


@pytest.mark.parametrize(
    ("stdin", "says"),
    [
        (b"", "holds no feature"),
        (b"\xff\xfe\x00", "no UTF-8"),
        (b"{}", "no GeoJSON Feature"),
        (b"nonsense", "no JSON"),
    ],
)
def test_features_that_are_none(tiny, tmp_path, stdin, says):
    done = command("generate", "--features", "-", "-o", tmp_path / "out", "--model", tiny, stdin=stdin)
    assert done.returncode == 2
    assert says in done.stderr.decode()
    assert not list(tmp_path.iterdir())


def test_sweep(capsys, tiny, tmp_path):
    out = tmp_path / "x.png"
    code, (said,), _ = generate(capsys, "x", "--model", tiny, "--sweep", "date=2019-01/2019-03", "-o", out)
    assert code == 0
    assert said["sweep"] == {"date": ["2019-01", "2019-02", "2019-03"]}
    assert run(["info", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["synthetic"] is True


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("gsd=1/100/3", [1, 10, 100]),
        ("lat=-10/10/5", [-10, -5, 0, 5, 10]),
        ("cloud_cover=0,50", [0, 50]),
        ("date=2019/2021", ["2019", "2020", "2021"]),
        ("date=2019-11/2020-02", ["2019-11", "2019-12", "2020-01", "2020-02"]),
        ("date=2019-02-27/2019-03-01", ["2019-02-27", "2019-02-28", "2019-03-01"]),
        ("date=2000-01-01/2000-12-31/3", ["2000-01-01", "2000-07-01", "2000-12-31"]),
        ("date=2019,2020-01", ["2019", "2020-01"]),
    ],
)
def test_ranges_and_lists(text, values):
    assert (
        parse_values(text)[1] == pytest.approx(values)
        if "date" not in text
        else parse_values(text)[1] == values
    )


@pytest.mark.parametrize(
    "text",
    [
        "gsd",
        "gsd=",
        "gsd=a/b",
        "gsd=0/1",
        "gsd=1/2/1",
        "gsd=1/2/0",
        "gsd=1/2/999",
        "date=2020/2019",
        "date=2019/2019-02",
        "lon=1/2/3/4",
    ],
)
def test_what_is_no_range(text):
    with pytest.raises(ConfigError, match="sweep is"):
        parse_values(text)


def test_models_and_clean(capsys, tiny, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setenv("DIFFUSIONSAT_CACHE", str(tmp_path))
    shutil.copytree(tiny, tmp_path / "mine")
    assert run(["models"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(m["name"], m["where"]) for m in lines] == [("compact", "shipped"), ("mine", "cache")]
    assert run(["info", "mine"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"
    assert run(["models", "--clean", "other"]) == 2
    assert "it holds mine" in capsys.readouterr().err
    assert run(["models", "--clean", "mine"]) == 0
    assert not list(tmp_path.iterdir())


def test_info_of_foreign_files(capsys, tmp_path):
    path = tmp_path / "x.tif"
    path.write_bytes(b"no tiff")
    assert run(["info", str(path)]) == 2
    assert "cannot be read as a raster" in capsys.readouterr().err


def test_selftest(capsys, tiny):
    assert run(["selftest", "--model", str(tiny), "--precision", "fp32"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(capsys, shell):
    assert run(["completion", shell]) == 0
    assert "_DIFFUSIONSAT_COMPLETE" in capsys.readouterr().out


def test_faults_show_a_traceback_only_with_debug(capsys, monkeypatch, tiny):
    monkeypatch.setattr("diffusionsat.tasks.selftest.statistics", lambda _: 1 / 0)
    assert run(["selftest", "--model", str(tiny)]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "Traceback" not in err
    assert run(["selftest", "--model", str(tiny), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupted(monkeypatch, capsys, tiny, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffusionsat.model.DiffusionSat.conditioned", interrupt)
    assert run(["generate", "--model", str(tiny), "-o", str(tmp_path / "x.tif")]) == 130
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe(tiny, tmp_path):
    words = [sys.executable, "-m", "diffusionsat.cli.main", "info", str(tiny)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, err = process.communicate()
    assert b"Traceback" not in err
    assert process.returncode == 1


def test_a_released_checkpoint_from_the_real_entry_point(published, tmp_path):
    done = command("convert", published, "-o", tmp_path / "made", DIFFUSIONSAT_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["precision"] == "fp16"
    (shipped, cached) = map(
        json.loads, command("models", DIFFUSIONSAT_CACHE=str(tmp_path)).stdout.splitlines()
    )
    assert (shipped["kind"], cached["kind"], cached["name"]) == ("compact", "published", "made")
    out = tmp_path / "x.tif"
    words = ["generate", "a river", "--lnglat", "7.44,46.95", "--size", "64x64", "--steps", "2", "-o", out]
    done = command(*words, "--model", "made", DIFFUSIONSAT_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    with rasterio.open(out) as file:
        assert file.crs.to_epsg() == 32632
        assert file.tags()["SYNTHETIC"] == "YES"
        assert file.tags()["MODEL"] == "single@10"  # as it was called before it was converted
    about = json.loads(command("info", tmp_path / "made").stdout)
    assert about["unet"]["config"]["_class_name"] == "SatUNet"
    again = command("convert", published, "-o", tmp_path / "made")
    assert again.returncode == 2
    assert b"exists" in again.stderr
