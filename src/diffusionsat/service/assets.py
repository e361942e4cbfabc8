"""The addresses of what jobs have made, and of what clients send."""

from typing import Annotated, Any

from fastapi import FastAPI, Path, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from diffusionsat.errors import DiffusionSatError, RasterError
from diffusionsat.geo.rasters import open_raster
from diffusionsat.service import tiles, uploads
from diffusionsat.service.answers import Json
from diffusionsat.service.limits import Problem
from diffusionsat.service.running import Service

ID = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", description="Of 16 hexadecimal digits.")]


def add_results(app: FastAPI, service: Service) -> None:
    """What jobs have made."""

    @app.get("/jobs/{job}/results", summary="The STAC item of a result")
    def results(job: ID, request: Request) -> Response:
        found = service.results(service.store.job(job), str(request.base_url))
        return Json(found, media_type="application/geo+json")

    @app.head("/jobs/{job}/files/{name}", include_in_schema=False)
    @app.get("/jobs/{job}/files/{name}", summary="A file of a result", response_class=FileResponse)
    def file(job: ID, name: str) -> Response:
        held = {path.name: path for path in service.files(job).iterdir()}
        if name not in held:
            raise Problem(404, f"The result has no file {name[:100]!r}; it has {', '.join(sorted(held))}.")
        kind = {".tif": "image/tiff", ".png": "image/png"}.get(held[name].suffix, "application/octet-stream")
        return FileResponse(held[name], media_type=kind, filename=f"synthetic-{job}-{name}")

    @app.get("/jobs/{job}/tilejson.json", summary="A result as a layer of a map")
    def tilejson(job: ID, request: Request) -> dict[str, Any]:
        return tiles.tilejson(tiles.shown(service.files(job)), job, str(request.base_url))

    @app.get("/jobs/{job}/tiles/{z}/{x}/{y}.png", summary="A tile of it", response_class=Response)
    def tile(job: ID, z: Annotated[int, Path(ge=0, le=tiles.HIGHEST_ZOOM)], x: int, y: int) -> Response:
        return Response(tiles.tile(tiles.shown(service.files(job)), z, x, y), media_type="image/png")

    @app.get("/catalog.json", summary="The STAC catalogue of all results")
    def catalogue() -> Response:
        return FileResponse(service.folder.root / "catalog.json", media_type="application/json")

    @app.get("/items/{job}.json", summary="An item of the catalogue")
    def item(job: ID) -> Response:
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


def add_uploads(app: FastAPI, service: Service) -> None:
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
    def preview(upload: ID) -> Response:
        service.store.upload(upload)
        try:
            picture = _preview(service, upload)
        except DiffusionSatError as error:
            raise Problem(422, service.folder.said(str(error))) from None
        return Response(picture, media_type="image/png")


def _preview(service: Service, upload: str) -> bytes:
    place = service.folder.upload(upload)
    try:
        return uploads.preview(service.rasters.open(f"upload:{upload}", place))
    except RasterError:  # a mask has no colours
        return uploads.preview(open_raster(service.rasters.open(f"upload:{upload}", place, mask=True)))
