"""Downloads from a server on this machine that imitates Zenodo, with all that can go wrong on the way."""

import errno
import fcntl
import hashlib
import io
import itertools
import json
import logging
import os
import queue
import resource
import shutil
import sys
import threading
import types
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from diffusionsat import CheckpointError, ConfigError
from diffusionsat.checkpoints import fetching
from diffusionsat.checkpoints.archives import unpack
from diffusionsat.checkpoints.download import RELEASES, download, look_up
from diffusionsat.checkpoints.fetching import check_address
from diffusionsat.checkpoints.shipped import find
from diffusionsat.cli.main import COMMANDS, run

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
NAME = "texas"
RECORD, ARCHIVE = RELEASES[NAME].record, RELEASES[NAME].archive
CONTENT_PATH = f"/api/records/{RECORD}/files/{ARCHIVE}/content"


def zipped(seed=0, name="root/model_index.json"):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "{}")
        archive.writestr("root/unet/model.bin", np.random.Generator(np.random.Philox(seed)).bytes(400_000))
    return content.getvalue()


class Zenodo(ThreadingHTTPServer):
    """One record with one file. Every request for the file is noted, as its Range and If-Range."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.content = zipped()
        self.said = {}  # what the record says instead of the truth
        self.record = None  # the whole answer instead
        self.record_cuts = iter(())
        self.etag = '"one"'
        self.ranges = True
        self.cuts = iter(())  # bytes after which each answer is cut; None is not at all
        self.refusals = []  # (status, headers) given instead of answers, one after the other
        self.shift = 0  # by which ranges are wrong
        self.asked, self.known = [], []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def listing(self):
        file = {
            "key": ARCHIVE,
            "size": len(self.content),
            "checksum": f"md5:{hashlib.md5(self.content).hexdigest()}",
            "links": {"self": self.address + CONTENT_PATH},
        }
        return json.dumps({"id": RECORD, "files": [{"key": "README.md"}, file | self.said]}).encode()


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        if self.path == f"/api/records/{RECORD}":
            record = server.listing() if server.record is None else server.record
            self.answer(200, {}, record, next(server.record_cuts, None))
        elif self.path != CONTENT_PATH:
            self.answer(404, {}, b"{}")
        else:
            server.asked.append(self.headers["Range"])
            server.known.append(self.headers["If-Range"])
            if server.refusals:
                self.answer(*server.refusals.pop(0), b"not now")
            else:
                self.give(server)

    def give(self, server):
        content, status, headers = server.content, 200, {"ETag": server.etag}
        same = self.headers["If-Range"] in (None, server.etag)
        if server.ranges and same and self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) + server.shift
            if start >= len(content):
                return self.answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        self.answer(status, headers, content, next(server.cuts, None))

    def answer(self, status, headers, content, cut=None):
        self.send_response(status)
        for name, value in ({"Content-Length": len(content)} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def zenodo(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Zenodo()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def conversions(monkeypatch):
    """A stand-in for the conversion, which needs diffusers; the calls that it had."""
    calls = []

    def convert(source, destination, *, precision, part):
        calls.append((source.name, precision))
        unpack(source, destination, most_bytes=1 << 24, most_files=10)
        (destination / "root/model_index.json").rename(destination / "model_index.json")

    stand_in = types.ModuleType("diffusionsat.checkpoints.conversion")
    stand_in.convert, stand_in.PRECISIONS = convert, ("fp32", "fp16", "bf16")
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return calls


@pytest.fixture
def get(zenodo, tmp_path):
    """Downloads to OUT in an empty folder; the waits are noted, not waited."""

    def get(**options):
        return download(NAME, tmp_path / "out", base=zenodo.address, wait=get.waits.append, **options)

    get.waits = []
    return get


def parts(tmp_path):
    """Sizes of what waits for the rest."""
    return [path.stat().st_size for path in tmp_path.glob(".out.download/*/*.part")]


def whole(tmp_path, zenodo):
    """Whether the weights are those that the server has, and nothing lies beside them."""
    with zipfile.ZipFile(io.BytesIO(zenodo.content)) as archive:
        weights = archive.read("root/unet/model.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    return (tmp_path / "out/root/unet/model.bin").read_bytes() == weights


def test_it_comes_whole(get, zenodo, tmp_path, conversions):
    seen = []
    assert get(precision="bf16", on_bytes=lambda *counts: seen.append(counts)) == tmp_path / "out"
    assert whole(tmp_path, zenodo)
    assert conversions == [(ARCHIVE, "bf16")]
    assert zenodo.asked == [None]
    assert seen[0] == (0, len(zenodo.content))
    assert seen[-1] == (len(zenodo.content), len(zenodo.content))
    assert seen == sorted(seen)
    assert get.waits == []


def test_the_cache_is_where_names_are_found(zenodo, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONSAT_CACHE", str(tmp_path / "deep" / "cache"))
    folder = download(NAME, base=zenodo.address + "/")
    assert folder == find(NAME) == tmp_path / "deep" / "cache" / NAME


def test_a_finished_one_asks_nobody(get, zenodo, tmp_path):
    get()
    zenodo.shutdown()
    zenodo.server_close()
    assert get() == tmp_path / "out"
    assert len(zenodo.asked) == 1


def test_cut_connections(get, zenodo, tmp_path, caplog):
    zenodo.cuts = iter((100_000, 1, 0, 0, 200_000))
    with caplog.at_level(logging.WARNING, "diffusionsat"):
        get()
    assert whole(tmp_path, zenodo)
    starts = (100_000, 100_001, 100_001, 100_001, 300_001)
    assert zenodo.asked == [None, *(f"bytes={start}-" for start in starts)]
    assert zenodo.known == [None, *['"one"'] * 5]
    assert get.waits == [1, 1, 2, 4, 1]  # anew after each that brought something
    assert "ended at byte 100000 of" in caplog.messages[0]


def test_a_server_without_ranges(get, zenodo, tmp_path):
    zenodo.ranges, zenodo.cuts = False, iter((300_000, 100_000))
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.asked == [None, "bytes=300000-", "bytes=100000-"]
    assert get.waits == [1, 2]  # less than there was before is no progress


@pytest.mark.parametrize("ranges", [True, False])
def test_one_does_not_try_for_ever(get, zenodo, tmp_path, ranges):
    zenodo.ranges, zenodo.cuts = ranges, itertools.chain((500,), itertools.repeat(0 if ranges else 500))
    with pytest.raises(CheckpointError, match=r"ended at byte 500 of .* What has come stays") as error:
        get()
    assert isinstance(error.value.__cause__, OSError)  # so that the exit code is 1
    assert get.waits == [1, 2, 4, 8, 16]
    assert parts(tmp_path) == [500]


def test_a_server_that_falls_silent(get, zenodo, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT_S", 2)
    answer, given_up, seen = Answers.answer, threading.Event(), queue.Queue()

    def silent(self, status, headers, content, cut=None):
        if self.path == CONTENT_PATH and len(zenodo.asked) == 1:
            monkeypatch.setattr(fetching, "TIMEOUT_S", 60)  # of what is asked after this
            answer(self, status, headers, content, 1000)
            seen.put(given_up.wait(60))
        else:
            if zenodo.asked:
                given_up.set()
            answer(self, status, headers, content, cut)

    monkeypatch.setattr(Answers, "answer", silent)
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.asked == [None, "bytes=1000-"]
    assert seen.get(timeout=60)  # it was the client who hung up


def interrupted(get, at):
    """Stop a download when so many bytes are here."""

    def stop(done, total):
        if done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(on_bytes=stop)


def test_an_interrupted_run_is_taken_up(get, zenodo, tmp_path):
    zenodo.cuts = iter((123_456,))
    interrupted(get, 123_456)
    assert parts(tmp_path) == [123_456]
    assert not (tmp_path / "out").exists()
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.asked == [None, "bytes=123456-"]


def test_another_etag_begins_anew(get, zenodo, tmp_path):
    zenodo.cuts = iter((1000,))
    interrupted(get, 1000)
    zenodo.etag = '"two"'
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.known == [None, '"one"']


@pytest.mark.parametrize("etag", ['W/"weak"', "bare", '"a\u00ff"', ""])
def test_etags_that_cannot_vouch_for_bytes(get, zenodo, tmp_path, etag):
    zenodo.etag, zenodo.cuts = etag, iter((1000,))
    get()
    assert whole(tmp_path, zenodo)
    assert (zenodo.asked, zenodo.known) == ([None, "bytes=1000-"], [None, None])


def test_another_version_is_not_mixed_in(get, zenodo, tmp_path):
    zenodo.cuts = iter((1000,))
    interrupted(get, 1000)
    zenodo.content, zenodo.cuts = zipped(seed=1), iter((2000,))
    interrupted(get, 2000)
    assert parts(tmp_path) == [2000]
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.asked == [None, None, "bytes=2000-"]


def test_too_much_was_there(get, zenodo, tmp_path):
    zenodo.cuts = iter((1000,))
    interrupted(get, 1000)
    (part,) = tmp_path.glob(".out.download/*/*.part")
    part.write_bytes(bytes(len(zenodo.content) + 1))
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.asked == [None, None]


def test_a_wrong_range_begins_anew(get, zenodo, tmp_path):
    zenodo.cuts, zenodo.shift = iter((1000,)), 7
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.asked == [None, "bytes=1000-", None]


def test_a_range_that_cannot_be(get, zenodo, tmp_path):
    zenodo.cuts, zenodo.shift = iter((1000,)), 1 << 20
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.asked == [None, "bytes=1000-", None]


def test_a_wrong_checksum(get, zenodo, tmp_path):
    zenodo.said = {"checksum": "md5:" + "0" * 32}
    said = f"checksum md5:{hashlib.md5(zenodo.content).hexdigest()}; its record says {'0' * 32}"
    with pytest.raises(CheckpointError, match=said):
        get()
    assert parts(tmp_path) == []
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match=said):
        get()
    assert zenodo.asked == [None, None]


@pytest.mark.parametrize("cuts", [(), (1000,)])
@pytest.mark.parametrize("more", [1, -1])
def test_a_wrong_size(get, zenodo, tmp_path, cuts, more):
    zenodo.cuts, zenodo.said = iter(cuts), {"size": len(zenodo.content)}
    if cuts:
        interrupted(get, 1000)
    zenodo.said = {"size": len(zenodo.content) + more}
    with pytest.raises(CheckpointError, match=f"has {len(zenodo.content)} bytes; its record says"):
        get()
    assert parts(tmp_path) == [sum(cuts)]
    assert get.waits == []


def test_a_record_that_is_not_there(zenodo):
    with pytest.raises(CheckpointError, match="HTTP 404 Not Found, there is no such record"):
        look_up(RELEASES["single-512"], zenodo.address)


def test_a_record_without_the_file(get, zenodo):
    zenodo.said = {"key": "other.zip"}
    with pytest.raises(CheckpointError, match=rf"has no {ARCHIVE}; it has README.md, other.zip"):
        get()
    zenodo.record = b'{"files": []}'
    with pytest.raises(CheckpointError, match="it has no files"):
        get()


def test_a_record_that_is_cut(get, zenodo, tmp_path):
    zenodo.record_cuts = iter((10,))
    get()
    assert whole(tmp_path, zenodo)
    assert get.waits == [1]


@pytest.mark.parametrize(
    "record", [b"", b"<html>", b"[]", b"{}", b'{"files": 1}', b'{"files": [1]}', b"[" * 100_000, b"\xff"]
)
def test_answers_that_are_no_record(get, zenodo, record):
    zenodo.record = record
    with pytest.raises(CheckpointError, match="does not answer as Zenodo does"):
        get()


@pytest.mark.parametrize(
    "said",
    [
        {"size": -1},
        {"size": "1"},
        {"size": True},
        {"checksum": "md5:../../x"},
        {"checksum": "crc32:" + "0" * 32},
        {"checksum": None},
        {"links": {}},
        {"links": {"self": 3}},
    ],
)
def test_records_with_nonsense_in_them(get, zenodo, said):
    zenodo.said = said
    with pytest.raises(CheckpointError, match="does not answer as Zenodo does"):
        get()
    assert zenodo.asked == []


@pytest.mark.parametrize("link", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "http://["])
def test_links_elsewhere(get, zenodo, link):
    zenodo.said = {"links": {"self": link}}
    with pytest.raises(CheckpointError, match=r"refused: only http and https|does not answer as Zenodo"):
        get()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:x"])
def test_redirects_elsewhere(get, zenodo, tmp_path, target):
    zenodo.refusals = [(302, {"Location": target})]
    with pytest.raises(CheckpointError, match=r"refused: only http|is not allowed"):
        get()
    assert (parts(tmp_path), get.waits) == ([0], [])


def test_redirects_that_may_be(get, zenodo, tmp_path):
    zenodo.cuts = iter((1000,))
    zenodo.refusals = [(302, {"Location": CONTENT_PATH}), (307, {"Location": zenodo.address + CONTENT_PATH})]
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.asked == [None, None, None, "bytes=1000-"]


def test_no_way_from_https_to_http():
    check_address("https://a/x", came_from="https://b/")
    check_address("https://a/x", came_from="http://b/")
    check_address("http://a/x", came_from="http://b/")
    with pytest.raises(CheckpointError, match="leads to what is not"):
        check_address("http://a/x", came_from="https://b/")


def test_no_link_from_https_to_http(zenodo, monkeypatch):
    answer = io.BytesIO(zenodo.listing())
    answer.length = 0
    monkeypatch.setattr("diffusionsat.checkpoints.download.open_url", lambda *_: answer)
    with pytest.raises(CheckpointError, match="leads to what is not"):
        look_up(RELEASES[NAME], "https://zenodo.org")


def test_busy_servers(get, zenodo, tmp_path):
    zenodo.refusals = [(503, {}), (429, {"Retry-After": "30"}), (429, {"Retry-After": "99999"}), (500, {})]
    get()
    assert whole(tmp_path, zenodo)
    assert get.waits == [1, 30, 120, 8]


def test_a_lasting_refusal_is_not_tried_again(get, zenodo):
    zenodo.refusals = [(403, {})]
    with pytest.raises(CheckpointError, match="HTTP 403 Forbidden"):
        get()
    assert get.waits == []


def test_nobody_there(get, zenodo):
    zenodo.shutdown()
    zenodo.server_close()
    with pytest.raises(CheckpointError, match=r"no connection .*Connection refused"):
        get()
    assert get.waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("base", ["zenodo.org", "file:///tmp", "http://", "http://127.0.0.1:port"])
def test_addresses_that_are_none(base):
    with pytest.raises(CheckpointError, match="only http and https addresses"):
        look_up(RELEASES[NAME], base)


def test_a_disk_that_fills_up(get, zenodo, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written: File too large. What has come stays"):
            get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert parts(tmp_path) == [300_000]
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.asked == [None, "bytes=300000-"]


def test_too_little_room(get, zenodo, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"needs 0.0 GB and .* has 0.0 GB free. Make room"):
        get()
    assert zenodo.asked == []


def test_a_folder_that_may_not_be_written(zenodo, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written: Not a directory"):
        download(NAME, tmp_path / "file" / "out", base=zenodo.address)


def test_an_archive_that_climbs_out(get, zenodo, tmp_path):
    zenodo.content = zipped(name="../../../evil")
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        get()
    assert [path.name for path in tmp_path.iterdir()] == [".out.download"]
    assert not (tmp_path.parent / "evil").exists()


def test_after_a_failed_conversion_nothing_is_fetched_again(get, zenodo, tmp_path, monkeypatch):
    conversion = sys.modules["diffusionsat.checkpoints.conversion"]

    def fails(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "convert", fails)
        with pytest.raises(CheckpointError, match="out cannot be written: No space left"):
            get()
    get()
    assert whole(tmp_path, zenodo)
    assert zenodo.asked == [None]


def test_the_archive_can_be_kept(get, zenodo, tmp_path):
    get(keep_archive=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ARCHIVE, "out"]
    assert (tmp_path / ARCHIVE).read_bytes() == zenodo.content
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(CheckpointError, match=f"{ARCHIVE} exists. Move it away"):
        get(keep_archive=True)


def test_a_folder_of_something_else(get, zenodo, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="out exists and is no release"):
        get()
    assert zenodo.asked == []


def test_two_at_once(get, zenodo, tmp_path):
    (tmp_path / ".out.download").mkdir()
    handle = os.open(tmp_path / ".out.download", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(CheckpointError, match="Another process is at work"):
        get()
    os.close(handle)
    get()
    assert whole(tmp_path, zenodo)


def test_unknown_names(get, zenodo):
    with pytest.raises(ConfigError, match=r"no release 'xbd'. Releases are single-512, single-256, texas"):
        download("xbd", base=zenodo.address)
    with pytest.raises(ConfigError, match="precision is 'int4'"):
        get(precision="int4")
    assert zenodo.asked == []


@pytest.fixture
def cli(zenodo, tmp_path, monkeypatch, capsys):
    """Exit code, lines of stdout as JSON, and stderr of ``diffusionsat download``."""
    monkeypatch.setitem(COMMANDS, "download", "")
    monkeypatch.setenv("DIFFUSIONSAT_CACHE", str(tmp_path))

    def cli(*args):
        code = run(["download", *args])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return cli


def test_the_list(cli):
    code, lines, _ = cli("--list")
    assert code == 0
    assert {line["name"]: line["record"] for line in lines} == {
        "single-512": 13751498,
        "single-256": 13756199,
        "texas": 13756211,
        "fmow-super-resolution": 13756246,
    }
    assert all(line["archive"].endswith(".zip") and line["about"] for line in lines)


def test_the_command(cli, zenodo, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONSAT_ZENODO", zenodo.address)
    there = {"name": NAME, "path": str(tmp_path / NAME)}
    zenodo.cuts = iter((1000,))
    code, (plan,), _ = cli(NAME, "--dry-run")
    assert code == 0
    assert (plan["path"], plan["size"], plan["had"]) == (there["path"], len(zenodo.content), 0)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(fetching, "WAITS_S", ())
    assert cli(NAME)[0] == 1
    assert cli(NAME, "--dry-run")[1][0]["had"] == 1000
    assert cli(NAME, "--precision", "fp32") == (0, [there | {"fetched": True}], "")
    code, lines, err = cli(NAME)
    assert (code, lines) == (0, [there | {"fetched": False}])
    assert "is there already" in err
    assert zenodo.asked == [None, "bytes=1000-"]


def test_the_command_elsewhere(cli, zenodo, tmp_path, conversions):
    out = tmp_path / "here"
    assert (
        cli(NAME, "--from", zenodo.address, "-o", str(out), "--precision", "bf16", "--keep-archive")[0] == 0
    )
    assert conversions == [(ARCHIVE, "bf16")]
    assert (out / "model_index.json").is_file()
    assert (tmp_path / ARCHIVE).is_file()


def test_bad_usage(cli):
    assert cli()[0] == 2
    assert cli("magic")[0] == 2
    assert cli(NAME, "--precision", "int4")[0] == 2
    assert cli(NAME, "--from", "file:///etc")[0] == 2
