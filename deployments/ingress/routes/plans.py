"""The routes of plans that are not run and of what callers think of answers, for the Ingress to inherit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from apportion.deployments.ingress.feedback import MAX_BODY_BYTES, read_feedback
from apportion.deployments.ingress.openai import ParsedRequest
from apportion.deployments.ingress.openapi import FEEDBACK_OPERATION, ROUTE_OPERATION
from apportion.deployments.ingress.parts import Parts
from apportion.deployments.ingress.route_items import route_items
from apportion.deployments.wire.calls import answer_of
from apportion.deployments.wire.headers import ignored_header, verdict_json
from apportion.router.batch.messages import Verdict
from apportion.router.unpriced import concatenate

FEEDBACK_S = 5.0  # for the router to take what is said
plan_api = APIRouter()


class PlanRoutes:
    """Asks the router over Serve."""

    _parts: Parts

    @plan_api.post("/v1/route", openapi_extra=ROUTE_OPERATION)
    async def route(self, request: Request, response: Response) -> dict[str, Any]:
        """Plans requests as one batch and runs none of them."""
        caller = self._parts.authenticator.admit_request(request.headers)
        caller.check_route()
        limits = self._parts.config.ingress.route
        with self._parts.door.request() as upload:
            raw = await upload.body(request, limits.max_body_bytes)
            parsed = route_items(raw, request.headers, self._parts.rules, caller, limits.max_items)
            response.raw_headers += ignored_header(sorted({name for one in parsed for name in one.ignored}))
            longest_s = min(limits.timeout_s, self._parts.config.dispatch.request_timeout_s)
            left_s = min(longest_s, *(one.item.timeout_s for one in parsed)) - upload.seconds()
            verdicts = await answer_of(self._previewed(parsed), left_s)
        return {"object": "list", "data": [verdict_json(i, verdict) for i, verdict in enumerate(verdicts)]}

    @plan_api.post("/v1/feedback", openapi_extra=FEEDBACK_OPERATION, status_code=202)
    async def feedback(self, request: Request) -> dict[str, str]:
        """What a caller thinks of one of its answers."""
        caller = self._parts.authenticator.admit_feedback(request.headers)
        with self._parts.door.request() as upload:
            raw = await upload.body(request, MAX_BODY_BYTES)
            await self._parts.naming.ready()
            said = read_feedback(raw, caller.account, self._parts.naming, self._parts.config.feedback)
            await answer_of(self._parts.router.feedback.remote(caller.account, said), FEEDBACK_S)
        return {"object": "feedback", "id": said.id, "key": said.key}

    async def _previewed(self, parsed: Sequence[ParsedRequest]) -> list[Verdict]:
        """What would be decided. The router counts the requests before anybody works on them."""
        await self._parts.router.admit_plans.remote(parsed[0].item.account, len(parsed))
        forecasts = [self._parts.lines.forecaster.forecast(one.item, one.prompt, planned_only=True) for one in parsed]
        forecast = concatenate(await asyncio.gather(*forecasts))
        verdicts: list[Verdict] = await self._parts.router.route.remote([one.item for one in parsed], forecast)
        return verdicts
