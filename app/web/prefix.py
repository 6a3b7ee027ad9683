"""Behind a proxy that puts a prefix before every path (`https://host/food/predict`).

The prefix is `root_path`, or what a trusted proxy says in `X-Forwarded-Prefix`. It is taken off at
the door, whether or not the proxy did so before: keys, metrics and routes see the same paths as
without it. It is kept for what names paths to the client. Only of a prefix that begins a path of
the service's own it must be known that the proxy did so: `/predict` may be either.

Not ASGI's `root_path`: with that in the scope Starlette misroutes a mount where the proxy has taken
the prefix off, and each layer would have to know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from app.settings import Network, prefix_from

HEADER = "X-Forwarded-Prefix"
_HEADER = HEADER.lower().encode()
_SCOPE, _BARE = "food_vision.prefix", "food_vision.bare"


def below(prefix: str, paths: Iterable[str]) -> str | None:
    """The first of the paths that is the prefix or begins with it; none where there is no prefix."""
    return next((path for path in paths if prefix and f"{path}/".startswith(f"{prefix}/")), None)


def prefix_of(scope: Scope) -> str:
    """What the client has before the path: `/food`, or "" as a rule."""
    prefix: str = scope.get(_SCOPE, "")
    return prefix


def is_bare(scope: Scope) -> bool:
    """Whether the prefix alone was asked for, without the slash that addresses on a page need."""
    return bool(scope.get(_BARE, False))


class Prefix:
    """ASGI application around another, and around all its layers.

    `trusted` are the networks whose `X-Forwarded-Prefix` is believed; it takes the place of
    `root_path`. Where it is no prefix it is as if it were not there; where one of `paths` begins
    with it, it is only kept.
    """

    def __init__(
        self, app: ASGIApp, root_path: str, trusted: Sequence[Network] = (), paths: Sequence[str] = ()
    ) -> None:
        self.app = app
        self._root_path, self._trusted, self._paths = root_path, trusted, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (prefix := self._forwarded(scope) or self._root_path):
            path: str = scope["path"]
            scope = {**scope, _SCOPE: prefix}
            if below(prefix, self._paths) is not None:
                pass  # the proxy has taken it off
            elif path == prefix:
                scope |= {"path": "/", "raw_path": b"/", _BARE: True}
            elif path.startswith(prefix + "/"):
                scope |= {"path": path[len(prefix) :], "raw_path": scope["raw_path"].removeprefix(prefix.encode())}
        await self.app(scope, receive, send)

    def _forwarded(self, scope: Scope) -> str | None:
        if not self._trusted:
            return None
        value = next((value for name, value in scope["headers"] if name == _HEADER), None)
        if value is None or not self._trusts(scope):
            return None
        return prefix_from(value.decode("latin-1").partition(",")[0])

    def _trusts(self, scope: Scope) -> bool:
        client = scope.get("client")
        try:
            address = ip_address(client[0]) if client else None
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)  # IPv4 as a socket of IPv6 has it
        return address is not None and any((mapped or address) in network for network in self._trusted)
