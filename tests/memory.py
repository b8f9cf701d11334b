"""The most memory that a process had, in MiB on every platform."""

import resource
import sys

UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage(2): macOS counts bytes, Linux KiB


def peak_mebibytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss * UNIT / 2**20
