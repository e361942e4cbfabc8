"""Files that are sent to do harm, and files that are not."""

import contextlib
import io
import socket
import struct
import zipfile

import numpy as np
import pytest
import rasterio
from loopback import geotiff
from PIL import Image

pytestmark = [
    pytest.mark.allow_hosts(["127.0.0.1"]),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
VRT = (
    '<VRTDataset rasterXSize="24" rasterYSize="24"><VRTRasterBand dataType="Byte" band="1">'
    "<SimpleSource><SourceFilename>{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
)


def refused(answer, status, words):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


@contextlib.contextmanager
def lowered(client, **limits):
    """The service with other limits."""
    before = {name: getattr(client.service.limits, name) for name in limits}
    for name, value in limits.items():
        object.__setattr__(client.service.limits, name, value)
    yield
    for name, value in before.items():
        object.__setattr__(client.service.limits, name, value)


@pytest.fixture(autouse=True)
def nothing_is_left(client):
    """Whatever is refused leaves no file."""
    yield
    kept = {name for name, *_ in client.service.store.uploads()}
    assert {path.name for path in (client.service.folder.root / "uploads").iterdir()} == kept


def archive(path, members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_vrt_that_names_a_local_file(client, tmp_path):
    secret = geotiff(tmp_path / "secret.tif")
    path = tmp_path / "a.vrt"
    path.write_text(VRT.format(secret))
    for name in ("a.vrt", "a.tif", "a.png"):
        refused(client.send_file(path, name), 415, "VRT")


def test_jpeg_that_is_a_vrt_too(client, tmp_path):
    """GDAL takes a file for a VRT whose head has the word before its first zero byte."""
    secret = geotiff(tmp_path / "secret.tif", seed=9)
    out = io.BytesIO()
    Image.new("RGB", (24, 24), (9, 9, 9)).save(out, "JPEG")
    comment = VRT.format(secret).encode().ljust(0x2020 - 2)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8\xff\xfe\x20\x20" + comment + out.getvalue()[2:])
    with rasterio.open(path) as file:
        assert file.driver == "VRT"
    sent = client.send_file(path)
    assert sent.status_code == 201
    stored = next((client.service.folder.upload(sent.json()["id"])).iterdir())
    assert stored.name == "raster.tif"
    with rasterio.open(stored) as file:
        assert file.driver == "GTiff"
        assert np.abs(file.read().astype(int) - 9).max() < 4


def test_geotiff_whose_overviews_are_a_local_file(client, tmp_path):
    """GDAL reads a file's overviews from wherever its metadata says."""
    secret = geotiff(tmp_path / "secret.tif", side=128, seed=5)
    path = geotiff(tmp_path / "a.tif", side=256)
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(secret))
    with rasterio.open(path) as file:  # the danger is real
        assert np.array_equal(file.read(out_shape=(3, 128, 128)), rasterio.open(secret).read())
    refused(client.send_file(path), 422, "'OVERVIEWS'")


def test_zips(client, tmp_path):
    bomb = archive(tmp_path / "bomb.zip", {f"{i}.jp2": b"\0" * 2**20 for i in range(5)})
    assert bomb.stat().st_size < 2**14
    with lowered(client, unpacked_bytes=2**22):
        refused(client.send_file(bomb), 413, "unpacks to is 5,242,880 bytes")
    climbing = archive(tmp_path / "climb.zip", {"../../../etc/cron.d/x": b""})
    refused(client.send_file(climbing), 422, "leads out")
    granule = "S2A.SAFE/GRANULE/L2A_T32TLT_A1_2020/IMG_DATA/R10m/T32TLT_20200601T103031_B02_10m.jp2"
    inside = archive(tmp_path / "vrt.zip", {granule: b"<VRTDataset></VRTDataset>"})
    refused(client.send_file(inside), 422, "no JPEG 2000")
    other = archive(tmp_path / "other.zip", {"a.txt": b"hello"})
    refused(client.send_file(other), 422, "no image of a band")
    torn = tmp_path / "torn.zip"
    torn.write_bytes(other.read_bytes()[:50])
    refused(client.send_file(torn), 422, "zip cannot be read")


def test_names_of_clients_are_only_shown(client, tmp_path):
    path = geotiff(tmp_path / "a.tif")
    for name in ("../../../../tmp/evil.tif", "C:\\evil.tif", "/etc/evil.tif"):
        sent = client.send_file(path, name).json()
        assert sent["name"] == "evil.tif"
        assert [p.name for p in client.service.folder.upload(sent["id"]).iterdir()] == ["raster.tif"]


def test_too_many_bands(client, tmp_path):
    many = tmp_path / "many.tif"
    with rasterio.open(many, "w", driver="GTiff", width=1, height=1, count=60_000, dtype="uint8"):
        pass
    refused(client.send_file(many), 413, "bands is 60,000; this service takes at most 32")
    content = bytearray(many.read_bytes())
    first = struct.unpack("<I", content[4:8])[0]
    for entry in range(first + 2, first + 2 + 12 * struct.unpack("<H", content[first : first + 2])[0], 12):
        if struct.unpack("<H", content[entry : entry + 2])[0] == 277:  # samples per pixel
            content[entry : entry + 12] = struct.pack("<HHII", 277, 4, 1, 1_000_000)
    many.write_bytes(content)
    refused(client.send_file(many), 422, "SamplesPerPixel")


def test_too_many_pixels(client, tmp_path):
    path = tmp_path / "wide.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "sparse_ok": True}
    with rasterio.open(path, "w", width=40_000, height=40_000, **profile):
        pass
    refused(client.send_file(path), 413, "pixels is 1,600,000,000")
    with rasterio.open(
        path,
        "w",
        width=16_384,
        height=16_384,
        count=3,
        driver="GTiff",
        dtype="float32",
        sparse_ok=True,
        tiled=True,
        blockxsize=16_384,
        blockysize=16_384,
    ):
        pass
    refused(client.send_file(path), 413, "blocks")


def test_two_gigabytes_are_refused_unread(client):
    """The answer comes though not a byte of the file was sent."""

    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(2**31)}
    with socket.create_connection(("127.0.0.1", client.base_url.port)) as line:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        line.sendall(f"POST /uploads HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n".encode())
        answer = line.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "2,147,483,648 bytes" in answer


