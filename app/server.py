"""The ASGI application: routes, error handlers, body limit, and the life of the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from app.errors import install_handlers
from app.images import BodyLimit, Goodbye
from app.routes import router
from app.service import Service
from app.settings import Settings
from contract.bundle import Bundle

DESCRIPTION = "Names the food on a photo. Every answer that is not 2xx is `{error, error_type}`."


class _App(FastAPI):
    """FastAPI, whose document would promise a 422 of its own shape where `install_handlers` answers 400."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document


def create_app(
    bundle: Bundle, settings: Settings, *, on_failure: Callable[[str], None] = lambda reason: None
) -> FastAPI:
    """The application for a verified bundle.

    The model loads after the port opens, so that `/health/live` answers meanwhile; if it cannot be loaded,
    `on_failure` is called with the reason.
    """
    service = Service(bundle, settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async def start() -> None:
            await service.start()
            if service.state == "failed":
                on_failure(service.reason or "unknown")

        starting = asyncio.create_task(start())
        yield
        await starting
        await service.stop()

    app = _App(
        title="food-vision",
        version=version("food-vision"),
        description=DESCRIPTION,
        lifespan=life,
        redirect_slashes=False,  # /predict/ is told that there is no such route, in the one error shape
    )
    app.state.service = service
    app.include_router(router)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(Goodbye)
    install_handlers(app)
    return app
