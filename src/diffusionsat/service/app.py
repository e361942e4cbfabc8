"""The service's addresses: OGC API - Processes 1.0, uploads, results as STAC, tiles, and the studio."""

import asyncio
import json
import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from diffusionsat.errors import DiffusionSatError
from diffusionsat.service import tiles, uploads
from diffusionsat.service.board import Board
from diffusionsat.service.folder import Folder
from diffusionsat.service.guard import PROBLEMS, Guard, body_of
from diffusionsat.service.keeping import Keeping
from diffusionsat.service.limits import EXCEPTIONS, Limits, Problem
from diffusionsat.service.models import models
from diffusionsat.service.results import with_addresses
from diffusionsat.service.schemas import PROCESSES, inputs_of, parsed, process, references
from diffusionsat.service.store import FINAL, Row, Store
from diffusionsat.service.uploads import Rasters
from diffusionsat.service.worker import Worker, alike

STUDIO = Path(__file__).parent / "studio"
_SYNC_S, _HEARTBEAT_S = 60.0, 15.0
_CONFORMS = [
    f"http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/{part}"
    for part in ("core", "ogc-process-description", "json", "oas30", "job-list", "dismiss")
]
_ID = Annotated[str, InPath(pattern=r"^[0-9a-f]{16}$", description="Of 16 hexadecimal digits.")]
_STATUSES = ("accepted", "running", *FINAL)


