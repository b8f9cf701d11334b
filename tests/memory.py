"""The peak memory of a process, in MiB on every platform."""

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
    """The same command, started by a bare interpreter that writes the command's peak memory into `report`.

    On Linux a child inherits its parent's peak, even across exec: started from a process with torch loaded, every small
    command would seem to take half a gigabyte.
    """
    return [sys.executable, "-I", "-S", "-c", LAUNCHER, str(report), *command]


def reported(report: Path) -> float:
    """The peak memory, in MiB, of a finished command that `from_bare_process` returned."""
    return mebibytes(int(report.read_text()))


def own_peak() -> float:
    """The peak memory of this process so far, in MiB; may be inherited, see `from_bare_process`."""
    return mebibytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def mebibytes(maxrss: int) -> float:
    return maxrss * UNIT / 2**20
