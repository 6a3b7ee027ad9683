"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available(quota: Path = QUOTA) -> int:
    """Processors by affinity and by the container's quota, at least 1; `os.cpu_count()` is of the
    whole machine.

    `quota`: "MAX PERIOD" in microseconds, or "max PERIOD"
    (https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files).
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text(encoding="ascii").split()
        return max(1, min(count, math.ceil(int(most) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or no limit
        return count
