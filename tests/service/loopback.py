"""Services on loopback, and a client that knows how to wait."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import rasterio
from affine import Affine

from diffusionsat.service.limits import Limits
from diffusionsat.service.listening import Server, bind
from diffusionsat.service.running import opened

BERN = {"lon": 7.44, "lat": 46.95, "gsd": 10}
QUICK = {"prompt": "a river", "metadata": BERN, "size": [64, 64], "steps": 2}
SLOW = {"prompt": "a sea", "size": [256, 256], "steps": 200}


class Client(httpx.Client):
    """A client that knows how to wait."""

    def submit(self, process: str, inputs: dict) -> str:
        answer = self.post(
            f"/processes/{process}/execution", json={"inputs": inputs}, headers={"Prefer": "respond-async"}
        )
        assert answer.status_code == 201, answer.text
        return answer.json()["jobID"]

    def until(self, job: str, *statuses: str, seconds: float = 600) -> dict:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.get(f"/jobs/{job}").json()
            if status["status"] in (statuses or ("successful", "failed", "dismissed")):
                return status
            time.sleep(0.02)
        raise AssertionError(f"{job} is {status}")

    def send_file(self, path: Path, name: str | None = None) -> httpx.Response:
        with path.open("rb") as file:
            return self.post("/uploads", files={"file": (name or path.name, file)})


@contextlib.contextmanager
def running(sat, data: Path, *, token=None, limits=None, **options) -> Iterator[Client]:
    """A service in a thread."""
    limits = limits or Limits()
    with opened(sat, data, limits=limits, **options) as service:
        server = Server(lambda: contextlib.nullcontext(service), token, limits)
        at = bind("127.0.0.1", 0, None)
        port = at.getsockname()[1]
        thread = threading.Thread(target=server.listen, args=[at])
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            with Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                client.service = service
                yield client
        finally:
            server.should_exit = True
            thread.join()


def geotiff(path: Path, *, bands=3, side=24, dtype="uint8", seed=0, **profile) -> Path:
    """A placed raster of noise."""
    values = np.random.default_rng(seed).integers(1, 200, (bands, side, side)).astype(dtype)
    place = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500000, 0, -10, 5200000)}
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=bands, dtype=dtype, **place | profile
    ) as file:
        file.write(values)
    return path
