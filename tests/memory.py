"""The most memory that a process had, in MiB on every platform."""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path

UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage(2): macOS counts bytes, Linux KiB
LAUNCHER = """
import os, resource, sys
report, *command = sys.argv[1:]
code = os.spawnvp(os.P_WAIT, command[0], command)
with open(report, "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code if code >= 0 else 128 - code)
"""


def from_bare_process(command: Sequence[str], report: Path) -> list[str]:
    """The same command, started by an interpreter that has loaded nothing, which writes its peak into `report`.

    Linux counts the most that the starting process ever had as the started one's, exec or not: straight from a test or
    a bench with torch in it, everything smaller seems to take half a gigabyte.
    """
    return [sys.executable, "-I", "-S", "-c", LAUNCHER, str(report), *command]


def reported(report: Path) -> float:
    """The peak that such a command had, in MiB."""
    return mebibytes(int(report.read_text()))


def own_peak() -> float:
    """The peak of this process so far, in MiB; see `from_bare_process`."""
    return mebibytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def mebibytes(maxrss: int) -> float:
    return maxrss * UNIT / 2**20
