"""Progress bars for long work."""

import logging
import time
from typing import Any

from tqdm import tqdm

log = logging.getLogger("lookalike")

LOG_SECONDS = 15  # between progress lines where there is no terminal


class Progress:
    """A bar over rows, or another unit; without a terminal, a line now and then instead."""

    def __init__(self, work: str, total: int, unit: str = "row") -> None:
        self.work, self.total, self.unit, self.done, self.printed = work, total, unit, 0, time.monotonic()
        self.bar: tqdm[Any] = tqdm(total=total, desc=work, unit=unit, unit_scale=True, disable=None, leave=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *problem: object) -> None:
        self.bar.close()

    def add(self, done: int) -> None:
        self.done += done
        self.bar.update(done)
        if self.bar.disable and time.monotonic() - self.printed > LOG_SECONDS:
            self.printed = time.monotonic()
            log.info("%s: %s of %s %ss", self.work, f"{self.done:,}", f"{self.total:,}", self.unit)
