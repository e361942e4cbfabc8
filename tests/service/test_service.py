"""The addresses of the service: execution, jobs, progress, results, tiles, and who may ask."""

import io
import itertools
import json
import threading
import time

import httpx
import numpy as np
import pytest
import rasterio
from loopback import BERN, QUICK, SLOW, geotiff, running
from PIL import Image
from pyproj import Transformer

from diffusionsat import Metadata

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def pixels(client, job, name="image.tif"):
    content = client.get(f"/jobs/{job}/files/{name}").content
    with rasterio.MemoryFile(content) as memory, memory.open() as file:
        return file.read()


def events(client, job):
    with client.stream("GET", f"/jobs/{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("event")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_landing_page_and_description(client):
    landing = client.get("/", headers={"Accept": "application/json"}).json()
    assert {link["rel"].rsplit("/", 1)[-1] for link in landing["links"]} >= {
        "conformance",
        "processes",
        "job-list",
        "service-desc",
    }
    for link in landing["links"]:
        assert client.get(link["href"]).status_code == 200
    listed = client.get("/processes").json()["processes"]
    assert [p["id"] for p in listed] == [
        *("generate", "upscale", "predict", "inpaint", "declouds", "edit", "features")
    ]
    inputs = client.get("/processes/generate").json()["inputs"]
    assert inputs["seed"]["schema"] == {"type": "integer", "default": 0}
    assert inputs["steps"]["description"] == "Steps of the solver."
    assert set(inputs["metadata"]["schema"]["properties"]) == {"lon", "lat", "gsd", "cloud_cover", "date"}
    assert "n" not in inputs


def test_generated_at_once_is_what_python_generates(client, sat):
    answer = client.post("/processes/generate/execution", json={"inputs": QUICK | {"seed": 3}})
    assert answer.status_code == 200
    item = answer.json()
    scene = sat.generate("a river", Metadata(**BERN), size=(64, 64), steps=2, seed=3)
    made = pixels(client, item["id"])
    assert np.array_equal(np.moveaxis(made, 0, 2), scene.pixels)
    shown = Image.open(io.BytesIO(client.get(item["assets"]["thumbnail"]["href"]).content))
    assert np.array_equal(np.asarray(shown), scene.pixels)
    assert shown.info["SYNTHETIC"] == "YES"
    properties = item["properties"]
    assert properties["synthetic"] is True
    assert properties["diffusionsat:provenance"]["seed"] == 3
    to_utm = Transformer.from_crs(4326, scene.crs, always_xy=True)
    found = [to_utm.transform(*corner) for corner in properties["corners"]]
    expected = [scene.transform @ at for at in ((0, 0), (64, 0), (64, 64), (0, 64))]
    assert np.allclose(found, expected, atol=1e-3)


def test_job_goes_its_way(client):
    answer = client.post(
        "/processes/generate/execution", json={"inputs": QUICK}, headers={"Prefer": "respond-async"}
    )
    assert answer.status_code == 201
    status = answer.json()
    assert answer.headers["location"].endswith(f"/jobs/{status['jobID']}")
    assert status["type"] == "process"
    assert status["inputs"] == QUICK
    done = client.until(status["jobID"])
    assert (done["status"], done["progress"]) == ("successful", 100)
    assert done["created"] <= done["started"] <= done["finished"]
    results = next(link for link in done["links"] if link["rel"].endswith("/results"))
    assert client.get(results["href"]).json()["id"] == status["jobID"]
    assert client.get("/jobs", params={"limit": 1}).json()["jobs"][0]["jobID"] == status["jobID"]
    assert client.delete(f"/jobs/{status['jobID']}").json()["status"] == "dismissed"
    assert client.get(f"/jobs/{status['jobID']}").status_code == 404
    assert client.get(f"/items/{status['jobID']}.json").status_code == 404
    assert status["jobID"] not in client.get("/catalog.json").text


def test_progress_is_told_as_it_comes(client, monkeypatch):
    monkeypatch.setattr("diffusionsat.service.worker._PREVIEW_S", 0)
    job = client.submit("generate", {**SLOW, "metadata": BERN, "size": [128, 128], "steps": 40})
    told = events(client, job)
    progress = [data["progress"] for name, data in told if name == "status"]
    assert progress == sorted(progress)
    assert (
        len(progress) > 5
    )  # a step that passes before the listener is there, or while it reads, is not told
    assert told[-1][1]["status"] == "successful"
    previews = [data for name, data in told if name == "preview"]
    assert previews
    assert all(p["png"].startswith("data:image/png;base64,") and len(p["corners"]) == 4 for p in previews)
    assert [name for name, _ in events(client, job)] == ["status"]


def test_job_that_is_cancelled_and_removed_at_once(client):
    job = client.submit("generate", SLOW)
    client.until(job, "running")
    for _ in range(2):
        assert client.delete(f"/jobs/{job}").status_code == 200
    assert client.delete(f"/jobs/{job}").json()["type"].endswith("/no-such-job")
    assert client.until(client.submit("generate", QUICK))["status"] == "successful"
    assert not [path for path in client.service.folder.root.rglob("*") if job in path.name]


def test_cancelled_job_stops_and_leaves_nothing(client):
    job = client.submit("generate", SLOW)
    behind = client.submit("generate", {**QUICK, "seed": 77})
    client.until(job, "running")
    assert client.get(f"/jobs/{job}/results").status_code == 404
    assert client.delete(f"/jobs/{job}").json()["status"] == "dismissed"
    assert client.until(behind)["status"] == "successful"
    assert client.get(f"/jobs/{job}").json()["status"] == "dismissed"
    root = client.service.folder.root
    assert not [path for path in root.rglob("*") if job in path.name]
    assert client.get(f"/jobs/{job}/files/image.tif").status_code == 404


def test_waiting_jobs_that_are_alike_are_one_batch(client, sat, monkeypatch):
    from diffusionsat.service import worker

    sizes = []
    make_batch = worker.make_batch
    monkeypatch.setattr(
        worker, "make_batch", lambda s, images, f: sizes.append(len(images)) or make_batch(s, images, f)
    )
    blocker = client.submit("generate", SLOW)
    client.until(blocker, "running")
    prompts = ["a river", "a forest", "a town"]
    jobs = [client.submit("generate", {**QUICK, "prompt": p, "seed": i}) for i, p in enumerate(prompts)]
    other = client.submit("generate", {**QUICK, "steps": 3})
    client.delete(f"/jobs/{blocker}")
    for job in (*jobs, other):
        assert client.until(job)["status"] == "successful"
    assert sizes == [1, 3, 1] or sizes == [3, 1]  # the first was begun before it was counted
    for i, (prompt, job) in enumerate(zip(prompts, jobs, strict=True)):
        alone = sat.generate(prompt, Metadata(**BERN), size=(64, 64), steps=2, seed=i).pixels
        apart = np.abs(np.moveaxis(pixels(client, job), 0, 2).astype(int) - alone)
        assert apart.max() <= 1


def test_bad_job_harms_no_other(client, sat, monkeypatch):
    """A batch in which one fails is done one by one."""
    from diffusionsat.service import worker

    make_batch = worker.make_batch

    def fail(model, images, on_step):
        if any(request.prompt == "a word" for request, _ in images):
            raise RuntimeError("out of memory")
        return make_batch(model, images, on_step)

    monkeypatch.setattr(worker, "make_batch", fail)
    blocker = client.submit("generate", SLOW)
    jobs = [client.submit("generate", {**QUICK, "prompt": p}) for p in ("a river", "a word", "a town")]
    client.delete(f"/jobs/{blocker}")
    ends = [client.until(job) for job in jobs]
    assert [end["status"] for end in ends] == ["successful", "failed", "successful"]
    assert "RuntimeError" in ends[1]["message"]
    answer = client.get(f"/jobs/{jobs[1]}/results")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_warnings_are_told(client):
    job = client.submit("generate", {**QUICK, "prompt": "a river " * 20})
    assert "is cut before" in client.until(job)["message"]


def test_upscaled_upload(client, tmp_path):
    path = geotiff(tmp_path / "field.tif")
    sent = client.send_file(path).json()
    assert (sent["name"], sent["bands"], sent["width"], sent["height"]) == (
        "field.tif",
        ["red", "green", "blue"],
        24,
        24,
    )
    assert sent["metadata"]["gsd"] == pytest.approx(10, rel=1e-2)
    west, south, east, north = sent["bounds"]
    assert west < sent["metadata"]["lon"] < east
    assert south < sent["metadata"]["lat"] < north
    preview = Image.open(io.BytesIO(client.get(f"/uploads/{sent['id']}/preview.png").content))
    with rasterio.open(path) as file:
        assert np.array_equal(np.asarray(preview)[..., :3], np.moveaxis(file.read(), 0, 2))
        bounds = file.bounds
    inputs = {"frames": [f"upload:{sent['id']}"], "factor": 2, "steps": 2, "samples": 2}
    job = client.submit("upscale", inputs)
    assert client.until(job)["status"] == "successful"
    item = client.get(f"/jobs/{job}/results").json()
    assert set(item["assets"]) == {
        "image",
        "thumbnail",
        "visual",
        "spread",
        "measured",
        "invented",
        "support",
        *(f"{layer}-thumbnail" for layer in ("spread", "measured", "invented", "support")),
    }
    with (
        rasterio.MemoryFile(client.get(item["assets"]["image"]["href"]).content) as memory,
        memory.open() as made,
    ):
        assert (made.width, made.height, made.bounds) == (48, 48, bounds)
        assert made.tags()["SYNTHETIC"] == "YES"
    parts = [pixels(client, job, f"image.{name}.tif") for name in ("measured", "invented")]
    assert np.allclose(parts[0] + parts[1], pixels(client, job), atol=1e-3)
    text = json.dumps(item)
    assert str(client.service.folder.root) not in text
    assert f"upload:{sent['id']}" in text
    again = client.submit("edit", {"image": f"job:{job}", "prompt": "a forest", "steps": 2, "strength": 0.5})
    assert client.until(again)["status"] == "successful"


def test_layers_are_empty_where_the_image_is(client, tmp_path):
    path = geotiff(tmp_path / "a.tif", nodata=0)
    with rasterio.open(path, "r+") as file:
        values = file.read()
        values[:, :12, :12] = 0
        file.write(values)
    sent = client.send_file(path).json()
    job = client.submit(
        "upscale", {"frames": [f"upload:{sent['id']}"], "factor": 2, "steps": 2, "samples": 2}
    )
    assert client.until(job)["status"] == "successful"
    for name in ("image", "image.measured", "image.invented", "image.spread", "image.support"):
        picture = Image.open(io.BytesIO(client.get(f"/jobs/{job}/files/{name}.png").content))
        opaque = np.asarray(picture)[..., 3] == 255
        assert opaque.shape == (48, 48)
        assert not opaque[:24, :24].any()
        assert opaque[24:].all()
        assert opaque[:, 24:].all()


def test_hole_drawn_on_an_upload(client, tmp_path):
    path = geotiff(tmp_path / "image.tif", side=64)
    sent = client.send_file(path).json()
    left, top = sent["corners"][0]
    right, bottom = sent["corners"][2]
    middle = ((left + right) / 2, (top + bottom) / 2)
    ring = [[left, top], [middle[0], top], list(middle), [left, middle[1]], [left, top]]
    mask = {"type": "Polygon", "coordinates": [ring]}
    inputs = {"image": f"upload:{sent['id']}", "mask": mask, "feather": 0, "steps": 2}
    job = client.submit("inpaint", inputs)
    assert client.until(job)["status"] == "successful"
    with rasterio.open(path) as file:
        changed = (pixels(client, job) != file.read()).any(0)
    assert changed[:28, :28].mean() > 0.9
    assert not changed[34:, 34:].any()


def test_features_of_an_upload(client, tmp_path):
    sent = client.send_file(geotiff(tmp_path / "image.tif", side=32)).json()
    job = client.submit("features", {"image": f"upload:{sent['id']}", "sigma": [0.5]})
    assert client.until(job)["status"] == "successful"
    assets = client.get(f"/jobs/{job}/results").json()["assets"]
    assert assets
    assert all(name.endswith("@0.5") for name in assets)
    for asset in assets.values():
        assert client.get(asset["href"]).status_code == 200
    assert client.get(f"/jobs/{job}/tilejson.json").status_code == 404


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # within rasterio
def test_tiles_show_the_image_where_it_lies(client):
    item = client.post("/processes/generate/execution", json={"inputs": QUICK}).json()
    layer = client.get(f"/jobs/{item['id']}/tilejson.json").json()
    assert layer["bounds"] == pytest.approx(item["bbox"], abs=1e-3)
    n = 2**16
    x = (BERN["lon"] + 180) / 360 * n
    lat = np.radians(BERN["lat"])
    y = (1 - np.log(np.tan(lat) + 1 / np.cos(lat)) / np.pi) / 2 * n
    address = layer["tiles"][0].format(z=16, x=int(x), y=int(y))
    tile = np.asarray(Image.open(io.BytesIO(client.get(address).content)))
    assert tile.shape == (256, 256, 4)
    assert tile[int(y % 1 * 256), int(x % 1 * 256), 3] == 255
    far = client.get(f"/jobs/{item['id']}/tiles/16/0/0.png")
    assert not np.asarray(Image.open(io.BytesIO(far.content)))[..., 3].any()
    assert client.get(f"/jobs/{item['id']}/tiles/1/5/0.png").status_code == 404
    assert client.get(f"/jobs/{item['id']}/tiles/99/0/0.png").status_code == 422


@pytest.mark.parametrize(
    ("process", "body", "status", "words"),
    [
        ("generate", {"inputs": {"prompt": "x" * 2**20}}, 422, "at most 2,000 characters"),
        ("generate", {"inputs": {"steps": 10_000}}, 422, "at most 200"),
        ("generate", {"inputs": {"size": [2048, 4096]}}, 422, "at most 4,194,304"),
        ("generate", {"inputs": {"size": [64, 65]}}, 422, "multiples of"),
        ("generate", {"inputs": {"sede": 1}}, 422, "Did you mean 'seed'"),
        ("generate", {"inputs": {"metadata": {"lat": 91}}}, 422, "-90 to 90"),
        ("generate", {"inputs": {"prompt": "\ud800"}}, 422, "no valid Unicode"),
        ("generate", {"inputs": {"n": 4}}, 422, "no input"),
        ("generate", {"inputs": []}, 422, "object"),
        ("generate", [], 422, "no object"),
        ("generate", {"subscriber": {"successUri": "http://x"}}, 422, "subscriber"),
        ("upscale", {"inputs": {}}, 422, "no raster"),
        ("upscale", {"inputs": {"frames": ["/etc/passwd"]}}, 422, "upload:ID"),
        ("upscale", {"inputs": {"frames": ["upload:../../../etc/passwd"]}}, 422, "upload:ID"),
        ("upscale", {"inputs": {"frames": ["https://example.org/a.tif"]}}, 422, "--allow-remote"),
        ("upscale", {"inputs": {"frames": ["upload:0123456789abcdef"]}}, 404, "no upload"),
        ("predict", {"inputs": {"frames": ["job:0123456789abcdef"]}}, 404, "no results"),
        ("paint", {"inputs": {}}, 404, "no process"),
    ],
)
def test_what_is_not_possible_is_refused(client, process, body, status, words):
    answer = client.post(f"/processes/{process}/execution", content=json.dumps(body))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


HOLE_ELSEWHERE = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}


