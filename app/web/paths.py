"""The paths that are answered: under which name each is counted, and which methods it has.

Tables of our own rather than what the router found: a request may be refused before it is routed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount, compile_path

from app.telemetry.observe import OTHER


def paths_of(routes: Iterable[BaseRoute]) -> list[str]:
    """The path of every route, templates (`/v2/models/{name}`) among them."""
    return [route.path or "" for route in iter_route_contexts(list(routes))]


def allowed_methods(routes: Iterable[BaseRoute], path: str) -> str:
    """The methods that are answered at a path, for `Allow`: Starlette names those of the first of
    several routes only.
    """
    found: set[str] = set()
    for route in iter_route_contexts(list(routes)):
        if route.path is not None and compile_path(route.path)[0].match(path):
            found |= set(route.methods or ())
    return ", ".join(sorted(found))


class RouteTable:
    """Which route's template a path belongs to; unknown paths are all `other`, so that nobody can
    invent label values.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._fixed: set[str] = set()
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for route in iter_route_contexts(list(routes)):
            path = route.path
            if path is None:
                continue
            if isinstance(route.original_route, Mount):
                path = path.rstrip("/") + "/{path:path}"
            if "{" in path:
                pattern, template, _ = compile_path(path)
                self._patterns.append((pattern, template))
            else:
                self._fixed.add(path)

    def template(self, path: str) -> str:
        """`/v2/models/{name}` for `/v2/models/food`; `other` where there is no such route."""
        if path in self._fixed:
            return path
        return next((template for pattern, template in self._patterns if pattern.match(path)), OTHER)
