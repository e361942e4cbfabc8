"""What is there before the service is, and a service that cannot be started."""

import contextlib
import subprocess
import sys
import threading

import httpx
import pytest
from loopback import QUICK, SLOW, running

from diffusionsat import ConfigError
from diffusionsat.service.listening import Server, bind, read_token
from diffusionsat.service.running import opened

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@contextlib.contextmanager
def answering(at, run):
    """A client of what listens at a socket for as long as ``run`` does."""
    thread = threading.Thread(target=run)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{at.getsockname()[1]}", timeout=60) as client:
        yield client
    thread.join()


def test_the_studio_is_there_before_the_model(sat, tmp_path):
    """The page comes at once; whatever else is asked for waits, and is answered."""
    released = threading.Event()

    @contextlib.contextmanager
    def load():
        assert released.wait(60)
        with opened(sat, tmp_path) as service:
            yield service

    at = bind("127.0.0.1", 0, None)
    server = Server(load)
    with answering(at, lambda: server.listen(at)) as client:
        page = client.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        script = client.get("/studio/app.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert script.headers["cache-control"] == "no-cache"
        again = client.get("/studio/app.js", headers={"If-None-Match": script.headers["etag"]})
        assert again.status_code == 304
        for address in ("/studio/nothing.js", "/studio/%2e%2e/app.py", "/studio/vendor"):
            assert client.get(address).status_code == 404
        answers = []
        waiting = threading.Thread(
            target=lambda: answers.append(
                client.post("/processes/generate/execution", json={"inputs": QUICK})
            )
        )
        waiting.start()
        waiting.join(0.3)
        assert not answers
        released.set()
        waiting.join()
        assert answers[0].status_code == 200
        server.should_exit = True


def test_a_service_that_cannot_be_started_ends(tmp_path):
    asked = threading.Event()

    def load():
        assert asked.wait(60)
        raise ConfigError("there is no such model")

    at, raised = bind("127.0.0.1", 0, None), []

    def run():
        with pytest.raises(ConfigError, match="no such model") as error:
            Server(load).listen(at)
        raised.append(error)

    with answering(at, run) as client:
        waiting = threading.Timer(0.2, asked.set)
        waiting.start()
        with contextlib.suppress(httpx.TransportError):
            assert client.get("/jobs").status_code == 503
        waiting.join()
    assert raised


def test_who_waits_is_told_when_the_service_ends(sat, tmp_path):
    """Neither a stream of news nor an answer that is waited for is cut off."""
    told, answers = [], []

    def follow(job):
        told.append(httpx.get(f"{address}/jobs/{job}/events", timeout=60).text)

    def ask():
        answers.append(
            httpx.post(f"{address}/processes/generate/execution", json={"inputs": SLOW}, timeout=60)
        )

    with running(sat, tmp_path) as client:
        address = str(client.base_url).rstrip("/")
        job = client.submit("generate", SLOW)
        client.until(job, "running")
        threads = [threading.Thread(target=follow, args=[job]), threading.Thread(target=ask)]
        for thread in threads:
            thread.start()
        while len(client.get("/jobs").json()["jobs"]) < 2 or not client.service.board.watched(job):
            pass
    for thread in threads:
        thread.join()
    assert '"status": "running"' in told[0]
    assert answers[0].status_code == 201


def test_where_it_listens(tmp_path):
    with pytest.raises(ConfigError, match="--token-file"):
        bind("0.0.0.0", 0, None)
    with bind("127.0.0.1", 0, None) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be listened at"):
            bind("127.0.0.1", port, None)
    (tmp_path / "token").write_text("short")
    with pytest.raises(ConfigError, match="16 letters or more"):
        read_token(tmp_path / "token")


def test_what_answers_first_loads_no_torch():
    code = "import sys, diffusionsat.service.listening; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
