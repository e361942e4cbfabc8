"""Addresses outside: GeoTIFFs and STAC items, and nothing that leads where nobody may look."""

import contextlib
import functools
import ipaddress
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import rasterio
from loopback import geotiff, running

from diffusionsat import RasterError
from diffusionsat.diffusion.solvers import Cancelled
from diffusionsat.service.limits import Limits, Problem
from diffusionsat.service.remote import Remote

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


class Files(SimpleHTTPRequestHandler):
    """A folder, with some addresses that behave badly."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith("/away?"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/away?"))
            self.end_headers()
        elif self.path == "/large":
            self.send_response(200)
            self.send_header("Content-Length", str(2**40))
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(2**10):
                    self.wfile.write(bytes(2**16))
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"II*\0")
        else:
            super().do_GET()


@pytest.fixture
def files(tmp_path) -> Iterator[str]:
    """The address of a folder that is served."""
    handler = functools.partial(Files, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = False  # so that they are waited for
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def remote() -> Remote:
    return Remote(Limits(upload_bytes=2**20, unpacked_bytes=2**21), public=False)


def item(folder, **hrefs) -> None:
    assets = {
        name: {"href": href, "eo:bands": [{"name": name, "common_name": name}], "roles": ["data"]}
        for name, href in hrefs.items()
    }
    (folder / "item.json").write_text(
        json.dumps(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": "S2A_ITEM",
                "properties": {"datetime": "2023-07-14T10:00:00Z", "eo:cloud_cover": 3},
                "geometry": None,
                "assets": assets,
                "links": [],
            }
        )
    )


def always() -> bool:
    return True


def test_geotiff_is_worked_on(sat, tmp_path, files):
    geotiff(tmp_path / "a.tif")
    with running(sat, tmp_path / "data", remote="any") as client:
        image = f"{files}/a.tif?token=secret@2020-05"
        job = client.submit("edit", {"prompt": "a sea", "steps": 2, "strength": 0.5, "image": image})
        assert client.until(job)["status"] == "successful"
        made = client.get(f"/jobs/{job}/results").json()
        assert made["properties"]["start_datetime"] == "2020-05-01T00:00:00Z"
        assert "secret" not in json.dumps(made)
        assert f"{files}/a.tif" in json.dumps(made)
        assert not (client.service.folder.root / "jobs" / job / "fetched").exists()


def test_bands_of_an_item_are_worked_on(sat, tmp_path, files):
    for seed, band in enumerate(("red", "green", "blue")):
        geotiff(tmp_path / f"{band}.tif", bands=1, seed=seed)
    item(tmp_path, blue="blue.tif", red=f"{files}/red.tif", green="./green.tif")
    with running(sat, tmp_path / "data", remote="any") as client:
        job = client.submit("upscale", {"frames": [f"{files}/item.json"], "factor": 2, "steps": 2})
        assert client.until(job)["status"] == "successful", client.get(f"/jobs/{job}").json()
        made = client.get(f"/jobs/{job}/results").json()
        assert made["properties"]["datetime"].startswith("2023-07-14")
        assert "S2A_ITEM" in json.dumps(made)


def test_bands_of_an_item_are_in_their_places(tmp_path, files, remote):
    paths = [geotiff(tmp_path / f"{b}.tif", bands=1, seed=i) for i, b in enumerate(("red", "green", "blue"))]
    item(tmp_path, blue="blue.tif", red="red.tif", green="green.tif")
    frame = remote.frame(f"{files}/item.json", None, tmp_path / "kept", always)
    for name, path in zip(("red", "green", "blue"), paths, strict=True):
        with rasterio.open(path) as file:
            values, _ = frame.raster.take([frame.raster.bands.index(name)]).read(range(24), range(24))
            assert np.array_equal(values[0], file.read(1))
    assert (frame.metadata.date, frame.metadata.cloud_cover) == ("2023-07-14", 3)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/nothing.tif", "cannot be fetched: HTTP Error 404"),
        ("/words.tif", "cannot be read as a GeoTIFF"),
        ("/catalog.json", "is no STAC item"),
        ("/item.json", "unknown url type: file"),
        ("/away?file:///etc/passwd", "cannot be fetched"),
        ("/away?ftp://127.0.0.1/a", "cannot be fetched"),
        ("/cut", "was cut after 4 of 1,000 bytes"),
    ],
)
def test_what_is_no_raster_is_refused(tmp_path, files, remote, address, words):
    (tmp_path / "words.tif").write_text("<VRTDataset></VRTDataset>")
    (tmp_path / "catalog.json").write_text('{"type": "Catalog", "stac_version": "1.0.0"}')
    item(tmp_path, red="file:///etc/passwd", green="green.tif", blue="blue.tif")
    with pytest.raises(RasterError, match=words) as refused:
        remote.frame(f"{files}{address}", None, tmp_path / "kept", always)
    assert str(tmp_path) not in str(refused.value)


def test_geotiff_that_names_a_file_is_refused(tmp_path, files, remote):
    path = geotiff(tmp_path / "a.tif", side=64)
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE="/etc/passwd")
    with pytest.raises(Problem, match="OVERVIEWS"):
        remote.frame(f"{files}/a.tif", None, tmp_path / "kept", always)


@pytest.mark.parametrize("address", ["/large", "/endless"])
def test_what_is_too_large_is_refused(tmp_path, files, remote, address):
    with pytest.raises(Problem, match="at most 1,048,576 bytes"):
        remote.frame(f"{files}{address}", None, tmp_path / "kept", always)


def test_fetching_stops_when_the_job_does(tmp_path, files, remote):
    with pytest.raises(Cancelled):
        remote.frame(f"{files}/endless", None, tmp_path / "kept", lambda: False)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
     "[::1]", "[::ffff:127.0.0.1]", "[fd00::1]", "2130706433", "0x7f.1", "224.0.0.1"],
)  # fmt: skip
def test_numbers_that_are_not_public_are_not_asked(tmp_path, host):
    with pytest.raises(RasterError, match="public addresses alone"):
        Remote(Limits(), public=True).frame(f"http://{host}/a.tif", None, tmp_path / "kept", always)


def test_answers_do_not_lead_where_nobody_may_look(tmp_path, files, monkeypatch):
    """The number is looked at again after a redirection, and where a name changes what it stands for."""
    seen = ipaddress.IPv4Address("127.0.0.1")
    monkeypatch.setattr(
        ipaddress.IPv4Address, "is_global", property(lambda number: number == seen), raising=True
    )
    geotiff(tmp_path / "a.tif")
    outside = Remote(Limits(), public=True)
    assert outside.frame(f"{files}/away?/a.tif", None, tmp_path / "kept", always).raster.width == 24
    for hidden in ("http://127.0.0.2/a.tif", "http://169.254.169.254/latest"):
        with pytest.raises(RasterError, match="public addresses alone"):
            outside.frame(f"{files}/away?{hidden}", None, tmp_path / "kept", always)


def test_nothing_is_asked_unless_it_is_allowed(sat, tmp_path):
    refused = {"prompt": "a sea", "image": "http://127.0.0.1:9/a.tif"}
    with running(sat, tmp_path / "a") as client:
        answer = client.post("/processes/edit/execution", json={"inputs": refused})
        assert (answer.status_code, "--allow-remote" in answer.json()["detail"]) == (422, True)
    with running(sat, tmp_path / "b", remote="public") as client:
        end = client.until(client.submit("edit", refused))
        assert end["status"] == "failed"
        assert "public addresses alone" in end["message"]
