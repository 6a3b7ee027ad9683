"""A model that was replaced, refused or stopped is gone: sessions, threads, page-locked memory and the files' bytes.

Without the garbage collector, which would hide for how long a model stays in a cycle.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from app.engine import check as engine_check
from app.engine import engine as engine_module
from app.engine.engine import Engine, EngineError
from app.providers import sessions as providers
from app.providers.sessions import ProviderError
from app.serving.service import Service
from app.settings import load_settings
from contract.bundle import read_bundle
from tests.app.inside import until
from tests.app.other_bundles import hotter, overwrite, wipe
from tests.app.serving.test_lifecycle import point
from tests.conftest import drawn_png

OTHERS: set[threading.Thread] = set()  # of tests before, in this process


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    OTHERS.update(threading.enumerate())
    yield
    OTHERS.clear()
    gc.enable()


class Opened:
    """Weak references to every session that was opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sessions: list[weakref.ref[Any]] = []
        self.fails_at = 0  # the number of the session that is refused, from 1
        opens = providers.open_session

        def open_session(*given: Any, **more: Any) -> Any:
            if len(self.sessions) + 1 == self.fails_at:
                raise ProviderError("The provider is not the one that was asked for.")
            session = opens(*given, **more)
            self.sessions.append(weakref.ref(session))
            return session

        monkeypatch.setattr(engine_module, "open_session", open_session)

    @property
    def alive(self) -> int:
        return sum(one() is not None for one in self.sessions)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


@pytest.fixture
def link(bundle: Path, tmp_path: Path) -> Path:
    link = tmp_path / "current"
    link.symlink_to(bundle)
    return link


def serve(link: Path, then: Callable[[Service], Awaitable[None]], **settings: Any) -> None:
    """Start a service, do something with it, and stop it."""

    async def run() -> None:
        chosen = load_settings(bundle=link, threads=1, decode_processes=1, request_timeout_ms=60_000, **settings)
        service = Service(read_bundle(link), chosen)
        await service.start()
        try:
            await then(service)
        finally:
            await service.stop()

    asyncio.run(run())


def engine_threads() -> int:
    return sum(one.name.startswith("engine-") and one not in OTHERS for one in threading.enumerate())


def all_threads() -> int:
    """Those of the system, ONNX Runtime's too, without the loop's own for files, which come as they are needed."""
    return psutil.Process().num_threads() - sum(one.name.startswith("asyncio") for one in threading.enumerate())


async def used(service: Service) -> None:
    await asyncio.gather(*(service.predict(drawn_png(i), 1) for i in range(3)), service.caption(drawn_png(0)))


async def retired(service: Service) -> None:
    await asyncio.gather(*service._retiring)


def test_a_swap_frees_the_old_model(opened: Opened, link: Path, bundle: Path, tmp_path: Path) -> None:
    other = hotter(bundle, tmp_path / "other")

    async def swap(service: Service) -> None:
        await used(service)
        threads = all_threads()
        for target in (other, bundle, other):
            await used(service)
            begun = len(opened.sessions)
            point(link, target)
            assert await service.reload()
            await retired(service)
            assert [one() is not None for one in opened.sessions] == [False] * begun + [True] * 6
            assert engine_threads() == 2
            assert not service.bundle.contents, "the files' bytes are not kept"
            await asyncio.to_thread(until, lambda: all_threads() <= threads)  # the system takes a moment
        await used(service)

    serve(link, swap, in_flight=2)
    assert (opened.alive, engine_threads()) == (0, 0), "stopped"


