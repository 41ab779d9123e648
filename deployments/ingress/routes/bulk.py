"""The routes of files and batches, for the Ingress to inherit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import HTTPException
from starlette.responses import JSONResponse

from apportion.deployments.ingress.bulk.bodies import MAX_BODY_BYTES
from apportion.deployments.ingress.bulk.openapi import BATCH_OPERATION, UPLOAD_OPERATION
from apportion.deployments.ingress.client import ServedResponse
from apportion.deployments.wire.headers import ignored_header

if TYPE_CHECKING:
    from apportion.deployments.ingress.bulk.desk import Desk
    from apportion.deployments.ingress.parts import Parts

bulk_api = APIRouter()


class BulkRoutes:
    """What callers ask of files and batches; they are not there without a section `bulk`."""

    _parts: Parts

    @bulk_api.post("/v1/files", openapi_extra=UPLOAD_OPERATION)
    async def upload_file(self, request: Request) -> dict[str, Any]:
        """Keeps a file of requests."""
        desk, caller = self._bulk_desk, self._parts.authenticator.admit_request(request.headers)
        with self._parts.door.request():
            return await desk.upload(request, caller)

    @bulk_api.get("/v1/files")
    async def list_files(self, request: Request) -> dict[str, Any]:
        """The caller's files."""
        return await self._bulk_desk.files(request, self._parts.authenticator.admit_request(request.headers))

    @bulk_api.get("/v1/files/{file_id}")
    async def file(self, file_id: str, request: Request) -> dict[str, Any]:
        return await self._bulk_desk.file(file_id, self._parts.authenticator.admit_request(request.headers))

    @bulk_api.delete("/v1/files/{file_id}")
    async def delete_file(self, file_id: str, request: Request) -> dict[str, Any]:
        return await self._bulk_desk.delete_file(file_id, self._parts.authenticator.admit_request(request.headers))

    @bulk_api.get("/v1/files/{file_id}/content", response_class=Response)
    async def file_content(self, file_id: str, request: Request) -> Response:
        """The bytes of a file."""
        caller = self._parts.authenticator.admit_request(request.headers)
        stall_s = self._parts.config.dispatch.client_stall_s
        return ServedResponse(partial(self._bulk_desk.send_content, file_id, caller), stall_s=stall_s)

    @bulk_api.post("/v1/batches", openapi_extra=BATCH_OPERATION)
    async def create_batch(self, request: Request) -> Response:
        """Has the requests of a file answered within a window of time."""
        desk, caller = self._bulk_desk, self._parts.authenticator.admit_request(request.headers)
        with self._parts.door.request() as upload:
            batch, ignored = await desk.create_batch(await upload.body(request, MAX_BODY_BYTES), caller)
        response = JSONResponse(batch)
        response.raw_headers += ignored_header(ignored)
        return response

    @bulk_api.get("/v1/batches")
    async def list_batches(self, request: Request) -> dict[str, Any]:
        """The caller's batches."""
        return await self._bulk_desk.batches(request, self._parts.authenticator.admit_request(request.headers))

    @bulk_api.get("/v1/batches/{batch_id}")
    async def batch(self, batch_id: str, request: Request) -> dict[str, Any]:
        return await self._bulk_desk.batch(batch_id, self._parts.authenticator.admit_request(request.headers))

    @bulk_api.post("/v1/batches/{batch_id}/cancel")
    async def cancel_batch(self, batch_id: str, request: Request) -> dict[str, Any]:
        """Has a batch stop; what is answered by then is kept."""
        return await self._bulk_desk.cancel_batch(batch_id, self._parts.authenticator.admit_request(request.headers))

    @property
    def _bulk_desk(self) -> Desk:
        if self._parts.desk is None:
            raise HTTPException(404)
        return self._parts.desk