class Json(JSONResponse):
    """JSON in plain letters, so that whatever a client sent can be said back."""

    def render(self, content: Any) -> bytes:
        """The bytes."""
        return json.dumps(content, allow_nan=False).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of a service.

    Args:
        store: Jobs and uploads.
        board: How far jobs are.
        folder: Files.
        keeping: How long they are kept.
        rasters: What references mean.
        worker: What does the jobs; knows the model.
        limits: Of requests.
        sync_s: Seconds that a client waits at most who does not ask to be answered at once.
    """

    store: Store
    board: Board
    folder: Folder
    keeping: Keeping
    rasters: Rasters
    worker: Worker
    limits: Limits
    sync_s: float = _SYNC_S

    def submit(self, name: str, body: Any) -> Row:
        """Check a request and put it into the queue.

        Raises:
            Problem: If it is not possible, or the queue is full.
        """
        if not isinstance(body, dict):
            raise Problem(422, 'The body is no object. Send {"inputs": {...}}.')
        foreign = sorted(body.keys() - {"inputs", "outputs", "response"})
        if foreign:
            raise Problem(422, f"The body has {foreign[0]!r}. It may have inputs, outputs and response.")
        response = body.get("response", "raw")
        if response not in ("raw", "document"):
            raise Problem(422, f"response is {response!r}. Give raw or document.")
        inputs = body.get("inputs", {})
        try:
            request = parsed(name, inputs, self.worker.sat, self.limits)
            for reference in references(request):
                self.rasters.check(reference, getattr(request, "factor", 1))
            together = alike(request, self.worker.sat)
        except DiffusionSatError as error:
            raise Problem(422, str(error)) from None
        wait_s = self.worker.seconds_to_wait()
        row = self.store.add(name, inputs, together, self.limits.waiting, response, wait_s)
        self.worker.wake.set()
        return row

    def dismiss(self, name: str) -> Row:
        """Cancel a job that waits or runs, or remove one that is done; the job as it was left."""
        row = self.store.job(name)
        if self.store.dismiss(name):
            self.board.post(name)
            return self.store.job(name)
        self.keeping.remove("job", name)
        self.keeping.write_catalogue()
        return row

    def status(self, row: Row, base: str) -> dict[str, Any]:
        """What OGC calls statusInfo."""
        progress, message = {"successful": 100}.get(row.status, 0), row.message
        told = self.board.progress(row.id)
        if row.status == "running" and told is not None:
            progress, message = told
        links = [_link(f"{base}jobs/{row.id}", "self"), _link(f"{base}jobs/{row.id}/events", "monitor")]
        if row.status == "successful":
            results = "http://www.opengis.net/def/rel/ogc/1.0/results"
            links += [
                _link(f"{base}jobs/{row.id}/results", results, "application/geo+json"),
                _link(f"{base}items/{row.id}.json", "item", "application/geo+json"),
            ]
        times = {"created": row.created, "started": row.started, "finished": row.finished}
        return {
            "jobID": row.id,
            "processID": row.process,
            "type": "process",
            "status": row.status,
            "message": message,
            "progress": progress,
            **{name: time for name, time in times.items() if time is not None},
            "updated": row.updated,
            "links": links,
            "inputs": row.inputs,
            "kept_until": self.keeping.kept_until(row),
        }

    def results(self, row: Row, base: str) -> dict[str, Any]:
        """The results of a job.

        Raises:
            Problem: If it has none, or none yet.
        """
        if row.status == "failed":
            raise Problem(422, f"The job {row.id} failed: {row.message}")
        if row.status != "successful" or not self.folder.done(row.id):
            detail = f"The job {row.id} is {row.status} and has no results."
            raise Problem(404, detail, kind=f"{EXCEPTIONS}result-not-ready")
        found = with_addresses(self.folder.item(row.id), base)
        return {"result": found} if row.response == "document" else found

    def files(self, name: str) -> Path:
        """Where the files of a successful job are.

        Raises:
            Problem: If there is none.
        """
        row = self.store.job(name)
        if row.status != "successful" or not self.folder.done(name):
            raise Problem(404, f"The job {name} is {row.status} and has no results.")
        return self.folder.files(name)


def _link(href: str, rel: str, kind: str = "application/json") -> dict[str, str]:
    return {"href": href, "rel": rel, "type": kind}


def make_app(service: Service, token: str | None = None) -> Guard:
    """The service as an ASGI application."""

    @asynccontextmanager
    async def living(_app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.board.close()
        await run_in_threadpool(service.worker.stop)

    app = FastAPI(
        title="DiffusionSat",
        description="Synthetic satellite images from words, numbers and rasters.",
        version=version("diffusionsat"),
        lifespan=living,
        docs_url=None,  # the page that draws it comes from elsewhere
        redoc_url=None,
        default_response_class=Json,
    )
    _handle_problems(app)
    _about(app, service)
    _jobs(app, service)
    _results(app, service)
    _uploads(app, service)
    return Guard(app, token, service.limits)


def _handle_problems(app: FastAPI) -> None:
    def refuse(problem: Problem) -> Response:
        body = json.dumps(body_of(problem)).encode()
        return Response(body, problem.status, dict(problem.headers), PROBLEMS)

    async def problem(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return refuse(error)

    async def of_http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = "There is nothing at this address." if error.status_code == 404 else str(error.detail)
        return refuse(Problem(error.status_code, detail, error.headers or {}))

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return refuse(Problem(422, f"{where} is not possible: {first['msg']}."))

    async def fault(_request: Request, error: Exception) -> Response:
        return refuse(Problem(500, f"{type(error).__name__}: a fault of diffusionsat. The log says more."))

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, fault)


def _about(app: FastAPI, service: Service) -> None:
    """The landing page, the studio, and what can be done here."""

    @app.get("/", summary="The studio, or as JSON the landing page")
    def landing(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", "") and (STUDIO / "index.html").is_file():
            return FileResponse(STUDIO / "index.html")
        base = str(request.base_url)
        links = [
            _link(base, "self"),
            _link(f"{base}openapi.json", "service-desc", "application/vnd.oai.openapi+json;version=3.0"),
            _link(f"{base}conformance", "http://www.opengis.net/def/rel/ogc/1.0/conformance"),
            _link(f"{base}processes", "http://www.opengis.net/def/rel/ogc/1.0/processes"),
            _link(f"{base}jobs", "http://www.opengis.net/def/rel/ogc/1.0/job-list"),
            _link(f"{base}catalog.json", "data"),
        ]
        return Json({"title": "DiffusionSat", "description": app.description, "links": links})

    @app.get("/studio/{path:path}", include_in_schema=False)
    def studio(path: str) -> Response:
        found = (STUDIO / path).resolve()
        if not found.is_file() or not found.is_relative_to(STUDIO.resolve()):
            raise Problem(404, "The studio has no such file.")
        return FileResponse(found, media_type=mimetypes.guess_type(found.name)[0])

    @app.get("/conformance", summary="Requirements that are met")
    def conformance() -> dict[str, Any]:
        return {"conformsTo": _CONFORMS}

    @app.get("/models", summary="The models, and the limits of this service")
    def list_models() -> dict[str, Any]:
        return models(service.worker.sat) | {"limits": asdict(service.limits)}

    @app.get("/processes", summary="What can be done")
    def processes(request: Request) -> dict[str, Any]:
        base = str(request.base_url)
        found = [_summary(name) | {"links": _process_links(name, base)} for name in PROCESSES]
        return {"processes": found, "links": [_link(f"{base}processes", "self")]}

    @app.get("/processes/{name}", summary="Inputs and outputs of a process")
    def describe(name: str, request: Request) -> dict[str, Any]:
        process(name)
        item = {"title": "A STAC item whose assets are the files", "schema": {"type": "object"}}
        return _summary(name) | {
            "inputs": inputs_of(name),
            "outputs": {"result": item},
            "links": _process_links(name, str(request.base_url)),
        }


def _summary(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "version": version("diffusionsat"),
        "title": PROCESSES[name].title,
        "description": (PROCESSES[name].request.__doc__ or "").split("\n", 1)[0],
        "jobControlOptions": ["sync-execute", "async-execute", "dismiss"],
        "outputTransmission": ["value"],
    }


def _process_links(name: str, base: str) -> list[dict[str, str]]:
    execute = "http://www.opengis.net/def/rel/ogc/1.0/execute"
    return [
        _link(f"{base}processes/{name}", "self"),
        _link(f"{base}processes/{name}/execution", execute),
    ]


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "inputs": {"type": "object"},
                        "response": {"enum": ["raw", "document"]},
                    },
                }
            }
        },
    }
}


def _jobs(app: FastAPI, service: Service) -> None:
    """Execution, and the jobs that come of it."""

    @app.post("/processes/{name}/execution", summary="Do it", openapi_extra=_BODY, status_code=201)
    async def execute(name: str, request: Request) -> Response:
        process(name)
        body = _decoded(await request.body())
        row = await run_in_threadpool(service.submit, name, body)
        base = str(request.base_url)
        if "respond-async" not in request.headers.get("prefer", ""):
            row = await _settled(service, row)
            if row.status in FINAL:
                return Json(await run_in_threadpool(service.results, row, base))
        headers = {"Location": f"{base}jobs/{row.id}", "Preference-Applied": "respond-async"}
        return Json(service.status(row, base), 201, headers)

    @app.get("/jobs", summary="Jobs, newest first")
    def jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
        status: Annotated[list[str] | None, Query()] = None,
        process_id: Annotated[list[str] | None, Query(alias="processID")] = None,
    ) -> dict[str, Any]:
        base = str(request.base_url)
        for wanted, known in ((status, _STATUSES), (process_id, tuple(PROCESSES))):
            for each in wanted or ():
                if each not in known:
                    raise Problem(422, f"{each[:100]!r} is none of {', '.join(known)}.")
        rows = service.store.jobs(limit + 1, offset, status or (), process_id or ())
        links = [_link(str(request.url), "self")]
        if len(rows) > limit:
            following = request.url.include_query_params(offset=offset + limit)
            links.append(_link(str(following), "next"))
        return {"jobs": [service.status(row, base) for row in rows[:limit]], "links": links}

    @app.get("/jobs/{job}", summary="How far a job is")
    def status(job: _ID, request: Request) -> dict[str, Any]:
        return service.status(service.store.job(job), str(request.base_url))

    @app.delete("/jobs/{job}", summary="Cancel a job, or remove one that is done")
    def dismiss(job: _ID, request: Request) -> dict[str, Any]:
        row = service.dismiss(job)
        return service.status(row, str(request.base_url)) | {"status": "dismissed"}

    @app.get("/jobs/{job}/events", summary="Progress as server-sent events", response_class=StreamingResponse)
    async def events(job: _ID, request: Request) -> Response:
        service.store.job(job)
        told = _told(service, job, str(request.base_url))
        return StreamingResponse(told, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _decoded(content: bytes) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    try:
        return json.loads(content, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The body is no JSON: {error}.") from None


async def _settled(service: Service, row: Row) -> Row:
    """The job when it is done, or as it is when the time is over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + service.sync_s
    with service.board.reading(row.id) as news:
        while not service.board.closed:
            news.clear()
            row = service.store.job(row.id)
            if row.status in FINAL or loop.time() > end:
                break
            await _waited(news, end - loop.time())
    return row


