"""Archives that harm, each made by hand, and those that do not."""

import errno
import os
import re
import shutil
import stat
import struct
import warnings
import zipfile

import numpy as np
import pytest

from diffusionsat import CheckpointError
from diffusionsat.checkpoints.archives import Entry, entries, unpack

LIMITS = {"most_bytes": 1 << 24, "most_files": 20}


def packed(path, files, method=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, content) pairs."""
    with zipfile.ZipFile(path, "w", method) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that appear twice
        for name, content in files:
            opened.writestr(name, content)
    return path


def described(name, *, mode=0, system=3):
    info = zipfile.ZipInfo(name)
    info.external_attr, info.create_system = mode << 16, system
    return info


def refused(archive, folder, says, **limits):
    before = sorted(folder.parent.iterdir())
    with pytest.raises(CheckpointError, match=says) as error:
        unpack(archive, folder, **LIMITS | limits)
    assert str(archive) in str(error.value)
    assert sorted(folder.parent.iterdir()) == before, "something was left behind"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "into").mkdir()
    return tmp_path / "into" / "out"


def test_there_and_back(tmp_path, folder):
    noise = np.random.Generator(np.random.Philox(0)).bytes(3_000_000)
    files = {"root/unet/model.bin": noise, "root/model_index.json": b"{}", "root/empty": b"", "ünï": b"x"}
    archive = packed(tmp_path / "x.zip", [("root/", b""), *files.items()])
    assert [e.name for e in entries(archive)] == ["root/", *files]
    assert entries(archive)[1].size == len(noise)
    unpack(archive, folder, **LIMITS)
    there = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert there == files
    assert list(folder.parent.iterdir()) == [folder]


def test_listing_checks_nothing(tmp_path):
    archive = packed(tmp_path / "x.zip", [("../x", b"ab")], zipfile.ZIP_STORED)
    assert entries(archive) == [Entry(name="../x", size=2, packed=2)]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("a/..", "leads out"),
        ("/etc/x", "leads out"),
        ("//server/x", "leads out"),
        (".", "leads out"),
        ("C:x", "a colon"),
        ("C:/x", "a colon"),
        ("x:stream", "a colon"),
        ("..\\x", "a backslash"),
        ("a\\..\\..\\x", "a backslash"),
        ("a\nb", "a control character"),
    ],
)
def test_names_that_climb_out(tmp_path, folder, name, says):
    archive = packed(tmp_path / "x.zip", [("good", b"good"), (name, b"bad")])
    refused(archive, folder, f"{re.escape(repr(name))} .*{says}")


def test_a_name_cut_by_a_zero_byte(tmp_path, folder):
    archive = packed(tmp_path / "x.zip", [("goodXevil", b"x")])
    archive.write_bytes(archive.read_bytes().replace(b"goodXevil", b"good\0evil"))
    refused(archive, folder, "a control character")


@pytest.mark.parametrize("system", [0, 3])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (stat.S_IFLNK, "is a link"),
        (stat.S_IFIFO, "is neither a file nor a folder"),
        (stat.S_IFCHR, "is neither a file nor a folder"),
        (stat.S_IFSOCK, "is neither a file nor a folder"),
    ],
)
def test_links_and_special_files(tmp_path, folder, kind, says, system):
    entry = described("x", mode=kind | 0o777, system=system)
    refused(packed(tmp_path / "x.zip", [("good", b""), (entry, b"/etc/passwd")]), folder, f"'x' {says}")


def test_modes_are_not_taken_over(tmp_path, folder):
    unpack(packed(tmp_path / "x.zip", [(described("x", mode=stat.S_IFREG | 0o4777), b"x")]), folder, **LIMITS)
    assert not (folder / "x").stat().st_mode & 0o111
    assert not (folder / "x").stat().st_mode & stat.S_ISUID


@pytest.mark.parametrize("names", [("x", "x"), ("x", "./x"), ("a/x", "a//x"), ("x", "X"), ("x", "x/")])
def test_names_that_appear_twice(tmp_path, folder, names):
    refused(packed(tmp_path / "x.zip", [(name, b"") for name in names]), folder, "appears twice")


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b/c", "a"), ("A", "a/b")])
def test_a_file_in_a_file(tmp_path, folder, names):
    refused(packed(tmp_path / "x.zip", [(name, b"") for name in names]), folder, "lies in a file")


def central(archive, offset, form, value):
    """Change a field of the first entry in the table of contents."""
    content = bytearray(archive.read_bytes())
    struct.pack_into(form, content, content.index(b"PK\x01\x02") + offset, value)
    archive.write_bytes(content)


def test_encryption(tmp_path, folder):
    for bits in (0x1, 0x41, 0x2000):
        archive = packed(tmp_path / "x.zip", [("x", b"x")])
        central(archive, 8, "<H", bits)
        refused(archive, folder, "'x' is encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 93])
def test_other_methods(tmp_path, folder, method):
    archive = packed(tmp_path / "x.zip", [("x", b"x")])
    central(archive, 10, "<H", method)
    refused(archive, folder, f"'x' is packed by method {method}")


def test_limits(tmp_path, folder):
    archive = packed(tmp_path / "x.zip", [(f"{i}", bytes(100)) for i in range(5)])
    refused(archive, folder, "unpacks to 500 bytes; at most 499", most_bytes=499)
    refused(archive, folder, "holds 5 files; at most 4", most_files=4)
    unpack(archive, folder, most_bytes=500, most_files=5)


def test_a_bomb(tmp_path, folder):
    archive = packed(tmp_path / "x.zip", [("small", bytes(1 << 20)), ("bomb", bytes((1 << 20) + 1))])
    assert entries(archive)[1].size > 900 * entries(archive)[1].packed
    refused(archive, folder, "'bomb' unpacks to more than 200 times its size")
    unpack(packed(tmp_path / "y.zip", [("small", bytes(1 << 20))]), folder, **LIMITS)


def test_a_bomb_that_declares_little(tmp_path, folder):
    archive = packed(tmp_path / "x.zip", [("bomb", bytes(10_000_000))])
    for size in (9_000, 0):
        central(archive, 24, "<L", size)
        refused(archive, folder, "'bomb' is damaged")


def test_less_than_is_declared(tmp_path, folder):
    archive = packed(tmp_path / "x.zip", [("x", b"x" * 1000)], zipfile.ZIP_DEFLATED)
    central(archive, 24, "<L", 1001)
    refused(archive, folder, "'x' is damaged: 1000 bytes where 1001 are declared")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_flipped_byte_is_refused_or_does_no_harm(tmp_path, method):
    files = {"a/x": np.random.Generator(np.random.Philox(1)).bytes(30), "y": b"text " * 10}
    whole = packed(tmp_path / "x.zip", files.items(), method).read_bytes()
    damaged, folder, refusals = tmp_path / "damaged.zip", tmp_path / "into" / "out", 0
    folder.parent.mkdir()
    for i in range(len(whole)):
        damaged.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        try:
            unpack(damaged, folder, **LIMITS)
        except CheckpointError:
            refusals += 1
            assert not list(folder.parent.iterdir())
        else:
            for path in folder.rglob("*"):  # whatever its name became, it holds what was packed
                assert path.is_dir() or path.read_bytes() in files.values()
            shutil.rmtree(folder)
    assert refusals > len(whole) / 3


def test_every_truncation_is_refused(tmp_path, folder):
    whole = packed(tmp_path / "x.zip", [("x", b"text")]).read_bytes()
    archive = tmp_path / "cut.zip"
    for length in range(len(whole)):
        archive.write_bytes(whole[:length])
        refused(archive, folder, "no zip archive or is damaged")


def test_no_archive_at_all(tmp_path, folder):
    refused(tmp_path / "absent.zip", folder, "cannot be read: No such file")
    refused(tmp_path, folder, "cannot be read: Is a directory")


def test_a_folder_that_exists_is_left_alone(tmp_path):
    archive = packed(tmp_path / "x.zip", [("x", b"new")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_bytes(b"old")
    with pytest.raises(CheckpointError, match="out exists"):
        unpack(archive, tmp_path / "out", **LIMITS)
    assert (tmp_path / "out" / "x").read_bytes() == b"old"


def test_a_full_disk(tmp_path, folder, monkeypatch):
    archive = packed(tmp_path / "x.zip", [("a", b"a"), ("b", b"b" * 1000)])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        refused(archive, folder, "cannot be unpacked to .*out: No space left")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(archive, folder, "Make room")
