"""The windows of one job spread over processes and over a Dask cluster, asked for through the service."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from loopback import geotiff, running

pytestmark = [pytest.mark.slow, pytest.mark.allow_hosts(["127.0.0.1"])]
INPUTS = {"factor": 2, "steps": 3, "samples": 2, "seed": 5}


def sharpened(sat, folder: Path, source: Path, **workers) -> np.ndarray:
    """A raster of several windows, sharpened by a service."""
    with running(sat, folder, **workers) as client:
        assert (client.service.worker.execute is map) == (not workers)
        sent = client.send_file(source).json()["id"]
        job = client.submit("upscale", {**INPUTS, "frames": [f"upload:{sent}"]})
        end = client.until(job, seconds=1800)
        assert end["status"] == "successful", end
        with rasterio.open(client.service.folder.files(job) / "image.tif") as file:
            return file.read()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return geotiff(tmp_path_factory.mktemp("source") / "a.tif", side=200)


@pytest.fixture(scope="module")
def alone(sat, source, tmp_path_factory) -> np.ndarray:
    return sharpened(sat, tmp_path_factory.mktemp("alone"), source)


def test_processes_make_what_one_makes(sat, source, alone, tmp_path):
    assert np.array_equal(sharpened(sat, tmp_path, source, workers=2), alone)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Dask's own sockets
def test_a_dask_cluster_makes_what_one_process_makes(sat, source, alone, tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        assert np.array_equal(sharpened(sat, tmp_path, source, dask=cluster.scheduler_address), alone)
