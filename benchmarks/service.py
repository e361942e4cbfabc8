"""Images a second of `diffusionsat serve` with 1, 4 and 16 clients, waiting jobs batched and one by one.

Also how long it takes to start.

    python benchmarks/service.py [--model NAME|PATH] [--seconds 20] [--steps N]

One service of each kind runs at a time, in a process of its own; so do the clients, each of which asks for
the next image as soon as it has got one. The two kinds take turns for every size and number of clients. Rates
are by the service's own CPU seconds too, which others on the machine do not change (Linux).
"""

import argparse
import itertools
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = ("one by one", "batched")


def serve(model: str, data: str, port: int, kind: str) -> None:
    """Be the service."""
    from diffusionsat.model import DiffusionSat
    from diffusionsat.service.listening import Server, bind
    from diffusionsat.service.running import Service, opened

    @contextmanager
    def load() -> Iterator[Service]:
        with opened(DiffusionSat.from_pretrained(model), Path(data)) as service:
            if kind == "one by one":
                service.worker._together = lambda _row: 1
            yield service

    Server(load).listen(bind("127.0.0.1", port, None))


def ask(address: str, clients: int, side: int, steps: int | None, seconds: float) -> None:
    """Be the clients; prints images made and their mean seconds."""
    import httpx

    seeds, waits = itertools.count(), list[float]()
    client = httpx.Client(base_url=address, timeout=None)

    def one() -> None:
        while (begun := time.perf_counter()) < end:
            inputs = {"prompt": "a river", "size": [side, side], "seed": next(seeds), "steps": steps}
            inputs["metadata"] = {"lon": 7.44, "lat": 46.95, "gsd": 10}
            answer = client.post("/processes/generate/execution", json={"inputs": inputs})
            answer.raise_for_status()
            waits.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    end = begun + seconds
    threads = [threading.Thread(target=one) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - begun
    print(json.dumps({"images": len(waits), "rate": len(waits) / spent, "wait": sum(waits) / len(waits)}))


def measure(args: argparse.Namespace, kind: str, side: int, clients: int) -> dict[str, float]:
    """Figures of one kind."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as data:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, __file__, "--model", args.model]
        service = subprocess.Popen([*command, "--serve", kind, "--data", data, "--port", str(port)])
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address)
            given = ["--ask", address, "--side", str(side)]
            given += ["--steps", str(args.steps)] if args.steps else []
            warm = [*command, *given, "--clients", "1", "--seconds", "1"]
            subprocess.run(warm, check=True, capture_output=True)
            run = [*command, *given, "--clients", str(clients), "--seconds", str(args.seconds)]
            before = cpu_s(service.pid)
            done = subprocess.run(run, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            return found | {"cpu_rate": found["images"] / (cpu_s(service.pid) - before)}
        finally:
            service.terminate()
            service.wait()


def cpu_s(process: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(address: str, path: str = "/conformance") -> None:
    """Return when the service answers."""
    import httpx

    for _ in range(3000):
        try:
            httpx.get(f"{address}{path}", headers={"Accept": "text/html"}).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.02)
    raise SystemExit("the service did not start")


def start(args: argparse.Namespace) -> None:
    """Print how long the command takes until its page answers, and until all does: the least of five."""
    times = []
    for _ in range(5):
        with socket.socket() as free, tempfile.TemporaryDirectory() as data:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            words = [Path(sys.executable).parent / "diffusionsat", "serve", "--quiet", "--model", args.model]
            begun = time.perf_counter()
            service = subprocess.Popen([*words, "--data", data, "--port", str(port)])
            try:
                spent = []
                for path in ("/", "/models"):
                    wait_for(f"http://127.0.0.1:{port}", path)
                    spent.append(time.perf_counter() - begun)
                times.append(spent)
            finally:
                service.terminate()
                service.wait()
    page, all_ = (min(each) for each in zip(*times, strict=True))
    print(f"the studio answers after {page:.2f} s, all else after {all_:.2f} s\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="compact")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--sides", type=int, nargs="*", default=[64, 256])
    for hidden in ("serve", "ask", "data"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    for hidden in ("port", "clients", "side"):
        parser.add_argument(f"--{hidden}", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.model, args.data, args.port, args.serve)
    elif args.ask:
        ask(args.ask, args.clients, args.side, args.steps, args.seconds)
    else:
        threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
        print(f"{args.model}, {platform.machine()}, {threads} threads, {args.seconds:g} s each\n")
        start(args)
        print("| pixels | clients | one by one, images/s | batched | ratio | by CPU seconds | mean wait, s |")
        print("|---|---|---|---|---|---|---|")
        for side, clients in itertools.product(args.sides, (1, 4, 16)):
            alone, together = (measure(args, kind, side, clients) for kind in KINDS)
            ratios = [together[rate] / alone[rate] for rate in ("rate", "cpu_rate")]
            rates, waits = ([each[name] for each in (alone, together)] for name in ("rate", "wait"))
            cells = [f"{rates[0]:.2f}", f"{rates[1]:.2f}", *(f"{ratio:.2f}" for ratio in ratios)]
            cells.append(", ".join(f"{wait:.2f}" for wait in waits))
            print(f"| {side} | {clients} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
