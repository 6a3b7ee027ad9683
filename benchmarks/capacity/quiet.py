"""What other processes take of the processors while something is measured; and processor times that do not depend on it.

A measurement beside which others worked says less of the service: how much they took stands in the result.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil


class Others:
    """Processors that all but the process `pid`, its children and this process use, from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._now()

    def processors(self) -> float | None:
        """Since the start, time that the host gave to other guests included; None where the system does not say."""
        now = self._now()
        if now is None or self._before is None or now[0] <= self._before[0]:
            return None
        seconds, all_busy, ours = (b - a for a, b in zip(self._before, now, strict=True))
        return max(0.0, all_busy - ours) / seconds

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds of one processor: passed, in which any process worked, and in which these did."""
        try:
            first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
            # user, nice, system and stolen; those for interrupts are left out, since ours cause them too
            user, nice, system, idle, waiting, _, _, stolen = (float(one) for one in first[:8])
        except (OSError, ValueError):
            return None
        tick = os.sysconf("SC_CLK_TCK")
        busy = user + nice + system + stolen
        return (busy + idle + waiting) / tick / (os.cpu_count() or 1), busy / tick, tree_seconds(self._pid) + mine()


def tree_seconds(pid: int) -> float:
    """Processor seconds of a process and its children so far."""
    found = 0.0
    try:
        top = psutil.Process(pid)
        for one in [top, *top.children(recursive=True)]:
            times = one.cpu_times()
            found += times.user + times.system
    except psutil.Error:
        return found
    return found


def mine() -> float:
    """Processor seconds of this process so far."""
    times = os.times()
    return times.user + times.system


def main_thread_seconds(pid: int) -> float:
    """Processor seconds of a process's main thread: exact from Linux' scheduler, else in the system's ticks."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="ascii")
        return int(text.split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        first = next(thread for thread in psutil.Process(pid).threads() if thread.id == pid)
        return float(first.user_time + first.system_time)
