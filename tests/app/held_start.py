"""`python -m app`, which never gets past one place of its life: `python -m tests.app.held_start PLACE …`.

It prints a line where it is held. `PLACE` is one of `PLACES`; the other arguments are the service's.
"""

from __future__ import annotations

import importlib.abc
import os
import runpy
import sys
import threading
from collections.abc import Callable
from typing import Any

HELD = "held\n"


def hold(*_: Any, **__: Any) -> Any:
    """Say so, and never go on; signals are handled meanwhile where this is the main thread."""
    sys.stdout.write(HELD)
    sys.stdout.flush()
    threading.Event().wait()


class Importing(importlib.abc.MetaPathFinder):
    """Holds whoever imports a module of the service's that comes late."""

    def find_spec(self, name: str, *_: Any) -> None:
        """See `importlib.abc.MetaPathFinder`."""
        if name == "app.server":
            hold()


def imports() -> None:
    """While modules are imported."""
    sys.meta_path.insert(0, Importing())


def reading() -> None:
    """While the bundle is read."""
    from contract import bundle

    bundle.read_bundle = hold


def loading() -> None:
    """While the engine is loaded."""
    from app.engine.engine import Engine

    setattr(Engine, "__init__", hold)  # noqa: B010


def warming() -> None:
    """While the engine is warmed up."""
    from app.engine.engine import Engine

    setattr(Engine, "warm_up", hold)  # noqa: B010


def checking() -> None:
    """While the engine's answers are compared with PyTorch's."""
    from app.engine import check as self_check

    self_check.run_self_check = hold


def scoring() -> None:
    """While a photo is in the engine, which serves; warm-up and self-check are other calls."""
    from app.engine.engine import Engine
    from app.serving.model import ServedModel

    load: Any = ServedModel.load

    async def then_held(model: ServedModel) -> None:
        await load(model)
        setattr(Engine, "score", hold)  # noqa: B010

    setattr(ServedModel, "load", then_held)  # noqa: B010


def rereading() -> None:
    """While a reload reads the bundle."""
    from contract import bundle

    real, calls = bundle.read_bundle, []

    def second(*given: Any) -> Any:
        calls.append(given)
        return real(*given) if len(calls) == 1 else hold()

    setattr(bundle, "read_bundle", second)  # noqa: B010


def reloading() -> None:
    """While a reload warms its engine up; the bundle seems to be another each time."""
    from app.engine.engine import Engine
    from contract.bundle import Manifest

    calls: list[Engine] = []
    warm: Any = Engine.warm_up

    def second(engine: Engine) -> None:
        calls.append(engine)
        if len(calls) == 1:
            warm(engine)
        else:
            hold()

    setattr(Engine, "warm_up", second)  # noqa: B010
    setattr(Manifest, "digest", property(lambda manifest: f"{id(manifest):064x}"))  # noqa: B010


def leaving() -> None:
    """At the very end, when Python has put its signals back and lets go of what modules hold: all of them come."""
    kill, me, write, said = os.kill, os.getpid(), os.write, HELD.encode()  # no module is left to ask then

    class Last:
        def __del__(self) -> None:
            write(1, said)
            for number in (1, 2, 15):
                kill(me, number)

    import contract

    setattr(contract, "last", Last())  # noqa: B010


def impatient() -> None:
    """It waits in vain, so it need not wait for seconds; `app.__main__` takes its own wait from here."""
    from app.serving import service

    service.LAST_WAIT = 0.1


PLACES: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (imports, reading, loading, warming, checking, scoring, rereading, reloading, leaving)
}  # fmt: skip


if __name__ == "__main__":
    PLACES[place := sys.argv.pop(1)]()
    if place != "imports":
        impatient()
    runpy.run_module("app", run_name="__main__", alter_sys=True)
