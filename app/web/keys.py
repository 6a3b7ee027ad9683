"""API keys: who may ask. Off unless the setting `api_keys_file` names a file, one key on a line."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from starlette.types import ASGIApp, Receive, Scope, Send

from app.key_file import KeyFile
from app.web.errors import error_response

# Answered without a key, left out of the requests in flight, and logged at level debug.
HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
OPEN_PATHS = HEALTH_PATHS | {"/metrics", "/docs", "/openapi.json"}
# The page too (its files are below /static); posting to `/` needs a key.
OPEN_TO_READ = OPEN_PATHS | {"/"}


class ApiKeys:
    """ASGI middleware: a request without a known key is answered 401 before anything of it is read.

    A key comes as `Authorization: Bearer KEY` or `X-Api-Key: KEY`. Health, metrics and the pages
    stay open, and `probed`: further paths of health.
    """

    def __init__(self, app: ASGIApp, keys: KeyFile, probed: Collection[str] = ()) -> None:
        self.app = app
        self._keys, self._probed = keys, probed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope["method"], scope["path"], self._probed):
            given = list(_given(scope["headers"]))
            if not any(self._keys.accepts(key) for key in given[:2]):
                sentence = "The API key is not known." if given else "An API key is needed."
                hint = "Send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`."
                await error_response("unauthorized", f"{sentence} {hint}")(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_open(method: str, path: str, probed: Collection[str] = ()) -> bool:
    """Whether a request is answered without a key; `probed` are paths of health beyond the
    service's own.
    """
    return method in ("GET", "HEAD") and (path in OPEN_TO_READ or path in probed or path.startswith("/static/"))


def _given(headers: list[tuple[bytes, bytes]]) -> Iterator[str]:
    for name, value in headers:
        text = value.decode("latin-1").strip()
        if name == b"x-api-key" and text:
            yield text
        elif name == b"authorization":
            scheme, _, key = text.partition(" ")
            if scheme.lower() == "bearer" and key.strip():
                yield key.strip()
