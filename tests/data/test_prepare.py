"""Preparing releases: the same bytes whether stopped or not, nothing bad in silence, refusals, pictures."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import rasterio
from affine import Affine
from fakes import eurosat, files, fmow, folder
from PIL import Image

from diffusionsat.cli import main
from diffusionsat.data import preparing, shards, summary
from diffusionsat.data.preparing import Job, Plan, plan, prepare
from diffusionsat.data.sources import Source
from diffusionsat.data.splits import Blocks, nearest_km
from diffusionsat.errors import DatasetError, RasterError

RELEASES = {"fmow-pairs": fmow.make_pairs, "folder": folder.make, "eurosat-ms": eurosat.make_ms}
REJECTED = {
    "fmow-pairs": ["train.csv:4", "train.csv:9"],
    "folder": ["metadata.csv:4", "metadata.csv:5", "broken.json", "broken.tif", "nowhere.png", "cut.jpg"],
    "eurosat-ms": ["Forest_2.tif"],
}


class Stops(Executor):
    """Works at once in this thread, and stops the job at a shard, as Ctrl-C does."""

    def __init__(self, at=10**9):
        self.left = at

    def submit(self, function, /, *args, **kwargs):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 2)


def release(name, root):
    RELEASES[name](root)
    if name == "folder":
        jpg = files.image(root / "harbour/cut.jpg")
        jpg.write_bytes(jpg.read_bytes()[:200])  # which is seen only when its pixels are read
    return Job(dataset=name, sources=(root,))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", RELEASES)
def test_shards_prepared_again_are_the_same_records(tmp_path, name):
    """Scaling, sensors, roles, places of frames and pieces of captions go through two preparations."""
    prepare(release(name, tmp_path / "release"), tmp_path / "set", Stops())
    again = tmp_path / "again/set"
    prepare(Job(dataset="parquet", sources=(tmp_path / "set",)), again, Stops())
    index = [json.loads((folder / "index.json").read_text()) for folder in (tmp_path / "set", again)]
    assert index[0]["records"] == index[1]["records"]
    seen = set()
    for split in index[0]["records"]:
        one, two = (Source(folder, split=split) for folder in (tmp_path / "set", again))
        before, after = ([s.record(i) for i in range(len(s.images.frame))] for s in (one, two))
        assert before == after
        seen |= {frame.scaling for record in before for frame in record.frames}
    assert any(seen)


@pytest.mark.parametrize("name", RELEASES)
def test_stopped_anywhere_and_taken_up_again_it_is_the_same(tmp_path, name):
    job = release(name, tmp_path / "release")
    report = prepare(job, tmp_path / "whole", Stops())
    whole = content(tmp_path / "whole")
    rejected = [json.loads(line) for line in whole["rejected.jsonl"].splitlines()]
    assert [Path(bad["file"]).name for bad in rejected] == REJECTED[name]
    assert report["rejected"] == len(rejected) == json.loads(whole["index.json"])["rejected"]
    for at in range(report["shards"]):
        out = tmp_path / f"stopped-{at}"
        with pytest.raises(KeyboardInterrupt):
            prepare(job, out, Stops(at))
        assert len(content(out).keys() - {"prepare.json"}) == at
        for left in (".train-00000.0123456789abcdef.parquet", ".map.0123456789abcdef.png"):
            (out / left).write_bytes(b"half")  # as kill -9 leaves it
        with ThreadPoolExecutor(2) as executor:
            again = prepare(job, out, executor, at_once=2)
        assert again["written"] == report["shards"] - at
        assert content(out) == whole
    assert prepare(job, tmp_path / "whole", Stops(0))["written"] == 0


def test_the_index_is_true(tmp_path):
    job = release("fmow-pairs", tmp_path / "r")
    prepare(job, tmp_path / "o", Stops())
    index = json.loads((tmp_path / "o/index.json").read_text())
    assert index["columns"]["sequences"][-1] == "frames"
    for file in index["files"]:
        assert file["rows"] == parquet.read_metadata(tmp_path / "o" / file["name"]).num_rows
    images = parquet.read_table(tmp_path / "o/images.parquet").to_pylist()
    assert [(one["role"], one["cloud_cover"], one["split"]) for one in images[:2]] == [
        ("rgb", 7, "train"),
        ("sentinel", None, "train"),
    ]
    lost = tmp_path / "o" / index["files"][0]["name"]
    lost.unlink()
    assert prepare(job, tmp_path / "o", Stops())["written"] == 1


def test_killed_in_the_command_line(tmp_path):
    release("eurosat-ms", tmp_path / "r")
    code = (
        "import os, signal, sys\n"
        "from diffusionsat.cli import main\n"
        "from diffusionsat.data import preparing, shards\n"
        "if __name__ == '__main__':\n"
        "    shards.ROWS, finished = 2, preparing._finished\n"
        "    def dies(pending):\n"
        "        finished(pending)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if sys.argv.pop(1) == 'dies':\n"
        "        preparing._finished = dies\n"
        "    main.COMMANDS.setdefault('prepare', '')\n"
        "    sys.exit(main.run(sys.argv[1:]))\n"
    )
    (tmp_path / "run.py").write_text(code)

    def run(how, out):
        words = ["prepare", "eurosat-ms", str(tmp_path / "r"), "-o", str(tmp_path / out)]
        return subprocess.run(
            [sys.executable, tmp_path / "run.py", how, *words], capture_output=True, text=True, check=False
        )

    assert run("dies", "killed").returncode == -signal.SIGKILL
    left = {name for name in content(tmp_path / "killed") if not name.startswith(".")}
    assert left >= {"prepare.json", "train-sequences-00000.parquet"}
    assert "index.json" not in left
    again = run("lives", "killed")
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    assert told["records"] == {"train": 10}
    assert told["rejected"] == 1
    assert 0 < told["written"] < 5
    assert "1 records cannot be used" in again.stderr
    prepare(Job(dataset="eurosat-ms", sources=(tmp_path / "r",)), tmp_path / "whole", Stops())
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_full_disk_leaves_whole_shards(tmp_path, monkeypatch):
    job = release("eurosat-ms", tmp_path / "r")
    monkeypatch.setattr(preparing.shards, "row", rows := FullAfter(3))
    with pytest.raises(
        RasterError, match=r"train-sequences-00001\.parquet cannot be written: No space left"
    ) as e:
        prepare(job, tmp_path / "o", Stops())
    assert isinstance(e.value.__cause__, OSError)
    assert content(tmp_path / "o").keys() == {"prepare.json", "train-sequences-00000.parquet"}
    rows.left = 100
    assert prepare(job, tmp_path / "o", Stops())["written"] == 4


class FullAfter:
    def __init__(self, left):
        self.left, self.row = left, shards.row

    def __call__(self, *args):
        if self.left == 0:
            raise OSError(28, os.strerror(28))
        self.left -= 1
        return self.row(*args)


def test_what_is_there_is_respected(tmp_path):
    job = release("eurosat-ms", tmp_path / "r")
    out = tmp_path / "o"
    prepare(job, out, Stops())
    before = content(out)
    other = Job(dataset="eurosat-ms", sources=job.sources, size=4)
    with pytest.raises(RasterError, match=r"shards of another job \(size\)"):
        prepare(other, out, Stops())
    assert content(out) == before
    prepare(other, out, Stops(), overwrite=True)
    assert Source(out).images.side.tolist() == [4] * 10
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.txt").write_text("x")
    with pytest.raises(RasterError, match="holds other files"):
        prepare(job, tmp_path / "mine", Stops())
    prepare(job, tmp_path / "mine", Stops(), overwrite=True)
    assert (tmp_path / "mine/photo.txt").read_text() == "x"
    with pytest.raises(RasterError, match="is a file"):
        prepare(job, tmp_path / "mine/photo.txt", Stops())
    (tmp_path / "link").symlink_to(job.sources[0])
    with pytest.raises(RasterError, match="lies in"):
        prepare(job, tmp_path / "link/shards", Stops())
    assert not (job.sources[0] / "shards").exists()


def test_shards_of_records_that_changed_are_made_again(tmp_path):
    job = release("folder", tmp_path / "r")
    with pytest.raises(KeyboardInterrupt):
        prepare(job, tmp_path / "o", Stops(3))
    (tmp_path / "r/harbour/two.txt").write_text("a lighthouse")
    prepare(job, tmp_path / "o", Stops())
    prepare(job, tmp_path / "fresh", Stops())
    assert content(tmp_path / "o") == content(tmp_path / "fresh")


def test_images_that_would_teach_what_is_not_so_are_rejected(tmp_path):
    src = tmp_path / "own"
    src.mkdir()
    values = np.random.default_rng(0).integers(1, 200, (3, 16, 12)).astype(np.uint8)
    north, turned = Affine(10, 0, 5e5, 0, -10, 5.2e6), Affine(10, 0, 5e5, 0, 10, 5.2e6)
    places = {
        "good": (values, north),
        "southup": (values, turned),
        "rotated": (values, north @ Affine.rotation(20)),
        "empty": (values * 0, north),
        "nan": (np.full((3, 16, 12), np.nan, np.float32), north),
    }
    for name, (pixels, place) in places.items():
        size = {"width": 12, "height": 16, "count": 3, "dtype": pixels.dtype, "nodata": 0}
        with rasterio.open(
            src / f"{name}.tif", "w", driver="GTiff", crs="EPSG:32632", transform=place, **size
        ) as file:
            file.write(pixels)
            file.descriptions = ("B04", "B03", "B02")
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(src / "deep.png")
    Image.fromarray(np.zeros((9, 9, 4), np.uint8)).save(src / "clear.png")
    (tmp_path / "else").mkdir()
    (src / "link").symlink_to(tmp_path / "else")
    (src / "item.json").write_text('{"features": null}')
    (src / "asset.json").write_text('{"type": "Feature", "stac_version": "1.1.0", "assets": {"a": null}}')
    prepare(Job(dataset="folder", sources=(src,)), tmp_path / "o", Stops())
    lines = (tmp_path / "o/rejected.jsonl").read_text().splitlines()
    said = {Path(line["file"]).name: line["reason"] for line in map(json.loads, lines)}
    assert Source(tmp_path / "o").images.side.tolist() == [12]
    for name, words in {
        "southup.tif": "north is not up",
        "rotated.tif": "north is not up",
        "empty.tif": "no valid pixel",
        "nan.tif": "no valid pixel",
        "deep.png": "16 bits",
        "clear.png": "transparent",
        "item.json": "looks like STAC",
        "asset.json": "looks like STAC",
        "link": "link to a folder",
    }.items():
        assert words in said[name]


def test_two_sources_and_a_key_of_both(tmp_path):
    release("eurosat-ms", tmp_path / "a")
    release("eurosat-ms", tmp_path / "b")
    job = Job(dataset="eurosat-ms", sources=(tmp_path / "a", tmp_path / "b"))
    found = Plan()
    assert sum(len(shard.records) for shard in plan(job, found)) == 10
    assert sum("in another source before" in bad.reason for bad in found.rejected) == 10


def test_nothing_that_can_be_used(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/a.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"can be used; 1 records are bad. The first: .*a\.png"):
        prepare(Job(dataset="folder", sources=(tmp_path / "r",)), tmp_path / "o", Stops())


def test_split_by_place_keeps_its_distance(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 64)
    rng = np.random.default_rng(0)
    rows = ["file,lon,lat"]
    for i in range(400):
        files.image(tmp_path / f"r/{i:03d}.png", i, (2, 2))
        rows.append(f"{i:03d}.png,{rng.uniform(7, 9)},{rng.uniform(46, 47)}")
    (tmp_path / "r/metadata.csv").write_text("\n".join(rows))
    blocks = Blocks(block_km=20, buffer_km=4, test=0.25)
    job = Job(dataset="folder", sources=(tmp_path / "r",), blocks=blocks)
    told = prepare(job, tmp_path / "o", Stops())
    where = {}
    for split, count in told["records"].items():
        source = Source(tmp_path / "o", split=split)
        known = [source.record(i).frames[0].metadata for i in range(count)]
        where[split] = np.array([(one.lon, one.lat) for one in known])
    assert 40 < told["records"]["test"] < 160
    assert told["too_near"] > 30
    assert sum(told["records"].values()) + told["too_near"] == 400
    assert told["nearest_km"]["train-test"] == pytest.approx(
        nearest_km(where["train"], where["test"]), abs=1e-3
    )
    assert told["nearest_km"]["train-test"] >= 4
    picture = np.asarray(Image.open(tmp_path / "o/map.png"))
    for split in ("train", "test"):
        assert (picture == summary.COLOURS[split]).all(-1).sum() > 5 * told["records"][split]


def test_pictures_show_what_is_there():
    known = {"frame": 0, "gsd": 10.0, "cloud_cover": None, "width": 9, "height": 8, "role": "rgb"}
    images = [
        known | {"split": "train", "lon": -170.0, "lat": 80.0, "date": "2019-07"},
        known | {"split": "train", "lon": -170.0, "lat": 80.0, "date": "2019-07"},
        known | {"split": "val", "lon": 170.0, "lat": -80.0, "date": "2020"},
        known | {"split": "val", "lon": None, "lat": None, "date": None},
    ]
    picture = np.asarray(summary.draw_map(images))
    blue = np.argwhere((picture[:-40] == summary.COLOURS["train"]).all(-1)).mean(0)
    height, width = picture.shape[0] - 60, picture.shape[1] - 60
    # The frame is 16 degrees wider than the places on each side, but no larger than the Earth.
    assert blue == pytest.approx([15 + height * 10 / 180, 45 + width * 10 / 360], abs=2)
    bars = np.asarray(summary.draw_histograms(images))
    assert (bars[40:170, 340:620] == summary.COLOURS["train"]).all(-1).any(0).sum() > 200, "both years"
    assert (bars[40:170, 660:940] == summary.COLOURS["train"]).all(-1).any(0).sum() < 40, "July"
    told = summary.summarise(images)
    assert (told["places"], told["years"]) == ({"train": 1, "val": 1}, {"2019": 2, "2020": 1})
    assert told["nearest_km"]["train-val"] > 10_000


def test_nothing_known_can_be_drawn_too():
    image = {"frame": 0, "gsd": None, "cloud_cover": None, "width": 9, "height": 8, "role": "rgb"}
    images = [image | {"split": "train", "lon": None, "lat": None, "date": None}]
    assert summary.draw_map(images).size == (1140, 600)
    assert summary.summarise(images)["gsd_m"] is None
    assert summary.draw_histograms(images)


def command(*words):
    main.COMMANDS.setdefault("prepare", "")
    return main.run(["prepare", *map(str, words)])


def test_command_line(tmp_path, capsys):
    release("fmow-pairs", tmp_path / "r")
    out = tmp_path / "o"
    assert command("fmow-pairs", tmp_path / "r", "-o", out, "--dry-run") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["records"], told["rejected"], told["shards"]) == ({"train": 2}, 2, 1)
    assert not out.exists()
    assert command("fmow", tmp_path / "r", "-o", out) == 2
    assert "Those that are known: fmow-rgb" in capsys.readouterr().err
    assert command("satlas", tmp_path / "r", "-o", out) == 2
    assert "no complete release of satlas: an image" in capsys.readouterr().err
    assert command("fmow-pairs", tmp_path / "r", "-o", out, "--block", 10, "--buffer", 11) == 2
    assert "buffer is 11 km" in capsys.readouterr().err
    assert command("fmow-pairs", tmp_path / "r", "-o", out, "--workers", 0) == 2
    assert not out.exists()
