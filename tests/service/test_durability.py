"""What is left when the process dies at any moment, and how long results are kept."""

import json
import math
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import rasterio
from loopback import BERN, QUICK, SLOW, Client, geotiff, running

from diffusionsat import ConfigError, Metadata
from diffusionsat.service.running import opened

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
SERVE = "import sys; from diffusionsat.cli.serve import command; command(sys.argv[1:])"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def serve(model: Path, data: Path) -> tuple[subprocess.Popen, Client]:
    """`diffusionsat serve` in a process of its own."""
    port = free_port()
    options = ["--model", str(model), "--data", str(data), "--port", str(port), "--precision", "fp32"]
    process = subprocess.Popen([sys.executable, "-c", SERVE, *options])
    client = Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    for _ in range(600):
        try:
            client.get("/conformance")
            return process, client
        except httpx.TransportError:
            assert process.poll() is None
            time.sleep(0.1)
    raise AssertionError("the service did not start")


@pytest.mark.slow
def test_killed_in_the_middle_of_twenty_jobs(tiny, sat, tmp_path):
    """Every job is done once: what was done stays as it is, all else is done after the restart."""
    data = tmp_path / "data"
    process, client = serve(tiny, data)
    inputs = [{**QUICK, "seed": seed, "steps": 3 + seed % 5} for seed in range(19)]
    jobs = [client.submit("generate", each) for each in inputs]
    sent = client.send_file(geotiff(tmp_path / "a.tif")).json()
    jobs.append(client.submit("upscale", {"frames": [f"upload:{sent['id']}"], "factor": 2, "steps": 30}))
    client.until(jobs[3], "successful")
    process.send_signal(signal.SIGKILL)
    process.wait()
    client.close()
    results = {path.name: path.stat() for path in (data / "jobs").iterdir()}
    assert results
    process, client = serve(tiny, data)
    try:
        ends = [client.until(job) for job in jobs]
        assert [end["status"] for end in ends] == ["successful"] * 20
        assert len(client.get("/jobs").json()["jobs"]) == 20
        catalogue = json.loads((data / "catalog.json").read_text())
        items = [link["href"] for link in catalogue["links"] if link["rel"] == "item"]
        assert sorted(items) == sorted(f"./items/{job}.json" for job in jobs)
        assert {path.name for path in (data / "jobs").iterdir()} == set(jobs)
        assert not list((data / "work").iterdir())
        for name, stat in results.items():
            assert (data / "jobs" / name).stat().st_ino == stat.st_ino
        for job, each in zip(jobs[:19:6], inputs[::6], strict=True):
            scene = sat.generate(
                "a river", Metadata(**BERN), size=(64, 64), seed=each["seed"], steps=each["steps"]
            )
            with rasterio.open(data / "jobs" / job / "files" / "image.tif") as file:
                apart = np.abs(np.moveaxis(file.read(), 0, 2).astype(int) - scene.pixels)
            assert apart.max() <= 1
    finally:
        client.close()
        process.terminate()
        assert process.wait(120) in (0, -signal.SIGTERM)


def test_death_between_publishing_and_noting_it(sat, tmp_path, monkeypatch):
    """Results that are whole are taken; those that are not, are made; a job that kills thrice is given up."""
    with opened(sat, tmp_path) as service:
        rows = [service.submit("generate", {"inputs": QUICK | {"seed": seed}}) for seed in range(3)]
        whole, half, deadly = [row.id for row in rows]
        worker = service.worker
        monkeypatch.setattr(service.store, "finish", lambda outcomes: None)
        with monkeypatch.context() as patch:
            patch.setattr(worker, "_clean", lambda rows: None)
            worker._do([row for row in service.store.take(lambda _: 3) if row.id == whole])
        files = service.folder.work(half) / "files"
        files.mkdir(parents=True)
        (files / "image.tif").write_bytes(b"half")
        (service.folder.root / "jobs" / "0123456789abcdef").mkdir()
        for _ in range(2):
            service.store.requeue(deadly, counted=True)
            service.store.take(lambda _: 1)
        made = (service.folder.files(whole) / "image.tif").stat().st_ino
    with running(sat, tmp_path) as client:
        assert client.until(whole)["status"] == "successful"
        assert (client.service.folder.files(whole) / "image.tif").stat().st_ino == made
        assert client.until(half)["status"] == "successful"
        end = client.until(deadly)
        assert (end["status"], end["message"]) == (
            "failed",
            "the service died 3 times while it did this job, which is given up",
        )
        assert {path.name for path in (tmp_path / "jobs").iterdir()} == {whole, half}


def test_stopped_service_goes_on(sat, tmp_path):
    """A job that is stopped by the end of the service is no failed attempt."""
    with running(sat, tmp_path) as client:
        job = client.submit("generate", SLOW | {"steps": 40, "size": [128, 128]})
        client.until(job, "running")
    with running(sat, tmp_path) as client:
        assert client.until(job)["status"] == "successful"
        assert client.service.store.job(job).attempts == 1


def test_one_service_a_folder(sat, tmp_path):
    with (
        opened(sat, tmp_path),
        pytest.raises(ConfigError, match="a service that runs"),
        opened(sat, tmp_path),
    ):
        pass


def held(folder):
    """Bytes in a folder whose files may be removed meanwhile."""
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except FileNotFoundError:
        return math.inf


def test_oldest_go_first(sat, tmp_path):
    """Of the results and uploads that are too much the oldest go, and none that a job needs."""
    with running(sat, tmp_path / "a", most_bytes=100_000, days=7) as client:
        old = client.send_file(geotiff(tmp_path / "old.tif", side=120)).json()
        first = client.submit("generate", QUICK)
        end = client.until(first)
        assert end["kept_until"][:10] > end["finished"][:10]
        last = first
        for seed in range(8):
            last = client.submit("generate", {**QUICK, "seed": seed})
            client.until(last)
        assert client.get(f"/uploads/{old['id']}/preview.png").status_code == 404
        assert client.get(f"/jobs/{first}").status_code == 404
        assert client.get(f"/jobs/{last}").status_code == 200
        end = time.monotonic() + 30  # what is too much goes just after a job is told to be done
        while held(tmp_path / "a" / "jobs") > 100_000:
            assert time.monotonic() < end
            time.sleep(0.02)
        needed = client.send_file(geotiff(tmp_path / "needed.tif", side=180)).json()
        job = client.submit("edit", {"image": f"upload:{needed['id']}", "prompt": "a sea", "steps": 2})
        assert client.until(job)["status"] == "successful"


def test_days_that_are_over(sat, tmp_path):
    with running(sat, tmp_path, days=1) as client:
        job = client.submit("generate", QUICK)
        client.until(job)
        client.service.keeping.days = 0
        client.service.keeping.expire()
        assert client.get(f"/jobs/{job}").status_code == 404
        assert not list((tmp_path / "items").iterdir())