def test_length_that_is_not_told(client):
    """What has no length is counted as it comes, and the line is cut."""
    sent = 0

    def parts():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while sent < 256 * 2**20:
            sent += 2**20
            yield b"\0" * 2**20

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with lowered(client, upload_bytes=2**20):
        refused(client.post("/uploads", content=parts(), headers=headers), 413, "at most 1,114,112 bytes")
    assert sent < 256 * 2**20


def test_what_is_no_raster(client, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"")
    refused(client.send_file(path), 415, "first bytes")
    path.write_bytes(b"II*\0" + b"\xff" * 100)
    refused(client.send_file(path), 422, "cannot be read")
    refused(client.post("/uploads", data={"file": "text"}, files={"other": b"x"}), 422, "no file")
    refused(client.post("/uploads", content=b"{}"), 422, "no file")
    assert client.get("/uploads/0123456789abcdef/preview.png").status_code == 404
    assert client.get("/uploads/..%2f..%2fservice.db/preview.png").status_code in (404, 422)


def test_pictures_and_masks(client, tmp_path):
    """A picture without a place works; a single band is a mask."""
    picture = tmp_path / "a.png"
    Image.fromarray(np.full((40, 60, 3), 50, np.uint8)).save(picture)
    sent = client.send_file(picture).json()
    assert (sent["width"], sent["height"], sent["corners"], sent["bounds"]) == (60, 40, None, None)
    mask = client.send_file(geotiff(tmp_path / "mask.tif", bands=1)).json()
    assert mask["bands"] == ["band1"]
    assert mask["metadata"] == {}
    assert client.get(f"/uploads/{mask['id']}/preview.png").status_code == 200
    inputs = {"image": f"upload:{mask['id']}", "prompt": "a sea"}
    refused(client.post("/processes/edit/execution", json={"inputs": inputs}), 422, "none of which is known")
