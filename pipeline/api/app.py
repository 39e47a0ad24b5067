"""The application: every router, errors as problems, a document that is true."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from pipeline.api import (
    campaign_routes,
    drain_routes,
    file_routes,
    health_routes,
    job_routes,
    match_routes,
    pilot_command_routes,
    pilot_list_routes,
    pilot_routes,
    policy_routes,
    problems,
    provisioning_routes,
    sites_routes,
    system_routes,
    telemetry,
    token_routes,
)
from pipeline.api.services import Services
from schemas.api import Problem

BODY_LIMIT = 64 << 20
"""Bytes of a request: a campaign of a million jobs that lists its parameters one by one."""
_ROUTERS = (
    campaign_routes.router,
    job_routes.router,
    file_routes.router,
    token_routes.router,
    system_routes.router,
    sites_routes.router,
    policy_routes.router,
    match_routes.router,
    pilot_list_routes.router,
    pilot_command_routes.router,
    provisioning_routes.router,
    drain_routes.router,
    pilot_routes.router,
    health_routes.router,
)


class Api(FastAPI):
    """FastAPI, with the problem schema in its document."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = super().openapi()
        components = document.setdefault("components", {}).setdefault("schemas", {})
        if "Problem" not in components:
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
            components |= {**schema.pop("$defs", {}), "Problem": schema}
        return document


def create_app(services: Services) -> Api:
    """The application around `services`; the caller closes them."""
    app = Api(
        title="Penstock",
        version=version("penstock"),
        description="Campaigns, jobs, pilots and sites. Errors are application/problem+json (RFC 9457).",
        responses=problems.DOCUMENTED,
        max_body_size=BODY_LIMIT,
    )
    app.state.services = services
    for router in _ROUTERS:
        app.include_router(router)
    problems.install(app)
    telemetry.install(app)
    return app
