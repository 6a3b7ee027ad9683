"""A stand-in for Ray in this process: what `app.bulk` uses of it, on generators. Rows come in other orders than they went.

It shows what the command does with a session, without the seconds that one takes to start. Ray itself: test_bulk.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from app.bulk import job

Hook = Callable[[], object]


class Dataset:
    """Tables that are made one by one; `before_each` is called before each that comes out at the end."""

    def __init__(self, tables: Iterator[Any], before_each: Hook) -> None:
        self._tables, self._before_each = tables, before_each

    def map_batches(
        self,
        function: Any,
        *,
        batch_size: int | None,
        batch_format: str,
        fn_kwargs: dict[str, Any] | None = None,
        fn_constructor_kwargs: dict[str, Any] | None = None,
        **resources: Any,
    ) -> Dataset:
        """Each table, or `batch_size` rows, through a function or an object of a class, made when the first comes."""
        assert batch_format == "pyarrow"
        if not inspect.isclass(function):  # a task: Ray tries one whose process dies without end unless it is told
            assert 0 < resources["max_retries"] < 100

        def results() -> Iterator[Any]:
            call: Any = function(**(fn_constructor_kwargs or {})) if inspect.isclass(function) else function
            for table in self._tables if batch_size is None else _batches(self._tables, batch_size):
                found = call(table, **(fn_kwargs or {}))
                yield from found if inspect.isgenerator(found) else [found]

        return Dataset(results(), self._before_each)

    def iter_batches(self, *, batch_size: None, batch_format: str) -> Iterator[Any]:
        """The tables, two by two in the other order, each with its rows from the last to the first."""
        waiting: list[Any] = []
        for table in self._tables:
            waiting.append(table)
            if len(waiting) == 2:
                yield from self._out(waiting)
                waiting = []
        yield from self._out(waiting)

    def _out(self, tables: list[Any]) -> Iterator[Any]:
        for table in reversed(tables):
            self._before_each()
            yield table.take(list(range(len(table)))[::-1])


def _batches(tables: Iterator[Any], rows: int) -> Iterator[Any]:
    rest: Any = None
    for table in tables:
        rest = table if rest is None else pa.concat_tables([rest, table])
        while len(rest) >= rows:
            yield rest.slice(0, rows).combine_chunks()
            rest = rest.slice(rows)
    if rest is not None and len(rest):
        yield rest.combine_chunks()


def use_stand_in(monkeypatch: pytest.MonkeyPatch, before_each: Hook = lambda: None) -> None:
    """Let the command have the stand-in for its session, with two CPUs."""
    context = SimpleNamespace()
    ray = SimpleNamespace(
        cluster_resources=lambda: {"CPU": 2.0, "memory": 4e9},
        data=SimpleNamespace(
            from_arrow=lambda tables: Dataset(iter(tables), before_each),
            ActorPoolStrategy=lambda size: size,
            DataContext=SimpleNamespace(get_current=lambda: context),
        ),
    )

    @contextmanager
    def session(address: str | None) -> Iterator[Any]:
        yield ray

    monkeypatch.setattr(job, "session", session)
