"""One replica in numbers: what was measured of it, or written by hand, as a file and as the simulation needs it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.errors import ContractError

Milliseconds = Annotated[float, Field(ge=0, lt=3.6e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, lt=3.6e6, allow_inf_nan=False)]
PLACES = 101  # quantiles kept of an engine call's time at each batch size
COLD_AFTER = 0.03  # seconds
_TIMES = ("loop", "loop_cold", "cold", "handover", "client", "client_cold", "timeout")
_NUMBERS = (
    "decoders", "engines", "engine_threads", "own_device", "processors", "max_batch", "max_queue", "max_decoding",
)  # fmt: skip


@dataclass(frozen=True)
class Replica:
    """Times of one replica, in seconds.

    `batch_seconds[n]`: engine calls of n photos, one or many; a call of the simulation draws one of them.
    `loop_seconds`: the event loop's work for a request, half before decoding and half after the engine; each half takes
    up to `loop_cold_seconds` longer when the event loop has rested.
    `decode_seconds`: of several photos, one of which is drawn for a request, on `decoders` threads.
    `engines`: calls in flight, each of `engine_threads` threads. `own_device`: they run on a device of its own (a GPU),
    which calls in flight share; else on the host.
    `cold_seconds`: how much longer a call takes when the engine was idle for `COLD_AFTER` before it, since others have
    used its caches; in proportion for less.
    `handover_seconds`: time of a request in which nothing works on it; a network's round trip may be written here.
    `processors`: how many of the host's cores get something done for all that runs there; fewer than there are where
    threads wait for one lock; 0: never short of them.
    `client_seconds`, `client_cold_seconds`: of a load generator on the same host, as of the event loop.
    The limits are the service's settings of the same names.
    """

    batch_seconds: dict[int, tuple[float, ...]]
    loop_seconds: float = 0.0
    loop_cold_seconds: float = 0.0
    decode_seconds: tuple[float, ...] = (0.0,)
    decoders: int = 1
    engines: int = 1
    engine_threads: int = 1
    own_device: bool = False
    processors: float = 0
    cold_seconds: float = 0.0
    handover_seconds: float = 0.0
    client_seconds: float = 0.0
    client_cold_seconds: float = 0.0
    max_batch: int = 16
    max_queue: int = 256
    max_decoding: int = 64
    timeout_seconds: float = 10.0

    def calls(self) -> np.ndarray:
        """Quantiles of a call's seconds [max_batch + 1, PLACES] by batch size; row 0 is of no call.

        Between measured sizes they are interpolated; on a GPU, where a batch is padded, they are the next larger one's.
        Beyond the largest each photo costs what it costs there.
        """
        shares, sizes = np.linspace(0, 1, PLACES), sorted(self.batch_seconds)
        measured = np.array([np.quantile(self.batch_seconds[size], shares) for size in sizes])
        wanted = np.arange(self.max_batch + 1)
        if self.own_device:
            found = measured[np.minimum(np.searchsorted(sizes, wanted), len(sizes) - 1)]
        else:
            found = np.stack([np.interp(wanted, sizes, column) for column in measured.T], axis=1)
        found[wanted > sizes[-1]] = measured[-1] * (wanted[wanted > sizes[-1]] / sizes[-1])[:, None]
        return found

    def sizes(self) -> tuple[int, ...]:
        """To which a GPU's engine pads a batch, as `app.engine.batches.buckets` has them; empty on the host."""
        most = self.max_batch
        return (*(2**i for i in range(most.bit_length()) if 2**i < most), most) if self.own_device else ()

    def engine(self, size: int) -> float:
        """Mean seconds of a call of `size` photos."""
        return float(self.calls()[size].mean())

    def ceiling(self) -> float:
        """Photos a second that no order of work can exceed."""
        calls = self.calls().mean(axis=1)
        best = min(float(calls[n]) / n for n in range(1, self.max_batch + 1))
        decode = float(np.mean(self.decode_seconds))
        on_host = (
            self.loop_seconds + decode + self.client_seconds + (0 if self.own_device else best * self.engine_threads)
        )
        limits = [
            _rate(1, self.loop_seconds), _rate(self.decoders, decode),
            _rate(1 if self.own_device else self.engines, best), _rate(self.processors or math.inf, on_host),
        ]  # fmt: skip
        return min(limits)


def scaled(replica: Replica, factor: float) -> Replica:
    """The replica on a machine that takes `factor` times as long for everything."""
    longer = {f"{name}_seconds": factor * getattr(replica, f"{name}_seconds") for name in _TIMES if name != "timeout"}
    curve = {size: tuple(factor * call for call in calls) for size, calls in replica.batch_seconds.items()}
    return replace(
        replica, batch_seconds=curve, decode_seconds=tuple(factor * one for one in replica.decode_seconds), **longer
    )


