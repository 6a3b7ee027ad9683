"""API keys: who may ask. Off unless the setting `api_keys_file` names a file, one key on a line."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from starlette.types import ASGIApp, Receive, Scope, Send

from app.web.errors import error_response
from contract.errors import ContractError

log = logging.getLogger("food_vision")

# Answered without a key, left out of the requests in flight, and logged at level debug.
HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
OPEN_PATHS = HEALTH_PATHS | {"/metrics", "/docs", "/openapi.json"}
# The page too (its files are below /static); posting to `/` needs a key.
OPEN_TO_READ = OPEN_PATHS | {"/"}
SETTLED = 2.0  # seconds: the coarsest clock of a file system
Stamp: TypeAlias = tuple[int, ...] | None  # of a file


def read_keys(path: Path) -> list[bytes]:
    """SHA-256 digests of the keys in a file; blank lines and lines that begin with `#` are left
    out.

    Raises `ContractError` for a file that cannot be read, holds no key, or a key that no header can
    carry. No message holds a key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8 text"
        raise ContractError(f"The API keys at {path} cannot be read: {reason}.") from None
    digests = []
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not all("!" <= character <= "~" for character in key):
            raise ContractError(
                f"Line {number} of {path} is no API key: only visible ASCII without blanks can be sent."
            )
        digests.append(hashlib.sha256(key.encode()).digest())
    if not digests:
        raise ContractError(f"The file {path} holds no API key; write one key on each line, or unset api_keys_file.")
    return digests


class KeyFile:
    """The keys of a file, read again when it changes. A change that cannot be read leaves the keys
    as they were.

    A file that has just changed is read for each request: a second change may follow within one
    tick of the file system's clock, and shows in nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._settled(self._stamp())
        self._digests = read_keys(path)
        self._complaint = ""

    def _stamp(self) -> Stamp:
        try:
            found = self._path.stat()
        except OSError:
            return None
        # the first is nobody's to set: tools may keep size and time of a file that they write over
        return found.st_ctime_ns, found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size

    def _settled(self, stamp: Stamp) -> Stamp | Literal[""]:
        """What is seen at this time; nothing that a stamp could be, if it may change unseen."""
        return "" if stamp is not None and stamp[0] / 1e9 > time.time() - SETTLED else stamp

    def _read(self) -> None:
        try:
            digests = read_keys(self._path)
        except ContractError as error:
            if str(error) != self._complaint:
                log.error("%s The keys from before stay in force.", error)
            self._complaint = str(error)
            return
        if self._complaint or digests != self._digests:
            log.info("API keys were read again: %d", len(digests))
        self._digests, self._complaint = digests, ""

    def accepts(self, key: str) -> bool:
        """Whether it is one of the keys. Takes as long for a wrong key as for a right one, wherever
        they differ.
        """
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = self._settled(stamp)
            self._read()
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, not up to the first
        return any(matches)


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
