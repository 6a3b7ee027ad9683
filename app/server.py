"""Everything put together: routes and protocols, layers around them, and the life of the service.

A request passes, from the outside: `Prefix`, `Observe`, `_Cors`, Starlette's handler of unforeseen
faults, `Goodbye`, `ApiKeys`, `BodyLimit`, the handlers of `app.web.errors`, and its route.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.faults import ServiceError
from app.key_file import KeyFile
from app.protocols.huggingface import router as hf_router
from app.protocols.json_photos import json_reader
from app.protocols.oip.routes import router as oip_router
from app.protocols.oip.stats import Statistics
from app.protocols.vertex import install_vertex
from app.serving.service import Service
from app.settings import Settings
from app.telemetry.metrics import Metrics, State
from app.telemetry.observe import Observe
from app.telemetry.tracing import make_tracer
from app.web.body import BodyLimit, Budget
from app.web.errors import error_response, install_handlers
from app.web.keys import OPEN_PATHS, ApiKeys
from app.web.leaving import Goodbye
from app.web.openapi import complete, operation_id
from app.web.page import install_pages
from app.web.paths import RouteTable, paths_of
from app.web.prefix import Prefix, below
from app.web.routes import photo_router, router
from contract.bundle import Bundle
from contract.errors import ContractError

DESCRIPTION = "Names the food on a photo. Every answer that is not 2xx is `{error, error_type}`."


def create_app(
    bundle: Bundle, settings: Settings, *, on_failure: Callable[[str], None] = lambda reason: None
) -> FastAPI:
    """The application for a verified bundle.

    The model loads after the port opens, so that `/health/live` answers meanwhile; if it cannot be
    loaded, `on_failure` is called with the reason. Raises `ContractError` for keys that cannot be
    read, a Vertex route that is no path, and a `root_path` that hides a path.
    """
    service = Service(bundle, settings)
    keys = KeyFile(settings.api_keys_file) if settings.api_keys_file is not None else None

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        def started(_: asyncio.Task[None]) -> None:
            if service.state == "failed":
                on_failure(service.reason or "unknown")

        service.start_soon().add_done_callback(started)
        with _reload_on_hangup(service):
            yield
        await service.stop()
        app.state.json_reader.shutdown(wait=False)

    app = _App(
        title="food-vision",
        version=version("food-vision"),
        description=DESCRIPTION,
        lifespan=life,
        openapi_url=None,  # `app.web.page` has it, with the prefix of the request
        docs_url=None,  # FastAPI's own pages load their scripts from a CDN; `install_pages` has one that does not
        redoc_url=None,
        generate_unique_id_function=operation_id,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # `telemetry.tracing` has each stage too
        redirect_slashes=False,  # /predict/ is told that there is no such route, in the one error shape
    )
    app.state.service, app.state.settings, app.state.keys = service, settings, keys is not None
    app.state.metrics = Metrics(lambda: _now(service, app.version))
    service.on_batch, service.on_decoder_lost = app.state.metrics.batch, app.state.metrics.decoders_lost.inc

    app.include_router(photo_router)
    app.include_router(router)
    app.include_router(hf_router)
    app.state.oip_statistics = Statistics()
    app.include_router(oip_router)
    install_pages(app)
    app.state.probed = install_vertex(app, os.environ)
    _check_root_path(settings.root_path, app)
    app.state.json_reader = json_reader()

    app.state.budget = Budget(settings.bodies_bytes, settings.max_requests)
    app.add_middleware(
        BodyLimit,
        limit=settings.max_body_bytes,
        timeout=settings.body_timeout_ms / 1000,
        budget=app.state.budget,
        check=service.check_room,
        compressed=settings.accept_compressed,
    )
    if keys is not None:
        app.add_middleware(ApiKeys, keys=keys, probed=app.state.probed)
    app.add_middleware(Goodbye, leaving=lambda: service.state == "draining")
    install_handlers(app)
    return app


class _App(FastAPI):
    """FastAPI, with an API description that tells the truth."""

    def openapi(self) -> dict[str, Any]:
        return complete(super().openapi(), keys=self.state.keys, probed=self.state.probed)

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette's layers, and around them those that must see answers to unforeseen faults."""
        settings: Settings = self.state.settings
        inner = super().build_middleware_stack()
        if settings.origins:
            inner = _cors(inner, settings.origins)
        template, quiet = RouteTable(self.routes).template, OPEN_PATHS | self.state.probed
        observed = Observe(inner, template, self.state.metrics, make_tracer(self.title, self.version), quiet)
        if not (settings.root_path or settings.trusted_networks):
            return observed
        return Prefix(observed, settings.root_path, settings.trusted_networks, paths_of(self.routes))


def _cors(app: ASGIApp, origins: list[str]) -> ASGIApp:
    """Pages of these origins may send a key but no cookies, and may read the request's id, its
    timings and when to try again.
    """
    return _Cors(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-Api-Key", "X-Request-Id", "X-Request-Timeout-Ms"],
        expose_headers=["X-Request-Id", "Server-Timing", "Retry-After"],
    )


class _Cors(CORSMiddleware):
    """Starlette's, which tells a refused preflight so in the one error shape."""

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        refused = error_response("bad_request", f"{bytes(answer.body).decode()}; see the setting cors_origins.")
        refused.headers["Vary"] = answer.headers.get("Vary", "Origin")
        return refused


def _now(service: Service, program: str) -> State:
    """What `/metrics` says of this moment; `program` is the version of the program."""
    try:
        service.check_ready()
    except ServiceError:
        ready = False
    else:
        ready = True
    info = service.info()
    return State(
        ready=ready,
        queued=info["queued"],
        oldest_seconds=info["oldest_seconds"],
        info={
            "version": program,
            "model": info["model"]["name"],
            "model_version": info["model"]["version"],
            "provider": info["provider"] or "",
        },
        decoders_bytes=service.model.decoders_bytes,
        engine_busy_seconds=service.load.busy_seconds,
        engine_work_seconds=service.load.work_seconds,
        decoding_seconds=service.decoding_seconds,
    )


def _check_root_path(prefix: str, app: FastAPI) -> None:
    """A route below the prefix could not be told from a prefix that the proxy has not taken off."""
    if (taken := below(prefix, paths_of(app.routes))) is not None:
        raise ContractError(f"The setting root_path cannot be {prefix}: the service's own path {taken} begins so.")


@contextmanager
def _reload_on_hangup(service: Service) -> Iterator[None]:
    """SIGHUP reloads the bundle, where this is the main thread: elsewhere no signal can be handled.

    One that came earlier has waited, and counts now.
    """
    loop = asyncio.get_running_loop()
    try:
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(service.reload_soon))
    except ValueError:
        yield
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing left to reload
