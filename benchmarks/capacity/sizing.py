"""How many replicas a rate needs for its p99, and what a million images cost then."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.capacity.replica import Replica
from benchmarks.capacity.simulation import Balance, Outcome, open_loop
from contract.errors import ContractError

PRICES = Path(__file__).with_name("prices.toml")
SEARCH, REPORT = 4000, 20_000  # simulated requests to try a size, and of what is reported
MOST = 1_000_000  # replicas
FLEET, LOADED = (1, 2, 4, 10, 30, 100, 1000, 10_000), 0.8  # replicas of a plot, and the share of their ceiling they get
BALANCES: tuple[Balance, ...] = ("random", "round_robin")


class Node(BaseModel):
    """What one node costs an hour, and how many replicas it holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    price_per_hour: float = Field(ge=0, allow_inf_nan=False)
    replicas: int = Field(default=1, ge=1, le=1024)
    what: str = ""


class Prices(BaseModel):
    """A file of prices; `note` says where they are from and is shown beside every figure made of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: str = "USD"
    note: str
    nodes: dict[str, Node] = Field(min_length=1)


def load_prices(path: Path) -> Prices:
    """Raises `ContractError` naming what is wrong with the file."""
    try:
        return Prices.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ContractError(f"The prices {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"The prices {path} are not TOML: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ContractError(f"The prices {path} are wrong at `{place}`: {first['msg']}.") from None


@dataclass(frozen=True)
class Wanted:
    """What is asked for: p99 within `slo_ms` with none refused, on nodes of one kind, with one way to balance."""

    slo_ms: float
    balance: Balance
    node_name: str
    node: Node
    seed: int = 0


def table(
    replica: Replica, rates: Sequence[float], wanted: Wanted, replicas: int | None = None
) -> list[dict[str, Any]]:
    """For each rate the fewest replicas that keep the p99 (or the given number), and what is predicted for them.

    `replicas` is None in a row where no number of them does: a request alone takes too long.
    """
    if replicas is not None:
        return [_row(replica, rate, replicas, wanted)[0] for rate in rates]
    most = highest_rate(replica, wanted.slo_ms, wanted.seed, SEARCH)
    return [_fewest(replica, rate, most, wanted) for rate in rates]


def _fewest(replica: Replica, rate: float, most: float, wanted: Wanted) -> dict[str, Any]:
    """The row of the fewest replicas; each keeps the p99 of Poisson arrivals up to `most` a second."""
    if wanted.balance == "random":
        count = math.ceil(rate / most - 1e-9) if most else None
    else:

        def enough(tried: int) -> bool:
            return keeps(_simulated(replica, rate, tried, SEARCH, wanted), wanted.slo_ms)

        count = _least(enough, max(1, math.ceil(rate / replica.ceiling())))
    while count is not None and count <= MOST:
        row, kept = _row(replica, rate, count, wanted)
        if kept:
            return row
        count += max(1, count // 100)  # the search was on fewer requests than the row
    return {"rate": rate, "replicas": None}


def _row(replica: Replica, rate: float, count: int, wanted: Wanted) -> tuple[dict[str, Any], bool]:
    found = _simulated(replica, rate, count, REPORT, wanted)
    nodes, answered, kept = (
        math.ceil(count / wanted.node.replicas),
        found.throughput * count,
        keeps(found, wanted.slo_ms),
    )
    price = nodes * wanted.node.price_per_hour
    row = {
        "rate": rate, "replicas": count, **figures(found), "throughput": round(answered, 3), "keeps": kept,
        "nodes": nodes, "price_per_hour": round(price, 4),
        "per_million": round(price / 3600 / answered * 1e6, 4) if answered else None,
    }  # fmt: skip
    return row, kept


def _simulated(replica: Replica, rate: float, count: int, requests: int, wanted: Wanted) -> Outcome:
    return open_loop(replica, rate, replicas=count, requests=requests, balance=wanted.balance, seed=wanted.seed)


def figures(found: Outcome) -> dict[str, Any]:
    """What is predicted of one replica, as JSON types; None where nothing was answered."""
    shares = {name: round(getattr(found, name), 4) for name in ("engine_busy", "host_busy", "loop_busy", "busiest")}
    times = (
        {f"p{share}_ms": round(1000 * found.percentile(share), 3) for share in (50, 99)} if len(found.latencies) else {}
    )
    return {
        "p50_ms": None, "p99_ms": None, **times, "batch": round(found.batch, 3), **shares,
        "failed_share": round((found.refused + found.expired) / found.requests, 6),
    }  # fmt: skip


def keeps(found: Outcome, slo_ms: float) -> bool:
    """Whether 99 % are answered in time and none fails."""
    return not found.refused and not found.expired and 1000 * found.percentile(99) <= slo_ms


def highest_rate(replica: Replica, slo_ms: float, seed: int = 0, requests: int = SEARCH) -> float:
    """The most arrivals a second of one replica, Poisson, that keep the p99; 0 for none. Exact to half a percent."""
    low, high = 0.0, replica.ceiling()
    while high - low > 0.005 * high:
        middle = (low + high) / 2
        found = open_loop(replica, middle, requests=requests, seed=seed)
        low, high = (middle, high) if keeps(found, slo_ms) else (low, middle)
        if high < 1e-3 * replica.ceiling():
            return 0.0
    return low


def _least(enough: Callable[[int], bool], start: int) -> int | None:
    low, high = start - 1, start
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def curve(replica: Replica, points: int, seed: int = 0) -> list[dict[str, Any]]:
    """What one replica does at shares of its ceiling, for a plot."""
    top, found = replica.ceiling(), []
    for place in range(1, points + 1):
        outcome = open_loop(replica, top * place / (points + 1), requests=SEARCH, seed=seed)
        found.append({"rate": round(outcome.rate, 3)} | figures(outcome))
    return found


def fleet(replica: Replica, seed: int = 0) -> list[dict[str, Any]]:
    """What many replicas do at `LOADED` of their ceiling, by the way requests are shared out, for a plot."""
    found = []
    for count in FLEET:
        rate = LOADED * replica.ceiling() * count
        row: dict[str, Any] = {"replicas": count, "rate": round(rate, 3)}
        for balance in BALANCES:
            row[balance] = figures(
                open_loop(replica, rate, replicas=count, requests=SEARCH, balance=balance, seed=seed)
            )
        found.append(row)
    return found
