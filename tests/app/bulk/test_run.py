"""What the pipeline is made of: shards put together again, and workers that fit."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra bulk")

import pyarrow as pa

from app.bulk.cluster import Workers, plan_workers
from app.bulk.labeller import ANSWERED
from app.bulk.listing import SCHEMA
from app.bulk.run import Gatherer
from contract.errors import ContractError


def pieces(shard: int, photos: int) -> Any:
    rows = [{"shard": shard, "index": i, "path": f"{i}", "bytes": 1, "photos": 1} for i in range(photos)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def rows(*places: tuple[int, int]) -> Any:
    return pa.Table.from_pylist([{"shard": s, "index": i, "path": f"{s}/{i}"} for s, i in places], schema=ANSWERED)


def test_rows_in_any_order_become_whole_shards() -> None:
    done: list[tuple[int, list[str]]] = []
    gatherer = Gatherer(
        [pieces(0, 3), pieces(4, 2)],
        lambda piece, table: done.append((piece["shard"][0].as_py(), table["path"].to_pylist())),
    )
    gatherer.add(rows((4, 1), (0, 2), (0, 0)))
    assert done == []
    gatherer.add(rows((4, 0)))
    assert done == [(4, ["4/0", "4/1"])]
    assert gatherer.unfinished == 1
    gatherer.add(rows((0, 1)))
    assert done[1:] == [(0, ["0/0", "0/1", "0/2"])]
    assert gatherer.unfinished == 0


def test_a_photo_that_comes_twice_is_never_written() -> None:
    gatherer = Gatherer([pieces(0, 3)], lambda piece, table: pytest.fail("written"))
    gatherer.add(rows((0, 0), (0, 1)))
    with pytest.raises(ContractError, match="Shard 0 came back with photos twice"):
        gatherer.add(rows((0, 1)))


@pytest.mark.parametrize(
    ("resources", "wanted", "workers"),
    [
        ({"CPU": 16}, {}, Workers(15, 1, 0)),
        ({"CPU": 2}, {}, Workers(1, 1, 0)),
        ({"CPU": 1}, {}, Workers(1, 0.5, 0)),
        ({"CPU": 16}, {"threads": 4}, Workers(3, 4, 0)),
        ({"CPU": 16}, {"threads": 4, "asked": 2}, Workers(2, 4, 0)),
        ({"CPU": 2}, {"threads": 8}, Workers(1, 1, 0)),
        ({"CPU": 2}, {"threads": 4, "asked": 8, "growing": True}, Workers(8, 4, 0)),
        ({"CPU": 16, "GPU": 2}, {"gpus": 1.0}, Workers(2, 1, 1)),
        ({"CPU": 16, "GPU": 2}, {"gpus": 0.1}, Workers(20, 1, 0.1)),
        ({"CPU": 1, "GPU": 1}, {"gpus": 1.0}, Workers(1, 0.5, 1)),
        ({"CPU": 2}, {"gpus": 1.0, "asked": 4, "growing": True}, Workers(4, 1, 1)),
    ],
)
def test_workers_that_fit(resources: dict[str, float], wanted: dict[str, Any], workers: Workers) -> None:
    assert plan_workers(resources, **{"gpus": 0.0, "threads": 1, "asked": None, **wanted}) == workers


@pytest.mark.parametrize(
    ("resources", "wanted", "sentence"),
    [
        ({"CPU": 8}, {"asked": 8}, "8 workers of 1 threads do not fit: Ray sees 8 CPUs, and decoding needs one"),
        ({"CPU": 8}, {"threads": 4, "asked": 2}, "2 workers of 4 threads do not fit"),
        ({"CPU": 8}, {"gpus": 1.0}, "1 workers of 1 GPUs do not fit: Ray sees 0 GPUs. Choose fewer"),
        ({"CPU": 8, "GPU": 2}, {"gpus": 0.5, "asked": 5}, "5 workers of 0.5 GPUs do not fit: Ray sees 2 GPUs"),
    ],
)
def test_workers_that_do_not_fit(resources: dict[str, float], wanted: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        plan_workers(resources, **{"gpus": 0.0, "threads": 1, "asked": None, **wanted})
