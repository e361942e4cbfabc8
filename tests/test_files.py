import os

import pytest

from diffusionsat import RasterError
from diffusionsat.files import check_writable, write_bytes, writing


def test_truth_table_of_overwriting(tmp_path):
    path = tmp_path / "x"
    assert check_writable(path) == path
    path.write_bytes(b"old")
    assert check_writable(path, overwrite=True) == path
    with pytest.raises(RasterError, match="--overwrite"):
        check_writable(path)
    for overwrite in (True, False):
        with pytest.raises(RasterError, match="is a folder"):
            check_writable(tmp_path, overwrite=overwrite)
    with pytest.raises(RasterError, match="does not exist"):
        check_writable(tmp_path / "no" / "x")


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail():
        with writing(path, overwrite=True) as partial:
            partial.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "x", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "x").read_bytes() == b"new"


def test_errors_of_the_disk_name_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RasterError, match=r"x cannot be written: No space left on device. Nothing was left"
    ) as error:
        write_bytes(tmp_path / "x", b"new")
    assert isinstance(error.value.__cause__, OSError)
    assert not os.listdir(tmp_path)
