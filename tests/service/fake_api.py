"""A service that answers as the real one does, with canned pictures: to work on the studio without a model.

``python tests/service/fake_api.py 8800`` serves it on http://127.0.0.1:8800/. Its images are quarters of red,
green, blue and yellow, each month in its own brightness, so that it is seen whether corners and order are
right.
A prompt that begins with "fail" fails, one that begins with "slow" takes until it is cancelled.
"""

import base64
import io
import json
import re
import sys
import threading
import time
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.warp import transform

STUDIO = Path(__file__).parents[2] / "src/diffusionsat/service/studio"
POLICY = (
    "default-src 'self'; worker-src blob: 'self'; img-src 'self' data: blob:; style-src 'self'; "
    "frame-ancestors 'none'"
)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
QUARTERS = np.array([[[200, 40, 40], [40, 160, 60]], [[50, 80, 200], [220, 200, 60]]], np.uint8)
STEPS = 4


class Refused(Exception):
    def __init__(self, status: int, detail: str, **headers: str) -> None:
        self.status, self.detail, self.headers = status, detail, headers


class Service:
    """What the real service keeps in its folder, here in memory."""

    def __init__(self, token: str | None = None, step_s: float = 0.1) -> None:
        self.token, self.step_s = token, step_s
        self.jobs: dict[str, dict] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.uploads: dict[str, dict] = {}
        self.requests: list[str] = []
        self.full = 0  # requests that will find the queue full

    def execute(self, process: str, inputs: dict) -> dict:
        if self.full:
            self.full -= 1
            raise Refused(429, "The queue is full: 200 jobs wait or run.", **{"Retry-After": "1"})
        if inputs.get("steps", 0) > 200:
            raise Refused(422, f"steps is {inputs['steps']}; this service takes at most 200.")
        name = f"{len(self.jobs) + 1:016x}"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        job = {"jobID": name, "processID": process, "type": "process", "status": "accepted", "progress": 0}
        self.jobs[name] = job | {"message": "waiting", "created": now, "updated": now, "inputs": inputs}
        threading.Thread(target=self._work, args=(self.jobs[name],), daemon=True).start()
        return self.jobs[name]

    def _work(self, job: dict) -> None:
        prompt = job["inputs"].get("prompt", "")
        for step in range(10**6 if prompt.startswith("slow") else STEPS):
            time.sleep(self.step_s)
            if job["status"] == "dismissed":
                return
            job |= {"status": "running", "message": "running", "progress": min(99, 100 * step // STEPS)}
        if prompt.startswith("fail"):
            job |= {"status": "failed", "message": "There is no model for this: the prompt begins with fail."}
            return
        self.files[job["jobID"]] = self._results(job)
        frames = job["inputs"].get("frames")
        remark = f"; {frames[0]}: numbers are taken for reflectance" if frames else ""
        job |= {"status": "successful", "message": f"done{remark}", "progress": 100}

    def _results(self, job: dict) -> dict[str, bytes]:
        inputs = job["inputs"]
        source = inputs.get("image") or (inputs.get("frames") or [None])[0]
        if source is None:
            (width, height), metadata = inputs["size"], inputs["metadata"]
            pixels = quarters(width, height, int((metadata.get("date") or "2019-07")[5:7] or 7))
            grid = (
                grid_at(metadata["lon"], metadata["lat"], metadata["gsd"], width, height)
                if "lon" in metadata
                else {}
            )
            return {"image.png": png(pixels), "image.tif": geotiff(pixels, **grid)}
        pixels, grid = opened(self.uploads[source.split(":")[1].split("@")[0]]["bytes"])
        if job["processID"] == "upscale":
            factor = inputs["factor"]
            pixels = pixels.repeat(factor, 0).repeat(factor, 1)
            if grid:
                grid["transform"] = grid["transform"] @ rasterio.Affine.scale(1 / factor)
        layers = {"measured": pixels, "invented": 255 - pixels, "support": pixels[..., :1].repeat(3, 2)}
        if inputs.get("samples", 1) > 1:
            layers["spread"] = pixels[::-1]
        if job["processID"] == "inpaint":
            pixels = hole_filled(pixels, grid, inputs["mask"], self)
        made = {"image": pixels} | {f"image.{name}": layer for name, layer in layers.items()}
        return {f"{n}.png": png(p) for n, p in made.items()} | {
            f"{n}.tif": geotiff(p, **grid) for n, p in made.items()
        }

    def results(self, name: str) -> dict:
        files = self.files[name]
        corners, _ = corners_of(files["image.tif"])
        assets = {}
        for file in files:
            key, kind = Path(file).stem.removeprefix("image."), Path(file).suffix
            key = f"{key}-thumbnail" if kind == ".png" else key
            assets[key.replace("image-", "")] = {"href": f"http://elsewhere/jobs/{name}/files/{file}"}
        return {
            "type": "Feature",
            "id": name,
            "assets": assets,
            "properties": {"synthetic": True, "corners": corners},
        }

    def upload(self, name: str, content: bytes) -> dict:
        try:
            with MemoryFile(content) as memory, memory.open() as data:
                width, height, bands, dtype = data.width, data.height, data.count, data.dtypes[0]
                gsd = data.res[0] if data.crs else None
        except rasterio.errors.RasterioError:
            raise Refused(
                422, f"{name} is no image that can be read. Give a GeoTIFF, a PNG or a JPEG."
            ) from None
        corners, _ = corners_of(content)
        key = f"{len(self.uploads) + 1:016x}"
        self.uploads[key] = {
            "id": key, "name": name, "bands": ["B04", "B03", "B02"][:bands], "width": width, "height": height,
            "corners": corners, "bounds": None, "metadata": {"gsd": gsd} if gsd else {}, "dtype": dtype,
            "size_bytes": len(content), "bytes": content,
        }  # fmt: skip
        return {k: v for k, v in self.uploads[key].items() if k != "bytes"}


def quarters(width: int, height: int, month: int = 7) -> np.ndarray:
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 2 // width
    light = 1 - abs(month - 7) / 12
    return (QUARTERS[rows][:, columns] * light).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def grid_at(lon: float, lat: float, gsd: float, width: int, height: int) -> dict:
    crs = f"EPSG:{32600 if lat >= 0 else 32700}".replace("00", f"{int((lon + 180) // 6) + 1:02d}")
    (x,), (y,) = transform("EPSG:4326", crs, [lon], [lat])
    origin = rasterio.Affine.translation(x - width * gsd / 2, y + height * gsd / 2)
    return {"crs": crs, "transform": origin @ rasterio.Affine.scale(gsd, -gsd)}


def geotiff(pixels: np.ndarray, **grid) -> bytes:
    height, width, count = pixels.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=width, height=height, count=count, dtype="uint8", **grid
        ) as data:
            data.write(np.moveaxis(pixels, 2, 0))
        return bytes(memory.getbuffer())


def opened(content: bytes) -> tuple[np.ndarray, dict]:
    with MemoryFile(content) as memory, memory.open() as data:
        pixels = np.moveaxis(data.read([1, 2, 3]), 0, 2).astype(np.uint8)
        return pixels, {"crs": data.crs, "transform": data.transform} if data.crs else {}


def corners_of(content: bytes) -> tuple[list | None, tuple[int, int]]:
    with MemoryFile(content) as memory, memory.open() as data:
        size = data.width, data.height
        if not data.crs:
            return None, size
        ends = [(0, 0), (size[0], 0), size, (0, size[1])]
        xs, ys = zip(*(data.transform @ end for end in ends), strict=True)
        lons, lats = transform(data.crs, "EPSG:4326", xs, ys)
        return [list(pair) for pair in zip(lons, lats, strict=True)], size


def hole_filled(pixels: np.ndarray, grid: dict, mask: dict | str, service: Service) -> np.ndarray:
    from rasterio.features import geometry_mask
    from rasterio.warp import transform_geom

    if isinstance(mask, str):
        inside = opened(service.uploads[mask.split(":")[1]]["bytes"])[0][..., 0] > 0
    else:
        shape = transform_geom("EPSG:4326", grid["crs"], mask)
        inside = geometry_mask([shape], pixels.shape[:2], grid["transform"], invert=True)
    return np.where(inside[..., None], np.uint8([255, 0, 255]), pixels)


class Handler(BaseHTTPRequestHandler):
    service: Service
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def _answer(self, method) -> None:
        self.service.requests.append(f"{self.command} {self.path}")
        try:
            path = self.path.split("?")[0].lstrip("/")
            static = path == "" or path.startswith("studio/")
            if self.service.token and not static:
                given = self.headers.get("Authorization")
                if given != f"Bearer {self.service.token}":
                    raise Refused(401, "This service asks for a token.")
            method(path)
        except Refused as refused:
            body = {
                "type": "about:blank",
                "title": "Refused",
                "status": refused.status,
                "detail": refused.detail,
            }
            self._send(
                refused.status, json.dumps(body).encode(), "application/problem+json", **refused.headers
            )
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, value, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _get(self, path: str) -> None:
        service = self.service
        if path == "" or path.startswith("studio/"):
            file = STUDIO / (path.removeprefix("studio/") or "index.html")
            if not file.is_file():
                raise Refused(404, f"There is no {path}.")
            self._send(200, file.read_bytes(), TYPES[file.suffix])
        elif path == "models":
            defaults = {"size": [64, 64], "steps": 10, "guidance": 2.0, "gsd": 10.0}
            self._json(
                {
                    "default": "compact",
                    "defaults": defaults,
                    "models": [],
                    "controls": [],
                    "limits": {"upload_bytes": 2**20},
                }
            )
        elif path == "jobs":
            self._json({"jobs": list(service.jobs.values())[::-1], "links": []})
        elif found := re.fullmatch(r"jobs/(\w+)/files/([\w.]+)", path):
            self._send(200, self._known(service.files, found[1])[found[2]], f"image/{found[2][-3:]}")
        elif found := re.fullmatch(r"jobs/(\w+)/results", path):
            self._known(service.files, found[1])
            self._json(service.results(found[1]))
        elif found := re.fullmatch(r"jobs/(\w+)/events", path):
            self._events(self._known(service.jobs, found[1]))
        elif found := re.fullmatch(r"jobs/(\w+)", path):
            self._json(self._known(service.jobs, found[1]))
        elif found := re.fullmatch(r"uploads/(\w+)/preview.png", path):
            self._send(200, png(opened(self._known(service.uploads, found[1])["bytes"])[0]), "image/png")
        else:
            raise Refused(404, f"There is no {path}.")

    def _known(self, things: dict, name: str):
        if name not in things:
            raise Refused(404, f"There is no {name}.")
        return things[name]

    def _events(self, job: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        said = None
        while True:
            if said != json.dumps(job):
                said = json.dumps(job)
                self.wfile.write(f"event: status\ndata: {said}\n\n".encode())
                if (
                    job["status"] == "running"
                    and "size" in job["inputs"]
                    and "lon" in job["inputs"]["metadata"]
                ):
                    self.wfile.write(f"event: preview\ndata: {json.dumps(self._preview(job))}\n\n".encode())
                self.wfile.flush()
            if job["status"] not in ("accepted", "running"):
                break
            time.sleep(self.service.step_s / 2)
        self.close_connection = True

    def _preview(self, job: dict) -> dict:
        metadata, (width, height) = job["inputs"]["metadata"], job["inputs"]["size"]
        grid = grid_at(metadata["lon"], metadata["lat"], metadata["gsd"], width, height)
        corners, _ = corners_of(geotiff(quarters(width, height), **grid))
        content = base64.b64encode(png(quarters(8, 8))).decode()
        return {"png": f"data:image/png;base64,{content}", "corners": corners}

    def _post(self, path: str) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "uploads":
            head = f"Content-Type: {self.headers['Content-Type']}\n\n".encode()
            part = BytesParser().parsebytes(head + body).get_payload(0)
            self._json(self.service.upload(part.get_filename(), part.get_payload(decode=True)), 201)
        elif found := re.fullmatch(r"processes/(\w+)/execution", path):
            self._json(self.service.execute(found[1], json.loads(body)["inputs"]), 201)
        else:
            raise Refused(404, f"There is no {path}.")

    def _delete(self, path: str) -> None:
        name = path.removeprefix("jobs/")
        job = self._known(self.service.jobs, name)
        if job["status"] in ("accepted", "running"):
            job |= {"status": "dismissed", "message": "cancelled"}
        else:
            del self.service.jobs[name]
        self._json(job)


def serve(service: Service, port: int = 0) -> ThreadingHTTPServer:
    """A server on loopback that answers in a thread until it is shut down."""
    handler = type("Bound", (Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    serve(Service(), int(sys.argv[1]))
    threading.Event().wait()