@pytest.mark.parametrize(
    ("process", "inputs", "words"),
    [
        ("upscale", {"factor": 11}, "factor is 11. Give a whole number from 2 to 10"),
        ("upscale", {"consistency": "mild"}, "consistency is 'mild'"),
        ("upscale", {"samples": 0}, "samples is 0"),
        ("upscale", {"control": "none"}, "control is 'none'"),
        ("predict", {"on": "2020-07"}, "predict needs a ControlNet that sees other dates"),
        ("predict", {"on": "2020-13"}, "2020-13"),
        ("inpaint", {"feather": 65, "mask": "upload:ID"}, "feather is 65"),
        ("inpaint", {"mask": HOLE_ELSEWHERE}, "marks no pixel of upload:ID"),
        ("inpaint", {}, "has no gap to fill"),
        ("inpaint", {"mask": "upload:BLANK"}, "upload:BLANK marks no pixel of upload:ID"),
        ("declouds", {}, "Nothing tells where upload:ID has clouds"),
        ("edit", {"strength": 0}, "strength is 0"),
        ("edit", {"image": "upload:BLANK"}, "upload:BLANK has the bands band1, none of which is known"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_waits(client, tmp_path, process, inputs, words):
    """Also what only the rasters tell; by the names that clients know them by."""
    sent = client.send_file(geotiff(tmp_path / "a.tif")).json()["id"]
    with rasterio.open(geotiff(tmp_path / "blank.tif", bands=1), "r+") as file:
        file.write(np.zeros((1, 24, 24), "uint8"))
    blank = client.send_file(tmp_path / "blank.tif").json()["id"]

    def known(text: str) -> str:
        return text.replace("ID", sent).replace("BLANK", blank)

    subject = (
        {"frames": [f"upload:{sent}"]} if process in ("upscale", "predict") else {"image": f"upload:{sent}"}
    )
    body = known(json.dumps({"inputs": {**subject, **inputs}}))
    before = client.get("/jobs").json()["jobs"]
    answer = client.post(f"/processes/{process}/execution", content=body)
    assert answer.status_code == 422, answer.text
    assert known(words) in answer.json()["detail"]
    assert "/" not in answer.json()["detail"].replace("A/B", "")
    assert client.get("/jobs").json()["jobs"] == before


def test_messages_tell_no_paths(client):
    root = client.service.folder.root
    said = client.service.folder.said
    told = f"{root}/uploads/0123456789abcdef/raster.tif: band 1 is damaged; /usr/lib/a/model.bin is gone."
    assert said(told) == "upload:0123456789abcdef: band 1 is damaged; model.bin is gone."
    assert said(f"{root}/jobs/0123456789abcdef/files/image.tif.") == "job:0123456789abcdef."
    assert said("https://example.org/a/b.tif, 10 m/px, A/B") == "https://example.org/a/b.tif, 10 m/px, A/B"


@pytest.mark.parametrize("content", [b"", b"{", b'{"inputs": {"guidance": NaN}}', b"[" * 100_000, b"\xff"])
def test_what_is_no_json_is_refused(client, content):
    assert client.post("/processes/generate/execution", content=content).status_code == 400


def test_full_queue(sat, tmp_path):
    from diffusionsat.service.limits import Limits

    with running(sat, tmp_path, limits=Limits(waiting=2)) as client:
        jobs = [client.submit("generate", SLOW) for _ in range(2)]
        answer = client.post("/processes/generate/execution", json={"inputs": QUICK})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        for job in jobs:
            client.delete(f"/jobs/{job}")
        assert client.post("/processes/generate/execution", json={"inputs": QUICK}).status_code == 200


def test_who_may_ask(sat, tmp_path):
    with running(sat, tmp_path / "a", token="0123456789abcdef") as client:
        assert client.get("/").status_code == 200
        for address in ("/jobs", "/catalog.json", "/openapi.json", "/uploads/0/preview.png"):
            refused = client.get(address)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            wrong = client.get(address, headers={"Authorization": "Bearer 0123456789abcdee"})
            assert wrong.status_code == 401
        assert client.get("/jobs", headers={"Authorization": "Bearer 0123456789abcdef"}).status_code == 200


def test_pages_of_other_sites_may_not_ask(client):
    assert client.get("/jobs", headers={"Host": "evil.example"}).status_code == 403
    refused = client.post(
        "/processes/generate/execution", json={}, headers={"Origin": "https://evil.example"}
    )
    assert refused.status_code == 403
    own = str(client.base_url)
    assert client.get("/jobs", headers={"Origin": own}).status_code == 200


def test_every_answer_has_the_policy(client):
    for address in ("/", "/jobs", "/nothing", "/jobs/x", "/openapi.json", "/studio/app.js"):
        policy = client.get(address).headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
    assert client.get("/studio/../app.py").status_code == 404
    assert client.get("/studio/%2e%2e/app.py").status_code == 404


def ask_as_many(client, clients: int, seconds: float) -> list[tuple[int, int, int | None]]:
    """Seed, status and seed that was made, of all answers to clients who ask again at once."""
    object.__setattr__(client.service, "sync_s", 3600.0)  # how long it takes is not what is tried
    seeds, got, end = itertools.count(), [], time.monotonic() + seconds

    def ask():
        with httpx.Client(base_url=client.base_url, timeout=None) as own:
            while True:
                seed = next(seeds)
                answer = own.post("/processes/generate/execution", json={"inputs": QUICK | {"seed": seed}})
                made = answer.json().get("properties", {}).get("diffusionsat:seed")
                got.append((seed, answer.status_code, made))
                if time.monotonic() > end:
                    return

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(got)


def test_many_clients_lose_nothing(client):
    assert ask_as_many(client, 12, 0) == [(seed, 200, seed) for seed in range(12)]


@pytest.mark.slow
def test_fifty_clients_for_a_minute_lose_nothing(sat, tmp_path):
    with running(sat, tmp_path) as client:
        client.timeout = None
        got = ask_as_many(client, 50, 60)
        assert got == [(seed, 200, seed) for seed in range(len(got))]
        end = time.monotonic() + 60  # the catalogue is written after the last answer
        while len(client.get("/catalog.json").json()["links"]) != len(got) + 1:
            assert time.monotonic() < end