async def damaged(opened: Opened, live: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    wipe(live)
    return "is damaged"


async def computes_wrongly(opened: Opened, live: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    def check(*_: object) -> None:
        raise EngineError("scorer.onnx differs from PyTorch")

    monkeypatch.setattr(engine_check, "run_self_check", check)
    return "computes wrongly"


async def no_second_engine(opened: Opened, live: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    opened.fails_at = len(opened.sessions) + 5  # the second engine's second
    return "not the one that was asked for"


async def broken(opened: Opened, live: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    def warm_up(engine: Engine) -> None:
        raise RuntimeError("CUDA failure 700")

    monkeypatch.setattr(Engine, "warm_up", warm_up)
    return "CUDA failure 700"


REFUSALS = [damaged, computes_wrongly, no_second_engine, broken]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_reload_leaves_nothing(
    refusal: Any, opened: Opened, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = hotter(bundle, tmp_path / "live")

    async def refused(service: Service) -> None:
        await used(service)
        children, threads = len(psutil.Process().children(recursive=True)), engine_threads()
        overwrite(live, bundle)
        said = await refusal(opened, live, monkeypatch)
        for _ in range(2):
            assert not await service.reload()
            assert service.last_reload is not None
            assert said in service.last_reload["said"]
            assert (opened.alive, engine_threads()) == (6, threads)
            assert len(psutil.Process().children(recursive=True)) == children
            opened.fails_at = len(opened.sessions) + 5 if opened.fails_at else 0
        await used(service)

    serve(live, refused, in_flight=2)
    assert opened.alive == 0


def test_a_start_that_fails_leaves_nothing(opened: Opened, link: Path) -> None:
    opened.fails_at = 5

    async def failed(service: Service) -> None:
        assert service.state == "failed"
        assert (len(opened.sessions), opened.alive, engine_threads()) == (4, 0, 0)

    serve(link, failed, in_flight=2)


def test_an_engine_that_is_still_loading_when_the_service_stops_is_closed(
    opened: Opened, link: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, go_on, warm_up = threading.Event(), threading.Event(), Engine.warm_up

    def held(engine: Engine) -> None:
        loading.set()
        assert go_on.wait(60)
        warm_up(engine)

    monkeypatch.setattr(Engine, "warm_up", held)

    async def run() -> None:
        service = Service(read_bundle(link), load_settings(bundle=link, threads=1, decode_processes=1))
        starting = asyncio.create_task(service.start())
        await asyncio.to_thread(loading.wait, 60)
        starting.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(starting, return_exceptions=True)
        await service.stop()
        assert (len(opened.sessions), opened.alive, engine_threads()) == (3, 0, 0)

    asyncio.run(run())


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_page_locked_memory_is_unlocked_in_the_engines_thread_before_it_is_freed(
    opened: Opened, link: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_graphs: bool
) -> None:
    other, locked = hotter(bundle, tmp_path / "other"), dict[int, tuple[weakref.ref[Any], int]]()

    def pin(array: np.ndarray) -> bool:
        locked[array.ctypes.data] = weakref.ref(array), threading.get_ident()
        return True

    def unpin(array: np.ndarray) -> bool:
        found, thread = locked.pop(array.ctypes.data)
        assert found() is array
        assert thread == threading.get_ident()
        return True

    opens: Any = vars(engine_module)["open_session"]  # that remembers sessions
    monkeypatch.setattr(
        engine_module, "open_session", lambda graph, *_, fixed, **__: opens(graph, "cpu", 1, fixed=fixed)
    )
    monkeypatch.setattr(engine_module, "DEVICES", dict.fromkeys(("cpu", "cuda", "tensorrt"), "cpu"))
    monkeypatch.setattr(engine_module, "free_bytes", lambda *_, **__: None)
    monkeypatch.setattr(engine_module, "pin", pin)
    monkeypatch.setattr(engine_module, "unpin", unpin)

    async def swap(service: Service) -> None:
        await used(service)
        buffers, begun = len(locked), len(opened.sessions)
        assert buffers == 2 * 3, "one for each batch size of each engine"
        point(link, other)
        assert await service.reload()
        await retired(service)
        await used(service)
        assert len(locked) == buffers
        assert opened.alive == begun
        assert all(array() is not None for array, _ in locked.values())

    serve(link, swap, provider="cuda", in_flight=2, max_batch=4, cuda_graphs=cuda_graphs)
    assert not locked
    assert opened.alive == 0


def test_an_engine_at_work_is_closed_after_its_call(
    opened: Opened, link: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, began, go_on, score = hotter(bundle, tmp_path / "other"), threading.Event(), threading.Event(), Engine.score

    def held(engine: Engine, pixels: Any) -> Any:
        began.set()
        assert go_on.wait(60)
        return score(engine, pixels)

    async def swap(service: Service) -> None:
        monkeypatch.setattr(Engine, "score", held)
        asked = asyncio.create_task(service.predict(drawn_png(0), 1))
        await asyncio.to_thread(began.wait, 60)
        old = service.model
        point(link, other)
        assert await service.reload()
        asked.cancel()  # the client goes; its batch is computed all the same
        await asyncio.gather(asked, return_exceptions=True)
        closing = asyncio.gather(retired(service))
        await asyncio.sleep(0)
        assert old.longest_call_seconds >= 0
        assert opened.alive == 6
        go_on.set()
        await closing
        assert opened.alive == 3

    serve(link, swap)
    assert opened.alive == 0


def test_a_storm_of_reloads_reads_the_bundle_twice(link: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one under way, and one that sees what lies there after the last of them."""
    reads: list[Path] = []
    gate = threading.Event()

    def read(path: Path) -> Any:
        reads.append(path)
        assert gate.wait(60)
        return read_bundle(path)

    async def storm(service: Service) -> None:
        monkeypatch.setattr("app.serving.service.read_bundle", read)
        asked = [asyncio.create_task(service.reload()) for _ in range(50)]
        while not reads:
            await asyncio.sleep(0.001)
        asked += [asyncio.create_task(service.reload()) for _ in range(50)]
        await asyncio.sleep(0)
        asked[0].cancel()  # whoever gives up does not take the others along
        gate.set()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert done[1:] == [False] * 99
        assert len(reads) == 2

    serve(link, storm)


def test_a_reload_under_way_ends_with_the_service(link: Path, bundle: Path, tmp_path: Path, opened: Opened) -> None:
    point(link, hotter(bundle, tmp_path / "other"))

    async def stop(service: Service) -> None:
        point(link, bundle)
        asked = asyncio.create_task(service.reload())
        while len(opened.sessions) < 4:
            await asyncio.sleep(0.001)
        await service.stop()
        await asyncio.gather(asked, return_exceptions=True)
        assert (opened.alive, engine_threads()) == (0, 0)
        assert not service._reloads

    serve(link, stop)
