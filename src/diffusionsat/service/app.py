"""The addresses of OGC API - Processes 1.0: what can be done, doing it, and how far it is."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from diffusionsat.service.answers import Json, link, problem_of, refusal
from diffusionsat.service.assets import ID, add_results, add_uploads
from diffusionsat.service.limits import Problem
from diffusionsat.service.models import models
from diffusionsat.service.running import Service
from diffusionsat.service.schemas import PROCESSES, inputs_of, process
from diffusionsat.service.store import FINAL, Row

_HEARTBEAT_S = 15.0
_CONFORMS = [
    f"http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/{part}"
    for part in ("core", "ogc-process-description", "json", "oas30", "job-list", "dismiss")
]
_STATUSES = ("accepted", "running", *FINAL)


def make_app(service: Service) -> FastAPI:
    """The service as an ASGI application; `Guard` and `Front` stand before it."""
    app = FastAPI(
        title="DiffusionSat",
        description="Synthetic satellite images from words, numbers and rasters.",
        version=version("diffusionsat"),
        docs_url=None,  # the page that draws it comes from elsewhere
        redoc_url=None,
        default_response_class=Json,
    )

    async def refuse(_request: Request, error: Exception) -> Response:
        return refusal(problem_of(error))

    for kind in (Problem, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, refuse)
    _about(app, service)
    _jobs(app, service)
    add_results(app, service)
    add_uploads(app, service)
    return app


def _about(app: FastAPI, service: Service) -> None:
    """The landing page, and what can be done here."""

    @app.get("/", summary="The studio, or as JSON the landing page")
    def landing(request: Request) -> Response:
        base = str(request.base_url)
        links = [
            link(base, "self"),
            link(f"{base}openapi.json", "service-desc", "application/vnd.oai.openapi+json;version=3.0"),
            link(f"{base}conformance", "http://www.opengis.net/def/rel/ogc/1.0/conformance"),
            link(f"{base}processes", "http://www.opengis.net/def/rel/ogc/1.0/processes"),
            link(f"{base}jobs", "http://www.opengis.net/def/rel/ogc/1.0/job-list"),
            link(f"{base}catalog.json", "data"),
        ]
        return Json({"title": "DiffusionSat", "description": app.description, "links": links})

    @app.get("/conformance", summary="Requirements that are met")
    def conformance() -> dict[str, Any]:
        return {"conformsTo": _CONFORMS}

    @app.get("/models", summary="The models, and the limits of this service")
    def list_models() -> dict[str, Any]:
        return models(service.worker.sat) | {"limits": asdict(service.limits)}

    @app.get("/processes", summary="What can be done")
    def processes(request: Request) -> dict[str, Any]:
        base = str(request.base_url)
        found = [_summary(name) | {"links": _links_of(name, base)} for name in PROCESSES]
        return {"processes": found, "links": [link(f"{base}processes", "self")]}

    @app.get("/processes/{name}", summary="Inputs and outputs of a process")
    def describe(name: str, request: Request) -> dict[str, Any]:
        process(name)
        item = {"title": "A STAC item whose assets are the files", "schema": {"type": "object"}}
        return _summary(name) | {
            "inputs": inputs_of(name),
            "outputs": {"result": item},
            "links": _links_of(name, str(request.base_url)),
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


def _links_of(name: str, base: str) -> list[dict[str, str]]:
    execute = "http://www.opengis.net/def/rel/ogc/1.0/execute"
    return [
        link(f"{base}processes/{name}", "self"),
        link(f"{base}processes/{name}/execution", execute),
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
        links = [link(str(request.url), "self")]
        if len(rows) > limit:
            following = request.url.include_query_params(offset=offset + limit)
            links.append(link(str(following), "next"))
        return {"jobs": [service.status(row, base) for row in rows[:limit]], "links": links}

    @app.get("/jobs/{job}", summary="How far a job is")
    def status(job: ID, request: Request) -> dict[str, Any]:
        return service.status(service.store.job(job), str(request.base_url))

    @app.delete("/jobs/{job}", summary="Cancel a job, or remove one that is done")
    def dismiss(job: ID, request: Request) -> dict[str, Any]:
        row = service.dismiss(job)
        return service.status(row, str(request.base_url)) | {"status": "dismissed"}

    @app.get("/jobs/{job}/events", summary="Progress as server-sent events", response_class=StreamingResponse)
    async def events(job: ID, request: Request) -> Response:
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
