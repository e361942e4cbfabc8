"""The order of training examples: complete, the same everywhere, and true to what the shards hold."""

import contextlib
import functools
import http.server
import itertools
import logging
import pickle
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from fakes import files

from diffusionsat.data import shards, sources
from diffusionsat.data.crops import Crop
from diffusionsat.data.preparing import Job, prepare
from diffusionsat.data.reading import BLOCK, Companions, Mixture
from diffusionsat.data.records import Frame, Record
from diffusionsat.data.sensors import Scaling
from diffusionsat.data.sources import Source
from diffusionsat.errors import ConfigError, DatasetError
from diffusionsat.metadata import Metadata

PIECES = (("article", "a"), ("source", " set"), ("kind", " satellite image"), ("class", " of a farm"))


def image(key, source, side=8, seed=0, lon=None, lat=None, **more):
    content = files.npy(files.pixels(seed, (side, side, 3)))
    known = Metadata(lon=lon, lat=lat, gsd=10)
    frame = Frame(content=content, format="npy", name=key, metadata=known)
    return Record(key=key, source=source, frames=(frame,), licence="l", place=key, pieces=PIECES, **more)


def sequence(key, source, count=4, side=16):
    """Frames of one ramp, each with its number in blue; the last one in near infrared at half the size."""
    ramp = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=2) * 8
    frames = []
    for i in range(count):
        pixels = np.concatenate([ramp, np.full((side, side, 1), 100 + i)], axis=2).astype(np.uint8)
        known = Metadata(lon=1.5, lat=0, gsd=10, date=f"20{20 - i}")
        frames.append(Frame(content=files.npy(pixels), format="npy", name=key, metadata=known, role=f"r{i}"))
    means = ramp[..., 1].reshape(side // 2, 2, side // 2, 2).mean((1, 3))
    nir = (means[..., None] * 10 + 1).astype(np.uint16)
    nir[0, 0] = 0
    frames.append(
        Frame(
            content=files.npy(nir),
            format="npy",
            name=key,
            metadata=Metadata(lon=1.5, lat=0, gsd=20, date="2015"),
            bands=("nir",),
            role="nir",
            scaling=Scaling(gain=5e-4, nodata=0),
        )
    )
    return Record(key=key, source=source, frames=tuple(frames), licence="l", place=key)


def write(folder, records, name="train.parquet"):
    folder.mkdir(exist_ok=True)
    shards.write_shard(folder / name, records, None, "")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("reading")
    write(root / "small", [image(f"s{i}", "small", 8, i) for i in range(700)])
    write(root / "large", [image(f"l{i}", "large", 32, i) for i in range(90)])
    placed = [image(f"p{i}", "placed", 8, i, lon=i % 60 + 0.5, lat=i // 60 + 0.5) for i in range(300)]
    write(root / "placed", placed)
    write(root / "series", [sequence(f"q{i}", "series") for i in range(40)])
    return root


def mixture(root, *names, sizes=None, seed=3, **more):
    return Mixture([Source(root / name) for name in names], seed=seed, sizes=sizes or {8: 1}, **more)


def same(one, other):
    assert (one.key, one.source, one.metadata, one.caption) == (
        other.key,
        other.source,
        other.metadata,
        other.caption,
    )
    assert np.array_equal(one.pixels, other.pixels)
    assert len(one.frames) == len(other.frames)
    for a, b in zip(one.frames, other.frames, strict=True):
        assert (a.bands, a.metadata, a.role) == (b.bands, b.metadata, b.role)
        assert np.array_equal(a.values, b.values)


def keys(mixture, start, stop, size=8):
    """By the order alone, without reading images."""
    return [mixture._streams[size].draw(position) for position in range(start, stop)]


def test_every_image_comes_once_in_an_epoch(root):
    one = mixture(root, "small")
    count = int((~one.sources[0].images.held_out).sum())
    assert 600 < count < 660
    epochs = [[i for _, i in keys(one, e * count, (e + 1) * count)] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == np.flatnonzero(~one.sources[0].images.held_out).tolist()
    assert epochs[0] != epochs[1] != epochs[2]
    assert [i for _, i in keys(mixture(root, "small", seed=4), 0, count)] != epochs[0]


def test_few_row_groups_are_open_at_a_time_and_yet_it_is_shuffled(root):
    one = mixture(root, "small")
    images = one.sources[0].images
    drawn = [int(images.group[i]) for _, i in keys(one, 0, 220)]
    assert len(set(drawn)) <= 8
    assert sum(a == b for a, b in itertools.pairwise(drawn)) < 60, "in the order of the file it would be 212"
    assert drawn[:10] != sorted(drawn[:10])


def test_a_restart_at_any_position_and_any_rank_gives_the_same(root):
    whole = mixture(root, "small", "placed", "series")
    wanted = [whole.example(p, 8) for p in range(24)]
    for start in (0, 7, 23):
        again = mixture(root, "small", "placed", "series")
        for p in range(start, 24):
            same(again.example(p, 8), wanted[p])
    ranks = [mixture(root, "small", "placed", "series") for _ in range(2)]
    for p in (*range(0, 24, 2), *range(1, 24, 2)):
        same(ranks[p % 2].example(p, 8), wanted[p])
    worker = pickle.loads(pickle.dumps(whole))
    same(worker.example(11, 8), wanted[11])
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(lambda p: whole.example(p, 8), range(24)), wanted, strict=True):
            same(one, other)


def test_threads_do_not_disturb_one_another(root):
    positions = np.random.default_rng(0).permutation(3 * BLOCK)[:3000].tolist()
    one, other = mixture(root, "small", "large"), mixture(root, "small", "large")
    draw = other._streams[8].draw
    wanted = {p: one._streams[8].draw(p)[1] for p in sorted(positions)}
    with ThreadPoolExecutor(8) as pool:
        drawn = dict(zip(positions, pool.map(lambda p: draw(p)[1], positions), strict=True))
    assert drawn == wanted


def test_an_older_run_goes_on_as_it_would_have(root):
    """Pinned: a change of these would silently change what a resumed run sees."""
    one = mixture(root, "small", "placed", sizes={8: 1})
    assert [one.example(p, 8).key for p in (0, 1, 1000)] == ["p52", "s239", "s408"]
    assert [mixture(root, "small", sizes={8: 0.5, 4: 0.5}).size(b) for b in range(3)] == [4, 4, 8]


def test_shares_are_exact_in_every_block(root):
    one = mixture(root, "small", "large", "placed", weights={"small": 1, "large": 2, "placed": 5})
    for block in (0, 5):
        drawn = Counter(s.name for s, _ in keys(one, block * BLOCK, (block + 1) * BLOCK))
        assert drawn == {"small": BLOCK // 8, "large": BLOCK // 4, "placed": BLOCK * 5 // 8}
    each = Counter(i for s, i in keys(one, 0, 3 * BLOCK) if s.name == "large")
    assert max(each.values()) - min(each.values()) <= 1, "epochs are gone through whole"
    alone = mixture(root, "small", "large", weights={"small": 1, "large": 0})
    assert {s.name for s, _ in keys(alone, 0, 500)} == {"small"}


def test_a_source_without_large_images_gives_its_share_away(root, caplog):
    with caplog.at_level(logging.INFO, "diffusionsat"):
        one = mixture(root, "small", "large", sizes={8: 0.7, 32: 0.3}, weights={"small": 3, "large": 1})
    assert "small has no image of 32 px" in caplog.text
    assert Counter(s.name for s, _ in keys(one, 0, BLOCK)) == {"small": BLOCK * 3 // 4, "large": BLOCK // 4}
    assert {s.name for s, _ in keys(one, 0, 500, 32)} == {"large"}
    assert one.example(3, 32).pixels.shape == (32, 32, 3)
    drawn = Counter(one.size(batch) for batch in range(2000))
    assert drawn[32] / 2000 == pytest.approx(0.3, abs=0.04)
    with pytest.raises(
        DatasetError, match="No source has images of 64 px for this task; the largest has a side of 32"
    ):
        mixture(root, "small", "large", sizes={64: 1})


def test_sizes_that_all_images_serve_share_one_epoch(root):
    one = mixture(root, "large", sizes={8: 0.5, 16: 0.5})
    count = int((~one.sources[0].images.held_out).sum())
    mixed = [one._streams[one.size(p // 4)].draw(p)[1] for p in range(count)]
    assert len(set(mixed)) == count


def test_held_out_places_are_for_validation_alone(root):
    one = mixture(root, "placed", "small")
    other = one.validation()
    train = {(s.name, i) for s, i in keys(one, 0, 2 * BLOCK)}
    validation = {(s.name, i) for s, i in keys(other, 0, BLOCK)}
    assert not train & validation
    assert len(train) + len(validation) == 1000
    assert 0.06 < len(validation) / 1000 < 0.14
    samples = list(sources.scan(one.sources[0]._open("train.parquet"), "t"))
    for entry, held in zip(samples, one.sources[0].images.held_out, strict=True):
        assert sources.held_out("placed", entry["place"], entry["lon"], entry["lat"]) == held
    same(other.example(5, 8), mixture(root, "placed", "small").validation().example(5, 8))


def test_where_nothing_is_held_out_there_is_no_validation(tmp_path):
    lon = next(lon for lon in range(180) if not sources.held_out("one", "", lon, 0.5))
    records = [image(f"o{i}", "one", 8, i, lon=lon + 0.5, lat=0.5) for i in range(20)]
    assert mixture(write(tmp_path / "one", records).parent, "one").validation() is None


def test_a_source_without_colours_is_refused_as_such(tmp_path):
    bands = sequence("q", "bands", count=1).frames[1:]
    write(tmp_path / "bands", [replace(sequence(f"q{i}", "bands"), frames=bands) for i in range(9)])
    with pytest.raises(DatasetError, match="it needs red, green and blue"):
        mixture(tmp_path, "bands")


def test_images_of_the_same_coordinates_show_one_ground(tmp_path):
    places = [(1.5, 2.5), (3.5, 2.5), (1.5, 2.5), (None, None), (None, None), (3.5, 2.5)]
    records = [image(f"k{i}", "g", lon=lon, lat=lat) for i, (lon, lat) in enumerate(places)]
    assert Source(write(tmp_path / "singles", records)).images.ground.tolist() == [0, 1, 0, 2, 3, 1]
    frames = Source(write(tmp_path / "frames", [sequence("a", "f"), sequence("b", "f")])).images
    assert frames.ground.tolist() == [0] * len(frames.row)


def test_what_shows_one_place_is_held_out_together(tmp_path):
    records = []
    for i in range(60):
        one = sequence(f"w{i}", "wide", count=2)
        moved = [replace(f, metadata=f.metadata.replace(lon=i + 40.0 * k)) for k, f in enumerate(one.frames)]
        records.append(replace(one, frames=tuple(moved)))
    images = Source(write(tmp_path / "wide", records)).images
    two = [replace(image(f"k{i}", "two", seed=i), place=f"place {i // 2}") for i in range(120)]
    pairs = Source(write(tmp_path / "two", two)).images.held_out.reshape(60, 2)
    assert 1 < pairs[:, 0].sum() < 15
    assert np.array_equal(pairs[:, 0], pairs[:, 1]), "without coordinates, rows of one place"
    rows = images.held_out.reshape(60, 3)
    assert 1 < rows[:, 0].sum() < 15
    assert np.array_equal(rows, np.repeat(rows[:, :1], 3, axis=1))


def test_an_image_whose_place_is_withheld_may_be_turned_any_way(root):
    one = mixture(root, "placed", unplaced=0.4)
    ways: dict[bool, set[int]] = {True: set(), False: set()}
    known = []
    for position in range(300):
        example = one.example(position, 8)
        source, row = one._streams[8].draw(position)
        pixels = source.record(row).frames[0].rgb()
        turned = [np.rot90(side, n) for side in (pixels, pixels[:, ::-1]) for n in range(4)]
        known.append(example.metadata.lon is not None)
        assert known[-1] == (example.metadata.lat is not None)
        ways[known[-1]].add(next(i for i, way in enumerate(turned) if np.array_equal(way, example.pixels)))
    assert ways == {True: {0, 4}, False: set(range(8))}, "as it lies or mirrored; any of the eight"
    assert 0.5 < np.mean(known) < 0.7


def test_frames_are_single_images_and_captions_lose_pieces(root):
    one = mixture(root, "series", sizes={8: 1})
    drawn = {one.example(p, 8).key for p in range(160)}
    assert {key.rpartition("/")[2] for key in drawn} == {"0", "1", "2", "3"}, "nir has no colours"
    losing = mixture(root, "small", drop_pieces=0.3)
    captions = [losing.example(p, 8).caption for p in range(150)]
    counts = Counter(captions)
    assert set(counts) == {
        "a set satellite image of a farm",
        "a satellite image of a farm",
        "a set satellite image",
        "a satellite image",
    }
    assert counts["a set satellite image of a farm"] / 150 == pytest.approx(0.49, abs=0.12)
    keeping = mixture(root, "small", drop_pieces=0)
    whole = {keeping.example(p, 8).caption for p in range(20)}
    assert whole == {"a set satellite image of a farm"}


def test_conditions_show_the_same_ground(root):
    one = mixture(root, "series", sizes={8: 1}, companions=Companions(most=3))
    numbers = Counter()
    for p in range(60):
        example = one.example(p, 8)
        target = int(example.key.rpartition("/")[2])
        numbers[len(example.frames)] += 1
        dates = [c.metadata.date for c in example.frames]
        assert dates == sorted(dates)
        assert f"r{target}" not in {c.role for c in example.frames}
        assert len({c.role for c in example.frames}) == len(example.frames)
        for c in example.frames:
            assert c.values.shape == (len(c.bands), 8, 8)
            assert c.metadata.gsd == pytest.approx(example.metadata.gsd)
            assert c.metadata.lon == pytest.approx(example.metadata.lon, abs=1e-9)
            assert c.metadata.lat == pytest.approx(example.metadata.lat, abs=1e-9)
            if c.role == "nir":
                assert not c.values[:, ~c.valid].any()
                # A column is 8 levels; at the image's edge there is nothing to go between, and half is off.
                ramp = example.pixels[..., 1][c.valid] * 5e-3
                assert np.abs(c.values[0][c.valid] - ramp).max() < 4.2 * 5e-3
            else:
                assert np.abs(c.values[:2] * 255 - np.moveaxis(example.pixels, 2, 0)[:2]).max() <= 1
                assert np.allclose(c.values[2] * 255, 100 + int(c.role[1]))
                assert c.valid.all()
    assert set(numbers) == {1, 2, 3}


def test_roles_choose_targets_and_conditions(root):
    roles = Companions(targets={"r1"}, conditions={"nir"})
    one = mixture(root, "series", sizes={16: 1}, companions=roles)
    for p in range(20):
        example = one.example(p, 16)
        assert example.key.endswith("/1")
        assert [c.role for c in example.frames] == ["nir"]
        (nir,) = example.frames
        assert nir.metadata.gsd == 10, "of the pixels as they are delivered"
        assert not nir.valid.all(), "the pixel that is nodata"
    with pytest.raises(DatasetError, match="No source has images"):
        mixture(root, "small", companions=Companions())


def test_one_invalid_pixel_does_not_spoil_its_neighbours():
    values = np.full((8, 8, 1), 0.5, np.float32)
    valid = np.ones((8, 8), bool)
    values[2, 3], valid[2, 3] = np.nan, False
    crop = Crop(height=16, width=16, top=0, left=0, size=4, factor=4)
    square, there, moved = crop.cut_other(values, valid, Metadata(gsd=3))
    assert square[..., 0] == pytest.approx(0.5)
    assert there.all()
    assert moved.gsd == 6
    same_size = Crop(height=8, width=8, top=2, left=3, size=4, factor=1, turns=1, mirrored=True)
    square, there, _ = same_size.cut_other(values, valid, Metadata())
    assert (there.sum(), square[~there].item()) == (15, 0)
    plain = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    square, _, _ = same_size.cut_other(plain.astype(np.float32), np.ones((8, 8), bool), Metadata())
    assert np.array_equal(square, same_size.cut(plain))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"weights": {"small": 1}}, "weights are given for small; the sources are small, large"),
        ({"weights": {"small": 1, "large": -1}}, "Give each a number from 0"),
        ({"sizes": {0: 1}}, "sizes are"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_arguments_that_cannot_be(root, wrong, match):
    with pytest.raises(ConfigError, match=match):
        mixture(root, "small", "large", **wrong)
    with pytest.raises(ConfigError, match="with different names"):
        mixture(root, "small", "small")


def test_sources_that_are_none(root, tmp_path):
    with pytest.raises(DatasetError, match=r"has no images of the split 'train'; it is empty, or not there"):
        Source(tmp_path)
    with pytest.raises(DatasetError, match=r"split 'test'; it has train"):
        Source(root / "small", split="test")
    with pytest.raises(DatasetError, match=r"gone\.parquet of .* cannot be read"):
        Source(tmp_path / "gone.parquet")
    (tmp_path / "index.json").write_text('{"format": "other", "version": 1}')
    with pytest.raises(DatasetError, match="is of other of version 1"):
        Source(tmp_path)
    assert Source(root / "small/train.parquet").name == "small"


def test_a_shard_that_vanishes_is_told(tmp_path):
    write(tmp_path / "x", [image(f"s{i}", "x", 8, i) for i in range(100)])
    one = mixture(tmp_path, "x")
    (tmp_path / "x/train.parquet").unlink()
    with pytest.raises(DatasetError, match=r"train\.parquet of .*/x cannot be read") as error:
        one.example(0, 8)
    assert isinstance(error.value.__cause__, OSError)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Files by ranges, as object stores give them; says how many bytes went out."""

    sent: ClassVar[Counter] = Counter()

    def do_GET(self):
        path = self.translate_path(self.path)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            self.send_error(404)
            return
        start, end = 0, len(content) - 1
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or end), end)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end + 1 - start))
        self.end_headers()
        self.wfile.write(content[start : end + 1])
        self.sent[self.path] += end + 1 - start

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(folder):
    handler = functools.partial(Ranges, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.enable_socket
def test_over_http_it_is_the_same_as_from_the_disk(root, tmp_path):
    pytest.importorskip("obstore", reason="OBSTORE IS NOT INSTALLED: reading over HTTP is not tested")
    for i in range(60):
        files.image(tmp_path / f"raw/{i:02d}.png", i, (16, 16))
    with ThreadPoolExecutor(1) as executor:
        prepare(Job(dataset="folder", sources=(tmp_path / "raw",)), tmp_path / "set", executor)
    local = [Source(tmp_path / "set"), Source(root / "large")]
    (tmp_path / "large").symlink_to(root / "large")
    Ranges.sent.clear()
    with serving(tmp_path) as address:
        remote = [Source(f"{address}/set/"), Source(f"{address}/large/train.parquet")]
        assert [source.name for source in remote] == ["set", "large"]
        here, there = (Mixture(s, seed=1, sizes={8: 0.5, 4: 0.5}) for s in (local, remote))
        listed = Ranges.sent["/large/train.parquet"]
        assert listed < 0.4 * (root / "large/train.parquet").stat().st_size, (
            "images are not fetched to list them"
        )
        for p in range(40):
            same(here.example(p, here.size(p)), there.example(p, there.size(p)))
        again = pickle.loads(pickle.dumps(there))
        same(again.example(50, 8), here.example(50, 8))
        with pytest.raises(
            DatasetError, match=r"/nothing has no images of the split 'train'; it is empty, or not there"
        ):
            Source(f"{address}/nothing")
        with pytest.raises(DatasetError, match=r"gone\.parquet of .* cannot be read: it is not there"):
            Source(f"{address}/gone.parquet")
        (tmp_path / "set/train-00000.parquet").unlink()
        fresh = Mixture([Source(f"{address}/set")], seed=1, sizes={8: 1})
        with pytest.raises(DatasetError, match="cannot be read: it is not there"):
            fresh.example(0, 8)
    with pytest.raises(DatasetError, match="is no address of data"):
        Source("foo://bar/baz")


@pytest.mark.enable_socket
def test_from_s3_it_is_the_same_as_from_the_disk(root, monkeypatch):
    pytest.importorskip("obstore", reason="OBSTORE IS NOT INSTALLED: reading from S3 is not tested")
    with serving(root.parent) as address:  # the folder is the bucket, as an end of S3 in path style has it
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        there = Mixture([Source(f"s3://{root.name}/large/train.parquet")], seed=1, sizes={8: 1})
        here = Mixture([Source(root / "large")], seed=1, sizes={8: 1})
        for p in range(10):
            same(there.example(p, 8), here.example(p, 8))
        assert Ranges.sent[f"/{root.name}/large/train.parquet"] > 0