async def _told(service: Service, job: str, base: str) -> AsyncIterator[str]:
    """Status and coarse pictures of a job, until it is done or nobody listens any more."""
    last: Any = None
    seen: Any = None
    with service.board.reading(job) as news:
        while not service.board.closed:
            news.clear()
            try:
                status = service.status(service.store.job(job), base)
            except Problem:  # removed meanwhile
                return
            picture = service.board.preview(job)
            if picture is not None and picture is not seen:
                seen = picture
                yield _event("preview", picture)
            if status != last:
                last = status
                yield _event("status", status)
            if status["status"] in FINAL:
                return
            if not await _waited(news, _HEARTBEAT_S):
                yield ": nothing new\n\n"


async def _waited(news: asyncio.Event, seconds: float) -> bool:
    """Whether there was news within some time."""
    try:
        await asyncio.wait_for(news.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _results(app: FastAPI, service: Service) -> None:
    """What jobs have made."""

    @app.get("/jobs/{job}/results", summary="The STAC item of a result")
    def results(job: _ID, request: Request) -> Response:
        found = service.results(service.store.job(job), str(request.base_url))
        return Json(found, media_type="application/geo+json")

    @app.head("/jobs/{job}/files/{name}", include_in_schema=False)
    @app.get("/jobs/{job}/files/{name}", summary="A file of a result", response_class=FileResponse)
    def file(job: _ID, name: str) -> Response:
        held = {path.name: path for path in service.files(job).iterdir()}
        if name not in held:
            raise Problem(404, f"The result has no file {name[:100]!r}; it has {', '.join(sorted(held))}.")
        kind = {".tif": "image/tiff", ".png": "image/png"}.get(held[name].suffix, "application/octet-stream")
        return FileResponse(held[name], media_type=kind, filename=f"synthetic-{job}-{name}")

    @app.get("/jobs/{job}/tilejson.json", summary="A result as a layer of a map")
    def tilejson(job: _ID, request: Request) -> dict[str, Any]:
        return tiles.tilejson(tiles.shown(service.files(job)), job, str(request.base_url))

    @app.get("/jobs/{job}/tiles/{z}/{x}/{y}.png", summary="A tile of it", response_class=Response)
    def tile(job: _ID, z: Annotated[int, InPath(ge=0, le=tiles.HIGHEST_ZOOM)], x: int, y: int) -> Response:
        return Response(tiles.tile(tiles.shown(service.files(job)), z, x, y), media_type="image/png")

    @app.get("/catalog.json", summary="The STAC catalogue of all results")
    def catalogue() -> Response:
        return FileResponse(service.folder.root / "catalog.json", media_type="application/json")

    @app.get("/items/{job}.json", summary="An item of the catalogue")
    def item(job: _ID) -> Response:
        service.files(job)
        return FileResponse(service.folder.item_path(job), media_type="application/geo+json")


_FILE = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def _uploads(app: FastAPI, service: Service) -> None:
    """Rasters that clients send."""

    @app.post("/uploads", summary="Send a raster", openapi_extra=_FILE, status_code=201)
    async def upload(request: Request) -> Response:
        async with request.form(max_files=1, max_fields=8) as form:
            sent: Any = form.get("file")
            if not hasattr(sent, "filename"):
                raise Problem(422, "There is no file. Send one as the field 'file' of multipart/form-data.")
            name, about = await run_in_threadpool(
                uploads.receive, service.folder, sent.file, sent.filename, service.limits
            )
        size = about["size_bytes"]
        await run_in_threadpool(service.store.add_upload, name, size, about)
        await run_in_threadpool(service.keeping.expire)
        told = {key: value for key, value in about.items() if key not in ("file", "product")}
        return Json(told, 201)

    @app.get("/uploads/{upload}/preview.png", summary="A small picture of it", response_class=Response)
    def preview(upload: _ID) -> Response:
        service.store.upload(upload)
        try:
            picture = _preview(service, upload)
        except DiffusionSatError as error:
            raise Problem(422, str(error)) from None
        return Response(picture, media_type="image/png")


def _preview(service: Service, upload: str) -> bytes:
    from diffusionsat.errors import RasterError
    from diffusionsat.geo.rasters import open_raster

    try:
        return uploads.preview(service.rasters.open(f"upload:{upload}"))
    except RasterError:  # a mask has no colours
        return uploads.preview(open_raster(service.rasters.open(f"upload:{upload}", mask=True)))