def _rate(places: float, seconds: float) -> float:
    return places / seconds if seconds else math.inf


class _File(BaseModel):
    """The replica as JSON: times in ms, a number or a list of measured ones."""

    model_config = ConfigDict(extra="forbid")

    batch_ms: dict[Annotated[int, Field(ge=1, le=1024)], Positive | list[Positive]] = Field(min_length=1)
    loop_ms: Milliseconds = 0.0
    loop_cold_ms: Milliseconds = 0.0
    decode_ms: Milliseconds | list[Milliseconds] = 0.0
    decoders: int = Field(default=1, ge=1, le=256)
    engines: int = Field(default=1, ge=1, le=64)
    engine_threads: int = Field(default=1, ge=1, le=1024)
    own_device: bool = False
    processors: float = Field(default=0, ge=0, le=1024, allow_inf_nan=False)
    cold_ms: Milliseconds = 0.0
    handover_ms: Milliseconds = 0.0
    client_ms: Milliseconds = 0.0
    client_cold_ms: Milliseconds = 0.0
    max_batch: int = Field(default=16, ge=1, le=1024)
    max_queue: int = Field(default=256, ge=1, le=100_000)
    max_decoding: int = Field(default=64, ge=1, le=10_000)
    timeout_ms: Positive = 10_000.0


def to_json(replica: Replica) -> dict[str, Any]:
    """JSON types, as `from_json` takes them; times rounded to a tenth of a microsecond."""
    found = asdict(replica)
    batches = {str(size): _milliseconds(calls) for size, calls in sorted(found.pop("batch_seconds").items())}
    decode = _milliseconds(found.pop("decode_seconds"))
    times = {name: round(1000 * found.pop(f"{name}_seconds"), 4) for name in _TIMES}
    return {"batch_ms": batches, "decode_ms": decode} | {f"{k}_ms": v for k, v in times.items()} | found


def _milliseconds(seconds: Sequence[float]) -> list[float]:
    return [round(1000 * one, 4) for one in seconds]


def from_json(found: Any, source: str) -> Replica:
    """The replica that `found` describes. Raises `ContractError` naming the field that is wrong."""
    try:
        file = _File.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ContractError(f"{source}: `replica.{place}` is wrong: {first['msg']}. See docs/capacity.md.") from None
    batches = {size: _seconds(calls) for size, calls in file.batch_ms.items()}
    decode = _seconds(file.decode_ms)
    if not all(batches.values()) or not decode:
        raise ContractError(f"{source}: a list of times is empty. Write a number, or the times of several calls.")
    return Replica(
        batch_seconds=batches, decode_seconds=decode, **{f"{k}_seconds": getattr(file, f"{k}_ms") / 1000 for k in _TIMES},
        **{name: getattr(file, name) for name in _NUMBERS},
    )  # fmt: skip


def _seconds(milliseconds: float | list[float]) -> tuple[float, ...]:
    several = milliseconds if isinstance(milliseconds, list) else [milliseconds]
    return tuple(one / 1000 for one in several)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `ContractError` when the file is not there or is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ContractError(f"{path} cannot be read: {reason}.") from None
    except ValueError as error:
        raise ContractError(f"{path} is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ContractError(f"{path} holds no JSON object.")
    return found


def load_replica(path: Path) -> tuple[Replica, dict[str, Any]]:
    """The replica of what a run of this command wrote, or of a file by hand with the same key; and the whole file."""
    found = read_json(path)
    if "replica" not in found:
        raise ContractError(f"{path} has no `replica`: give what --out wrote, or a file as in docs/capacity.md.")
    return from_json(found["replica"], str(path)), found


def engine_times(path: Path, contestant: str) -> tuple[dict[int, tuple[float, ...]], bool]:
    """Seconds of the engine's calls by batch size, and whether they ran on a GPU, from `benchmarks.engine --json`."""
    found = read_json(path)
    try:
        on_gpu = found["options"]["device"] == "cuda"
        known = dict.fromkeys(name for batch in found["batches"].values() for name in batch["summary"])
        times = {
            int(size): tuple(float(one["seconds"][contestant]) for one in batch["rounds"])
            for size, batch in found["batches"].items()
            if contestant in batch["summary"]
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ContractError(f"{path} is not a result of python -m benchmarks.engine --json.") from None
    if contestant not in known:
        raise ContractError(f"{path} has no contestant {contestant!r}; it has {', '.join(known) or 'none'}.")
    return times, on_gpu
