"""Stories of a pool and its decoders, in a time that does not pass by itself."""

from __future__ import annotations

import asyncio

import pytest

from tests.app.decoders import Story, Told, asked, stand_ins
from tests.app.fake_time import play


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Tells a story of a pool and its decoders."""

    def tell(story: Story, processes: int, **options: object) -> None:
        async def whole() -> None:
            pool, decoders = stand_ins(processes, monkeypatch, **options)
            pool._spawn(pool._guard())
            await story(pool, decoders)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            pool._decoders.clear()
            await pool.close()

        asked.clear()
        play(whole())

    return tell
