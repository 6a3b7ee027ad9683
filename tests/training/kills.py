"""Breaking a run at a place of one's choosing, as `prepare` of `tests.commands.Started`."""

from __future__ import annotations

import importlib
import itertools
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any


def kill_at(function: str, call: int) -> None:
    """SIGKILL this process at the `call`-th call of `module:function`, before any of it happens."""
    module, _, names = function.partition(":")
    *owners, name = names.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    whole, count = getattr(owner, name), itertools.count(1)

    def deadly(*args: Any, **options: Any) -> Any:
        if next(count) == call:
            die()
        return whole(*args, **options)

    setattr(owner, name, deadly)


def kill_after_line(step: int, calls: int) -> None:
    """SIGKILL this process `calls` Python calls after the log has the line of `step` or of a later one."""
    from training.journal import Journal

    write, count = Journal.write, itertools.count(1)

    def counted(frame: object, event: str, argument: object) -> None:
        if event == "call" and next(count) > calls:
            die()

    def written(self: Journal, kind: Any, number: int, **values: Any) -> None:
        write(self, kind, number, **values)
        if kind == "train" and number >= step and sys.getprofile() is None:
            sys.setprofile(counted)

    Journal.write = written  # type: ignore[method-assign, assignment]


def limit_files(size: int) -> None:
    """Files end at `size` bytes, as on a disk that fills up while writing."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def hurry(then: Callable[[], None] | None = None) -> None:
    """Without the library's sleep of 5 s after each shuffled pass of a stream, and then `then`."""
    import datasets

    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
    if then is not None:
        then()


def die() -> None:
    """As the kernel does when memory is short: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
