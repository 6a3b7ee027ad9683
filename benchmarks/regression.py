"""The guard against getting slower: ours against plain FastAPI within one run, as CI's machines come in all speeds.

What is expected stands here, with where it was measured. A drop fails when the median of the rounds is below the allowed
share of it and no round reaches it; one slow round does not.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.servers import PLAIN
from benchmarks.serving_report import ratios
from contract.errors import ContractError

# Our answers a second over plain FastAPI's by number of callers: tiny model, two cores for both and the client.
# docs/performance.md says how and when it was measured.
EXPECTED = {1: 0.85, 16: 1.30}  # one caller pays the way to the process that decodes
ALLOWED = 0.80  # share of what is expected


class Verdict(NamedTuple):
    """Whether it is as fast as expected, and the sentences that say so."""

    good: bool
    text: str


def judge(servers: Mapping[str, Any]) -> Verdict:
    """The rounds' ratios against what is expected. Raises `ContractError` when none was measured."""
    good, lines = True, []
    for load, expected in EXPECTED.items():
        found = ratios(servers, PLAIN, load)
        if not found:
            raise ContractError(f"Nothing was measured at {load} callers.")
        middle, least = statistics.median(found), ALLOWED * expected
        kept = middle >= least or max(found) >= expected
        good = good and kept
        lines.append(
            f"{'ok' if kept else 'SLOWER'}: at {load} callers {middle:.2f} times plain FastAPI "
            f"({min(found):.2f}-{max(found):.2f}); expected {expected:.2f}, at least {least:.2f}"
        )
    return Verdict(good, "\n".join(lines))
