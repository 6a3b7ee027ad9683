"""A Ray session: this machine's own, or a cluster's; and how many workers fit into it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.bulk.optional import import_ray
from app.bulk.places import reason
from contract.errors import ContractError

DECODE_CPUS = 1.0  # a decoding task's
DECODE_RETRIES = 5  # of a decoding task whose machine was lost; what a photo can do ends another process
SPARE_BYTES = 200 << 20  # of a decoding task beside the photo that it decodes


@dataclass(frozen=True)
class Workers:
    """Engine actors: how many, and the CPUs and GPUs of each."""

    count: int
    cpus: float
    gpus: float


@contextlib.contextmanager
def session(address: str | None) -> Iterator[Any]:
    """`ray`, connected to `address` (`auto`, host:port), or to a session of this machine that ends with the block."""
    ray = import_ray(local=address is None)
    with _native_lines_hidden():
        yield from _session(ray, address)


def _session(ray: Any, address: str | None) -> Iterator[Any]:
    try:
        ray.init(
            address=address or "local",  # without one, RAY_ADDRESS would be followed
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"include_dashboard": False}),
        )
    except Exception as error:  # a dozen types: refused, timed out, another version of Ray or Python
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        raise ContractError(f"Cannot start with {where}: {reason(error)}.") from None
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _native_lines_hidden() -> Iterator[None]:
    """Keep what Ray's native code writes to stderr off the screen: it warns of its own actors. Its log files have it all.

    What Ray prints in Python goes to stderr, so that stdout has the summary alone.
    """
    sys.stderr.flush()
    shown, ours = os.dup(2), sys.stderr
    with open(os.devnull, "wb") as nowhere, open(shown, "w", buffering=1) as ours_meanwhile:
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = ours_meanwhile
        try:
            with contextlib.redirect_stdout(ours_meanwhile):
                yield
        finally:
            sys.stderr = ours
            os.dup2(shown, 2)


def plan_workers(
    resources: dict[str, float], *, gpus: float, threads: int, asked: int | None, growing: bool = False
) -> Workers:
    """How many workers, and what each may take of the session's `resources` (`CPU`, `GPU`).

    One for each share of a GPU; on CPUs as many as there is room for beside one decoding task. `growing`: the cluster may
    add machines, so what was asked for is believed. Raises `ContractError` when it does not fit.
    """
    have_cpus, have_gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if gpus:
        most, cpus = math.floor(have_gpus / gpus + 1e-9), min(1.0, have_cpus / 2)
        if not growing and most < (asked or 1):
            raise ContractError(
                f"{asked or 1} workers of {gpus:g} GPUs do not fit: Ray sees {have_gpus:g} GPUs. Choose fewer --workers or "
                "--gpus-per-worker, or run where there are more."
            )
        return Workers(asked or max(1, most), cpus, gpus)
    room = max(have_cpus - DECODE_CPUS, have_cpus / 2)  # on one CPU both share it
    count = asked or max(1, math.floor(room / threads))
    if not growing and count > 1 and count * threads > room:
        raise ContractError(
            f"{count} workers of {threads} threads do not fit: Ray sees {have_cpus:g} CPUs, and decoding needs one. Choose "
            "fewer --workers or --threads."
        )
    return Workers(count, float(threads) if growing else min(float(threads), math.floor(room) or room), 0.0)
