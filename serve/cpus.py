"""How many CPUs this process may use."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: a quota, or "max", and the period that it is for, in microseconds


def usable(limit: Path = CGROUP) -> int:
    """Whole CPUs, at least one, that the process may run on within its container's limit."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text().split()
        return max(1, min(cpus, int(quota) // int(period)))
    except (OSError, ValueError):  # no limit
        return cpus
